//! TxnOffsetCommit (28): how far a group has come, as part of a producer's transaction (KIP-98, KIP-447).
//!
//! The transaction's coordinator is asked first whether the transaction is ongoing and the group's partition in it; since
//! version 5 it is put into it (KIP-890). It keeps its permit until it is answered, as OffsetCommit.

use std::time::Duration;

use chronik_core::group::{Answer, Call};
use chronik_core::ids::{ProducerEpoch, ProducerId};
use chronik_core::metadata::MetadataImage;
use chronik_core::metadata::image::OFFSETS_TOPIC;
use chronik_core::record_batch::Verified;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestTopic;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{ApiKey, TopicName, TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::voucher::{InTransaction, Unless};
use super::{Api, Broker, Reply, Request, text};
use crate::coordinator;
use crate::txn::patience::{PATIENCE, until_complete};

pub const API: Api = Api { key: ApiKey::TxnOffsetCommit, min: 0, max: 5, serve: super::Serve::Call(serve) };

/// From this version on, clients know what to do about COORDINATOR_LOAD_IN_PROGRESS.
const KNOWS_LOADING: i16 = 2;
/// From this version on, clients know TRANSACTION_ABORTABLE.
const KNOWS_ABORTABLE: i16 = 4;
/// From this version on, the group's partition is added to the transaction.
const ADDS: i16 = 5;

fn serve(mut request: Request) -> Reply {
    let mut body: TxnOffsetCommitRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let unknown = take_unknown(&request.broker.metadata.image(), &mut body.topics);
    let broker = request.broker.clone();
    request.later(async move {
        let asked: Vec<_> = body.topics.iter().map(|topic| failed(topic, 0)).collect();
        let nothing_left = asked.is_empty() && !unknown.is_empty();
        let answered = if nothing_left {
            Ok(TxnOffsetCommitResponse::default())
        } else {
            commit(&broker, body, version).await
        };
        let mut response = answered.unwrap_or_else(|e| {
            let mut topics = asked;
            topics.iter_mut().flat_map(|t| &mut t.partitions).for_each(|p| p.error_code = e.code());
            TxnOffsetCommitResponse::default().with_topics(topics)
        });
        for topic in unknown {
            match response.topics.iter_mut().find(|known| known.name == topic.name) {
                Some(known) => known.partitions.extend(topic.partitions),
                None => response.topics.push(topic),
            }
        }
        for partition in response.topics.iter_mut().flat_map(|t| &mut t.partitions) {
            if version < KNOWS_LOADING
                && partition.error_code == ResponseError::CoordinatorLoadInProgress.code()
            {
                partition.error_code = ResponseError::CoordinatorNotAvailable.code();
            }
            broker.metrics.error(API.key as i16, partition.error_code);
        }
        response
    })
}

async fn commit(
    broker: &Broker,
    body: TxnOffsetCommitRequest,
    version: i16,
) -> Result<TxnOffsetCommitResponse, ResponseError> {
    if body.group_id.is_empty() {
        return Err(ResponseError::InvalidGroupId);
    }
    if body.producer_id.0 < 0 || body.producer_epoch < 0 {
        return Err(ResponseError::InvalidProducerIdMapping);
    }
    let partition = broker.groups.partition_of(&body.group_id).ok_or(ResponseError::NotCoordinator)?;
    let in_transaction = InTransaction {
        transactional_id: body.transactional_id.clone(),
        producer_id: ProducerId(body.producer_id.0),
        producer_epoch: ProducerEpoch(body.producer_epoch),
        topic: TopicName(text(OFFSETS_TOPIC)),
        partition,
    };
    let InTransaction { producer_id, producer_epoch, .. } = in_transaction;
    let unless = if version >= ADDS {
        Unless::Added
    } else if version >= KNOWS_ABORTABLE {
        Unless::Abortable
    } else {
        Unless::Invalid
    };
    let needed = || broker.groups.verification(&body.group_id, producer_id, producer_epoch);
    let vouched = || async {
        // Asked before the coordinator, too: a marker that comes between is found out by it.
        let verification = needed();
        if verification.is_some() {
            broker.voucher.vouch(in_transaction.clone(), unless).await?;
            if needed().is_some_and(|now| Some(now) != verification) {
                // As a rule it is the last transaction's. Older clients ask again for the other error alone.
                return Err(match unless {
                    Unless::Added => ResponseError::ConcurrentTransactions,
                    Unless::Abortable | Unless::Invalid => ResponseError::CoordinatorLoadInProgress,
                });
            }
        }
        Ok(verification)
    };
    let patience = if version >= ADDS { PATIENCE } else { Duration::ZERO };
    let verification = until_complete(patience, vouched).await?;
    let group_id = body.group_id.clone();
    let call = Call::TxnOffsetCommit(body, verification.unwrap_or(Verified::Not));
    coordinator::answer(broker.groups.call(&group_id, call), |answer| match answer {
        Answer::TxnOffsetCommit(response) => Some(response),
        _ => None,
    })
    .await
}

/// Takes what does not exist out of the request, and gives its answers.
fn take_unknown(
    image: &MetadataImage,
    topics: &mut Vec<TxnOffsetCommitRequestTopic>,
) -> Vec<TxnOffsetCommitResponseTopic> {
    let mut unknown = Vec::new();
    for topic in topics.iter_mut() {
        let known = image.topic(&topic.name);
        let mut gone = topic.clone();
        gone.partitions.retain(|p| known.is_none_or(|t| t.partition(p.partition_index).is_none()));
        topic.partitions.retain(|p| known.is_some_and(|t| t.partition(p.partition_index).is_some()));
        if !gone.partitions.is_empty() || known.is_none() {
            unknown.push(failed(&gone, ResponseError::UnknownTopicOrPartition.code()));
        }
    }
    topics.retain(|topic| !topic.partitions.is_empty());
    unknown
}

fn failed(topic: &TxnOffsetCommitRequestTopic, code: i16) -> TxnOffsetCommitResponseTopic {
    let failed = |index: i32| {
        TxnOffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code)
    };
    TxnOffsetCommitResponseTopic::default()
        .with_name(topic.name.clone())
        .with_partitions(topic.partitions.iter().map(|p| failed(p.partition_index)).collect())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::{Arc, Mutex, OnceLock};

    use chronik_core::log::EndMarker;
    use kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestPartition;
    use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
    use kafka_protocol::messages::{
        FindCoordinatorRequest, GroupId, OffsetFetchRequest, TransactionalId, WriteTxnMarkersRequest,
        offset_fetch_request,
    };

    use super::super::testing::Fixture;
    use super::super::voucher::Voucher;
    use super::*;
    use crate::group::Coordinator;

    const PRODUCER: ProducerId = ProducerId(7);

    /// Vouches for everything, unless it is told otherwise.
    #[derive(Default)]
    struct Vouching {
        asked: Mutex<Vec<(InTransaction, Unless)>>,
        refusal: Mutex<Option<ResponseError>>,
        /// A marker that comes between its word and the commit.
        between: Mutex<Option<EndMarker>>,
        groups: OnceLock<Arc<Coordinator>>,
    }

    impl Voucher for Vouching {
        fn vouch(
            &self,
            partition: InTransaction,
            unless: Unless,
        ) -> Pin<Box<dyn Future<Output = Result<(), ResponseError>> + Send + '_>> {
            let number = partition.partition;
            self.asked.lock().unwrap().push((partition, unless));
            let answer = self.refusal.lock().unwrap().map_or(Ok(()), Err);
            let between = self.between.lock().unwrap().take();
            let ended = between.map(|marker| self.groups.get().unwrap().write_marker(number, marker));
            Box::pin(async move {
                if let Some(ended) = ended {
                    ended.await.unwrap();
                }
                answer
            })
        }
    }

    async fn fixture() -> (Fixture, Arc<Vouching>) {
        let vouching = Arc::new(Vouching::default());
        let settings = [("offsets.topic.num.partitions", "1")];
        let fixture = Fixture::with_voucher(&settings, vouching.clone()).await;
        vouching.groups.set(fixture.broker.groups.clone()).ok().unwrap();
        fixture.create_topic("t", 2).await;
        fixture.call(0, &FindCoordinatorRequest::default().with_key(text("g"))).await;
        while fetched(&fixture, "g").await.0 == ResponseError::CoordinatorLoadInProgress.code() {
            tokio::task::yield_now().await;
        }
        (fixture, vouching)
    }

    fn group(id: &str) -> GroupId {
        GroupId(text(id))
    }

    /// Of partition 0 of "t", of one that is not there, and of a topic that is not there.
    fn request(id: &str, epoch: i16, offset: i64) -> TxnOffsetCommitRequest {
        let topic = |name: &str, partitions: &[i32]| {
            let partition = |n: &i32| {
                TxnOffsetCommitRequestPartition::default()
                    .with_partition_index(*n)
                    .with_committed_offset(offset)
            };
            TxnOffsetCommitRequestTopic::default()
                .with_name(TopicName(text(name)))
                .with_partitions(partitions.iter().map(partition).collect())
        };
        TxnOffsetCommitRequest::default()
            .with_transactional_id(TransactionalId(text("tx")))
            .with_group_id(group(id))
            .with_producer_id(PRODUCER.0.into())
            .with_producer_epoch(epoch)
            .with_topics(vec![topic("t", &[0, 9]), topic("none", &[0])])
    }

    /// What it says of partition 0. The others are not there, whatever becomes of it.
    async fn commit(fixture: &Fixture, version: i16, request: &TxnOffsetCommitRequest) -> i16 {
        let answered = fixture.call(version, request).await;
        let each = answered.topics.iter().flat_map(|t| {
            t.partitions.iter().map(|p| ((t.name.to_string(), p.partition_index), p.error_code))
        });
        let mut codes: Vec<_> = each.collect();
        codes.sort();
        let [none, t_0, t_9] = &codes[..] else { panic!("{codes:?}") };
        let gone = ResponseError::UnknownTopicOrPartition.code();
        assert_eq!((none, t_9), (&(("none".to_string(), 0), gone), &(("t".to_string(), 9), gone)));
        assert_eq!(t_0.0, ("t".to_string(), 0));
        t_0.1
    }

    /// The error of all, and error and offset of partition 0, as a consumer is told that wants what is stable.
    async fn fetched(fixture: &Fixture, id: &str) -> (i16, i16, i64) {
        let topic = offset_fetch_request::OffsetFetchRequestTopic::default()
            .with_name(TopicName(text("t")))
            .with_partition_indexes(vec![0]);
        let request = OffsetFetchRequest::default()
            .with_group_id(group(id))
            .with_require_stable(true)
            .with_topics(Some(vec![topic]));
        let answered = fixture.call(7, &request).await;
        let found = answered.topics.first().map(|topic| &topic.partitions[0]);
        found.map_or((answered.error_code, 0, 0), |p| (answered.error_code, p.error_code, p.committed_offset))
    }

    fn marker(epoch: i16, commit: bool) -> EndMarker {
        EndMarker {
            producer_id: PRODUCER,
            producer_epoch: ProducerEpoch(epoch),
            coordinator_epoch: 1,
            commit,
        }
    }

    /// As the transaction's coordinator has it ended from another broker.
    async fn end(fixture: &Fixture, marker: EndMarker) -> i16 {
        let topic = WritableTxnMarkerTopic::default()
            .with_name(TopicName(text(OFFSETS_TOPIC)))
            .with_partition_indexes(vec![0]);
        let marker = WritableTxnMarker::default()
            .with_producer_id(marker.producer_id.0.into())
            .with_producer_epoch(marker.producer_epoch.0)
            .with_coordinator_epoch(marker.coordinator_epoch)
            .with_transaction_result(marker.commit)
            .with_topics(vec![topic]);
        let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
        let answered = fixture.call(1, &request).await;
        answered.markers[0].topics[0].partitions[0].error_code
    }

    #[tokio::test]
    async fn a_transaction_commits_offsets_in_every_version() {
        let (fixture, vouching) = fixture().await;
        for version in 0..=5 {
            let offset = 10 + i64::from(version);
            let id = format!("g-{version}");
            assert_eq!(commit(&fixture, version, &request(&id, version, offset)).await, 0);
            assert_eq!(commit(&fixture, version, &request(&id, version, offset + 1)).await, 0);
            let asked = std::mem::take(&mut *vouching.asked.lock().unwrap());
            let unless = [Unless::Invalid, Unless::Abortable, Unless::Added];
            let unless = unless[usize::from(version >= 4) + usize::from(version >= 5)];
            let expected = InTransaction {
                transactional_id: TransactionalId(text("tx")),
                producer_id: PRODUCER,
                producer_epoch: ProducerEpoch(version),
                topic: TopicName(text(OFFSETS_TOPIC)),
                partition: 0,
            };
            assert_eq!(asked, [(expected, unless)], "asked once, while it is ongoing");
            let unstable = ResponseError::UnstableOffsetCommit.code();
            assert_eq!(fetched(&fixture, &id).await, (0, unstable, -1));
            let committed = version % 2 == 0;
            assert_eq!(end(&fixture, marker(version, committed)).await, 0);
            let expected = if committed { offset + 1 } else { -1 };
            assert_eq!(fetched(&fixture, &id).await, (0, 0, expected), "version {version}");
        }
    }

    #[tokio::test]
    async fn who_is_not_in_a_transaction_commits_nothing() {
        let (fixture, vouching) = fixture().await;
        for (version, error) in
            [(0, ResponseError::InvalidTxnState), (5, ResponseError::ConcurrentTransactions)]
        {
            *vouching.refusal.lock().unwrap() = Some(error);
            assert_eq!(commit(&fixture, version, &request("g", 0, 5)).await, error.code());
        }
        vouching.asked.lock().unwrap().clear();
        let nameless = request("", 0, 5);
        assert_eq!(commit(&fixture, 5, &nameless).await, ResponseError::InvalidGroupId.code());
        let nobody = request("g", -1, 5);
        assert_eq!(commit(&fixture, 5, &nobody).await, ResponseError::InvalidProducerIdMapping.code());
        let mut none_there = request("g", 0, 5);
        none_there.topics.remove(0);
        let answered = fixture.call(5, &none_there).await;
        assert_eq!(answered.topics[0].partitions[0].error_code, 3);
        assert!(vouching.asked.lock().unwrap().is_empty(), "nobody is asked in vain");
        assert_eq!(fixture.log(OFFSETS_TOPIC, 0).end(), 0);
        assert_eq!(fetched(&fixture, "g").await, (0, 0, -1));

        let alone = fixture_without_transactions().await;
        let refused = ResponseError::NotCoordinator.code();
        assert_eq!(commit(&alone, 5, &request("g", 0, 5)).await, refused);
    }

    async fn fixture_without_transactions() -> Fixture {
        let fixture = Fixture::with(&[("offsets.topic.num.partitions", "1")]).await;
        fixture.create_topic("t", 2).await;
        fixture.broker.groups.ensure_topic().await.unwrap();
        fixture
    }

    #[tokio::test]
    async fn an_older_producer_commits_nothing_and_the_group_stays_as_it_is() {
        let (fixture, _) = fixture().await;
        assert_eq!(commit(&fixture, 5, &request("g", 3, 5)).await, 0);
        fixture.broker.groups.write_marker(0, marker(4, true)).await.unwrap();
        let end = fixture.log(OFFSETS_TOPIC, 0).end();
        let fenced = ResponseError::InvalidProducerEpoch;
        assert_eq!(commit(&fixture, 5, &request("g", 3, 6)).await, fenced.code());
        let refused = fixture.broker.groups.write_marker(0, marker(3, false)).await;
        assert_eq!(refused, Err(fenced));
        let older = EndMarker { coordinator_epoch: 0, ..marker(4, false) };
        let refused = fixture.broker.groups.write_marker(0, older).await;
        assert_eq!(refused, Err(ResponseError::TransactionCoordinatorFenced));
        assert_eq!(fixture.log(OFFSETS_TOPIC, 0).end(), end);
        // Not even for a moment did its groups have to be loaded again.
        assert_eq!(fetched(&fixture, "g").await, (0, 0, 5));
    }

    #[tokio::test]
    async fn a_word_from_before_a_marker_does_not_count() {
        let (fixture, vouching) = fixture().await;
        *vouching.between.lock().unwrap() = Some(marker(3, false));
        let again = ResponseError::CoordinatorLoadInProgress.code();
        assert_eq!(commit(&fixture, 4, &request("g", 3, 5)).await, again);
        assert_eq!(fetched(&fixture, "g").await, (0, 0, -1));
        *vouching.between.lock().unwrap() = Some(marker(3, false));
        vouching.asked.lock().unwrap().clear();
        assert_eq!(commit(&fixture, 5, &request("g", 3, 5)).await, 0);
        assert_eq!(vouching.asked.lock().unwrap().len(), 2, "its coordinator was asked again");
    }

    #[tokio::test]
    async fn clients_that_do_not_know_of_loading_are_told_something_else() {
        let (fixture, _) = fixture().await;
        fixture.log(OFFSETS_TOPIC, 0).hold_flushes(true);
        let odd = chronik_core::record_batch::BatchBuilder::new().record(1, Some(b"k"), None).build();
        fixture.log(OFFSETS_TOPIC, 0).append_own(odd.into());
        let again = fixture.restarted();
        for version in 0..=5 {
            let code = commit(&again, version, &request("g", 0, 5)).await;
            let told = match version {
                0 | 1 => ResponseError::CoordinatorNotAvailable,
                _ => ResponseError::CoordinatorLoadInProgress,
            };
            assert_eq!(code, told.code(), "version {version}");
        }
        let refused = again.broker.groups.write_marker(0, marker(0, true)).await;
        assert_eq!(refused, Err(ResponseError::NotLeaderOrFollower), "as WriteTxnMarkers says it");
    }
}
