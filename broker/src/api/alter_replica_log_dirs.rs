//! AlterReplicaLogDirs (34): replicas are to move to another directory (KIP-113). There is one, so that they are
//! all where they could be.

use std::collections::BTreeMap;

use chronik_core::ids::TopicIdPartition;
use chronik_core::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, ApiKey, TopicName};

use super::{Api, Broker, Reply, Request};

pub const API: Api =
    Api { key: ApiKey::AlterReplicaLogDirs, min: 1, max: 2, serve: super::Serve::Call(serve) };

/// What Kafka puts behind topic and partition to name the directory of a replica that moves, in bytes.
const FUTURE_SUFFIX: usize = ".-future".len() + 32;
/// The longest name of a directory.
const NAME_MAX: usize = 255;

fn serve(mut request: Request) -> Reply {
    let body: AlterReplicaLogDirsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let image = request.broker.metadata.image();
    // A replica that is named twice moves to where it was named last.
    let mut wanted: BTreeMap<(TopicName, i32), String> = BTreeMap::new();
    for dir in body.dirs {
        for topic in dir.topics {
            for partition in topic.partitions {
                wanted.insert((topic.name.clone(), partition), dir.path.to_string());
            }
        }
    }
    let mut results: Vec<AlterReplicaLogDirTopicResult> = Vec::new();
    for ((topic, partition), dir) in wanted {
        let code = match check(&request.broker, &image, &topic, partition, &dir) {
            Ok(()) => 0,
            Err(e) => e.code(),
        };
        request.broker.metrics.error(API.key as i16, code);
        let told = AlterReplicaLogDirPartitionResult::default()
            .with_partition_index(partition)
            .with_error_code(code);
        match results.last_mut().filter(|last| last.topic_name == topic) {
            Some(last) => last.partitions.push(told),
            None => results.push(
                AlterReplicaLogDirTopicResult::default().with_topic_name(topic).with_partitions(vec![told]),
            ),
        }
    }
    request.head.reply(&AlterReplicaLogDirsResponse::default().with_results(results))
}

fn check(
    broker: &Broker,
    image: &MetadataImage,
    topic: &str,
    partition: i32,
    dir: &str,
) -> Result<(), ResponseError> {
    let name = topic.len() + 1 + partition.to_string().len() + FUTURE_SUFFIX;
    if name > NAME_MAX {
        return Err(ResponseError::InvalidTopicException);
    }
    if dir != broker.config.data_dir.display().to_string() {
        return Err(ResponseError::LogDirNotFound);
    }
    let known = image.topic(topic).filter(|t| t.partition(partition).is_some());
    let id = known.map(|t| TopicIdPartition { topic_id: t.id, partition });
    let id = id.ok_or(ResponseError::UnknownTopicOrPartition)?;
    match broker.logs.partition(id) {
        Some(_) => Ok(()),
        None => Err(ResponseError::ReplicaNotAvailable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use crate::api::text;
    use kafka_protocol::messages::alter_replica_log_dirs_request::{
        AlterReplicaLogDir, AlterReplicaLogDirTopic,
    };

    fn dir(path: &str, topic: &str, partitions: &[i32]) -> AlterReplicaLogDir {
        let topic = AlterReplicaLogDirTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(partitions.to_vec());
        AlterReplicaLogDir::default().with_path(text(path)).with_topics(vec![topic])
    }

    #[tokio::test]
    async fn replicas_stay_where_they_are_in_every_version() {
        let fixture = Fixture::with(&[("chronik.data.dir", "/data")]).await;
        fixture.create_topic("a", 2).await;
        let long = "x".repeat(214);
        fixture.create_topic(&long, 1).await;
        // A partition whose log is not open.
        let id = fixture.broker.metadata.image().topic("a").unwrap().id;
        fixture.logs.0.lock().unwrap().remove(&TopicIdPartition { topic_id: id, partition: 1 });
        for version in 1..=2 {
            let cases: [(&str, &str, &[i32], &[i16]); 4] = [
                ("/data", "a", &[0, 1, 2], &[0, 9, 3]),
                ("/elsewhere", "a", &[0], &[57]),
                ("/data", "gone", &[0], &[3]),
                ("/data", &long, &[0], &[17]),
            ];
            for (path, topic, partitions, expected) in cases {
                let request =
                    AlterReplicaLogDirsRequest::default().with_dirs(vec![dir(path, topic, partitions)]);
                let response: AlterReplicaLogDirsResponse = fixture.call(version, &request).await;
                let codes: Vec<i16> = response.results[0].partitions.iter().map(|p| p.error_code).collect();
                assert_eq!(codes, expected, "{path} {topic}");
            }
        }
        let both = vec![dir("/elsewhere", "a", &[0]), dir("/data", "a", &[0])];
        let request = AlterReplicaLogDirsRequest::default().with_dirs(both);
        let response: AlterReplicaLogDirsResponse = fixture.call(2, &request).await;
        assert_eq!((response.results.len(), response.results[0].partitions[0].error_code), (1, 0));
    }
}
