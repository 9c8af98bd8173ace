//! DescribeCluster (60).

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{ApiKey, BrokerId, DescribeClusterRequest, DescribeClusterResponse};

use super::{Api, CLUSTER_OPERATIONS, Reply, Request, text};

pub const API: Api = Api { key: ApiKey::DescribeCluster, min: 0, max: 2, serve: super::Serve::Call(serve) };

/// `EndpointType` of KIP-919.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

fn serve(mut request: Request) -> Reply {
    let body: DescribeClusterRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let image = request.broker.metadata.image();
    let mut response = DescribeClusterResponse::default().with_error_message(None);
    let refusal = match body.endpoint_type {
        _ if version == 0 => None,
        BROKERS => None,
        CONTROLLERS => Some((
            ResponseError::MismatchedEndpointType,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER".to_string(),
        )),
        other => Some((ResponseError::UnsupportedEndpointType, format!("Unsupported endpoint type {other}"))),
    };
    if let Some((error, why)) = refusal {
        request.broker.metrics.error(API.key as i16, error.code());
        return request
            .head
            .reply(&response.with_error_code(error.code()).with_error_message(Some(text(why))));
    }
    let shown =
        image.brokers().values().filter(|b| !b.fenced || (version >= 2 && body.include_fenced_brokers));
    response.brokers = shown
        .filter_map(|b| {
            let address = b.listener(&request.conn.listener)?;
            let broker = DescribeClusterBroker::default()
                .with_broker_id(BrokerId(b.broker_id.0))
                .with_host(text(address.host.as_str()))
                .with_port(i32::from(address.port))
                .with_rack(b.rack.as_deref().map(text))
                .with_is_fenced(version >= 2 && b.fenced);
            Some(broker)
        })
        .collect();
    let controller = request.broker.metadata.leader().map_or(-1, |id| id.0);
    let known = response.brokers.iter().any(|b| b.broker_id.0 == controller);
    response.controller_id = BrokerId(if known { controller } else { -1 });
    response.cluster_id = text(image.cluster_id());
    if body.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    request.head.reply(&response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;

    #[tokio::test]
    async fn the_cluster_in_every_version() {
        let fixture = Fixture::new().await;
        for version in 0..=2 {
            let response: DescribeClusterResponse =
                fixture.call(version, &DescribeClusterRequest::default()).await;
            assert_eq!((response.error_code, &*response.cluster_id), (0, "test-cluster"));
            assert_eq!(response.error_message, None);
            assert_eq!((response.controller_id.0, response.brokers.len()), (1, 1));
            assert_eq!((&*response.brokers[0].host, response.brokers[0].port), ("127.0.0.1", 9092));
            assert_eq!(response.cluster_authorized_operations, i32::MIN);
        }
        let asked = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
        let response: DescribeClusterResponse = fixture.call(0, &asked).await;
        assert_eq!(response.cluster_authorized_operations, CLUSTER_OPERATIONS);
    }

    #[tokio::test]
    async fn controllers_are_not_asked_for_here() {
        let fixture = Fixture::new().await;
        for (endpoint, error) in
            [(2, ResponseError::MismatchedEndpointType), (3, ResponseError::UnsupportedEndpointType)]
        {
            let request = DescribeClusterRequest::default().with_endpoint_type(endpoint);
            let response: DescribeClusterResponse = fixture.call(1, &request).await;
            assert_eq!(response.error_code, error.code());
        }
    }

    #[tokio::test]
    async fn fenced_brokers_are_shown_when_asked_for() {
        let fixture = Fixture::new().await;
        fixture.register_broker(2, true).await;
        let plain: DescribeClusterResponse = fixture.call(2, &DescribeClusterRequest::default()).await;
        assert_eq!(plain.brokers.len(), 1);
        let request = DescribeClusterRequest::default().with_include_fenced_brokers(true);
        let all: DescribeClusterResponse = fixture.call(2, &request).await;
        assert_eq!(all.brokers.iter().map(|b| b.is_fenced).collect::<Vec<_>>(), [false, true]);
    }
}
