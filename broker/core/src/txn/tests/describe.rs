use super::super::*;
use super::house::*;

fn describe(house: &mut House, id: &str) -> Described {
    match house.call(Call::Describe(text(id))) {
        Answer::Describe(described) => described,
        other => panic!("{other:?}"),
    }
}

fn list(house: &mut House, states: &[&str], producer_ids: &[i64], duration_ms: i64) -> Vec<String> {
    let states = states.iter().map(|state| text(state)).collect();
    match house.call(Call::List { states, producer_ids: producer_ids.to_vec(), duration_ms }) {
        Answer::List(listed) => listed
            .iter()
            .map(|t| format!("{} {}", t.transactional_id.as_str(), t.transaction_state))
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_transaction_is_described_with_its_partitions() {
    let mut house = House::new();
    let producer = house.init();
    let empty = describe(&mut house, ID);
    assert_eq!((&*empty.transaction_state, empty.transaction_start_time_ms), ("Empty", -1));
    house.add(producer, &[("t", 3), ("t", 1), ("a", 0)]).unwrap();
    let described = describe(&mut house, ID);
    assert_eq!((described.error_code, &*described.transaction_state), (0, "Ongoing"));
    assert_eq!(
        (described.transaction_start_time_ms, described.transaction_timeout_ms),
        (house.now_ms, 60_000)
    );
    assert_eq!((described.producer_id.0, described.producer_epoch), (producer.id.0, producer.epoch.0));
    let topics: Vec<_> =
        described.topics.iter().map(|t| (t.topic.as_str().to_string(), t.partitions.clone())).collect();
    assert_eq!(topics, [("a".to_string(), vec![0]), ("t".to_string(), vec![1, 3])]);
    assert_eq!(describe(&mut house, "x").error_code, Error::TransactionalIdNotFound.code());
    assert_eq!(describe(&mut house, "").error_code, Error::InvalidRequest.code());
}

#[test]
fn transactions_are_listed_by_state_producer_and_duration() {
    let mut house = House::new();
    let a = house.try_init("a", None).unwrap();
    house.add_as("a", a, &[("t", 0)], V2).unwrap();
    house.pass(5_000);
    let b = house.try_init("b", None).unwrap();
    house.add_as("b", b, &[("t", 0)], V2).unwrap();
    house.try_init("c", None).unwrap();
    house.pass(1_000);
    assert_eq!(list(&mut house, &[], &[], -1), ["a Ongoing", "b Ongoing", "c Empty"]);
    assert_eq!(list(&mut house, &["Empty", "Nonsense"], &[], -1), ["c Empty"]);
    assert!(list(&mut house, &["Nonsense"], &[], -1).is_empty());
    assert_eq!(list(&mut house, &[], &[b.id.0], -1), ["b Ongoing"]);
    assert_eq!(list(&mut house, &["Ongoing"], &[], 5_000), ["a Ongoing"]);
    let counts = house.shard.counts();
    assert_eq!((counts.ongoing, counts.empty, counts.complete_abort), (2, 1, 0));
}

#[test]
fn kafkas_states_are_known_by_name() {
    for known in ["Empty", "PrepareAbort", "Dead", "PrepareEpochFence"] {
        assert!(State::is_name(known));
    }
    assert!(!State::is_name("empty"));
}
