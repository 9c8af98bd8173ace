//! A broker without disks or sockets, for the tests of the handlers: real metadata, fake partitions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use chronik_core::controller::{NewTopic, Registration, create_topics, fence_broker, register_broker};
use chronik_core::ids::{
    BrokerEpoch, BrokerId, DiskUuid, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId,
    TopicIdPartition, Uuid,
};
use chronik_core::log::{AbortedTransaction, ActiveProducer, AppendError, ProducerStateMap};
use chronik_core::metadata::{Listener, SecurityProtocol};
use chronik_core::record_batch::{BatchHeader, EndMarker, Verified, patch_base};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{ApiKey, IncrementalAlterConfigsRequest};
use kafka_protocol::protocol::{Decodable, HeaderVersion};
use tokio::sync::oneshot;

use super::partitions::{
    FoundOffset, Journal, Listeners, Logs, Offsets, PartitionReader, ReadBytes, ReadError,
};
use super::voucher::Voucher;
use super::{
    Broker, ConnectionInfo, Frame, Identity, Reply, Request, RequestHead, RequestPermit, dispatch, text,
};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::quorum::MetadataStore;
use crate::storage::partition::Refused;

/// A broker, a connection to it, and its fake logs.
pub struct Fixture {
    pub broker: Arc<Broker>,
    pub conn: Arc<ConnectionInfo>,
    pub logs: Arc<FakeLogs>,
    /// If it is not the broker's own coordinator.
    voucher: Option<Arc<dyn Voucher>>,
}

impl Fixture {
    pub async fn new() -> Fixture {
        Fixture::with(&[]).await
    }

    /// With these keys of the static configuration.
    pub async fn with(settings: &[(&str, &str)]) -> Fixture {
        Fixture::make(settings, None).await
    }

    /// And with somebody else who knows which transactions are ongoing.
    pub async fn with_voucher(settings: &[(&str, &str)], voucher: Arc<dyn Voucher>) -> Fixture {
        Fixture::make(settings, Some(voucher)).await
    }

    async fn make(settings: &[(&str, &str)], voucher: Option<Arc<dyn Voucher>>) -> Fixture {
        let config = Config::of(settings).unwrap();
        let metadata = MetadataStore::in_memory(Arc::new(config.local()), "test-cluster").await.unwrap();
        let logs = Arc::new(FakeLogs::default());
        // As the broker's own topics are opened when they appear.
        let follow = logs.clone();
        metadata.subscribe(Box::new(move |_, changes| {
            for topic in changes.topics_created.iter().filter(|t| t.is_internal) {
                for partition in 0..topic.partitions.len() as i32 {
                    let id = TopicIdPartition { topic_id: topic.id, partition };
                    follow.0.lock().unwrap().entry(id).or_default();
                }
            }
        }));
        let metrics = Arc::new(Metrics::new(super::names()));
        let identity = Identity {
            disk_uuid: DiskUuid::default(),
            wal_disk_uuid: DiskUuid::default(),
            wal_engine: "pwrite".to_string(),
            wal_engine_reason: String::new(),
            flush_mode: String::new(),
            started_at: std::time::UNIX_EPOCH + std::time::Duration::from_secs(951_782_400),
        };
        let broker = Broker::new(config, identity, metadata, logs.clone(), metrics);
        let broker = vouched_for_by(broker, voucher.clone());
        let conn = Arc::new(ConnectionInfo::new("127.0.0.1:5000".parse().unwrap(), "PLAINTEXT".into()));
        let fixture = Fixture { broker, conn, logs, voucher };
        fixture.register_broker(1, false).await;
        fixture
    }

    /// A broker that begins with what this one has left.
    pub fn restarted(&self) -> Fixture {
        let Broker { config, identity, metadata, metrics, .. } = &*self.broker;
        let (config, identity) = (config.clone(), identity.clone());
        let broker = Broker::new(config, identity, metadata.clone(), self.logs.clone(), metrics.clone());
        let (conn, logs, voucher) = (self.conn.clone(), self.logs.clone(), self.voucher.clone());
        Fixture { broker: vouched_for_by(broker, voucher.clone()), conn, logs, voucher }
    }

    /// The same broker, asked on another listener.
    pub fn on_listener(self, name: &str) -> Fixture {
        let conn = Arc::new(ConnectionInfo::new(self.conn.peer, name.into()));
        Fixture { conn, ..self }
    }

