//! ConsumerGroupHeartbeat: what is checked before the group is asked, and answers.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use kafka_protocol::protocol::StrBytes;

use super::super::GroupConfig;
use super::super::record::{self, PartitionEpochs};
use super::{AWAY, Refusal};

/// The member leaves.
pub(super) const LEAVES: i32 = -1;
/// Since this version members choose their own ids.
const OWN_MEMBER_ID: i16 = 1;

/// Kafka's `throwIfConsumerGroupHeartbeatRequestIsInvalid`, and what records could not hold.
pub(super) fn check(
    config: &GroupConfig,
    request: &ConsumerGroupHeartbeatRequest,
    version: i16,
) -> Result<(), Refusal> {
    let epoch = request.member_epoch;
    if version >= OWN_MEMBER_ID || epoch > 0 || epoch == LEAVES {
        filled(Some(&request.member_id), "MemberId")?;
    }
    filled(Some(&request.group_id.0), "GroupId")?;
    filled(request.instance_id.as_ref(), "InstanceId")?;
    filled(request.rack_id.as_ref(), "RackId")?;
    if epoch == 0 {
        if request.rebalance_timeout_ms == -1 {
            return Err(invalid("RebalanceTimeoutMs must be provided in first request."));
        }
        if request.topic_partitions.as_ref().is_none_or(|partitions| !partitions.is_empty()) {
            return Err(invalid("TopicPartitions must be empty when (re-)joining."));
        }
        if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
            let message =
                "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.";
            return Err(invalid(message));
        }
    } else if epoch == AWAY {
        if request.instance_id.is_none() {
            return Err(invalid("InstanceId can't be null."));
        }
    } else if epoch < AWAY {
        return Err(invalid("MemberEpoch is invalid."));
    }
    if let Some(assignor) = &request.server_assignor {
        let supported: Vec<_> = config.consumer_assignors.iter().map(|assignor| assignor.name()).collect();
        if !supported.contains(&assignor.as_str()) {
            let message = format!(
                "ServerAssignor {assignor} is not supported. Supported assignors: {}.",
                supported.join(", ")
            );
            return Err(Refusal::new(ResponseError::UnsupportedAssignor, message));
        }
    }
    if is_writable(request) { Ok(()) } else { Err(invalid("The request has a string that is too long.")) }
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(ResponseError::InvalidRequest, message)
}

fn filled(text: Option<&StrBytes>, what: &str) -> Result<(), Refusal> {
    match text {
        Some(text) if text.trim().is_empty() => Err(invalid(&format!("{what} can't be empty."))),
        _ => Ok(()),
    }
}

fn is_writable(request: &ConsumerGroupHeartbeatRequest) -> bool {
    let optional = [&request.instance_id, &request.rack_id, &request.subscribed_topic_regex];
    let names = request.subscribed_topic_names.iter().flatten();
    record::writable(&request.group_id)
        && record::writable(&request.member_id)
        && optional.into_iter().flatten().all(|text| record::writable(text))
        && names.into_iter().all(|name| record::writable(name))
}

/// A request with all that there is to say: the member wants to hear all, too.
pub(super) fn is_full(request: &ConsumerGroupHeartbeatRequest) -> bool {
    request.rebalance_timeout_ms != -1
        && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
        && request.topic_partitions.is_some()
}

pub(super) fn assignment(partitions: &PartitionEpochs) -> Assignment {
    let topics = partitions.iter().map(|(topic, partitions)| {
        TopicPartitions::default()
            .with_topic_id(topic.0)
            .with_partitions(partitions.keys().copied().collect())
    });
    Assignment::default().with_topic_partitions(topics.collect())
}

impl Refusal {
    pub(super) fn answer(self) -> ConsumerGroupHeartbeatResponse {
        ConsumerGroupHeartbeatResponse::default()
            .with_error_code(self.error.code())
            .with_error_message(Some(StrBytes::from_string(self.message)))
    }
}
