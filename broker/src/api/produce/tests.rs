use super::*;
use crate::api::testing::Fixture;
use crate::api::text;
use chronik_core::ids::{ProducerEpoch, ProducerId};
use chronik_core::record_batch::BatchBuilder;
use kafka_protocol::messages::TopicName;

fn produced(topic: &str, partitions: &[(i32, Vec<u8>)]) -> TopicProduceData {
    let data = partitions.iter().map(|(index, records)| {
        PartitionProduceData::default().with_index(*index).with_records(Some(records.clone().into()))
    });
    TopicProduceData::default().with_name(TopicName(text(topic))).with_partition_data(data.collect())
}

#[test]
fn what_is_named_twice_is_appended_once_as_named_last() {
    let [first, last, other] = [b"a", b"b", b"c"].map(|records| records.to_vec());
    let all = once(vec![
        produced("t", &[(0, first.clone()), (1, other.clone())]),
        produced("none", &[]),
        produced("t", &[(0, last.clone())]),
    ]);
    assert_eq!(all, [produced("t", &[(0, last), (1, other)])]);
    assert_eq!(once(vec![produced("t", &[(0, first.clone())])]), [produced("t", &[(0, first)])]);
}

#[tokio::test]
async fn requests_are_refused_with_kafkas_codes() {
    let fixture = Fixture::new().await;
    fixture.create_topic("t", 2).await;
    let plain = BatchBuilder::new().record(0, None, None).build();
    let builder = BatchBuilder::new().producer(ProducerId(1), ProducerEpoch(0), 0);
    let transactional = builder.transactional().record(0, None, None).build();
    for version in 3..=12 {
        let ask = async |acks, partitions: &[(i32, Vec<u8>)]| -> Vec<(i16, i64)> {
            let topics = vec![produced("t", partitions), produced("gone", &[(0, plain.clone())])];
            let request = ProduceRequest::default().with_acks(acks).with_topic_data(topics);
            let response: ProduceResponse = fixture.call(version, &request).await;
            let partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
            partitions.map(|p| (p.error_code, p.log_start_offset)).collect()
        };
        assert_eq!(ask(2, &[(0, plain.clone()), (9, plain.clone())]).await, [(21, -1), (3, -1), (3, -1)]);
        // Nobody says whose transaction it is: that goes for the whole request.
        let told = ask(-1, &[(0, plain.clone()), (1, transactional.clone())]).await;
        assert_eq!(told, [(53, -1); 3], "version {version}");
    }
}
