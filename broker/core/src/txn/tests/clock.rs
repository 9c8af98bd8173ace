use super::super::*;
use super::house::*;

#[test]
fn a_transaction_that_nobody_ends_is_aborted_when_it_is_next_looked_for() {
    let mut house = House::new();
    let producer = house.init();
    house.pass(3_000);
    house.add(producer, &[("t", 0)]).unwrap();
    house.pass(50_000);
    house.add(producer, &[("t", 1)]).unwrap();
    // It may take 60 seconds from its first partition on, and every ten seconds it is looked for.
    house.pass(16_999);
    assert_eq!(house.state(), "Ongoing");
    house.pass(1);
    assert_eq!(house.state(), "PrepareAbort");
    let fenced = Producer { epoch: ProducerEpoch(2), ..producer };
    assert_eq!((house.markers[0].producer, house.markers[0].commit), (fenced, false));
    assert_eq!(house.end(producer, true), Err(Error::ConcurrentTransactions));
    house.mark();
    assert_eq!(house.end(producer, true), Err(Error::ProducerFenced));
    assert_eq!(house.try_init(ID, Some(producer)), Err(Error::ProducerFenced));
    assert_eq!(house.init().epoch.0, 3);
}

#[test]
fn time_goes_on_over_a_restart() {
    let mut house = House::new();
    let producer = house.init();
    house.add(producer, &[("t", 0)]).unwrap();
    house.pass(59_000);
    house.restart();
    assert_eq!(house.state(), "Ongoing");
    house.pass(10_000);
    assert_eq!(house.state(), "PrepareAbort");
}

#[test]
fn what_was_ended_in_time_is_not_aborted() {
    let mut house = House::new();
    let producer = house.init();
    let producer = house.transact(producer, true);
    house.pass(40_000);
    house.add(producer, &[("t", 0)]).unwrap();
    house.pass(40_000);
    assert_eq!(house.state(), "Ongoing", "it is another one");
    house.end(producer, true).unwrap();
    house.pass(1_000_000);
    assert_eq!(house.state(), "PrepareCommit");
}

#[test]
fn a_transactional_id_that_nobody_uses_is_forgotten() {
    let day = 24 * 3_600_000;
    let mut house = House::new();
    let mut producer = house.init();
    house.pass(6 * day);
    producer = house.transact(producer, true);
    house.pass(6 * day);
    assert_eq!(house.state(), "CompleteCommit");
    house.pass(day);
    assert_eq!((house.state(), house.shard.next_tick_ms()), ("none", None));
    assert_eq!(house.records.last().unwrap().value, None);
    house.restart();
    assert_eq!(house.state(), "none");
    assert_eq!(house.add(producer, &[("t", 0)]), Err(Error::InvalidProducerIdMapping));
    assert_ne!(house.init().id, producer.id);
}

#[test]
fn nothing_expires_while_it_is_not_over() {
    let mut house = House::new();
    let producer = house.init();
    house.add(producer, &[("t", 0)]).unwrap();
    house.end(producer, true).unwrap();
    house.pass(30 * 24 * 3_600_000);
    assert_eq!(house.state(), "PrepareCommit");
}
