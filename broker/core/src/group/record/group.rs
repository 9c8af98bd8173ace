//! `GroupMetadataValue`: a classic group as its last generation was, or as it became empty.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::super::RecordError;
use crate::coordinator::{Reader, Writer};

/// What Kafka 4.3 writes.
const VERSION: i16 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct GroupValue {
    /// Empty if the group has none: a simple group, or one that nobody has joined yet.
    pub protocol_type: StrBytes,
    pub generation: i32,
    pub protocol: Option<StrBytes>,
    pub leader: Option<StrBytes>,
    /// Since when the group is in its state, ms since 1970. Versions below 2 did not tell.
    pub state_since_ms: Option<i64>,
    pub members: Vec<MemberValue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct MemberValue {
    pub member_id: StrBytes,
    pub instance_id: Option<StrBytes>,
    pub client_id: StrBytes,
    pub client_host: StrBytes,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// The member's metadata for the group's protocol.
    pub subscription: Bytes,
    pub assignment: Bytes,
}

impl GroupValue {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(VERSION);
        writer.string(&self.protocol_type);
        writer.i32(self.generation);
        writer.string_or_null(self.protocol.as_deref());
        writer.string_or_null(self.leader.as_deref());
        writer.i64(self.state_since_ms.unwrap_or(-1));
        writer.i32(self.members.len() as i32);
        for member in &self.members {
            writer.string(&member.member_id);
            writer.string_or_null(member.instance_id.as_deref());
            writer.string(&member.client_id);
            writer.string(&member.client_host);
            writer.i32(member.rebalance_timeout_ms);
            writer.i32(member.session_timeout_ms);
            writer.bytes(&member.subscription);
            writer.bytes(&member.assignment);
        }
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<GroupValue, RecordError> {
        let mut reader = Reader::new(bytes);
        let version = reader.version("GroupMetadataValue", 0..=4, 4)?;
        let protocol_type = reader.string()?;
        let generation = reader.i32()?;
        let protocol = reader.string_or_null()?;
        let leader = reader.string_or_null()?;
        let since_ms = if version >= 2 { reader.i64()? } else { -1 };
        let mut members = Vec::new();
        for _ in 0..reader.array()? {
            members.push(MemberValue::decode(&mut reader, version)?);
        }
        reader.tags()?;
        let state_since_ms = (since_ms != -1).then_some(since_ms);
        Ok(GroupValue { protocol_type, generation, protocol, leader, state_since_ms, members })
    }
}

impl MemberValue {
    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<MemberValue, RecordError> {
        let member_id = reader.string()?;
        let instance_id = if version >= 3 { reader.string_or_null()? } else { None };
        let client_id = reader.string()?;
        let client_host = reader.string()?;
        let rebalance = if version >= 1 { reader.i32()? } else { -1 };
        let session_timeout_ms = reader.i32()?;
        let member = MemberValue {
            member_id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: if rebalance == -1 { session_timeout_ms } else { rebalance },
            session_timeout_ms,
            subscription: reader.bytes()?,
            assignment: reader.bytes()?,
        };
        reader.tags()?;
        Ok(member)
    }
}
