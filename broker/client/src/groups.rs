//! Consumer groups, by the requests of Kafka's Admin API: this client is a member of none.

use kafka_protocol::messages::consumer_group_describe_response::Assignment;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    ApiKey, ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, GroupId,
    ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::admin::first;
use super::cluster::{Client, topic_name};
use super::coordinators::Kind;
use super::error::{ClientError, check};

/// `GROUP_ID_NOT_FOUND`, and `UNSUPPORTED_VERSION` where the new protocol is switched off.
const NO_CONSUMER_GROUP: [i16; 2] = [69, 35];
/// The type of a member that speaks the classic protocol.
const CLASSIC_MEMBER: i8 = 0;

/// A group, as a list of groups tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedGroup {
    /// Its id.
    pub id: String,
    /// `Stable`, `Empty`, …
    pub state: String,
    /// `consumer` for consumers; empty for a group that only has offsets.
    pub protocol_type: String,
    /// The protocol by which its members find together: `classic`, or `consumer` for the new one (KIP-848). Empty where the server
    /// does not tell.
    pub kind: String,
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// `Dead` when there is no such group.
    pub state: String,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// The assignor that its members agreed on.
    pub protocol: String,
    /// In the coordinator's order.
    pub members: Vec<GroupMember>,
    /// Of a group of the new protocol.
    pub epochs: Option<GroupEpochs>,
}

/// How far a group of the new protocol has come (KIP-848).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupEpochs {
    /// Goes up with each change of members, subscriptions and topics.
    pub group: i32,
    /// Of the change up to which it is settled who is to have what.
    pub assignment: i32,
}

/// A member of a [`Group`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// What the coordinator calls it.
    pub id: String,
    /// Its own name, if it is a static member (KIP-345).
    pub instance_id: Option<String>,
    /// Its client's name.
    pub client_id: String,
    /// Its address, as the broker sees it.
    pub host: String,
    /// Topics and partitions that it has.
    pub assigned: Vec<(String, i32)>,
    /// Of a member of a group of the new protocol.
    pub way: Option<MemberWay>,
}

/// A member's way to what it is to have, in a group of the new protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberWay {
    /// The group's, up to which it has followed.
    pub epoch: i32,
    /// Topics and partitions that it is to have in the end.
    pub target: Vec<(String, i32)>,
    /// It still speaks the classic protocol.
    pub classic: bool,
}

/// How far a group has come in a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommittedOffset {
    /// The topic's name.
    pub topic: String,
    /// The partition's index.
    pub partition: i32,
    /// Of the record that is to be read next.
    pub offset: i64,
}

