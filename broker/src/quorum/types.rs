//! What the Raft library is told about our types.

use std::fmt;
use std::io::Cursor;

use chronik_core::ids::{BrokerId, DiskUuid};
use chronik_core::metadata::MetadataRecord;
use serde::{Deserialize, Serialize};

/// What is known of a voter besides its broker id. A voter is (broker id, disk UUID): one that comes back
/// with another disk has lost its log and its votes, and may not vote under its old identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voter {
    pub disk_uuid: DiskUuid,
}

impl fmt::Display for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk {}", self.disk_uuid)
    }
}

openraft::declare_raft_types!(
    /// One log entry is one batch of records, applied as a whole.
    pub TypeConfig:
        D = Vec<MetadataRecord>,
        R = (),
        NodeId = BrokerId,
        Node = Voter,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

pub type Raft = openraft::Raft<TypeConfig>;
pub type Entry = openraft::Entry<TypeConfig>;
pub type LogId = openraft::LogId<BrokerId>;
pub type Vote = openraft::Vote<BrokerId>;
pub type StorageError = openraft::StorageError<BrokerId>;
pub type SnapshotMeta = openraft::SnapshotMeta<BrokerId, Voter>;
pub type StoredMembership = openraft::StoredMembership<BrokerId, Voter>;