    pub async fn register_broker(&self, id: i32, fenced: bool) -> BrokerEpoch {
        let listener = Listener {
            name: "PLAINTEXT".to_string(),
            host: "127.0.0.1".to_string(),
            port: 9091 + id as u16,
            security_protocol: SecurityProtocol::Plaintext,
        };
        let disk = DiskUuid(Uuid::new_v4());
        let registration = Registration {
            cluster_id: "test-cluster".to_string(),
            broker_id: BrokerId(id),
            incarnation: Uuid::new_v4(),
            disk_uuid: disk,
            wal_disk_uuid: disk,
            listeners: vec![listener],
            rack: None,
        };
        let store = &self.broker.metadata;
        let epoch = store.change(|image| register_broker(image, &registration)).await.unwrap();
        if fenced {
            store.change(|image| fence_broker(image, BrokerId(id), epoch)).await.unwrap();
        }
        epoch
    }

    /// Creates a topic, led here, with empty logs.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> TopicId {
        let topic = NewTopic {
            name: name.to_string(),
            num_partitions: partitions,
            replication_factor: 1,
            ..NewTopic::default()
        };
        let mut fresh = || TopicId(Uuid::new_v4());
        let created = self
            .broker
            .metadata
            .change(|image| Ok(create_topics(image, &[topic], false, &mut fresh)))
            .await
            .unwrap();
        let topic_id = created[0].1.as_ref().unwrap().topic_id;
        for partition in 0..partitions {
            self.logs.0.lock().unwrap().insert(TopicIdPartition { topic_id, partition }, Arc::default());
        }
        topic_id
    }

    /// Sets a setting, or removes it, as a client does.
    pub async fn alter_config(&self, resource_type: i8, resource: &str, name: &str, value: Option<&str>) {
        let config = AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(i8::from(value.is_none()))
            .with_value(value.map(text));
        let resource = AlterConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(text(resource))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let response = self.call(1, &request).await;
        assert_eq!(response.responses[0].error_code, 0, "{response:?}");
    }

    /// Raises the leader epoch of a topic's partitions, as this broker's restart does.
    pub async fn bump_leader_epoch(&self, topic: &str) {
        let disk = self.broker.metadata.image().broker(BrokerId(1)).unwrap().clone();
        let registration = Registration {
            cluster_id: "test-cluster".to_string(),
            broker_id: BrokerId(1),
            incarnation: Uuid::new_v4(),
            disk_uuid: disk.disk_uuid,
            wal_disk_uuid: disk.wal_disk_uuid,
            listeners: disk.listeners.clone(),
            rack: None,
        };
        let store = &self.broker.metadata;
        store.change(|image| register_broker(image, &registration)).await.unwrap();
        let image = store.image();
        let epoch = image.topic(topic).unwrap().partitions[0].leader_epoch;
        self.log(topic, 0).0.lock().unwrap().epoch = epoch;
    }

    pub fn log(&self, topic: &str, partition: i32) -> Arc<FakePartition> {
        let topic_id = self.broker.metadata.image().topic(topic).unwrap().id;
        self.logs.0.lock().unwrap()[&TopicIdPartition { topic_id, partition }].clone()
    }

    fn request(&self, api_key: i16, version: i16, body: Bytes) -> Request {
        Request {
            broker: self.broker.clone(),
            conn: self.conn.clone(),
            head: RequestHead { api_key, version, correlation_id: 7, client_id: None },
            body,
            permit: RequestPermit::none(),
            received: Instant::now(),
        }
    }

    /// Sends a body as it stands; `None` when the connection was closed.
    pub async fn call_raw(&self, api_key: i16, version: i16, body: Bytes) -> Option<Vec<u8>> {
        settle(dispatch(self.request(api_key, version, body)).await).await.map(|frame| frame.pieces.concat())
    }

    /// Hands a request to its handler.
    pub async fn start<Q: kafka_protocol::protocol::Request>(&self, version: i16, body: &Q) -> Reply {
        self.start_with(version, body, RequestPermit::none()).await
    }

    pub async fn start_with<Q: kafka_protocol::protocol::Request>(
        &self,
        version: i16,
        body: &Q,
        permit: RequestPermit,
    ) -> Reply {
        let mut bytes = BytesMut::new();
        body.encode(&mut bytes, version).unwrap();
        dispatch(Request { permit, ..self.request(Q::KEY, version, bytes.freeze()) }).await
    }

    /// Sends a request, and decodes the answer as a client would.
    pub async fn call<Q: kafka_protocol::protocol::Request>(&self, version: i16, body: &Q) -> Q::Response {
        let frame = settle(self.start(version, body).await).await.expect("the connection was closed");
        decode(&frame, version)
    }
}

