//! Producer ids are handed to brokers by the block, so that most requests need no metadata write.

use super::{ControllerError, ErrorCode};
use crate::ids::{BrokerEpoch, BrokerId, ProducerId};
use crate::metadata::{MetadataImage, MetadataRecord};

/// Producer ids in a block, as in Kafka.
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// Producer ids that belong to one broker: `first`, and `count` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    pub first: ProducerId,
    pub count: i64,
}

/// Takes the next block for a broker.
pub fn allocate_producer_ids(
    image: &MetadataImage,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<(Vec<MetadataRecord>, ProducerIdBlock), ControllerError> {
    super::brokers::check_epoch(image, broker_id, broker_epoch)?;
    let first = image.next_producer_id();
    let Some(next) = first.0.checked_add(PRODUCER_ID_BLOCK) else {
        return Err(ControllerError::new(
            ErrorCode::UnknownServerError,
            "Exhausted all producerIds as the next block's end producerId has exceeded the int64 type limit",
        ));
    };
    let record = MetadataRecord::ProducerIds { broker_id, broker_epoch, next_producer_id: ProducerId(next) };
    Ok((vec![record], ProducerIdBlock { first, count: PRODUCER_ID_BLOCK }))
}
