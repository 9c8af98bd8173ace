//! FindCoordinator (10): which broker has the group of this id, or the transactional id; several at once since version 4
//! (KIP-699).

use chronik_core::metadata::{MetadataImage, TopicImage};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{ApiKey, BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Broker, Reply, Request, text};
use crate::coordinator::partition_in;

pub const API: Api = Api { key: ApiKey::FindCoordinator, min: 0, max: 6, serve: super::Serve::Call(serve) };

/// From this version on, several are asked for at once.
const MANY: i16 = 4;

/// Kinds of coordinators.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// A coordinator's broker and address.
type Found = Result<(i32, StrBytes, i32), ResponseError>;

fn serve(mut request: Request) -> Reply {
    let body: FindCoordinatorRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let (broker, conn) = (request.broker.clone(), request.conn.clone());
    request.later(async move {
        let topic = match body.key_type {
            GROUP => broker.groups.ensure_topic().await,
            TRANSACTION => broker.txn.coordinator().ensure_topic().await,
            // Share groups, which a Kafka can be without, and kinds that there are not.
            _ => Err(ResponseError::InvalidRequest),
        };
        let image = broker.metadata.image();
        let find = |key: &str| match &topic {
            Ok(topic) => find(&image, topic, key, &conn.listener),
            Err(e) => Err(*e),
        };
        let told = |found: Found| {
            count(&broker, found.as_ref().err());
            match found {
                Ok((id, host, port)) => (0, id, host, port),
                Err(e) => (e.code(), -1, StrBytes::default(), -1),
            }
        };
        if version < MANY {
            let found = find(&body.key);
            let message = found.as_ref().map_or_else(ToString::to_string, |_| "NONE".to_string());
            let (code, id, host, port) = told(found);
            return FindCoordinatorResponse::default()
                .with_error_code(code)
                .with_error_message(Some(text(message)))
                .with_node_id(BrokerId(id))
                .with_host(host)
                .with_port(port);
        }
        let each = body.coordinator_keys.into_iter().map(|key| {
            let (code, id, host, port) = told(find(&key));
            Coordinator::default()
                .with_key(key)
                .with_error_code(code)
                .with_error_message(Some(StrBytes::default()))
                .with_node_id(BrokerId(id))
                .with_host(host)
                .with_port(port)
        });
        FindCoordinatorResponse::default().with_coordinators(each.collect())
    })
}

fn find(image: &MetadataImage, topic: &TopicImage, key: &str, listener: &str) -> Found {
    let partition = partition_in(topic, key).and_then(|number| topic.partition(number));
    let leader = partition.and_then(|p| image.broker(p.leader)).filter(|broker| !broker.fenced);
    let leader = leader.ok_or(ResponseError::CoordinatorNotAvailable)?;
    let address = leader.listener(listener).ok_or(ResponseError::CoordinatorNotAvailable)?;
    Ok((leader.broker_id.0, text(address.host.as_str()), i32::from(address.port)))
}

fn count(broker: &Broker, error: Option<&ResponseError>) {
    broker.metrics.error(API.key as i16, error.map_or(0, ResponseError::code));
}