fn vouched_for_by(broker: Broker, voucher: Option<Arc<dyn Voucher>>) -> Arc<Broker> {
    Arc::new(match voucher {
        Some(voucher) => Broker { voucher, ..broker },
        None => broker,
    })
}

/// Waits for a reply's frame.
pub async fn settle(reply: Reply) -> Option<Frame> {
    match reply {
        Reply::Now(frame) => Some(frame),
        Reply::Later(future) => future.await,
        Reply::None | Reply::Close(_) => None,
    }
}

/// Decodes a whole response frame, nothing of which may be left over.
pub fn decode<R: Decodable + HeaderVersion>(frame: &Frame, version: i16) -> R {
    let mut bytes: Bytes = frame.pieces.concat().into();
    let size = i32::from_be_bytes(*bytes.split_to(4).first_chunk().unwrap());
    assert_eq!(size as usize, bytes.len());
    let header =
        kafka_protocol::messages::ResponseHeader::decode(&mut bytes, R::header_version(version)).unwrap();
    assert_eq!(header.correlation_id, 7);
    let body = R::decode(&mut bytes, version).unwrap();
    assert!(bytes.is_empty(), "{} bytes after the response", bytes.len());
    body
}

#[derive(Default)]
pub struct FakeLogs(pub Mutex<HashMap<TopicIdPartition, Arc<FakePartition>>>);

impl Logs for FakeLogs {
    fn appendable(&self, _: TopicIdPartition) -> Option<Arc<crate::storage::partition::Partition>> {
        None
    }

    fn partition(&self, id: TopicIdPartition) -> Option<Arc<dyn PartitionReader>> {
        self.0.lock().unwrap().get(&id).map(|p| p.clone() as Arc<dyn PartitionReader>)
    }

    fn journal(&self, id: TopicIdPartition) -> Option<Arc<dyn Journal>> {
        self.0.lock().unwrap().get(&id).map(|p| Arc::new(p.clone()) as Arc<dyn Journal>)
    }
}

/// Batches of the broker itself: real ones. They are durable at once, unless the test holds them back.
impl Journal for Arc<FakePartition> {
    fn append(&self, batch: Bytes, _: i64) -> Result<oneshot::Receiver<()>, Refused> {
        let (tell, told) = oneshot::channel();
        let mut state = self.0.lock().unwrap();
        if state.refusing {
            return Err(Refused::Storage("refused on purpose".to_string()));
        }
        let (base, epoch) = (state.end(), state.epoch);
        let header = BatchHeader::parse(&batch).unwrap();
        let marker = EndMarker::of(&header, &batch);
        let checked = state.own_producers.check(&header, marker.as_ref(), Verified::Own);
        checked.map_err(AppendError::Producer)?;
        let mut bytes = BytesMut::from(&batch[..]);
        patch_base(&mut bytes, base, epoch).unwrap();
        let end = base + i64::from(header.record_count);
        state.own_producers.apply(&BatchHeader::parse(&bytes).unwrap(), marker.as_ref(), 0);
        let first_time = header.base_timestamp;
        state.batches.push(FakeBatch { base, end, first_time, epoch, bytes: bytes.freeze() });
        if state.held {
            state.waiting.push((end, tell));
        } else {
            drop(state);
            self.commit(end);
            tell.send(()).unwrap();
        }
        Ok(told)
    }

    fn verification(&self, id: ProducerId, epoch: ProducerEpoch) -> Option<Verified> {
        let state = self.0.lock().unwrap();
        let since =
            Verified::Since { marker_offset: state.own_producers.marker_offset(id), from_zero: false };
        (!state.own_producers.has_ongoing(id, epoch)).then_some(since)
    }

