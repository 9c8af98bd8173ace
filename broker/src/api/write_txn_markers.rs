//! WriteTxnMarkers (27): a transaction's coordinator has it ended in partitions that this broker leads.

use std::collections::BTreeMap;
use std::pin::Pin;

use chronik_core::ids::{ProducerEpoch, ProducerId, TopicIdPartition};
use chronik_core::log::EndMarker;
use chronik_core::metadata::MetadataImage;
use chronik_core::metadata::image::OFFSETS_TOPIC;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::write_txn_markers_request::WritableTxnMarker;
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{ApiKey, TopicName, WriteTxnMarkersRequest, WriteTxnMarkersResponse};

use super::once::each_once;
use super::{Api, Broker, Reply, Request, led_partition};
use crate::storage::now_ms;

pub const API: Api = Api { key: ApiKey::WriteTxnMarkers, min: 1, max: 1, serve: super::Serve::Call(serve) };

/// A marker on its way to the disk, and Kafka's error code then.
type Appended = Pin<Box<dyn Future<Output = i16> + Send>>;
/// What has become of a marker in a partition.
type Written = (TopicName, i32, Appended);

fn serve(mut request: Request) -> Reply {
    let body: WriteTxnMarkersRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = request.broker.clone();
    request.later(async move {
        let (image, now_ms) = (broker.metadata.image(), now_ms());
        // All are on their way before any is waited for.
        let mut written: BTreeMap<ProducerId, Vec<Written>> = BTreeMap::new();
        for marker in body.markers {
            // A producer's markers have one answer.
            let producer_id = ProducerId(marker.producer_id.0);
            written.entry(producer_id).or_default().extend(write(&broker, &image, marker, now_ms));
        }
        let mut markers = Vec::with_capacity(written.len());
        for (producer_id, partitions) in written.into_iter().filter(|(_, written)| !written.is_empty()) {
            let mut outcomes = Vec::with_capacity(partitions.len());
            for (topic, partition, appended) in partitions {
                let code = appended.await;
                broker.metrics.error(API.key as i16, code);
                outcomes.push((topic, partition, code));
            }
            let topics = each_once(outcomes).into_iter().map(|(name, codes)| {
                let outcome = |(partition, code)| {
                    let told = WritableTxnMarkerPartitionResult::default();
                    told.with_partition_index(partition).with_error_code(code)
                };
                let partitions = codes.into_iter().map(outcome).collect();
                WritableTxnMarkerTopicResult::default().with_name(name).with_partitions(partitions)
            });
            let result = WritableTxnMarkerResult::default().with_topics(topics.collect());
            markers.push(result.with_producer_id(producer_id.0.into()));
        }
        WriteTxnMarkersResponse::default().with_markers(markers)
    })
}

fn write(broker: &Broker, image: &MetadataImage, asked: WritableTxnMarker, now_ms: i64) -> Vec<Written> {
    let marker = EndMarker {
        producer_id: ProducerId(asked.producer_id.0),
        producer_epoch: ProducerEpoch(asked.producer_epoch),
        coordinator_epoch: asked.coordinator_epoch,
        commit: asked.transaction_result,
    };
    let asked = asked.topics.iter().flat_map(|topic| {
        topic.partition_indexes.iter().map(|partition| (topic.name.clone(), *partition, ()))
    });
    let asked = each_once(asked).into_iter().flat_map(|(topic, partitions)| {
        partitions.into_iter().map(move |(partition, ())| (topic.clone(), partition))
    });
    let written = asked.map(|(topic, partition)| {
        let appended = append(broker, image, &topic, partition, marker, now_ms);
        let appended = appended.unwrap_or_else(|code| Box::pin(std::future::ready(code)));
        (topic, partition, appended)
    });
    written.collect()
}

