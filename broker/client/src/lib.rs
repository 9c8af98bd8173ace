//! Chronik's own Kafka client: what `chronik topics`, `produce`, `consume` and `bench` speak with, what
//! the operator manages topics and settings with, and what tests may use.
//!
//! It is small on purpose: one request at a time per connection, a member of no group, no
//! background tasks. Every method names the server's refusal by Kafka's own error name. The
//! server is not trusted: lengths are checked before anything is allocated for them, and record
//! batches are read by this crate's own reader, which keeps duplicate header keys.

mod admin;
mod batch;
mod cluster;
pub mod compression;
mod configs;
mod connection;
mod coordinators;
mod error;
mod groups;
mod guard;
mod records;
mod transactions;

pub use admin::{ConfigEntry, ConfigSource, LogDir, NewTopic, PartitionSize, Resource};
pub use batch::{
    Batch, BatchBuilder, BatchError, NewRecord, Producer, Record, batches, header as batch_header,
};
pub use cluster::{Broker, Client, Cluster, Partition, Topic};
pub use configs::{ConfigDetails, ConfigSynonym};
pub use connection::{Connection, RequestVersion};
pub use error::{ClientError, Refusal, error_name};
pub use groups::{CommittedOffset, Group, GroupEpochs, GroupMember, ListedGroup, MemberWay};
pub use records::{Acks, Fetched, Position};
pub use transactions::{ListedTransaction, Transaction};