    fn would_take(&self, batch: &Bytes, verified: Verified) -> Result<(), Refused> {
        let header = BatchHeader::parse(batch).unwrap();
        let marker = EndMarker::of(&header, batch);
        let checked = self.0.lock().unwrap().own_producers.check(&header, marker.as_ref(), verified);
        checked.map(drop).map_err(|e| AppendError::Producer(e).into())
    }

    fn batch_bytes_max(&self) -> usize {
        1 << 20
    }
}

/// A partition in memory. Batches of one record per offset, a millisecond apart.
#[derive(Default)]
pub struct FakePartition(Mutex<FakeState>, Listeners);

struct FakeState {
    batches: Vec<FakeBatch>,
    log_start: Offset,
    high_watermark: Offset,
    epoch: LeaderEpoch,
    committed_bytes: u64,
    /// The last stable offset, where it is not the high watermark.
    last_stable: Option<Offset>,
    aborted: Vec<AbortedTransaction>,
    producers: Vec<ActiveProducer>,
    broken: bool,
    /// Whether the broker's own appends wait for [`FakePartition::flush`].
    held: bool,
    waiting: Vec<(Offset, oneshot::Sender<()>)>,
    /// Whether they fail.
    refusing: bool,
    /// Of the broker's own appends.
    own_producers: ProducerStateMap,
}

impl Default for FakeState {
    fn default() -> FakeState {
        FakeState {
            batches: Vec::new(),
            log_start: 0,
            high_watermark: 0,
            epoch: LeaderEpoch(0),
            committed_bytes: 0,
            last_stable: None,
            aborted: Vec::new(),
            producers: Vec::new(),
            broken: false,
            held: false,
            waiting: Vec::new(),
            refusing: false,
            own_producers: ProducerStateMap::new(0, 1_000),
        }
    }
}

#[derive(Clone)]
struct FakeBatch {
    base: Offset,
    end: Offset,
    first_time: i64,
    epoch: LeaderEpoch,
    bytes: Bytes,
}

impl FakePartition {
    /// Appends a batch of `count` records, the first at this time, of 100 bytes each.
    pub fn append(&self, count: i64, first_time: i64) {
        let mut state = self.0.lock().unwrap();
        let base = state.end();
        let mut bytes = BytesMut::new();
        bytes.put_i64(base);
        bytes.put_bytes(b'r', count as usize * 100 - 8);
        let (end, epoch) = (base + count, state.epoch);
        state.batches.push(FakeBatch { base, end, first_time, epoch, bytes: bytes.freeze() });
    }

    /// Where the next batch begins.
    pub fn end(&self) -> Offset {
        self.0.lock().unwrap().end()
    }

    /// Moves the high watermark, and wakes whoever waits.
    pub fn commit(&self, to: Offset) {
        let mut state = self.0.lock().unwrap();
        let before = state.high_watermark;
        let passed: usize =
            state.batches.iter().filter(|b| b.end > before && b.end <= to).map(|b| b.bytes.len()).sum();
        state.committed_bytes += passed as u64;
        state.high_watermark = to;
        drop(state);
        self.1.wake();
    }

    /// A transaction is open from this offset on; or none is any more, and whoever waits is woken.
    pub fn set_undecided(&self, from: Option<Offset>) {
        self.0.lock().unwrap().last_stable = from;
        self.1.wake();
    }

    pub fn set_aborted(&self, aborted: Vec<AbortedTransaction>) {
        self.0.lock().unwrap().aborted = aborted;
    }

    pub fn set_producers(&self, producers: Vec<ActiveProducer>) {
        self.0.lock().unwrap().producers = producers;
    }

    pub fn set_log_start(&self, to: Offset) {
        self.0.lock().unwrap().log_start = to;
    }

    /// Appends a batch as the broker itself does.
    pub fn append_own(self: &Arc<Self>, batch: Bytes) {
        Journal::append(self, batch, 0).unwrap();
    }

    /// From now on the broker's own appends wait, or no longer.
    pub fn hold_flushes(&self, hold: bool) {
        self.0.lock().unwrap().held = hold;
    }

    /// All of them that wait are durable now.
    pub fn flush(&self) {
        let waiting = std::mem::take(&mut self.0.lock().unwrap().waiting);
        for (end, tell) in waiting {
            self.commit(end);
            let _ = tell.send(());
        }
    }

