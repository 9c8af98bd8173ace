//! ElectLeaders (43): the preferred replica is to lead, or any (KIP-183, KIP-460).

use chronik_core::controller::{ControllerError, Elected, ElectionType, ErrorCode, elect_leaders};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ApiKey, ElectLeadersRequest, ElectLeadersResponse, TopicName};

use super::{Api, Broker, Reply, Request, text};

pub const API: Api = Api { key: ApiKey::ElectLeaders, min: 0, max: 2, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: ElectLeadersRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = request.broker.clone();
    let version = request.head.version;
    request.later(async move {
        let asked: Option<Vec<(String, Vec<i32>)>> = body.topic_partitions.map(|topics| {
            topics.into_iter().map(|topic| (topic.topic.to_string(), topic.partitions)).collect()
        });
        let elected = match ElectionType::from_wire(body.election_type) {
            Some(election) => {
                let asked = asked.clone();
                broker.change(body.timeout_ms, move |i| elect_leaders(i, election, asked.as_deref())).await
            }
            None => {
                let why = format!("Unknown election type {}", body.election_type);
                Err(ControllerError::new(ErrorCode::InvalidRequest, why))
            }
        };
        let (error_code, answers) = match elected {
            Ok(answers) => (0, answers),
            Err(e) => (e.code.code(), each_refused(asked.as_deref().unwrap_or_default(), &e)),
        };
        broker.metrics.error(API.key as i16, error_code);
        // Version 0 has no word for the whole.
        let error_code = if version == 0 { 0 } else { error_code };
        ElectLeadersResponse::default()
            .with_error_code(error_code)
            .with_replica_election_results(results(&broker, answers))
    })
}

fn each_refused(asked: &[(String, Vec<i32>)], why: &ControllerError) -> Elected {
    let refused = |(topic, partitions): &(String, Vec<i32>)| {
        (topic.clone(), partitions.iter().map(|p| (*p, Err(why.clone()))).collect())
    };
    asked.iter().map(refused).collect()
}

fn results(broker: &Broker, answers: Elected) -> Vec<ReplicaElectionResult> {
    let told = |(partition, result): (i32, Result<(), ControllerError>)| {
        let told = PartitionResult::default().with_partition_id(partition).with_error_message(None);
        match result {
            Ok(()) => told,
            Err(e) => {
                broker.metrics.error(API.key as i16, e.code.code());
                told.with_error_code(e.code.code()).with_error_message(Some(text(e.message)))
            }
        }
    };
    let topics = answers.into_iter().map(|(topic, partitions)| {
        ReplicaElectionResult::default()
            .with_topic(TopicName(text(topic)))
            .with_partition_result(partitions.into_iter().map(told).collect())
    });
    topics.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use kafka_protocol::messages::elect_leaders_request::TopicPartitions;

    fn ask(topic: &str, partitions: &[i32]) -> ElectLeadersRequest {
        let topic = TopicPartitions::default()
            .with_topic(TopicName(text(topic)))
            .with_partitions(partitions.to_vec());
        ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic]))
    }

    #[tokio::test]
    async fn a_leader_that_leads_need_not_be_elected_in_every_version() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        for version in 0..=2 {
            let response: ElectLeadersResponse = fixture.call(version, &ask("a", &[0, 7])).await;
            let [topic] = &response.replica_election_results[..] else { panic!("{response:?}") };
            let codes: Vec<i16> = topic.partition_result.iter().map(|p| p.error_code).collect();
            assert_eq!((response.error_code, codes), (0, vec![84, 3]), "version {version}");
            // Of all, those are left out that need none.
            let all = ElectLeadersRequest::default().with_topic_partitions(None);
            let response: ElectLeadersResponse = fixture.call(version, &all).await;
            let [topic] = &response.replica_election_results[..] else { panic!("{response:?}") };
            assert_eq!((response.error_code, topic.partition_result.len()), (0, 0));
        }
    }

    #[tokio::test]
    async fn an_election_of_another_kind_is_refused() {
        let fixture = Fixture::new().await;
        let response: ElectLeadersResponse = fixture.call(2, &ask("a", &[0]).with_election_type(5)).await;
        let partition = &response.replica_election_results[0].partition_result[0];
        assert_eq!((response.error_code, partition.error_code), (42, 42));
        assert_eq!(partition.error_message.as_deref(), Some("Unknown election type 5"));
    }
}
