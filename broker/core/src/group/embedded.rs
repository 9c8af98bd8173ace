//! What consumers of the classic protocol tell each other by way of the coordinator: `ConsumerProtocolSubscription` and
//! `ConsumerProtocolAssignment`. A coordinator that has members of both protocols speaks it, too.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::RecordError;
use super::record::{PartitionEpochs, Reader};
use crate::coordinator::{Writer, writable};
use crate::ids::TopicId;
use crate::metadata::MetadataImage;

/// The highest version of both. Later ones begin in the same way.
const VERSION_MAX: i16 = 3;

/// What a consumer is subscribed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subscription {
    pub version: i16,
    pub topics: Vec<StrBytes>,
    /// Since version 1: what it has.
    pub owned: Vec<(StrBytes, Vec<i32>)>,
    /// Since version 3.
    pub rack_id: Option<StrBytes>,
}

impl Subscription {
    pub fn decode(metadata: &[u8]) -> Result<Subscription, RecordError> {
        let mut reader = Reader::new(metadata);
        let version = reader.version("ConsumerProtocolSubscription", 0..=i16::MAX, i16::MAX)?;
        let mut topics = Vec::new();
        for _ in 0..reader.array()? {
            topics.push(reader.string()?);
        }
        reader.bytes_or_null()?;
        let owned = if version >= 1 { decode_partitions(&mut reader)? } else { Vec::new() };
        if version >= 2 {
            // Its generation.
            reader.i32()?;
        }
        let rack_id = if version >= 3 { reader.string_or_null()? } else { None };
        Ok(Subscription { version: version.min(VERSION_MAX), topics, owned, rack_id })
    }
}

fn decode_partitions(reader: &mut Reader<'_>) -> Result<Vec<(StrBytes, Vec<i32>)>, RecordError> {
    let mut topics = Vec::new();
    for _ in 0..reader.array()? {
        let topic = reader.string()?;
        let mut partitions = Vec::new();
        for _ in 0..reader.array()? {
            partitions.push(reader.i32()?);
        }
        topics.push((topic, partitions));
    }
    Ok(topics)
}

/// What a consumer was assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Assignment {
    pub partitions: Vec<(StrBytes, Vec<i32>)>,
    /// An assignor of the client's own has put something more there.
    pub has_user_data: bool,
}

impl Assignment {
    pub fn decode(assignment: &[u8]) -> Result<Assignment, RecordError> {
        let mut reader = Reader::new(assignment);
        reader.version("ConsumerProtocolAssignment", 0..=i16::MAX, i16::MAX)?;
        let partitions = decode_partitions(&mut reader)?;
        let has_user_data = reader.bytes_or_null()?.is_some_and(|data| !data.is_empty());
        Ok(Assignment { partitions, has_user_data })
    }
}

/// In the version of the consumer's subscription. Topics that are gone are left out.
pub(super) fn encode_assignment(version: i16, partitions: &PartitionEpochs, image: &MetadataImage) -> Bytes {
    let topics =
        partitions.iter().filter_map(|(id, partitions)| Some((&image.topic_by_id(*id)?.name, partitions)));
    let topics: Vec<_> = topics.filter(|(name, _)| writable(name)).collect();
    let mut writer = Writer::new(version);
    writer.i32(topics.len() as i32);
    for (name, partitions) in topics {
        writer.string(name);
        writer.i32(partitions.len() as i32);
        for partition in partitions.keys() {
            writer.i32(*partition);
        }
    }
    // No user data.
    writer.i32(-1);
    writer.finish()
}

/// Topics by their ids. Those that do not exist are left out.
pub(super) fn by_id(
    topics: &[(StrBytes, Vec<i32>)],
    image: &MetadataImage,
) -> BTreeMap<TopicId, BTreeSet<i32>> {
    let mut ids: BTreeMap<TopicId, BTreeSet<i32>> = BTreeMap::new();
    for (name, partitions) in topics.iter().filter(|(_, partitions)| !partitions.is_empty()) {
        if let Some(topic) = image.topic(name) {
            ids.entry(topic.id).or_default().extend(partitions);
        }
    }
    ids
}
