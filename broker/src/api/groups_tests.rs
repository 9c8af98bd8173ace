//! The life of a group through its handlers, in every version of every request, and what they answer while nobody
//! coordinates it.

use chronik_core::metadata::image::OFFSETS_TOPIC;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::testing::Fixture;
use super::{Reply, text};

const LOADING: i16 = 14;
const NOT_COORDINATOR: i16 = 16;
const MEMBER_ID_REQUIRED: i16 = 79;

async fn fixture() -> Fixture {
    let settings = [("offsets.topic.num.partitions", "2"), ("group.initial.rebalance.delay.ms", "0")];
    let fixture = Fixture::with(&settings).await;
    fixture.create_topic("t", 4).await;
    fixture
}

fn group(id: &str) -> GroupId {
    GroupId(text(id))
}

/// Waits until the groups' topic is loaded.
async fn coordinated(fixture: &Fixture, id: &str) {
    find(fixture, 4, id, 0).await;
    while fixture.call(2, &offset_fetch(id, 2)).await.error_code == LOADING {
        tokio::task::yield_now().await;
    }
}

/// Error, node, host and port.
async fn find(fixture: &Fixture, version: i16, key: &str, kind: i8) -> (i16, i32, String, i32) {
    let request = FindCoordinatorRequest::default().with_key_type(kind);
    if version < 4 {
        let r = fixture.call(version, &request.with_key(text(key))).await;
        return (r.error_code, r.node_id.0, r.host.to_string(), r.port);
    }
    let r = fixture.call(version, &request.with_coordinator_keys(vec![text(key)])).await;
    let [found] = &r.coordinators[..] else { panic!("{r:?}") };
    assert_eq!(found.key, text(key));
    (found.error_code, found.node_id.0, found.host.to_string(), found.port)
}

fn join(id: &str, member: &StrBytes) -> JoinGroupRequest {
    JoinGroupRequest::default()
        .with_group_id(group(id))
        .with_session_timeout_ms(10_000)
        .with_member_id(member.clone())
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![
            JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata("m".into()),
        ])
}

fn rebalance_within(request: JoinGroupRequest, version: i16) -> JoinGroupRequest {
    if version > 0 { request.with_rebalance_timeout_ms(20_000) } else { request }
}

fn sync(id: &str, version: i16, generation: i32, member: &StrBytes) -> SyncGroupRequest {
    let named = |name: &str| (version >= 5).then(|| text(name));
    SyncGroupRequest::default()
        .with_group_id(group(id))
        .with_generation_id(generation)
        .with_member_id(member.clone())
        .with_protocol_type(named("consumer"))
        .with_protocol_name(named("range"))
        .with_assignments(vec![
            SyncGroupRequestAssignment::default().with_member_id(member.clone()).with_assignment("a".into()),
        ])
}

fn heartbeat(id: &str, generation: i32, member: &StrBytes) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(group(id))
        .with_generation_id(generation)
        .with_member_id(member.clone())
}

fn leave(id: &str, version: i16, member: &StrBytes) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(group(id));
    match version {
        ..3 => request.with_member_id(member.clone()),
        _ => request.with_members(vec![MemberIdentity::default().with_member_id(member.clone())]),
    }
}

/// Of partition 0 of "t", of one that is not there, and of a topic that is not there.
fn offset_commit(id: &str, generation: i32, member: &StrBytes) -> OffsetCommitRequest {
    let topic = |name: &str, partitions: &[i32]| {
        let partition = |n: &i32| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*n)
                .with_committed_offset(5)
                .with_committed_metadata(Some(text("note")))
        };
        OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(name)))
            .with_partitions(partitions.iter().map(partition).collect())
    };
    OffsetCommitRequest::default()
        .with_group_id(group(id))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(member.clone())
        .with_topics(vec![topic("t", &[0, 9]), topic("none", &[0])])
}

/// Of partitions 0 and 1 of "t".
fn offset_fetch(id: &str, version: i16) -> OffsetFetchRequest {
    let name = TopicName(text("t"));
    if version < 8 {
        let topic = OffsetFetchRequestTopic::default().with_name(name).with_partition_indexes(vec![0, 1]);
        return OffsetFetchRequest::default().with_group_id(group(id)).with_topics(Some(vec![topic]));
    }
    let topic = OffsetFetchRequestTopics::default().with_name(name).with_partition_indexes(vec![0, 1]);
    let asked = OffsetFetchRequestGroup::default().with_group_id(group(id)).with_topics(Some(vec![topic]));
    OffsetFetchRequest::default().with_groups(vec![asked])
}

