//! InitProducerId (22): an id for an idempotent producer (KIP-98, KIP-360).

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{Api, Reply, Request};

pub const API: Api = Api { key: ApiKey::InitProducerId, min: 0, max: 5, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: InitProducerIdRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    if let Err(error) = check(&body) {
        request.broker.metrics.error(API.key as i16, error.code());
        return request.head.reply(&refused(error.code()));
    }
    let broker = request.broker.clone();
    request.later(async move {
        // Without a transaction nobody fences: as in Kafka, a producer that comes with an id gets a new one,
        // and raises the epoch of its own when it needs to.
        match broker.metadata.allocate_producer_id().await {
            Ok(id) => {
                InitProducerIdResponse::default().with_producer_id(ProducerId(id.0)).with_producer_epoch(0)
            }
            Err(e) => {
                broker.metrics.error(API.key as i16, e.code.code());
                refused(e.code.code())
            }
        }
    })
}

fn check(body: &InitProducerIdRequest) -> Result<(), ResponseError> {
    let (id, epoch) = (body.producer_id.0, body.producer_epoch);
    match &body.transactional_id {
        Some(name) if name.is_empty() => Err(ResponseError::InvalidRequest),
        // No coordinator serves transactions here yet: FindCoordinator says the same.
        Some(_) => Err(ResponseError::CoordinatorNotAvailable),
        None if (id == -1) != (epoch == -1) => Err(ResponseError::InvalidRequest),
        None => Ok(()),
    }
}

fn refused(code: i16) -> InitProducerIdResponse {
    InitProducerIdResponse::default()
        .with_error_code(code)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1)
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
            (transactional("tx"), 15),
        ] {
            let response: InitProducerIdResponse = fixture.call(5, &request).await;
            assert_eq!(
                (response.error_code, response.producer_id.0, response.producer_epoch),
                (code, -1, -1)
            );
        }
    }
}
