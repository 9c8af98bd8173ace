//! Groups of the new protocol through their handlers: their life in every version, what they hear of topics and settings, and
//! what is answered while nobody coordinates them.

use chronik_core::ids::TopicId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::testing::Fixture;
use super::{GROUP_OPERATIONS, NOT_ASKED, text};

const GROUP_RESOURCE: i8 = 32;

/// With the topic "t" of four partitions. Groups follow each change at once.
async fn fixture() -> Fixture {
    let settings = [("offsets.topic.num.partitions", "2"), ("group.consumer.assignment.interval.ms", "0")];
    let fixture = Fixture::with(&settings).await;
    fixture.create_topic("t", 4).await;
    fixture.broker.groups.ensure_topic().await.unwrap();
    fixture
}

fn group(id: &str) -> GroupId {
    GroupId(text(id))
}

/// What a member says to begin with.
fn join(id: &str, member: &str, topics: &[&str]) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group(id))
        .with_member_id(text(member))
        .with_member_epoch(0)
        .with_rebalance_timeout_ms(30_000)
        .with_subscribed_topic_names(Some(topics.iter().map(|name| TopicName(text(*name))).collect()))
        .with_topic_partitions(Some(Vec::new()))
}

/// What it says when nothing has changed.
fn beat(id: &str, member: &StrBytes, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group(id))
        .with_member_id(member.clone())
        .with_member_epoch(epoch)
        .with_rebalance_timeout_ms(-1)
        .with_subscribed_topic_names(None)
        .with_topic_partitions(None)
}

/// Asks until the groups are loaded.
async fn heartbeat(
    fixture: &Fixture,
    version: i16,
    request: &ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    loop {
        let response = fixture.call(version, request).await;
        if response.error_code != ResponseError::CoordinatorLoadInProgress.code() {
            return response;
        }
        tokio::task::yield_now().await;
    }
}

/// Topic and partition of each that a member was told to have; `None` when it was told nothing new.
fn assigned(response: &ConsumerGroupHeartbeatResponse) -> Option<Vec<(TopicId, i32)>> {
    let topics = &response.assignment.as_ref()?.topic_partitions;
    let each = topics.iter().flat_map(|t| t.partitions.iter().map(|p| (TopicId(t.topic_id), *p)));
    let mut all: Vec<(TopicId, i32)> = each.collect();
    all.sort();
    Some(all)
}

fn partitions(topic: TopicId, partitions: std::ops::Range<i32>) -> Vec<(TopicId, i32)> {
    partitions.map(|partition| (topic, partition)).collect()
}

async fn described(fixture: &Fixture, version: i16, id: &str, operations: bool) -> DescribedGroup {
    let request = ConsumerGroupDescribeRequest::default()
        .with_group_ids(vec![group(id)])
        .with_include_authorized_operations(operations);
    let response = fixture.call(version, &request).await;
    let [found] = <[_; 1]>::try_from(response.groups).unwrap();
    found
}

async fn commit(fixture: &Fixture, id: &str, member: &StrBytes, epoch: i32) -> i16 {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(5)
        .with_committed_metadata(None);
    let topic =
        OffsetCommitRequestTopic::default().with_name(TopicName(text("t"))).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group(id))
        .with_member_id(member.clone())
        .with_generation_id_or_member_epoch(epoch)
        .with_topics(vec![topic]);
    fixture.call(9, &request).await.topics[0].partitions[0].error_code
}

/// Id, state and type of each group of these types.
async fn listed(fixture: &Fixture, types: &[&str]) -> Vec<(String, String, String)> {
    let types = types.iter().map(|name| text(*name)).collect();
    let response = fixture.call(5, &ListGroupsRequest::default().with_types_filter(types)).await;
    let each = response.groups.into_iter();
    each.map(|g| (g.group_id.to_string(), g.group_state.to_string(), g.group_type.to_string())).collect()
}

#[tokio::test]
async fn a_group_lives_in_every_version() {
    let fixture = fixture().await;
    let topic = fixture.broker.metadata.image().topic("t").unwrap().id;
    for version in 0..=1 {
        let id = format!("g-{version}");
        // Before version 1, the coordinator may name the member.
        let joined =
            heartbeat(&fixture, version, &join(&id, if version == 0 { "" } else { "m" }, &["t"])).await;
        assert_eq!((joined.error_code, joined.heartbeat_interval_ms), (0, 5_000), "{joined:?}");
        let (member, epoch) = (joined.member_id.clone().unwrap(), joined.member_epoch);
        assert!(!member.is_empty() && epoch > 0);
        assert_eq!(assigned(&joined), Some(partitions(topic, 0..4)));
        let again = heartbeat(&fixture, version, &beat(&id, &member, epoch)).await;
        assert_eq!((again.error_code, again.member_epoch), (0, epoch), "{again:?}");

        let found = described(&fixture, version, &id, true).await;
        assert_eq!((found.error_code, &*found.group_state, &*found.assignor_name), (0, "Stable", "uniform"));
        assert_eq!((found.group_epoch, found.assignment_epoch), (epoch, epoch));
        assert_eq!(found.authorized_operations, GROUP_OPERATIONS);
        let [it] = &found.members[..] else { panic!("{found:?}") };
        assert_eq!((&it.member_id, it.member_epoch, &*it.client_host), (&member, epoch, "/127.0.0.1"));
        assert_eq!(it.subscribed_topic_names, [TopicName(text("t"))]);
        assert_eq!(it.assignment, it.target_assignment);
        assert_eq!(it.assignment.topic_partitions[0].partitions, [0, 1, 2, 3]);
        assert_eq!(described(&fixture, version, &id, false).await.authorized_operations, NOT_ASKED);
        let stable = (id.clone(), "Stable".to_string(), "consumer".to_string());
        assert_eq!(listed(&fixture, &["consumer"]).await, [stable]);
        assert!(listed(&fixture, &["classic"]).await.is_empty());

        assert_eq!(commit(&fixture, &id, &member, epoch).await, 0);
        let stale = ResponseError::StaleMemberEpoch.code();
        assert_eq!(commit(&fixture, &id, &member, epoch + 1).await, stale);

        let left = heartbeat(&fixture, version, &beat(&id, &member, -1)).await;
        assert_eq!((left.error_code, left.member_epoch), (0, -1));
        assert_eq!(&*described(&fixture, version, &id, false).await.group_state, "Empty");
        let delete = DeleteGroupsRequest::default().with_groups_names(vec![group(&id)]);
        assert_eq!(fixture.call(2, &delete).await.results[0].error_code, 0);
        let gone = described(&fixture, version, &id, true).await;
        assert_eq!(gone.error_code, ResponseError::GroupIdNotFound.code());
        assert_eq!(gone.authorized_operations, NOT_ASKED);
    }
}