fn append(
    broker: &Broker,
    image: &MetadataImage,
    topic: &str,
    partition: i32,
    marker: EndMarker,
    now_ms: i64,
) -> Result<Appended, i16> {
    let topic = image.topic(topic).ok_or(ResponseError::UnknownTopicOrPartition.code())?;
    led_partition(broker, topic, partition).map_err(|e| e.code())?;
    if marker.producer_id.0 < 0 {
        return Err(ResponseError::InvalidRequest.code());
    }
    if &*topic.name == OFFSETS_TOPIC {
        // What the producer has committed for groups is decided in the same moment.
        let written = broker.groups.write_marker(partition, marker);
        return Ok(Box::pin(async move { written.await.map_or_else(|e| e.code(), |()| 0) }));
    }
    let id = TopicIdPartition { topic_id: topic.id, partition };
    // The metadata names this broker before its log is there.
    let journal = broker.logs.journal(id).ok_or(ResponseError::NotLeaderOrFollower.code())?;
    let durable = journal.append_marker(marker, now_ms).map_err(|refused| refused.kafka_code())?;
    Ok(Box::pin(async move { durable.await.map_or(ResponseError::KafkaStorageError.code(), |()| 0) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::partitions::PartitionReader;
    use crate::api::testing::Fixture;
    use crate::api::text;
    use chronik_core::record_batch::BatchHeader;
    use kafka_protocol::messages::write_txn_markers_request::WritableTxnMarkerTopic;

    fn marker(producer: i64, commit: bool, topic: &str, partitions: Vec<i32>) -> WritableTxnMarker {
        let topic = WritableTxnMarkerTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partition_indexes(partitions);
        WritableTxnMarker::default()
            .with_producer_id(producer.into())
            .with_producer_epoch(3)
            .with_coordinator_epoch(9)
            .with_transaction_result(commit)
            .with_topics(vec![topic])
    }

    /// By marker and topic, each partition with its code.
    async fn codes(fixture: &Fixture, markers: Vec<WritableTxnMarker>) -> Vec<Vec<Vec<(i32, i16)>>> {
        let request = WriteTxnMarkersRequest::default().with_markers(markers);
        let response: WriteTxnMarkersResponse = fixture.call(1, &request).await;
        let of = |topic: &WritableTxnMarkerTopicResult| {
            topic.partitions.iter().map(|p| (p.partition_index, p.error_code)).collect()
        };
        response.markers.iter().map(|marker| marker.topics.iter().map(of).collect()).collect()
    }

    #[tokio::test]
    async fn each_partition_gets_its_marker_or_a_reason() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 2).await;
        let asked = vec![marker(7, true, "a", vec![0, 1, 2]), marker(8, false, "gone", vec![0])];
        let told = codes(&fixture, asked).await;
        assert_eq!(told, [vec![vec![(0, 0), (1, 0), (2, 3)]], vec![vec![(0, 3)]]]);
        for partition in 0..2 {
            let log = fixture.log("a", partition);
            assert_eq!(log.offsets().high_watermark, 1);
            let read = log.read(0, 1, 1000, true).await.unwrap().pieces.concat();
            let found = EndMarker::of(&BatchHeader::parse(&read).unwrap(), &read);
            let (producer_id, producer_epoch) = (ProducerId(7), ProducerEpoch(3));
            let written = EndMarker { producer_id, producer_epoch, coordinator_epoch: 9, commit: true };
            assert_eq!(found, Some(written));
        }
        let twice = vec![marker(7, true, "a", vec![0, 0]), marker(7, true, "a", vec![1, 0])];
        assert_eq!(codes(&fixture, twice).await, [[[(0, 0), (1, 0)]]], "one answer for each producer");
        assert_eq!(fixture.log("a", 0).offsets().high_watermark, 3, "and each marker once");
        assert_eq!(codes(&fixture, vec![marker(7, true, "a", vec![])]).await.len(), 0);
        assert_eq!(codes(&fixture, vec![marker(-1, true, "a", vec![0])]).await, [[[(0, 42)]]]);
        fixture.log("a", 0).refuse_appends(true);
        let told = codes(&fixture, vec![marker(7, true, "a", vec![0, 1])]).await;
        assert_eq!(told, [[[(0, 56), (1, 0)]]]);
    }
}