/// The top-level error, and partition, offset, metadata and error of each.
type Fetched = (i16, Vec<(i32, i64, Option<String>, i16)>);

async fn fetched(fixture: &Fixture, id: &str, version: i16) -> Fetched {
    let r = fixture.call(version, &offset_fetch(id, version)).await;
    let text = |m: Option<StrBytes>| m.map(|m| m.to_string());
    if version < 8 {
        let all = r.topics.into_iter().flat_map(|t| t.partitions);
        let each = |p: offset_fetch_response::OffsetFetchResponsePartition| {
            (p.partition_index, p.committed_offset, text(p.metadata), p.error_code)
        };
        return (r.error_code, all.map(each).collect());
    }
    let [found] = <[_; 1]>::try_from(r.groups).unwrap();
    assert_eq!(found.group_id, group(id));
    let all = found.topics.into_iter().flat_map(|t| t.partitions);
    let each = |p: offset_fetch_response::OffsetFetchResponsePartitions| {
        (p.partition_index, p.committed_offset, text(p.metadata), p.error_code)
    };
    (found.error_code, all.map(each).collect())
}

fn offset_delete(id: &str) -> OffsetDeleteRequest {
    let topic = |name: &str, partitions: &[i32]| {
        let partition = |n: &i32| OffsetDeleteRequestPartition::default().with_partition_index(*n);
        OffsetDeleteRequestTopic::default()
            .with_name(TopicName(text(name)))
            .with_partitions(partitions.iter().map(partition).collect())
    };
    OffsetDeleteRequest::default()
        .with_group_id(group(id))
        .with_topics(vec![topic("t", &[0, 9]), topic("none", &[0])])
}

fn describe(id: &str) -> DescribeGroupsRequest {
    DescribeGroupsRequest::default().with_groups(vec![group(id)])
}

fn delete(id: &str) -> DeleteGroupsRequest {
    DeleteGroupsRequest::default().with_groups_names(vec![group(id), group(id)])
}

/// The newest version of a request that is not above `version`, and not below its oldest.
fn within(version: i16, min: i16, max: i16) -> i16 {
    version.clamp(min, max)
}

#[tokio::test]
async fn a_group_lives_in_every_version() {
    let fixture = fixture().await;
    coordinated(&fixture, "g").await;
    for version in 0..=9 {
        live(&fixture, &format!("g-{version}"), version).await;
    }
}