    /// From now on the broker's own appends fail, or no longer.
    pub fn refuse_appends(&self, refuse: bool) {
        self.0.lock().unwrap().refusing = refuse;
    }

    /// From now on nothing can be read.
    pub fn break_disk(&self) {
        self.0.lock().unwrap().broken = true;
    }
}

impl FakeState {
    fn end(&self) -> Offset {
        self.batches.last().map_or(0, |b| b.end)
    }

    fn check(&self) -> Result<(), ReadError> {
        if self.broken { Err(ReadError::Storage("broken on purpose".to_string())) } else { Ok(()) }
    }

    fn found(&self, batch: &FakeBatch, offset: Offset) -> FoundOffset {
        let timestamp = batch.first_time + offset - batch.base;
        FoundOffset { timestamp, offset, leader_epoch: batch.epoch }
    }
}

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl PartitionReader for FakePartition {
    fn offsets(&self) -> Offsets {
        let state = self.0.lock().unwrap();
        Offsets {
            log_start: state.log_start,
            last_stable: state.last_stable.unwrap_or(state.high_watermark),
            high_watermark: state.high_watermark,
            log_end: state.end(),
            leader_epoch: state.epoch,
            committed_bytes: state.committed_bytes,
        }
    }

    fn read(
        &self,
        from: Offset,
        to: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> BoxFuture<'_, Result<ReadBytes, ReadError>> {
        Box::pin(async move {
            let state = self.0.lock().unwrap();
            state.check()?;
            let mut read = ReadBytes::default();
            for batch in state.batches.iter().filter(|b| b.end > from && b.end <= to) {
                let fits = read.len() + batch.bytes.len() <= max_bytes;
                let owed = min_one && read.is_empty();
                if !(fits || owed) {
                    break;
                }
                read.pieces.push(batch.bytes.clone());
            }
            Ok(read)
        })
    }

    fn read_committed(
        &self,
        from: Offset,
        to: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> BoxFuture<'_, Result<ReadBytes, ReadError>> {
        Box::pin(async move {
            let mut read = self.read(from, to, max_bytes, min_one).await?;
            read.aborted = self.0.lock().unwrap().aborted.clone();
            Ok(read)
        })
    }

    fn offset_for_timestamp(
        &self,
        timestamp: i64,
        to: Offset,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ReadError>> {
        Box::pin(async move {
            let state = self.0.lock().unwrap();
            state.check()?;
            let records = state.batches.iter().flat_map(|b| (b.base..b.end).map(|o| state.found(b, o)));
            Ok(records.filter(|r| r.offset < to).find(|r| r.timestamp >= timestamp))
        })
    }

    fn max_timestamp(&self, to: Offset) -> BoxFuture<'_, Result<Option<FoundOffset>, ReadError>> {
        Box::pin(async move {
            let state = self.0.lock().unwrap();
            state.check()?;
            let records = state.batches.iter().flat_map(|b| (b.base..b.end).map(|o| state.found(b, o)));
            Ok(records.filter(|r| r.offset < to).max_by_key(|r| (r.timestamp, -r.offset)))
        })
    }

    fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let state = self.0.lock().unwrap();
        let batch = state.batches.iter().find(|b| (b.base..b.end).contains(&offset));
        Some(batch.map_or(state.epoch, |b| b.epoch))
    }

    fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.0.lock().unwrap();
        if epoch >= state.epoch {
            return Some((state.epoch, state.end()));
        }
        state.batches.iter().rfind(|b| b.epoch <= epoch).map(|b| (b.epoch, b.end))
    }

    fn producers(&self) -> Vec<ActiveProducer> {
        self.0.lock().unwrap().producers.clone()
    }

    fn listeners(&self) -> &Listeners {
        &self.1
    }
}

/// The table's row of an API must be what the generated messages can decode.
#[test]
fn the_table_is_what_can_be_decoded() {
    for api in super::TABLE {
        let decodable = ApiKey::valid_versions(&api.key);
        assert!(api.min <= api.max && api.max <= decodable.max, "{:?}", api.key);
        // Produce advertises versions it refuses, for librdkafka's sake.
        assert!(api.min >= decodable.min || api.key == ApiKey::Produce, "{:?}", api.key);
        assert_ne!(super::name(api.key), "Other");
    }
}
