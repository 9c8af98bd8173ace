//! What happens by the clock.

use kafka_protocol::protocol::StrBytes;

/// Whose time may be up. There is at most one deadline of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// A group waits no longer for members to join.
    Join(StrBytes),
    /// A group waits no longer for its members' SyncGroup.
    Sync(StrBytes),
    /// A member of a group, or one that is to come back with the id it was given, was not heard of.
    Session(StrBytes, StrBytes),
    /// A member of a group of the consumer protocol has not given up what it was to.
    Revocation(StrBytes, StrBytes),
    /// A member of the classic protocol in such a group was told to join again.
    MemberJoin(StrBytes, StrBytes),
    /// It has joined, and is to ask for its assignment.
    MemberSync(StrBytes, StrBytes),
    /// Committed offsets are looked through.
    OffsetExpiry,
}

pub(super) type Timers = crate::coordinator::Timers<Timer>;