async fn live(fixture: &Fixture, id: &str, v: i16) {
    coordinated(fixture, id).await;
    assert_eq!(find(fixture, within(v, 0, 6), id, 0).await, (0, 1, "127.0.0.1".to_string(), 9092));

    // A newcomer is told its name, and comes again with it (KIP-394).
    let mut joined = fixture.call(v, &rebalance_within(join(id, &text("")), v)).await;
    if v >= 4 {
        assert_eq!((joined.error_code, joined.generation_id), (MEMBER_ID_REQUIRED, -1));
        assert_eq!(joined.protocol_name, (v < 7).then(|| text("")), "version {v}");
        let member = joined.member_id.clone();
        assert!(!member.is_empty());
        joined = fixture.call(v, &rebalance_within(join(id, &member), v)).await;
    }
    let member = joined.member_id.clone();
    assert_eq!((joined.error_code, joined.generation_id), (0, 1), "version {v}");
    assert_eq!((&joined.leader, joined.members.len()), (&member, 1));
    assert_eq!(joined.protocol_name, Some(text("range")));
    assert_eq!(joined.protocol_type, (v >= 7).then(|| text("consumer")));

    let version = within(v, 0, 5);
    let synced = fixture.call(version, &sync(id, version, 1, &member)).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"a"[..]));
    assert_eq!(synced.protocol_name, (version >= 5).then(|| text("range")));

    let version = within(v, 0, 4);
    assert_eq!(fixture.call(version, &heartbeat(id, 1, &member)).await.error_code, 0);
    assert_eq!(fixture.call(version, &heartbeat(id, 7, &member)).await.error_code, 22);
    assert_eq!(fixture.call(version, &heartbeat(id, 1, &text("nobody"))).await.error_code, 25);

    let version = within(v, 2, 9);
    let committed = fixture.call(version, &offset_commit(id, 1, &member)).await;
    let mut codes: Vec<(String, i32, i16)> = committed
        .topics
        .iter()
        .flat_map(|t| t.partitions.iter().map(|p| (t.name.to_string(), p.partition_index, p.error_code)))
        .collect();
    codes.sort();
    let answer = |topic: &str, partition, code| (topic.to_string(), partition, code);
    assert_eq!(codes, [answer("none", 0, 3), answer("t", 0, 0), answer("t", 9, 3)]);

    let note = |note: &str| Some(note.to_string());
    let there = (0, vec![(0, 5, note("note"), 0), (1, -1, note(""), 0)]);
    assert_eq!(fetched(fixture, id, within(v, 1, 9)).await, there, "version {v}");

    let version = within(v, 0, 6);
    let asked = describe(id).with_include_authorized_operations(version >= 3);
    let [described] = <[_; 1]>::try_from(fixture.call(version, &asked).await.groups).unwrap();
    assert_eq!((described.error_code, &described.group_state[..]), (0, "Stable"));
    assert_eq!((&described.protocol_type[..], &described.protocol_data[..]), ("consumer", "range"));
    let operations = if version >= 3 { 0b1101_0100_1000 } else { i32::MIN };
    assert_eq!(described.authorized_operations, operations);
    let [who] = &described.members[..] else { panic!("{described:?}") };
    assert_eq!((&who.member_id, &who.client_host[..]), (&member, "/127.0.0.1"));
    assert_eq!((&who.member_metadata[..], &who.member_assignment[..]), (&b"m"[..], &b"a"[..]));

    let version = within(v, 0, 5);
    let mut asked = ListGroupsRequest::default();
    if version >= 4 {
        asked.states_filter = vec![text("Stable")];
    }
    let listed = fixture.call(version, &asked).await;
    let [listed] = <[_; 1]>::try_from(listed.groups.clone()).unwrap_or_else(|_| panic!("{listed:?}"));
    assert_eq!((listed.group_id, &listed.protocol_type[..]), (group(id), "consumer"));
    assert_eq!(&listed.group_state[..], if version >= 4 { "Stable" } else { "" });
    assert_eq!(&listed.group_type[..], if version >= 5 { "classic" } else { "" });

    let version = within(v, 0, 2);
    let refused = fixture.call(version, &delete(id)).await;
    assert_eq!(refused.results.iter().map(|r| r.error_code).collect::<Vec<_>>(), [68]);

    let version = within(v, 0, 5);
    let left = fixture.call(version, &leave(id, version, &member)).await;
    assert_eq!((left.error_code, left.members.len()), (0, usize::from(version >= 3)));
    let left = fixture.call(version, &leave(id, version, &member)).await;
    let code = left.members.first().map_or(left.error_code, |m| m.error_code);
    assert_eq!(code, 25, "it has left already");

    let deleted = fixture.call(0, &offset_delete(id)).await;
    let codes: Vec<(String, i32, i16)> = deleted
        .topics
        .iter()
        .flat_map(|t| t.partitions.iter().map(|p| (t.name.to_string(), p.partition_index, p.error_code)))
        .collect();
    assert_eq!(
        (deleted.error_code, codes),
        (0, vec![answer("t", 9, 3), answer("t", 0, 0), answer("none", 0, 3)])
    );
    assert_eq!(fetched(fixture, id, 8).await, (0, vec![(0, -1, note(""), 0), (1, -1, note(""), 0)]));

    let gone = fixture.call(within(v, 0, 2), &delete(id)).await;
    assert_eq!(gone.results.iter().map(|r| r.error_code).collect::<Vec<_>>(), [0]);
    let version = within(v, 0, 6);
    let [dead] = <[_; 1]>::try_from(fixture.call(version, &describe(id)).await.groups).unwrap();
    assert_eq!((dead.error_code, &dead.group_state[..]), (if version >= 6 { 69 } else { 0 }, "Dead"));
}

