//! The way to other voters: there is none yet.
//!
//! A configuration with more than one voter is refused at start, so nothing here is ever called while the
//! broker runs; what the library asks for answers that the peer cannot be reached.

use std::io;

use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};

use super::types::{NodeId, TypeConfig, Voter};

/// Makes [`NoPeer`]s.
pub struct NoPeers;

/// A voter that cannot be reached.
pub struct NoPeer {
    id: NodeId,
}

impl NoPeer {
    fn unreachable(&self) -> Unreachable {
        let why = format!("voter {} cannot be reached: this version runs one voter only", self.id);
        Unreachable::new(&io::Error::new(io::ErrorKind::Unsupported, why))
    }
}

impl RaftNetworkFactory<TypeConfig> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, target: NodeId, _node: &Voter) -> NoPeer {
        NoPeer { id: target }
    }
}

type RpcError<E = openraft::error::Infallible> = RPCError<NodeId, Voter, RaftError<NodeId, E>>;

impl RaftNetwork<TypeConfig> for NoPeer {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        Err(self.unreachable().into())
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RpcError<InstallSnapshotError>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        Err(self.unreachable().into())
    }
}
