//! Who may commit and fetch offsets of a group of the consumer protocol.

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

use super::super::record::PartitionEpochs;
use super::ConsumerGroup;
use crate::metadata::MetadataImage;

/// Since this version a member of the consumer protocol may commit.
const WITH_MEMBER_EPOCH: i16 = 9;

/// Which partitions may be committed.
pub(in super::super) enum CommitCheck<'a> {
    All,
    /// The member was told of a newer epoch since. What it got in that epoch, or lost, is not its to commit (KIP-1251).
    Since {
        epoch: i32,
        assigned: &'a PartitionEpochs,
        pending: &'a PartitionEpochs,
        error: ResponseError,
    },
}

impl CommitCheck<'_> {
    pub fn check(
        &self,
        image: &MetadataImage,
        topic: &StrBytes,
        partition: i32,
    ) -> Result<(), ResponseError> {
        let CommitCheck::Since { epoch, assigned, pending, error } = self else { return Ok(()) };
        let got = image.topic(topic).and_then(|topic| {
            let of = |partitions: &PartitionEpochs| partitions.get(&topic.id)?.get(&partition).copied();
            of(assigned).or_else(|| of(pending))
        });
        if got.is_some_and(|got| got <= *epoch) { Ok(()) } else { Err(*error) }
    }
}

impl ConsumerGroup {
    /// OffsetCommit; in a producer's transaction if there is no version.
    pub fn offset_commit(
        &self,
        member_id: &StrBytes,
        instance_id: Option<&StrBytes>,
        epoch: i32,
        version: Option<i16>,
    ) -> Result<CommitCheck<'_>, ResponseError> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(CommitCheck::All);
        }
        let untold = epoch == -1 && member_id.is_empty() && instance_id.is_none();
        if version.is_none() && untold {
            return Ok(CommitCheck::All);
        }
        let member = self.members.get(member_id).ok_or(ResponseError::UnknownMemberId)?;
        let classic = member.metadata.classic.is_some();
        if !classic && version.is_some_and(|version| version < WITH_MEMBER_EPOCH) {
            return Err(ResponseError::UnsupportedVersion);
        }
        let error = if classic { ResponseError::IllegalGeneration } else { ResponseError::StaleMemberEpoch };
        let current = &member.current;
        if epoch == current.epoch {
            Ok(CommitCheck::All)
        } else if epoch > current.epoch {
            Err(error)
        } else {
            let (assigned, pending) = (&current.assigned, &current.pending_revocation);
            Ok(CommitCheck::Since { epoch, assigned, pending, error })
        }
    }

    /// OffsetFetch. An administrator tells no member.
    pub fn offset_fetch(&self, member_id: Option<&StrBytes>, epoch: i32) -> Result<(), ResponseError> {
        if member_id.is_none() && epoch < 0 {
            return Ok(());
        }
        let member = member_id.and_then(|id| self.members.get(id)).ok_or(ResponseError::UnknownMemberId)?;
        if epoch == member.current.epoch {
            Ok(())
        } else if member.metadata.classic.is_some() {
            Err(ResponseError::IllegalGeneration)
        } else {
            Err(ResponseError::StaleMemberEpoch)
        }
    }
}
