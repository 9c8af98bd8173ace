//! The cluster's metadata: a log of records, applied as deltas to immutable images.
//!
//! [`record::MetadataRecord`] is what the quorum replicates, [`image::MetadataImage`] is what everybody
//! reads, [`delta::MetadataDelta`] leads from one to the other and says what changed on the way.
//! [`config`] is the one table of the settings that can be altered while the broker runs.

pub mod config;
pub mod delta;
pub mod image;
pub mod record;

pub use config::{LocalConfig, TopicConfig};
pub use delta::{Changes, MetadataDelta};
pub use image::{BrokerRegistration, MetadataImage, PartitionImage, TopicImage};
pub use record::{ConfigResource, Listener, MetadataRecord, SecurityProtocol};

#[cfg(test)]
mod tests;
