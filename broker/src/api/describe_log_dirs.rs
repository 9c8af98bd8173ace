//! DescribeLogDirs (35): how much of the disk each partition takes (KIP-113, KIP-827).

use chronik_core::ids::TopicIdPartition;
use chronik_core::metadata::TopicImage;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{ApiKey, DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};

use super::once::each_once;
use super::{Api, Broker, Reply, Request, text};

pub const API: Api = Api { key: ApiKey::DescribeLogDirs, min: 1, max: 4, serve: super::Serve::Call(serve) };

const KAFKA_STORAGE_ERROR: i16 = 56;

fn serve(mut request: Request) -> Reply {
    let body: DescribeLogDirsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = request.broker.clone();
    request.later(async move {
        let dir = broker.config.data_dir.clone();
        let space = tokio::task::spawn_blocking({
            let dir = dir.clone();
            move || rustix::fs::statvfs(&dir)
        });
        let space = space.await.ok().and_then(Result::ok);
        let result = DescribeLogDirsResult::default().with_log_dir(text(dir.display().to_string()));
        let result = match space {
            Some(space) => {
                let bytes =
                    |blocks: u64| i64::try_from(blocks.saturating_mul(space.f_frsize)).unwrap_or(i64::MAX);
                result
                    .with_topics(topics(&broker, &body))
                    .with_total_bytes(bytes(space.f_blocks))
                    .with_usable_bytes(bytes(space.f_bavail))
            }
            None => {
                broker.metrics.error(API.key as i16, KAFKA_STORAGE_ERROR);
                result.with_error_code(KAFKA_STORAGE_ERROR)
            }
        };
        DescribeLogDirsResponse::default().with_results(vec![result])
    })
}

/// The partitions asked for that are here; all of them when none are named.
fn topics(broker: &Broker, body: &DescribeLogDirsRequest) -> Vec<DescribeLogDirsTopic> {
    let image = broker.metadata.image();
    match &body.topics {
        None => {
            let all = |topic: &TopicImage| (0..topic.partitions.len() as i32).collect::<Vec<_>>();
            image.topics().filter_map(|topic| told(broker, topic, &all(topic))).collect()
        }
        Some(topics) => {
            let asked =
                topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| (&topic.topic, *p, ())));
            let each = each_once(asked).into_iter().filter_map(|(topic, partitions)| {
                let partitions: Vec<i32> = partitions.into_iter().map(|(index, ())| index).collect();
                told(broker, image.topic(topic)?, &partitions)
            });
            each.collect()
        }
    }
}

fn told(broker: &Broker, topic: &TopicImage, partitions: &[i32]) -> Option<DescribeLogDirsTopic> {
    let here = partitions.iter().filter_map(|index| {
        let id = TopicIdPartition { topic_id: topic.id, partition: *index };
        let size = broker.logs.appendable(id)?.size_bytes();
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        Some(DescribeLogDirsPartition::default().with_partition_index(*index).with_partition_size(size))
    });
    let partitions: Vec<_> = here.collect();
    let topic = DescribeLogDirsTopic::default().with_name(TopicName(text(topic.name.to_string())));
    (!partitions.is_empty()).then(|| topic.with_partitions(partitions))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixture;
    use super::*;

    #[tokio::test]
    async fn the_directory_is_told_in_every_version() {
        let fixture = Fixture::with(&[("chronik.data.dir", "/")]).await;
        for version in API.min..=API.max {
            let request = DescribeLogDirsRequest::default().with_topics(None);
            let response: DescribeLogDirsResponse = fixture.call(version, &request).await;
            let result = &response.results[0];
            assert_eq!((result.error_code, result.log_dir.as_str()), (0, "/"), "version {version}");
            let told = result.total_bytes > 0 && result.usable_bytes <= result.total_bytes;
            assert_eq!(told, version >= 4, "version {version}");
        }
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_looked_at_is_a_storage_error() {
        let fixture = Fixture::with(&[("chronik.data.dir", "/nowhere/at/all")]).await;
        let request = DescribeLogDirsRequest::default().with_topics(None);
        let response: DescribeLogDirsResponse = fixture.call(4, &request).await;
        assert_eq!(response.results[0].error_code, 56);
    }
}
