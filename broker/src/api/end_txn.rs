//! EndTxn (26): a producer commits its transaction or aborts it (KIP-98). From version 5 on it gets an epoch for the next one
//! (KIP-890).

use chronik_core::txn::{Producer, TransactionVersion};
use kafka_protocol::messages::{ApiKey, EndTxnRequest, EndTxnResponse, ProducerId};

use super::{Api, Reply, Request, fenced_before};

pub const API: Api = Api { key: ApiKey::EndTxn, min: 0, max: 5, serve: super::Serve::Call(serve) };

/// From this version on, clients know PRODUCER_FENCED (KIP-588).
const FENCED_FROM: i16 = 2;
/// From this version on, the epoch is raised.
const RAISED_FROM: i16 = 5;

fn serve(mut request: Request) -> Reply {
    let body: EndTxnRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let client = if version < RAISED_FROM { TransactionVersion::V0 } else { TransactionVersion::V2 };
    let broker = request.broker.clone();
    request.later(async move {
        let producer = Producer::new(body.producer_id.0, body.producer_epoch);
        let ended = broker.txn.end(&body.transactional_id, producer, body.committed, client).await;
        let code = ended.err().map_or(0, |error| fenced_before(FENCED_FROM, version, error).code());
        broker.metrics.error(API.key as i16, code);
        let response = EndTxnResponse::default().with_error_code(code);
        match ended {
            Ok(next) if version >= RAISED_FROM => {
                response.with_producer_id(ProducerId(next.id.0)).with_producer_epoch(next.epoch.0)
            }
            _ => response,
        }
    })
}
