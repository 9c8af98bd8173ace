//! What the Raft library is told about our types.

use std::fmt;
use std::io::Cursor;

use chronik_core::ids::{BrokerId, DiskUuid};
use chronik_core::metadata::MetadataRecord;
use chronik_core::metadata::image::NO_LEADER;
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
        NodeId = u64,
        Node = Voter,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

/// What the library calls a voter: its broker id.
pub type NodeId = u64;
pub type Membership = openraft::Membership<NodeId, Voter>;
pub type Raft = openraft::Raft<TypeConfig>;
pub type Entry = openraft::Entry<TypeConfig>;
pub type LogId = openraft::LogId<NodeId>;
pub type Vote = openraft::Vote<NodeId>;
pub type StorageError = openraft::StorageError<NodeId>;
pub type SnapshotMeta = openraft::SnapshotMeta<NodeId, Voter>;
pub type StoredMembership = openraft::StoredMembership<NodeId, Voter>;

/// The voter of a broker; ids are not negative.
pub fn node_id(id: BrokerId) -> NodeId {
    NodeId::try_from(id.0).unwrap_or(NodeId::MAX)
}

/// The broker of a voter.
pub fn broker_id(id: NodeId) -> BrokerId {
    i32::try_from(id).map(BrokerId).unwrap_or(NO_LEADER)
}
