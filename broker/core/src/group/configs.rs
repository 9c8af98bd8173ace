//! What a group has of its own over the broker's settings (config resource GROUP).

use super::GroupConfig;
use crate::metadata::MetadataImage;
use crate::metadata::config::groups;

/// In effect for one group of the consumer protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InEffect {
    pub session_timeout_ms: i32,
    pub heartbeat_interval_ms: i32,
    pub assignment_interval_ms: i32,
}

pub(super) fn of(image: &MetadataImage, config: &GroupConfig, group_id: &str) -> InEffect {
    let set = |name| groups::dynamic_value_ms(image, group_id, name);
    InEffect {
        session_timeout_ms: set(groups::SESSION_TIMEOUT).unwrap_or(config.consumer_session_timeout_ms),
        heartbeat_interval_ms: set(groups::HEARTBEAT_INTERVAL)
            .unwrap_or(config.consumer_heartbeat_interval_ms),
        assignment_interval_ms: set(groups::ASSIGNMENT_INTERVAL)
            .unwrap_or(config.consumer_assignment_interval_ms),
    }
}