#[tokio::test]
async fn members_hear_of_topics_that_come_later() {
    let fixture = fixture().await;
    let old = fixture.broker.metadata.image().topic("t").unwrap().id;
    let joined = heartbeat(&fixture, 1, &join("g", "m", &["t", "later"])).await;
    assert_eq!(assigned(&joined), Some(partitions(old, 0..4)));
    let later = fixture.create_topic("later", 2).await;
    let told = heartbeat(&fixture, 1, &beat("g", &text("m"), joined.member_epoch)).await;
    assert_eq!(told.error_code, 0, "{told:?}");
    assert!(told.member_epoch > joined.member_epoch);
    let mut all = [partitions(old, 0..4), partitions(later, 0..2)].concat();
    all.sort();
    assert_eq!(assigned(&told), Some(all));
}

#[tokio::test]
async fn a_group_that_is_loaded_goes_on_with_what_there_is_by_then() {
    let fixture = fixture().await;
    let old = fixture.broker.metadata.image().topic("t").unwrap().id;
    let joined = heartbeat(&fixture, 1, &join("g", "m", &["t", "later"])).await;
    let same = heartbeat(&fixture.restarted(), 1, &beat("g", &text("m"), joined.member_epoch)).await;
    assert_eq!((same.error_code, same.member_epoch), (0, joined.member_epoch), "{same:?}");
    fixture.broker.groups.stop();
    let later = fixture.create_topic("later", 1).await;
    let again = fixture.restarted();
    let told = heartbeat(&again, 1, &beat("g", &text("m"), joined.member_epoch)).await;
    assert_eq!(told.error_code, 0, "{told:?}");
    let mut all = [partitions(old, 0..4), partitions(later, 0..1)].concat();
    all.sort();
    assert_eq!(assigned(&told), Some(all));
}

#[tokio::test]
async fn a_groups_own_settings_act_at_once() {
    let fixture = fixture().await;
    let joined = heartbeat(&fixture, 1, &join("g", "m", &["t"])).await;
    assert_eq!(joined.heartbeat_interval_ms, 5_000);
    fixture.alter_config(GROUP_RESOURCE, "g", "consumer.heartbeat.interval.ms", Some("7000")).await;
    let told = heartbeat(&fixture, 1, &beat("g", &text("m"), joined.member_epoch)).await;
    assert_eq!((told.error_code, told.heartbeat_interval_ms), (0, 7_000));
    let other = heartbeat(&fixture, 1, &join("h", "m", &["t"])).await;
    assert_eq!(other.heartbeat_interval_ms, 5_000);
}

#[tokio::test]
async fn refusals_carry_kafkas_codes_and_words() {
    let fixture = Fixture::new().await;
    // Nobody coordinates a group before there is the topic.
    let refused = fixture.call(1, &join("g", "m", &["t"])).await;
    let e = ResponseError::NotCoordinator;
    assert_eq!((refused.error_code, refused.error_message), (e.code(), Some(text(e.to_string()))));
    let refused = described(&fixture, 1, "g", false).await;
    assert_eq!((refused.error_code, refused.error_message), (e.code(), Some(text(e.to_string()))));
    assert_eq!(refused.group_id, group("g"));

    fixture.broker.groups.ensure_topic().await.unwrap();
    let invalid = ResponseError::InvalidRequest.code();
    for request in [
        join("", "m", &["t"]),
        join("g", "", &["t"]),
        join("g", "m", &["t"]).with_rebalance_timeout_ms(-1),
        join("g", "m", &["t"]).with_rack_id(Some(text(""))),
        join("g", "m", &["t"]).with_instance_id(Some(text(""))),
    ] {
        let refused = heartbeat(&fixture, 1, &request).await;
        assert_eq!(refused.error_code, invalid, "{request:?}");
        assert!(refused.error_message.is_some_and(|why| !why.is_empty()));
    }
    let unknown = heartbeat(&fixture, 1, &beat("g", &text("m"), 3)).await;
    assert_eq!(unknown.error_code, ResponseError::GroupIdNotFound.code());
    let nameless = described(&fixture, 1, "", false).await;
    assert_eq!(nameless.error_code, ResponseError::InvalidGroupId.code());
}

#[tokio::test]
async fn the_new_protocol_may_be_refused() {
    let fixture = Fixture::with(&[("group.coordinator.rebalance.protocols", "classic")]).await;
    let refused = fixture.call(1, &join("g", "m", &["t"])).await;
    let e = ResponseError::UnsupportedVersion.code();
    assert_eq!((refused.error_code, refused.error_message), (e, None));
    let refused = described(&fixture, 1, "g", true).await;
    assert_eq!((refused.error_code, refused.group_id, refused.error_message), (e, group("g"), None));
}
