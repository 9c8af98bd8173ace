//! The controller's decisions: pure functions from an image and a request to the records that carry it out.
//!
//! Each returns the records to be written in one batch, with what is to be answered once they are durable; those
//! of `restart` only answer. Refusals carry Kafka's own error code. Randomness (topic ids) is an argument.

mod brokers;
mod configs;
mod elections;
mod error;
mod internal;
mod placement;
mod producer_ids;
mod reassignments;
mod restart;
mod topics;

pub use brokers::{Registration, change_registration, fence_broker, register_broker, unfence_broker};
pub use configs::{
    AlterOp, ConfigOp, PerResource, alter_configs, config_resource, incremental_alter_configs, resource_type,
};
pub use elections::{Elected, ElectionType, elect_leaders};
pub use error::{ControllerError, ErrorCode};
pub use internal::{create_internal_topic, internal_topic};
pub use producer_ids::{PRODUCER_ID_BLOCK, ProducerIdBlock, allocate_producer_ids};
pub use reassignments::check_reassignment;
pub use restart::{Affected, AffectedList, PostRestart, PreRestart, Quorum, post_restart, pre_restart};
pub use topics::{
    CreatedTopic, DeletedTopic, NewPartitions, NewTopic, PerTopic, TopicRef, auto_create_topics,
    check_topic_name, create_partitions, create_topics, delete_topics,
};

use crate::metadata::{MetadataDelta, MetadataImage, MetadataRecord};

/// The image as it will be once these records are applied: what the next part of a request is judged by.
fn after(image: &MetadataImage, records: &[MetadataRecord]) -> Result<MetadataImage, ControllerError> {
    let mut delta = MetadataDelta::new(image);
    for record in records {
        let replayed = delta.replay(record);
        replayed.map_err(|e| ControllerError::new(ErrorCode::UnknownServerError, e.to_string()))?;
    }
    Ok(delta.finish(image.offset()).0)
}

#[cfg(test)]
mod testing;
