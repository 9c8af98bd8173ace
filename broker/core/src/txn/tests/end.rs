use super::super::*;
use super::house::*;

fn raised(producer: Producer) -> Producer {
    Producer { epoch: ProducerEpoch(producer.epoch.0 + 1), ..producer }
}

#[test]
fn an_old_client_commits_and_keeps_its_epoch() {
    let mut house = House::new();
    let producer = house.init();
    for (commit, state) in [(true, "CompleteCommit"), (false, "CompleteAbort")] {
        house.add_as(ID, producer, &[("t", 0)], V0).unwrap();
        assert_eq!(house.end_as(ID, producer, commit, V0), Ok(producer));
        assert_eq!((house.markers[0].producer, house.markers[0].commit), (producer, commit));
        assert_eq!(house.end_as(ID, producer, commit, V0), Err(Error::ConcurrentTransactions));
        assert_eq!(house.add_as(ID, producer, &[("t", 0)], V0), Err(Error::ConcurrentTransactions));
        house.mark();
        assert_eq!(house.state(), state);
        assert_eq!(house.end_as(ID, producer, commit, V0), Ok(producer), "the answer was lost");
        assert_eq!(house.end_as(ID, producer, !commit, V0), Err(Error::InvalidTxnState));
    }
}

#[test]
fn an_old_client_cannot_end_what_it_has_not_begun() {
    let mut house = House::new();
    let producer = house.init();
    for commit in [true, false] {
        assert_eq!(house.end_as(ID, producer, commit, V0), Err(Error::InvalidTxnState));
    }
    for version in [V0, V2] {
        let unknown = house.end_as("unknown", producer, true, version);
        assert_eq!(unknown, Err(Error::InvalidProducerIdMapping));
        let stranger = Producer { id: ProducerId(1), ..producer };
        assert_eq!(house.end_as(ID, stranger, false, version), Err(Error::InvalidProducerIdMapping));
        assert_eq!(house.end_as(ID, raised(producer), false, version), Err(Error::ProducerFenced));
        assert_eq!(house.end_as("", producer, true, version), Err(Error::InvalidRequest));
    }
}

#[test]
fn with_version_2_each_transaction_has_an_epoch_of_its_own() {
    let mut house = House::new();
    let first = house.init();
    house.add(first, &[("t", 0)]).unwrap();
    let second = house.end(first, true).unwrap();
    assert_eq!(second, raised(first));
    assert_eq!(house.markers[0].producer, second, "a late record of the first one is fenced by its marker");
    for producer in [first, second] {
        assert_eq!(house.end(producer, true), Err(Error::ConcurrentTransactions));
        assert_eq!(house.add(producer, &[("t", 0)]), Err(Error::ConcurrentTransactions));
    }
    house.mark();
    assert_eq!(house.add(first, &[("t", 0)]), Err(Error::ProducerFenced));
    house.add(second, &[("t", 0)]).unwrap();
}

/// The table of Kafka's `TransactionCoordinator`: who asks again comes with the epoch before.
#[test]
fn without_a_transaction_version_2_answers_as_kafkas_table_says() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Says {
        Fenced,
        State,
        Same,
        Raised,
    }
    use Says::{Fenced, Raised, Same, State};
    // Abort again, abort, commit again, commit.
    for (last, says) in [
        (None, [Fenced, Raised, Fenced, State]),
        (Some(false), [Same, Raised, State, State]),
        (Some(true), [State, Raised, Same, State]),
    ] {
        let asked = [(true, false), (false, false), (true, true), (false, true)];
        for ((again, commit), says) in asked.into_iter().zip(says) {
            let mut house = House::new();
            let before = house.init();
            let now = match last {
                Some(last) => house.transact(before, last),
                None => house.init(),
            };
            let answer = house.end(if again { before } else { now }, commit);
            let expected = match says {
                Fenced => Err(Error::ProducerFenced),
                State => Err(Error::InvalidTxnState),
                Same => Ok(now),
                Raised => Ok(raised(now)),
            };
            assert_eq!(answer, expected, "{last:?}, again: {again}, commit: {commit}");
            assert!(house.markers.is_empty(), "there is no partition");
        }
    }
}

#[test]
fn an_abort_of_nothing_is_complete_at_once() {
    let mut house = House::new();
    let first = house.init();
    let records = house.records.len();
    let second = house.end(first, false).unwrap();
    assert_eq!((house.state(), house.records.len()), ("CompleteAbort", records + 1));
    assert_eq!(house.end(first, false), Ok(second), "the answer was lost");
    house.restart();
    assert_eq!(house.end(first, false), Ok(second), "even over a restart");
    house.transact(second, true);
}

#[test]
fn epochs_that_are_used_up_by_transactions_lead_to_a_new_id() {
    let mut house = House::new();
    let worn = house.worn_out();
    house.add(worn, &[("t", 0)]).unwrap();
    let next = house.end(worn, true).unwrap();
    assert!(next.id != worn.id && next.epoch.0 == 0);
    assert_eq!(house.markers[0].producer, Producer::new(worn.id.0, i16::MAX));
    assert_eq!(house.add(next, &[("t", 0)]), Err(Error::ConcurrentTransactions), "it may be tried again");
    house.restart();
    assert_eq!(house.markers[0].producer, Producer::new(worn.id.0, i16::MAX));
    house.mark();
    assert_eq!(house.end(worn, true), Ok(next), "the answer was lost");
    house.restart();
    assert_eq!(house.end(worn, true), Ok(next));
    assert_eq!(house.end(worn, false), Err(Error::InvalidTxnState));
    house.transact(next, true);
    assert_eq!(house.end(worn, true), Err(Error::InvalidProducerIdMapping));
}

/// In Kafka it is told that the epoch which has fenced it is its own, and goes on.
#[test]
fn a_producer_whose_last_epoch_was_fenced_stays_so() {
    let mut house = House::new();
    let worn = house.worn_out();
    house.add(worn, &[("t", 0)]).unwrap();
    house.pass(70_000);
    house.mark();
    assert_eq!(house.state(), "CompleteAbort");
    assert_eq!(house.end(worn, false), Err(Error::ProducerFenced));
}

#[test]
fn markers_of_an_earlier_decision_end_nothing() {
    let mut house = House::new();
    let first = house.init();
    house.add(first, &[("t", 0)]).unwrap();
    let second = house.end(first, true).unwrap();
    let late = house.markers.clone();
    house.mark();
    house.add(second, &[("t", 0)]).unwrap();
    house.markers.clone_from(&late);
    house.mark();
    assert_eq!(house.state(), "Ongoing");
    house.end(second, false).unwrap();
    let markers = std::mem::replace(&mut house.markers, late);
    house.mark();
    assert_eq!(house.state(), "PrepareAbort");
    house.markers = markers;
    house.mark();
    assert_eq!(house.state(), "CompleteAbort");
}
