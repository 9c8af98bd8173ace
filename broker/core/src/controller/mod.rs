//! The controller's decisions: pure functions from an image and a request to the records that carry it out.
//!
//! Each returns the records to be written in one batch, with what is to be answered once they are durable.
//! Refusals carry Kafka's own error code. Randomness (topic ids) is an argument.

mod brokers;
mod configs;
mod error;
mod producer_ids;
mod topics;

pub use brokers::{Registration, fence_broker, register_broker, unfence_broker};
pub use configs::{
    AlterOp, ConfigOp, alter_configs, config_resource, incremental_alter_configs, resource_name,
};
pub use error::{ControllerError, ErrorCode};
pub use producer_ids::{PRODUCER_ID_BLOCK, ProducerIdBlock, allocate_producer_ids};
pub use topics::{
    CreatedTopic, DeletedTopic, NewPartitions, NewTopic, TopicRef, auto_create_topics, check_topic_name,
    create_partitions, create_topics, delete_topics,
};
