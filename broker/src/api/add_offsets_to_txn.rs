//! AddOffsetsToTxn (25): a producer is about to commit a group's offsets in its transaction (KIP-98).

use chronik_core::metadata::image::OFFSETS_TOPIC;
use chronik_core::txn::{Producer, TransactionVersion};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, ApiKey, TopicName};

use super::{Api, Broker, Reply, Request, fenced_before, text};
use crate::coordinator::partition_in;

pub const API: Api = Api { key: ApiKey::AddOffsetsToTxn, min: 0, max: 4, serve: super::Serve::Call(serve) };

/// From this version on, clients know PRODUCER_FENCED (KIP-588).
const FENCED_FROM: i16 = 2;

fn serve(mut request: Request) -> Reply {
    let body: AddOffsetsToTxnRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let broker = request.broker.clone();
    request.later(async move {
        let added = add(&broker, &body).await;
        let code = added.err().map_or(0, |error| fenced_before(FENCED_FROM, version, error).code());
        broker.metrics.error(API.key as i16, code);
        AddOffsetsToTxnResponse::default().with_error_code(code)
    })
}

async fn add(broker: &Broker, body: &AddOffsetsToTxnRequest) -> Result<(), ResponseError> {
    // Which partition the group belongs to, the topic tells.
    let topic = broker.groups.ensure_topic().await?;
    let index = partition_in(&topic, &body.group_id).ok_or(ResponseError::CoordinatorNotAvailable)?;
    let producer = Producer::new(body.producer_id.0, body.producer_epoch);
    let partition = (TopicName(text(OFFSETS_TOPIC)), index);
    let id = &body.transactional_id;
    broker.txn.add_partitions(id, producer, vec![partition], TransactionVersion::V0).await
}
