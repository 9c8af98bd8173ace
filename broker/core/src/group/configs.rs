//! What a group has of its own over the broker's settings (config resource GROUP).

use super::GroupConfig;
use crate::metadata::MetadataImage;
use crate::metadata::config::groups;

pub(super) fn session_timeout_ms(image: &MetadataImage, config: &GroupConfig, group_id: &str) -> i32 {
    groups::dynamic_value_ms(image, group_id, groups::SESSION_TIMEOUT)
        .unwrap_or(config.consumer_session_timeout_ms)
}

pub(super) fn heartbeat_interval_ms(image: &MetadataImage, config: &GroupConfig, group_id: &str) -> i32 {
    groups::dynamic_value_ms(image, group_id, groups::HEARTBEAT_INTERVAL)
        .unwrap_or(config.consumer_heartbeat_interval_ms)
}

pub(super) fn assignment_interval_ms(image: &MetadataImage, config: &GroupConfig, group_id: &str) -> i32 {
    groups::dynamic_value_ms(image, group_id, groups::ASSIGNMENT_INTERVAL)
        .unwrap_or(config.consumer_assignment_interval_ms)
}
