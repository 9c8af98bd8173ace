//! GetTelemetrySubscriptions (71) and PushTelemetry (72): clients' metrics (KIP-714), of which nobody here wants any.
//!
//! As in a Kafka without a receiver for them, ApiVersions does not tell of these two, and who asks
//! nonetheless learns that no metrics are wanted. Nothing is remembered of a client.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    ApiKey, GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse, PushTelemetryRequest,
    PushTelemetryResponse,
};
use uuid::Uuid;

use super::{Api, Reply, Request};

pub const GET: Api =
    Api { key: ApiKey::GetTelemetrySubscriptions, min: 0, max: 0, serve: super::Serve::Call(get) };
pub const PUSH: Api = Api { key: ApiKey::PushTelemetry, min: 0, max: 0, serve: super::Serve::Call(push) };

/// Kafka's default.
const PUSH_INTERVAL_MS: i32 = 300_000;
/// Kafka's `telemetry.max.bytes`.
const BYTES_MAX: i32 = 1_048_576;
/// zstd, lz4, gzip, snappy, by Kafka's numbers and in its order.
const COMPRESSION_TYPES: [i8; 4] = [4, 3, 1, 2];
const UNCOMPRESSED: i8 = 0;

fn get(mut request: Request) -> Reply {
    let body: GetTelemetrySubscriptionsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let asked = body.client_instance_id;
    let client = if asked.is_nil() { Uuid::new_v4() } else { asked };
    let response = GetTelemetrySubscriptionsResponse::default()
        .with_client_instance_id(client)
        .with_subscription_id(subscription_id(client))
        .with_accepted_compression_types(COMPRESSION_TYPES.to_vec())
        .with_push_interval_ms(PUSH_INTERVAL_MS)
        .with_telemetry_max_bytes(BYTES_MAX)
        .with_delta_temporality(true);
    request.head.reply(&response)
}

fn push(mut request: Request) -> Reply {
    let body: PushTelemetryRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let code = check(&body).err().map_or(0, |e| e.code());
    request.broker.metrics.error(PUSH.key as i16, code);
    request.head.reply(&PushTelemetryResponse::default().with_error_code(code))
}

fn check(body: &PushTelemetryRequest) -> Result<(), ResponseError> {
    let client = body.client_instance_id;
    // Kafka keeps the ids 0 and 1 for itself.
    if client.as_u128() <= 1 {
        return Err(ResponseError::InvalidRequest);
    }
    if body.subscription_id != subscription_id(client) {
        return Err(ResponseError::UnknownSubscriptionId);
    }
    if body.compression_type != UNCOMPRESSED && !COMPRESSION_TYPES.contains(&body.compression_type) {
        return Err(ResponseError::UnsupportedCompressionType);
    }
    if i32::try_from(body.metrics.len()).is_ok_and(|bytes| bytes <= BYTES_MAX) {
        Ok(())
    } else {
        Err(ResponseError::TelemetryTooLarge)
    }
}

/// Kafka's: the checksum of what is subscribed to (the empty set, as Java writes it, and the interval), and the hash of
/// the client's id.
fn subscription_id(client: Uuid) -> i32 {
    let checksum = crc32c::crc32c(format!("[]{PUSH_INTERVAL_MS}").as_bytes());
    let (high, low) = client.as_u64_pair();
    let folded = high ^ low;
    (checksum ^ (folded >> 32) as u32 ^ folded as u32) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use bytes::Bytes;

    #[tokio::test]
    async fn no_metrics_are_wanted() {
        let fixture = Fixture::new().await;
        let told: GetTelemetrySubscriptionsResponse =
            fixture.call(0, &GetTelemetrySubscriptionsRequest::default()).await;
        assert_eq!((told.error_code, told.requested_metrics.len()), (0, 0));
        assert!(!told.client_instance_id.is_nil() && told.push_interval_ms == 300_000);
        let again =
            GetTelemetrySubscriptionsRequest::default().with_client_instance_id(told.client_instance_id);
        let again: GetTelemetrySubscriptionsResponse = fixture.call(0, &again).await;
        assert_eq!(again, told, "a client keeps its id");

        let push = PushTelemetryRequest::default()
            .with_client_instance_id(told.client_instance_id)
            .with_subscription_id(told.subscription_id);
        let large = Bytes::from(vec![0; BYTES_MAX as usize + 1]);
        for (request, code) in [
            (push.clone(), 0),
            (push.clone().with_compression_type(4), 0),
            (push.clone().with_client_instance_id(Uuid::nil()), 42),
            (push.clone().with_subscription_id(told.subscription_id ^ 1), 117),
            (push.clone().with_compression_type(9), 76),
            (push.with_metrics(large), 118),
        ] {
            let answered: PushTelemetryResponse = fixture.call(0, &request).await;
            assert_eq!(answered.error_code, code);
        }
    }
}
