//! What a group has of its own over the broker's settings (config resource GROUP).

use super::GroupConfig;
use crate::metadata::MetadataImage;

/// In effect for one group of the consumer protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InEffect {
    pub session_timeout_ms: i32,
    pub heartbeat_interval_ms: i32,
    pub assignment_interval_ms: i32,
}

pub(super) fn of(_image: &MetadataImage, config: &GroupConfig, _group_id: &str) -> InEffect {
    InEffect {
        session_timeout_ms: config.consumer_session_timeout_ms,
        heartbeat_interval_ms: config.consumer_heartbeat_interval_ms,
        assignment_interval_ms: config.consumer_assignment_interval_ms,
    }
}
