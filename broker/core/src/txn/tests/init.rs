use super::super::*;
use super::house::*;

#[test]
fn each_incarnation_gets_a_higher_epoch_of_one_id() {
    let mut house = House::new();
    let first = house.init();
    assert_eq!(first.epoch.0, 0);
    let second = house.init();
    assert_eq!(second, Producer { epoch: ProducerEpoch(1), ..first });
    let other = house.try_init("other", None).unwrap();
    assert!(other.id != first.id && other.epoch.0 == 0);
    house.restart();
    assert_eq!(house.init(), Producer { epoch: ProducerEpoch(2), ..first });
}

#[test]
fn what_is_not_in_order_is_refused() {
    let mut house = House::new();
    assert_eq!(house.try_init("", None), Err(Error::InvalidRequest));
    assert_eq!(house.try_init(&"x".repeat(40_000), None), Err(Error::InvalidRequest));
    for timeout_ms in [0, -1, 900_001] {
        let call =
            |fresh| Call::InitProducerId { transactional_id: text(ID), timeout_ms, expected: None, fresh };
        let refused = Answer::InitProducerId(Err(Error::InvalidTransactionTimeout));
        assert_eq!(house.call_with_id(call), refused);
    }
    assert!(house.records.is_empty());
}

#[test]
fn a_producer_that_goes_on_tells_who_it_is() {
    let mut house = House::new();
    let first = house.init();
    let second = house.try_init(ID, Some(first)).unwrap();
    assert_eq!(second.epoch.0, 1);
    assert_eq!(house.try_init(ID, Some(first)), Ok(second), "the answer was lost");
    let newer = house.init();
    assert_eq!(newer.epoch.0, 2);
    for fenced in [first, second] {
        assert_eq!(house.try_init(ID, Some(fenced)), Err(Error::ProducerFenced));
    }
    let stranger = Producer { id: ProducerId(1), ..newer };
    assert_eq!(house.try_init(ID, Some(stranger)), Err(Error::ProducerFenced));
    let unknown = house.try_init("new", Some(Producer::new(99, 4))).unwrap();
    assert_eq!(unknown.epoch.0, 0, "whoever was forgotten begins anew");
}

#[test]
fn a_new_incarnation_aborts_what_the_old_one_has_begun() {
    let mut house = House::new();
    let old = house.init();
    house.add(old, &[("t", 0), ("u", 3)]).unwrap();
    assert_eq!(house.try_init(ID, None), Err(Error::ConcurrentTransactions));
    assert_eq!(house.state(), "PrepareAbort");
    let fenced = Producer { epoch: ProducerEpoch(2), ..old };
    let markers = Markers {
        transactional_id: text(ID),
        producer: fenced,
        commit: false,
        partitions: named(&[("t", 0), ("u", 3)]),
    };
    assert_eq!(house.markers, [markers]);
    assert_eq!(house.try_init(ID, None), Err(Error::ConcurrentTransactions), "markers are being written");
    assert_eq!(house.markers.len(), 1);
    house.mark();
    assert_eq!(house.state(), "CompleteAbort");
    assert_eq!(house.add(old, &[("t", 0)]), Err(Error::ProducerFenced));
    assert_eq!(house.end(old, true), Err(Error::ProducerFenced));
    assert_eq!(house.init(), Producer { epoch: ProducerEpoch(3), ..old });
}

#[test]
fn a_fenced_producer_aborts_nothing_by_asking() {
    let mut house = House::new();
    let old = house.init();
    let new = house.init();
    house.add(new, &[("t", 0)]).unwrap();
    let stranger = Producer { id: ProducerId(1), ..old };
    assert_eq!(house.try_init(ID, Some(stranger)), Err(Error::ProducerFenced));
    assert_eq!(house.state(), "Ongoing");
}

#[test]
fn when_all_epochs_are_used_up_there_is_a_new_id() {
    let mut house = House::new();
    let worn = house.worn_out();
    let next = house.try_init(ID, Some(worn)).unwrap();
    assert!(next.id != worn.id && next.epoch.0 == 0);
    assert_eq!(house.try_init(ID, Some(worn)), Ok(next), "the answer was lost");
    assert_eq!(house.try_init(ID, Some(Producer::new(worn.id.0, 5))), Err(Error::ProducerFenced));

    let mut house = House::new();
    let worn = house.worn_out();
    assert_eq!(house.try_init(ID, Some(Producer::new(worn.id.0, 5))), Err(Error::ProducerFenced));
    assert_ne!(house.init().id, worn.id);
}

#[test]
fn a_transaction_of_the_last_epoch_can_be_fenced() {
    let mut house = House::new();
    let worn = house.worn_out();
    house.add(worn, &[("t", 0)]).unwrap();
    assert_eq!(house.try_init(ID, None), Err(Error::ConcurrentTransactions));
    assert_eq!(house.markers[0].producer, Producer::new(worn.id.0, i16::MAX));
    house.mark();
    let next = house.init();
    assert!(next.id != worn.id && next.epoch.0 == 0);
}
