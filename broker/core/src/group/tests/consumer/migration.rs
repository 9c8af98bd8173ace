//! Groups that have members of both protocols, and that go from one to the other.

use kafka_protocol::error::ResponseError as Error;

use super::classic_client::*;
use super::house::*;

const PARTITIONS: i32 = 4;

fn house() -> House {
    House::hasty(&[("t", PARTITIONS)])
}

fn settle(house: &mut House, classic: &mut [ClassicClient], consumers: &mut [Client]) {
    for _ in 0..30 {
        classic.iter_mut().for_each(|client| client.act(house));
        for client in consumers.iter_mut() {
            client.act(house);
        }
        house.pass(1_000);
    }
    assert!(classic.iter().all(ClassicClient::is_working), "{classic:?}");
    let mut all: Vec<_> = classic.iter().flat_map(|client| client.has.clone()).collect();
    all.extend(consumers.iter().flat_map(|client| client.has.clone()));
    all.sort();
    let expected: Vec<_> = (0..PARTITIONS).map(|partition| ("t".to_string(), partition)).collect();
    assert_eq!(all, expected, "each partition is somebody's");
}

/// A stable classic group of two.
fn classic_group(house: &mut House) -> [ClassicClient; 2] {
    let mut classic = [ClassicClient::new("t", PARTITIONS), ClassicClient::new("t", PARTITIONS)];
    settle(house, &mut classic, &mut []);
    assert_eq!(house.state(), "Stable");
    classic
}

#[test]
fn a_classic_group_becomes_one_of_the_consumer_protocol_and_back() {
    let mut house = house();
    let mut classic = classic_group(&mut house);
    house.commit_request_of(&classic[0], 0);
    let mut consumers = [Client::new("new")];
    let joined = consumers[0].act(&mut house);
    assert_eq!((joined.error_code, consumers[0].has.len()), (0, 0), "nobody has given up anything yet");
    let group = house.describe_consumers();
    let kinds: Vec<_> = group.members.iter().map(|member| member.member_type).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == 0).count(), 2, "{kinds:?}");
    settle(&mut house, &mut classic, &mut consumers);
    assert_eq!(house.epochs().0, "Stable");
    assert_eq!(consumers[0].has.len(), 1);
    house.restart();
    classic.iter_mut().for_each(ClassicClient::restart);
    settle(&mut house, &mut classic, &mut consumers);

    consumers[0].leave(&mut house);
    assert_eq!(house.state(), "PreparingRebalance");
    settle(&mut house, &mut classic, &mut []);
    assert_eq!(house.state(), "Stable");
    assert_eq!(house.offsets(), [("t".to_string(), 0, 5)]);
    house.restart();
    classic.iter_mut().for_each(ClassicClient::restart);
    settle(&mut house, &mut classic, &mut []);
}

impl House {
    fn commit_request_of(&mut self, client: &ClassicClient, partition: i32) {
        let commit = House::commit_request("t", &[(partition, 5)])
            .with_member_id(client.id.clone())
            .with_generation_id_or_member_epoch(client.generation);
        assert_eq!(self.commit(commit, 9), [0]);
    }
}

#[test]
fn all_may_go_over_one_by_one() {
    let mut house = house();
    let mut classic = classic_group(&mut house).to_vec();
    let mut consumers = Vec::new();
    for id in ["a", "b"] {
        let mut gone = classic.pop().unwrap();
        gone.leave(&mut house);
        consumers.push(Client::new(id));
        settle(&mut house, &mut classic, &mut consumers);
    }
    assert_eq!(house.epochs().0, "Stable");
    assert!(consumers.iter().all(|client| client.has.len() == 2), "{consumers:?}");
}

