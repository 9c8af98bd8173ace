//! What the leader of the quorum knows of its voters, and of those who only listen.

use chronik_core::ids::{BrokerId, DiskUuid};
use openraft::RaftMetrics;

use super::types::{NodeId, Voter, broker_id};

/// The quorum at one moment. Offsets are of log entries, each of which is a batch of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumState {
    pub leader: BrokerId,
    pub term: u64,
    /// The end of what is committed and applied.
    pub high_watermark: u64,
    pub voters: Vec<ReplicaLog>,
    pub observers: Vec<ReplicaLog>,
}

/// How far somebody's log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaLog {
    pub broker_id: BrokerId,
    pub disk_uuid: DiskUuid,
    /// `None`: nothing is known yet.
    pub end: Option<u64>,
}

impl QuorumState {
    /// `None` if these are not the metrics of the leader. They come a little after what they tell: `applied` is the
    /// last entry that is applied here by now.
    pub fn of(metrics: &RaftMetrics<NodeId, Voter>, applied: u64) -> Option<QuorumState> {
        let leader = metrics.current_leader.filter(|leader| *leader == metrics.id)?;
        let end = |last: u64| last.saturating_add(1);
        let of = |id: NodeId, voter: &Voter| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
            let own = metrics.last_log_index.max(Some(applied));
            let last = if id == metrics.id { own } else { matched.map(|log| log.index) };
            ReplicaLog { broker_id: broker_id(id), disk_uuid: voter.disk_uuid, end: last.map(end) }
        };
        let membership = metrics.membership_config.membership();
        let votes = |id: NodeId| membership.voter_ids().any(|voter| voter == id);
        let nodes = || membership.nodes().map(|(id, voter)| (*id, voter));
        Some(QuorumState {
            leader: broker_id(leader),
            term: metrics.current_term,
            high_watermark: end(applied),
            voters: nodes().filter(|(id, _)| votes(*id)).map(|(id, voter)| of(id, voter)).collect(),
            observers: nodes().filter(|(id, _)| !votes(*id)).map(|(id, voter)| of(id, voter)).collect(),
        })
    }
}
