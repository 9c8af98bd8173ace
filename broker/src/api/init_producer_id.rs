//! InitProducerId (22): an id for an idempotent producer (KIP-98, KIP-360); for one with a transactional id its own, with
//! an epoch above those of its earlier incarnations.

use chronik_core::txn::Producer;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{Api, Broker, Reply, Request, fenced_before};

pub const API: Api = Api { key: ApiKey::InitProducerId, min: 0, max: 5, serve: super::Serve::Call(serve) };

/// From this version on, clients know PRODUCER_FENCED (KIP-588).
const FENCED_FROM: i16 = 4;

fn serve(mut request: Request) -> Reply {
    let body: InitProducerIdRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let broker = request.broker.clone();
    request.later(async move {
        match init(&broker, &body).await {
            Ok(producer) => InitProducerIdResponse::default()
                .with_producer_id(ProducerId(producer.id.0))
                .with_producer_epoch(producer.epoch.0),
            Err(error) => {
                let code = fenced_before(FENCED_FROM, version, error).code();
                broker.metrics.error(API.key as i16, code);
                InitProducerIdResponse::default()
                    .with_error_code(code)
                    .with_producer_id(ProducerId(-1))
                    .with_producer_epoch(-1)
            }
        }
    })
}

async fn init(broker: &Broker, body: &InitProducerIdRequest) -> Result<Producer, ResponseError> {
    let told = Producer::new(body.producer_id.0, body.producer_epoch);
    if (told.id.0 == -1) != (told.epoch.0 == -1) {
        return Err(ResponseError::InvalidRequest);
    }
    let Some(id) = &body.transactional_id else {
        // Without a transaction nobody fences: as in Kafka, a producer that comes with an id gets a new one,
        // and raises the epoch of its own when it needs to.
        let fresh = broker.txn.fresh_producer_id().await?;
        return Ok(Producer::new(fresh.0, 0));
    };
    if id.is_empty() {
        return Err(ResponseError::InvalidRequest);
    }
    let expected = (told.id.0 != -1).then_some(told);
    broker.txn.init_producer_id(id, body.transaction_timeout_ms, expected).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use crate::api::text;
    use kafka_protocol::messages::TransactionalId;
    use std::collections::BTreeSet;

    fn plain() -> InitProducerIdRequest {
        InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    }

    #[tokio::test]
    async fn every_producer_gets_an_id_of_its_own() {
        let fixture = Fixture::new().await;
        let mut ids = BTreeSet::new();
        for version in 0..=5 {
            let response: InitProducerIdResponse = fixture.call(version, &plain()).await;
            assert_eq!((response.error_code, response.producer_epoch), (0, 0));
            assert!(ids.insert(response.producer_id.0) && response.producer_id.0 >= 0);
        }
        let known = plain().with_producer_id(ProducerId(*ids.first().unwrap())).with_producer_epoch(4);
        let response: InitProducerIdResponse = fixture.call(3, &known).await;
        assert_eq!((response.error_code, response.producer_epoch), (0, 0));
        assert!(ids.insert(response.producer_id.0));
    }

    #[tokio::test]
    async fn refusals_carry_kafkas_codes() {
        let fixture = Fixture::new().await;
        let transactional = |id: &str| plain().with_transactional_id(Some(TransactionalId(text(id))));
        for (request, code) in [
            (plain().with_producer_id(ProducerId(3)), 42),
            (plain().with_producer_epoch(3), 42),
            (transactional(""), 42),
            (transactional("tx"), 16),
        ] {
            let response: InitProducerIdResponse = fixture.call(5, &request).await;
            assert_eq!(
                (response.error_code, response.producer_id.0, response.producer_epoch),
                (code, -1, -1)
            );
        }
    }
}