#[test]
fn classic_members_join_a_group_of_the_consumer_protocol() {
    let mut house = house();
    let mut consumers = [Client::new("a")];
    consumers[0].act(&mut house);
    let mut classic = [ClassicClient::new("t", PARTITIONS)];
    settle(&mut house, &mut classic, &mut consumers);
    assert_eq!((classic[0].has.len(), consumers[0].has.len()), (2, 2));
    let stale = House::commit_request("t", &[(0, 5)])
        .with_member_id(classic[0].id.clone())
        .with_generation_id_or_member_epoch(classic[0].generation + 1);
    assert_eq!(house.commit(stale, 9), [Error::IllegalGeneration.code()]);
}

#[test]
fn who_waits_in_the_classic_group_is_told_to_join_again() {
    let mut house = house();
    let classic = classic_group(&mut house);
    let waiting = house.join(classic[0].join());
    assert!(house.is_waiting(waiting));
    assert_eq!(house.beat(Beat::join("new")).error_code, 0);
    assert_eq!(house.joined(waiting).error_code, Error::RebalanceInProgress.code());
}

#[test]
fn a_classic_member_of_the_group_is_checked() {
    let mut house = house();
    let mut consumers = [Client::new("a")];
    let mut classic = [ClassicClient::new("t", PARTITIONS)];
    consumers[0].act(&mut house);
    settle(&mut house, &mut classic, &mut consumers);
    let id = classic[0].id.clone();
    let generation = classic[0].generation;
    assert_eq!(house.heartbeat(&id, generation), 0);
    assert_eq!(house.heartbeat(&id, generation + 1), Error::IllegalGeneration.code());
    assert_eq!(house.heartbeat(&text("a"), consumers[0].epoch), Error::UnknownMemberId.code());
    assert_eq!(house.heartbeat(&text("x"), generation), Error::UnknownMemberId.code());
    let ticket = house.sync(&id, generation + 1, &[]);
    assert_eq!(house.synced(ticket).error_code, Error::IllegalGeneration.code());
    let request = House::sync_request(&id, generation).with_protocol_name(Some(text("sticky")));
    let ticket = house.call(Call::SyncGroup(request, 5));
    assert_eq!(house.synced(ticket).error_code, Error::InconsistentGroupProtocol.code());
    let other = Join::old().protocols(&[("sticky", subscription(&["t"]))]);
    assert_eq!(house.join_now(other).error_code, Error::InconsistentGroupProtocol.code());
    let malformed = Join::old().protocols(&[("range", Bytes::from_static(b"\0"))]);
    assert_eq!(house.join_now(malformed).error_code, Error::UnknownServerError.code());
    let anew = house.join_now(ClassicClient::new("t", PARTITIONS).join());
    assert_eq!(anew.error_code, Error::MemberIdRequired.code());
}

#[test]
fn a_classic_member_that_does_not_join_again_in_time_is_out() {
    let mut house = house();
    let mut classic = classic_group(&mut house);
    let mut consumers = [Client::new("new")];
    consumers[0].act(&mut house);
    for _ in 0..59 {
        for client in &classic {
            assert_eq!(house.heartbeat(&client.id, client.generation), Error::RebalanceInProgress.code());
        }
        consumers[0].act(&mut house);
        house.pass(1_000);
    }
    classic[0].act(&mut house);
    classic[0].act(&mut house);
    classic[0].act(&mut house);
    consumers[0].act(&mut house);
    house.pass(1_000);
    let group = house.describe_consumers();
    assert!(group.members.iter().any(|member| member.member_id == classic[0].id), "{group:?}");
    assert!(group.members.iter().all(|member| member.member_id != classic[1].id), "{group:?}");
}

#[test]
fn a_classic_member_that_does_not_sync_in_time_is_out() {
    let mut house = house();
    let mut consumers = [Client::new("a")];
    consumers[0].act(&mut house);
    let joined = house.join_now(Join::old().protocols(&[("range", subscription(&["t"]))]));
    assert_eq!(joined.error_code, 0);
    for _ in 0..60 {
        assert_eq!(house.describe_consumers().members.len(), 2);
        house.heartbeat(&joined.member_id, joined.generation_id);
        consumers[0].act(&mut house);
        house.pass(1_000);
    }
    assert_eq!(house.describe_consumers().members.len(), 1);
}

