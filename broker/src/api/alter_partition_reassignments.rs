//! AlterPartitionReassignments (45): partitions are to move to other brokers (KIP-455).

use chronik_core::controller::check_reassignment;
use chronik_core::ids::BrokerId;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ApiKey,
};

use super::{Api, Reply, Request, text};

pub const API: Api =
    Api { key: ApiKey::AlterPartitionReassignments, min: 0, max: 1, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: AlterPartitionReassignmentsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    if body.topics.is_empty() {
        // As Kafka words what was not asked for.
        let nothing = AlterPartitionReassignmentsResponse::default();
        return request.head.reply(&nothing.with_error_message(Some(text(""))));
    }
    let image = request.broker.metadata.image();
    // Version 0 does not say so, and lets it change.
    let factor_may_change = body.allow_replication_factor_change;
    let topics = body.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|asked| {
            let target: Option<Vec<BrokerId>> =
                asked.replicas.map(|replicas| replicas.into_iter().map(|id| BrokerId(id.0)).collect());
            let number = asked.partition_index;
            let judged =
                check_reassignment(&image, &topic.name, number, target.as_deref(), factor_may_change);
            let told = ReassignablePartitionResponse::default()
                .with_partition_index(number)
                .with_error_message(None);
            match judged {
                Ok(()) => told,
                Err(e) => {
                    request.broker.metrics.error(API.key as i16, e.code.code());
                    told.with_error_code(e.code.code()).with_error_message(Some(text(e.message)))
                }
            }
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    let response = AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(factor_may_change)
        .with_error_message(None)
        .with_responses(topics.collect());
    request.head.reply(&response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use kafka_protocol::messages::alter_partition_reassignments_request::{
        ReassignablePartition, ReassignableTopic,
    };
    use kafka_protocol::messages::{BrokerId as WireId, TopicName};

    fn ask(replicas: Option<&[i32]>) -> AlterPartitionReassignmentsRequest {
        let replicas = replicas.map(|ids| ids.iter().map(|id| WireId(*id)).collect());
        let partition = ReassignablePartition::default().with_replicas(replicas);
        let topic =
            ReassignableTopic::default().with_name(TopicName(text("a"))).with_partitions(vec![partition]);
        AlterPartitionReassignmentsRequest::default().with_topics(vec![topic])
    }

    #[tokio::test]
    async fn where_a_partition_is_it_may_stay_in_every_version() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let cases: [(Option<&[i32]>, i16); 4] =
            [(Some(&[1]), 0), (None, 85), (Some(&[9]), 39), (Some(&[]), 39)];
        for version in 0..=1 {
            for (replicas, code) in cases {
                let response: AlterPartitionReassignmentsResponse =
                    fixture.call(version, &ask(replicas)).await;
                let told = &response.responses[0].partitions[0];
                assert_eq!((response.error_code, told.error_code), (0, code), "{replicas:?}");
                assert_eq!(told.error_message.is_some(), code != 0);
                assert_eq!((response.error_message, response.allow_replication_factor_change), (None, true));
            }
            let nothing = AlterPartitionReassignmentsRequest::default();
            let response: AlterPartitionReassignmentsResponse = fixture.call(version, &nothing).await;
            assert_eq!(response.error_message.as_deref(), Some(""));
        }
    }
}
