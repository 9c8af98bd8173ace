use super::super::*;
use super::house::*;

#[test]
fn a_decision_is_carried_out_after_a_restart() {
    for commit in [true, false] {
        let mut house = House::new();
        let first = house.init();
        house.add(first, &[("t", 0), ("u", 1)]).unwrap();
        let second = house.end(first, commit).unwrap();
        let given = house.markers.clone();
        house.restart();
        assert_eq!(house.markers, given);
        assert_eq!(house.end(first, commit), Err(Error::ConcurrentTransactions));
        house.mark();
        assert_eq!(house.end(first, commit), Ok(second), "who asks again is told the same");
        house.restart();
        assert!(house.markers.is_empty());
        assert_eq!(house.end(first, commit), Ok(second));
        assert_eq!(house.end(first, !commit), Err(Error::InvalidTxnState));
    }
}

#[test]
fn an_ongoing_transaction_goes_on() {
    let mut house = House::new();
    let producer = house.init();
    house.add(producer, &[("t", 0)]).unwrap();
    house.restart();
    assert!(house.markers.is_empty());
    house.add(producer, &[("t", 1)]).unwrap();
    house.end(producer, true).unwrap();
    assert_eq!(house.markers[0].partitions, named(&[("t", 0), ("t", 1)]));
}

#[test]
fn a_tombstone_ends_an_id_and_what_nobody_understands_changes_nothing() {
    let mut house = House::new();
    house.init();
    let Record { key, value } = house.records[0].clone();
    let cut = &value.unwrap()[..9];
    assert_eq!(house.shard.replay(&key, Some(cut)), Err(RecordError::Malformed));
    let newer = RecordError::Version { what: "TransactionLogValue", version: 2 };
    assert_eq!(house.shard.replay(&key, Some(&[0, 2])), Err(newer));
    let newer = RecordError::Version { what: "a key", version: 1 };
    assert_eq!(house.shard.replay(&[0, 1, 0, 1, b't'], None), Err(newer));
    assert_eq!(house.state(), "Empty");
    house.shard.replay(&key, None).unwrap();
    assert_eq!(house.state(), "none");
}