impl Client {
    /// All groups of the cluster, by id.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn groups(&mut self) -> Result<Vec<ListedGroup>, ClientError> {
        let request = ListGroupsRequest::default();
        let mut groups = Vec::new();
        for (id, response) in self.every_coordinator(&request, |r| r.error_code).await? {
            check(response.error_code, None, || format!("list the groups of broker {id}"))?;
            groups.extend(response.groups.into_iter().map(|group| ListedGroup {
                id: group.group_id.to_string(),
                state: group.group_state.to_string(),
                protocol_type: group.protocol_type.to_string(),
                kind: group.group_type.to_lowercase(),
            }));
        }
        groups.sort();
        Ok(groups)
    }

    /// A group of either protocol and its members; one that does not exist has the state `Dead`.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn describe_group(&mut self, id: &str) -> Result<Group, ClientError> {
        if self.offered(ApiKey::ConsumerGroupDescribe).await?.is_some_and(|offered| offered.max >= 1)
            && let Some(group) = self.describe_consumer_group(id).await?
        {
            return Ok(group);
        }
        let request = DescribeGroupsRequest::default().with_groups(vec![group_id(id)]);
        let code = |r: &<DescribeGroupsRequest as kafka_protocol::protocol::Request>::Response| {
            r.groups.first().map_or(0, |group| group.error_code)
        };
        let response = self.coordinated(Kind::Group, id, &request, code).await?;
        let what = || format!("describe group {id}");
        let group = first(response.groups, what)?;
        check(group.error_code, None, what)?;
        let members = group.members.into_iter().map(|member| GroupMember {
            id: member.member_id.to_string(),
            instance_id: member.group_instance_id.map(|id| id.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.trim_start_matches('/').to_owned(),
            // Of other protocols than consumers', only they know what it means.
            assigned: assigned(&member.member_assignment).unwrap_or_default(),
            way: None,
        });
        Ok(Group {
            epochs: None,
            members: members.collect(),
            id: group.group_id.to_string(),
            state: group.group_state.to_string(),
            protocol_type: group.protocol_type.to_string(),
            protocol: group.protocol_data.to_string(),
        })
    }

    /// One of the new protocol; `None` when it is none.
    async fn describe_consumer_group(&mut self, id: &str) -> Result<Option<Group>, ClientError> {
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(id)]);
        let code = |r: &<ConsumerGroupDescribeRequest as kafka_protocol::protocol::Request>::Response| {
            r.groups.first().map_or(0, |group| group.error_code)
        };
        let response = self.coordinated(Kind::Group, id, &request, code).await?;
        let what = || format!("describe group {id}");
        let group = first(response.groups, what)?;
        if NO_CONSUMER_GROUP.contains(&group.error_code) {
            return Ok(None);
        }
        check(group.error_code, group.error_message.as_deref(), what)?;
        let members = group.members.into_iter().map(|member| GroupMember {
            id: member.member_id.to_string(),
            instance_id: member.instance_id.map(|id| id.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.trim_start_matches('/').to_owned(),
            assigned: partitions_of(member.assignment),
            way: Some(MemberWay {
                epoch: member.member_epoch,
                target: partitions_of(member.target_assignment),
                classic: member.member_type == CLASSIC_MEMBER,
            }),
        });
        Ok(Some(Group {
            epochs: Some(GroupEpochs { group: group.group_epoch, assignment: group.assignment_epoch }),
            members: members.collect(),
            id: group.group_id.to_string(),
            state: group.group_state.to_string(),
            protocol_type: "consumer".to_owned(),
            protocol: group.assignor_name.to_string(),
        }))
    }

    /// The offsets a group has committed, by topic and partition.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn committed(&mut self, id: &str) -> Result<Vec<CommittedOffset>, ClientError> {
        let group = OffsetFetchRequestGroup::default().with_group_id(group_id(id)).with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(vec![group]);
        let code = |r: &<OffsetFetchRequest as kafka_protocol::protocol::Request>::Response| {
            r.groups.first().map_or(0, |group| group.error_code)
        };
        let response = self.coordinated(Kind::Group, id, &request, code).await?;
        let what = || format!("fetch the offsets of group {id}");
        let group = first(response.groups, what)?;
        check(group.error_code, None, what)?;
        let mut offsets = Vec::new();
        for topic in group.topics {
            for partition in topic.partitions {
                check(partition.error_code, None, what)?;
                if partition.committed_offset >= 0 {
                    offsets.push(CommittedOffset {
                        topic: topic.name.to_string(),
                        partition: partition.partition_index,
                        offset: partition.committed_offset,
                    });
                }
            }
        }
        offsets.sort();
        Ok(offsets)
    }

    /// Commits offsets in a group's name, which must have no members.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name, e.g. `UNKNOWN_MEMBER_ID` when it has some.
    pub async fn commit(&mut self, id: &str, offsets: &[CommittedOffset]) -> Result<(), ClientError> {
        let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
        for at in offsets {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(at.partition)
                .with_committed_offset(at.offset)
                .with_committed_metadata(Some(StrBytes::new()));
            match topics.iter_mut().find(|topic| *topic.name == *at.topic) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(
                    OffsetCommitRequestTopic::default()
                        .with_name(topic_name(&at.topic))
                        .with_partitions(vec![partition]),
                ),
            }
        }
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(id))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(topics);
        let code = |r: &<OffsetCommitRequest as kafka_protocol::protocol::Request>::Response| {
            let mut codes = r.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code);
            codes.find(|code| *code != 0).unwrap_or(0)
        };
        let response = self.coordinated(Kind::Group, id, &request, code).await?;
        for topic in &response.topics {
            for partition in &topic.partitions {
                check(partition.error_code, None, || {
                    format!(
                        "commit the offset of {}-{} for group {id}",
                        *topic.name, partition.partition_index
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Deletes a group without members, and its offsets.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name, e.g. `NON_EMPTY_GROUP`.
    pub async fn delete_group(&mut self, id: &str) -> Result<(), ClientError> {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(id)]);
        let code = |r: &<DeleteGroupsRequest as kafka_protocol::protocol::Request>::Response| {
            r.results.first().map_or(0, |result| result.error_code)
        };
        let response = self.coordinated(Kind::Group, id, &request, code).await?;
        let what = || format!("delete group {id}");
        let result = first(response.results, what)?;
        Ok(check(result.error_code, None, what)?)
    }
}

fn partitions_of(assignment: Assignment) -> Vec<(String, i32)> {
    let mut all = Vec::new();
    for topic in assignment.topic_partitions {
        all.extend(topic.partitions.into_iter().map(|partition| (topic.topic_name.to_string(), partition)));
    }
    all.sort();
    all
}

fn group_id(id: &str) -> GroupId {
    GroupId(StrBytes::from_string(id.to_owned()))
}

/// What a consumer was assigned (`ConsumerProtocolAssignment`): read by hand, since lengths are the member's word. `None`
/// when it is something else.
fn assigned(bytes: &[u8]) -> Option<Vec<(String, i32)>> {
    let mut rest = bytes;
    let version = i16::from_be_bytes(take(&mut rest)?);
    if version < 0 {
        return None;
    }
    let mut assigned = Vec::new();
    for _ in 0..i32::from_be_bytes(take(&mut rest)?) {
        let length = usize::try_from(i16::from_be_bytes(take(&mut rest)?)).ok()?;
        let (name, after) = rest.split_at_checked(length)?;
        let name = std::str::from_utf8(name).ok()?;
        rest = after;
        for _ in 0..i32::from_be_bytes(take(&mut rest)?) {
            assigned.push((name.to_owned(), i32::from_be_bytes(take(&mut rest)?)));
        }
    }
    assigned.sort();
    Some(assigned)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_and_never_believed() {
        let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0];
        bytes.extend([0xff; 4]);
        assert_eq!(assigned(&bytes), Some(vec![("t".to_owned(), 0), ("t".to_owned(), 3)]));
        for cut in 0..21 {
            assert_eq!(assigned(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(assigned(&[0, 1, 0x7f, 0xff, 0xff, 0xff]), None);
        assert_eq!(assigned(b"not at all an assignment"), None);
    }
}
