use super::super::*;
use super::house::*;

fn verify(house: &mut House, producer: Producer, partitions: &[(&str, i32)]) -> Result<Vec<bool>, Error> {
    let partitions = named(partitions);
    match house.call(Call::Verify { transactional_id: text(ID), producer, partitions }) {
        Answer::Verify(result) => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn partitions_are_added_once() {
    let mut house = House::new();
    let producer = house.init();
    house.add(producer, &[("t", 0), ("t", 1)]).unwrap();
    let records = house.records.len();
    house.add(producer, &[("t", 1)]).unwrap();
    assert_eq!(house.records.len(), records, "it is there");
    house.add(producer, &[("t", 1), ("u", 0)]).unwrap();
    assert_eq!(house.records.len(), records + 1);
    assert_eq!(verify(&mut house, producer, &[("u", 0), ("u", 1), ("t", 0)]), Ok(vec![true, false, true]));
}

#[test]
fn who_is_not_the_producer_adds_and_verifies_nothing() {
    let mut house = House::new();
    let old = house.init();
    assert_eq!(house.add_as("", old, &[("t", 0)], V0), Err(Error::InvalidRequest));
    assert_eq!(house.add_as("unknown", old, &[("t", 0)], V0), Err(Error::InvalidProducerIdMapping));
    let new = house.init();
    let stranger = Producer { id: ProducerId(1), ..new };
    for (who, error) in [(old, Error::ProducerFenced), (stranger, Error::InvalidProducerIdMapping)] {
        assert_eq!(house.add(who, &[("t", 0)]), Err(error));
        assert_eq!(verify(&mut house, who, &[("t", 0)]), Err(error));
    }
    assert_eq!(house.state(), "Empty");
    assert_eq!(verify(&mut house, new, &[("t", 0)]), Ok(vec![false]));
}

#[test]
fn a_transaction_that_is_over_has_no_partitions() {
    let mut house = House::new();
    let producer = house.init();
    house.add_as(ID, producer, &[("t", 0)], V0).unwrap();
    house.end_as(ID, producer, true, V0).unwrap();
    assert_eq!(verify(&mut house, producer, &[("t", 0)]), Err(Error::ConcurrentTransactions));
    house.mark();
    assert_eq!(verify(&mut house, producer, &[("t", 0)]), Ok(vec![false]));
    house.add_as(ID, producer, &[("u", 0)], V0).unwrap();
    house.end_as(ID, producer, true, V0).unwrap();
    assert_eq!(house.markers[0].partitions, named(&[("u", 0)]));
}

#[test]
fn a_transaction_has_as_many_partitions_as_its_record_holds() {
    let mut house = House::with(TxnConfig { max_batch_bytes: 200, ..TxnConfig::default() });
    let producer = house.init();
    let long = "t".repeat(200);
    assert_eq!(house.add(producer, &[(&long, 0)]), Err(Error::UnknownServerError));
    assert_eq!(house.state(), "Empty");
    let mut added = 0;
    while house.add(producer, &[("topic", added)]).is_ok() {
        added += 1;
    }
    assert!(added > 10, "{added}");
    house.end(producer, true).unwrap();
    assert_eq!(house.markers[0].partitions.len(), added as usize);
    house.mark();
    assert!(house.records.iter().all(|record| record.size() <= 200));
    let name = "t".repeat(40_000);
    assert_eq!(house.add(producer, &[(&name, 0)]), Err(Error::ProducerFenced));
}