/// What every API says of a group in this version: one code, or the codes of all parts that are the coordinator's.
async fn codes(fixture: &Fixture, id: &str, v: i16) -> Vec<(&'static str, i16)> {
    let member = text("m");
    let joined = fixture.call(v, &rebalance_within(join(id, &member), v)).await;
    let none = (v < 7).then(|| text(""));
    assert_eq!((joined.protocol_name, joined.generation_id), (none, -1), "version {v}");
    let version = within(v, 0, 5);
    let synced = fixture.call(version, &sync(id, version, 1, &member)).await;
    let left = fixture.call(version, &leave(id, version, &member)).await;
    let beat = fixture.call(within(v, 0, 4), &heartbeat(id, 1, &member)).await;
    let committed = fixture.call(within(v, 2, 9), &offset_commit(id, 1, &member)).await;
    let committed = committed.topics.iter().filter(|t| *t.name == *text("t")).flat_map(|t| &t.partitions);
    let committed = committed.filter(|p| p.partition_index == 0).map(|p| p.error_code).next().unwrap();
    let version = within(v, 1, 9);
    let (code, partitions) = fetched(fixture, id, version).await;
    // Version 1 has no error of its own; the others have no partitions then.
    let fetched = match version {
        1 => partitions.iter().map(|p| p.3).next().unwrap(),
        _ => code,
    };
    assert_eq!((partitions.len(), code == 0), if version == 1 { (2, true) } else { (0, false) });
    let deleted = fixture.call(0, &offset_delete(id)).await;
    assert!(deleted.topics.is_empty());
    let described = fixture.call(within(v, 0, 6), &describe(id)).await.groups[0].error_code;
    let removed = fixture.call(within(v, 0, 2), &delete(id)).await.results[0].error_code;
    let listed = fixture.call(within(v, 0, 5), &ListGroupsRequest::default()).await.error_code;
    vec![
        ("JoinGroup", joined.error_code),
        ("SyncGroup", synced.error_code),
        ("LeaveGroup", left.error_code),
        ("Heartbeat", beat.error_code),
        ("OffsetCommit", committed),
        ("OffsetFetch", fetched),
        ("OffsetDelete", deleted.error_code),
        ("DescribeGroups", described),
        ("DeleteGroups", removed),
        ("ListGroups", listed),
    ]
}

#[tokio::test]
async fn without_the_topic_nobody_coordinates_and_while_it_loads_clients_wait() {
    let fixture = fixture().await;
    for v in 0..=9 {
        for (api, code) in codes(&fixture, "g", v).await {
            assert_eq!(code, if api == "ListGroups" { 0 } else { NOT_COORDINATOR }, "{api}, version {v}");
        }
    }
    coordinated(&fixture, "g").await;
    for partition in 0..2 {
        let log = fixture.log(OFFSETS_TOPIC, partition);
        log.hold_flushes(true);
        log.append_own(
            chronik_core::record_batch::BatchBuilder::new().record(1, Some(b"k"), None).build().into(),
        );
    }
    let again = fixture.restarted();
    for v in 0..=9 {
        for (api, code) in codes(&again, "g", v).await {
            assert_eq!(code, if api == "Heartbeat" { 0 } else { LOADING }, "{api}, version {v}");
        }
    }
}

#[tokio::test]
async fn coordinators_of_groups_and_of_transactions_are_here() {
    let fixture = fixture().await;
    for version in 0..=6 {
        for (kind, code) in [(1, 0), (2, 42), (3, 42)] {
            // Version 0 knows no kinds.
            let (kind, code) = if version == 0 { (0, 0) } else { (kind, code) };
            let found = find(&fixture, version, "key", kind).await;
            assert_eq!(found.0, code, "version {version}, kind {kind}");
            if code != 0 {
                assert_eq!((found.1, found.2, found.3), (-1, String::new(), -1));
            }
        }
    }
    let image = fixture.broker.metadata.image();
    assert!(image.topic(OFFSETS_TOPIC).unwrap().is_internal);
    assert!(image.topic("__transaction_state").unwrap().is_internal);
}

#[tokio::test]
async fn a_member_that_waits_for_its_group_holds_no_permit() {
    let fixture = Fixture::with(&[("group.initial.rebalance.delay.ms", "60000")]).await;
    coordinated(&fixture, "g").await;
    let (held, watch) = std::sync::mpsc::channel::<()>();
    let permit = super::RequestPermit::new(held);
    let reply = fixture.start_with(3, &rebalance_within(join("g", &text("")), 3), permit).await;
    assert!(matches!(reply, Reply::Later(_)));
    assert_eq!(watch.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
    // The broker stops, and nobody waits any longer.
    fixture.broker.groups.stop();
    let frame = super::testing::settle(reply).await.unwrap();
    let answered: JoinGroupResponse = super::testing::decode(&frame, 3);
    assert_eq!(answered.error_code, NOT_COORDINATOR);
}
