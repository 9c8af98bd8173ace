//! `ConsumerGroupMemberMetadataValue`: what a member says about itself.

use std::collections::BTreeSet;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::super::super::RecordError;
use super::super::super::classic::Protocol;
use super::VERSION;
use crate::coordinator::{Reader, Writer};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super::super) struct MemberValue {
    pub instance_id: Option<StrBytes>,
    pub rack_id: Option<StrBytes>,
    pub client_id: StrBytes,
    pub client_host: StrBytes,
    pub subscribed_topics: BTreeSet<StrBytes>,
    /// Empty if there is none.
    pub subscribed_regex: StrBytes,
    /// -1 if it is not known.
    pub rebalance_timeout_ms: i32,
    pub server_assignor: Option<StrBytes>,
    /// Of a member that uses the classic protocol.
    pub classic: Option<ClassicValue>,
}

/// What only the classic protocol has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super::super) struct ClassicValue {
    pub session_timeout_ms: i32,
    /// The one it likes best comes first.
    pub protocols: Vec<Protocol>,
}

impl Default for MemberValue {
    fn default() -> MemberValue {
        MemberValue {
            instance_id: None,
            rack_id: None,
            client_id: StrBytes::new(),
            client_host: StrBytes::new(),
            subscribed_topics: BTreeSet::new(),
            subscribed_regex: StrBytes::new(),
            rebalance_timeout_ms: -1,
            server_assignor: None,
            classic: None,
        }
    }
}

impl MemberValue {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(VERSION);
        writer.compact_string_or_null(self.instance_id.as_deref());
        writer.compact_string_or_null(self.rack_id.as_deref());
        writer.compact_string(&self.client_id);
        writer.compact_string(&self.client_host);
        writer.compact_array(self.subscribed_topics.len());
        for topic in &self.subscribed_topics {
            writer.compact_string(topic);
        }
        writer.compact_string(&self.subscribed_regex);
        writer.i32(self.rebalance_timeout_ms);
        writer.compact_string_or_null(self.server_assignor.as_deref());
        // Null is not the default of this field: it is written, too.
        let classic = self.classic.as_ref().map_or(Bytes::from_static(&[0]), ClassicValue::encode);
        writer.tagged(&[(0, &classic)]);
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<MemberValue, RecordError> {
        let mut reader = Reader::new(bytes);
        reader.version("ConsumerGroupMemberMetadataValue", VERSION..=VERSION, VERSION)?;
        let instance_id = reader.string_or_null()?;
        let rack_id = reader.string_or_null()?;
        let client_id = reader.string()?;
        let client_host = reader.string()?;
        let mut subscribed_topics = BTreeSet::new();
        for _ in 0..reader.array()? {
            subscribed_topics.insert(reader.string()?);
        }
        let mut value = MemberValue {
            instance_id,
            rack_id,
            client_id,
            client_host,
            subscribed_topics,
            subscribed_regex: reader.string_or_null()?.unwrap_or_default(),
            rebalance_timeout_ms: reader.i32()?,
            server_assignor: reader.string_or_null()?,
            classic: None,
        };
        reader.tagged(|tag, field| {
            if tag == 0 {
                value.classic = ClassicValue::decode(field)?;
            }
            Ok(())
        })?;
        Ok(value)
    }
}

impl ClassicValue {
    /// A struct that may be null begins with a 1, as a tagged field.
    fn encode(&self) -> Bytes {
        let mut writer = Writer::inner();
        writer.i8(1);
        writer.i32(self.session_timeout_ms);
        writer.compact_array(self.protocols.len());
        for protocol in &self.protocols {
            writer.compact_string(&protocol.name);
            writer.compact_bytes(&protocol.metadata);
            writer.tagged(&[]);
        }
        writer.tagged(&[]);
        writer.finish()
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Option<ClassicValue>, RecordError> {
        if reader.i8()? <= 0 {
            return Ok(None);
        }
        let session_timeout_ms = reader.i32()?;
        let mut protocols = Vec::new();
        for _ in 0..reader.array()? {
            protocols.push(Protocol { name: reader.string()?, metadata: reader.bytes()? });
            reader.tags()?;
        }
        reader.tags()?;
        Ok(Some(ClassicValue { session_timeout_ms, protocols }))
    }
}
