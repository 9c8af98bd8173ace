//! UnregisterBroker (64): a broker that is gone for good is forgotten.

use chronik_core::ids::BrokerId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, UnregisterBrokerRequest, UnregisterBrokerResponse};

use super::{Api, Reply, Request, text};

pub const API: Api = Api { key: ApiKey::UnregisterBroker, min: 0, max: 0, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: UnregisterBrokerRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let id = BrokerId(body.broker_id.0);
    let response = UnregisterBrokerResponse::default();
    let (error, why) = match request.broker.metadata.image().broker(id) {
        None => (ResponseError::BrokerIdNotRegistered, String::new()),
        // Kafka would do it, and the cluster would be without a broker and its partitions.
        Some(_) => {
            let why = format!("Broker {id} is all that this cluster has: it cannot be unregistered.");
            (ResponseError::InvalidRequest, why)
        }
    };
    request.broker.metrics.error(API.key as i16, error.code());
    request.head.reply(&response.with_error_code(error.code()).with_error_message(Some(text(why))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;

    #[tokio::test]
    async fn the_only_broker_stays() {
        let fixture = Fixture::new().await;
        for (id, code) in [(7, ResponseError::BrokerIdNotRegistered), (1, ResponseError::InvalidRequest)] {
            let request = UnregisterBrokerRequest::default().with_broker_id(id.into());
            let response: UnregisterBrokerResponse = fixture.call(0, &request).await;
            assert_eq!(response.error_code, code.code());
        }
        assert!(fixture.broker.metadata.image().broker(BrokerId(1)).is_some());
    }
}