#[test]
fn static_members_keep_their_place_when_they_change_the_protocol() {
    let mut house = house();
    let instances = ["i", "j"];
    let mut classic = instances.map(|instance| ClassicClient::new("t", PARTITIONS).instance(instance));
    settle(&mut house, &mut classic, &mut []);
    let mut consumers = [Client::new("a").instance("i")];
    let mut rest = [classic[1].clone()];
    settle(&mut house, &mut rest, &mut consumers);
    assert_eq!(house.describe_consumers().members.len(), 2);
    let mut back = [rest[0].clone(), ClassicClient::new("t", PARTITIONS).instance("i")];
    settle(&mut house, &mut back, &mut []);
    assert_eq!(house.state(), "Stable", "a classic group again");
    assert_eq!(house.describe(5).members.len(), 2);
}

#[test]
fn the_policy_says_which_way_groups_may_go() {
    let refused = Error::GroupIdNotFound.code();
    for (policy, up, down) in [
        (MigrationPolicy::Bidirectional, true, true),
        (MigrationPolicy::Upgrade, true, false),
        (MigrationPolicy::Downgrade, false, true),
        (MigrationPolicy::Disabled, false, false),
    ] {
        let mut house =
            House::with(GroupConfig { consumer_migration_policy: policy, ..GroupConfig::default() });
        house.set_topics(&[("t", PARTITIONS)]);
        classic_group(&mut house);
        assert_eq!(house.beat(Beat::join("m")).error_code == 0, up, "{policy:?}");
        if !up {
            assert_eq!(house.beat(Beat::join("m")).error_code, refused);
            continue;
        }
        house.beat(Beat::of("m", -1));
        assert_eq!(house.describe_consumers().error_code == refused, down, "{policy:?}");
    }
}

#[test]
fn where_groups_go_nowhere_classic_members_do_not_join() {
    let policy = MigrationPolicy::Disabled;
    let mut house = House::with(GroupConfig { consumer_migration_policy: policy, ..GroupConfig::default() });
    house.beat(Beat::join("m"));
    assert_eq!(house.join_now(Join::old()).error_code, Error::InconsistentGroupProtocol.code());
    house.beat(Beat::of("m", -1));
    house.stable(vec![Join::old()]);
}

#[test]
fn what_is_not_of_consumers_is_not_upgraded() {
    let mut house = house();
    house.stable(vec![Join::old().with(|request| request.protocol_type = text("connect"))]);
    let refused = house.beat(Beat::join("m"));
    assert_eq!(refused.error_code, Error::GroupIdNotFound.code());
    let message = "Cannot upgrade classic group g to consumer group because the group does not use the consumer embedded \
                   protocol.";
    assert_eq!(refused.error_message.as_deref(), Some(message));
    assert_eq!(house.state(), "Stable");
}

#[test]
fn an_assignment_that_nobody_understands_is_not_upgraded() {
    let mut house = house();
    house.stable(vec![Join::old()]);
    let refused = house.beat(Beat::join("m"));
    assert_eq!(refused.error_code, Error::GroupIdNotFound.code());
    assert_eq!(house.state(), "Stable");
}

#[test]
fn an_administrator_removes_members_by_their_instance_ids() {
    let mut house = house();
    let mut consumers = [Client::new("a").instance("i"), Client::new("b")];
    house.settle_consumers(&mut consumers);
    let answer = house.leave(&[("", Some("i")), ("", Some("j")), ("x", None), ("y", Some("i"))]);
    let errors: Vec<_> = answer.members.iter().map(|member| member.error_code).collect();
    let unknown = Error::UnknownMemberId.code();
    assert_eq!(errors, [0, unknown, unknown, Error::FencedInstanceId.code()]);
    assert_eq!(house.describe_consumers().members.len(), 1);
}
