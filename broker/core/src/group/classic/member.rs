//! A member of a classic group.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

use super::super::record::MemberValue;
use super::super::turn::Turn;
use super::super::{Answer, Ticket};
use super::answers::{Waiting, sync_error};

/// One way to share out the work that a member supports, and what it says about itself for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Protocol {
    pub name: StrBytes,
    pub metadata: Bytes,
}

#[derive(Clone, Debug)]
pub(in super::super) struct Member {
    pub instance_id: Option<StrBytes>,
    pub client_id: StrBytes,
    pub client_host: StrBytes,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// The one it likes best comes first; no name twice.
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
    /// It has no generation yet, so it does not know its id either and sends no heartbeats.
    pub is_new: bool,
    pub awaiting_join: Option<Waiting>,
    pub awaiting_sync: Option<Ticket>,
}

impl Member {
    pub fn load(value: MemberValue, protocol: StrBytes) -> (StrBytes, Member) {
        let member = Member {
            instance_id: value.instance_id,
            client_id: value.client_id,
            client_host: value.client_host,
            rebalance_timeout_ms: value.rebalance_timeout_ms,
            session_timeout_ms: value.session_timeout_ms,
            protocols: vec![Protocol { name: protocol, metadata: value.subscription }],
            assignment: value.assignment,
            is_new: false,
            awaiting_join: None,
            awaiting_sync: None,
        };
        (value.member_id, member)
    }

    pub fn is_static(&self) -> bool {
        self.instance_id.is_some()
    }

    pub fn has_joined(&self) -> bool {
        self.awaiting_join.is_some()
    }

    /// Who waits for an answer cannot send heartbeats. But a new member's client may be gone without anybody noticing.
    pub fn is_excused(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    /// Empty if it does not support the protocol, which the one that was chosen never is.
    pub fn metadata(&self, protocol: &StrBytes) -> Bytes {
        self.protocols.iter().find(|p| p.name == *protocol).map(|p| p.metadata.clone()).unwrap_or_default()
    }

    /// Answers with an error whatever it waits for.
    pub fn dismiss(&mut self, turn: &mut Turn<'_>, member_id: StrBytes, error: ResponseError) {
        if let Some(waiting) = self.awaiting_join.take() {
            waiting.refuse(turn, member_id, error);
        }
        if let Some(ticket) = self.awaiting_sync.take() {
            turn.answer(ticket, Answer::SyncGroup(sync_error(error)));
        }
    }
}
