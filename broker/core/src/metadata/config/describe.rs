//! Every setting with its value and where it came from, for DescribeConfigs.

use super::{ConfigKind, ConfigSource};
use crate::ids::BrokerId;
use crate::metadata::image::MetadataImage;

/// A value a setting has or would fall back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    pub name: String,
    pub value: Option<String>,
    pub source: ConfigSource,
}

/// One setting of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    pub name: String,
    /// `None` for a sensitive one.
    pub value: Option<String>,
    pub source: ConfigSource,
    pub kind: ConfigKind,
    pub read_only: bool,
    pub sensitive: bool,
    /// The value in effect first, then what would take its place, one by one.
    pub synonyms: Vec<ConfigSynonym>,
    pub doc: &'static str,
}

/// The settings of a topic, whether it exists or not, sorted by name.
pub fn describe_topic(image: &MetadataImage, topic: &str) -> Vec<ConfigEntry> {
    let _ = (image, topic);
    Vec::new()
}

/// The settings of one broker, sorted by name. Static ones are known to the broker itself only: another
/// broker's are left out.
pub fn describe_broker(image: &MetadataImage, broker: BrokerId) -> Vec<ConfigEntry> {
    let _ = (image, broker);
    Vec::new()
}

/// What was set on all brokers, sorted by name.
pub fn describe_broker_default(image: &MetadataImage) -> Vec<ConfigEntry> {
    let _ = image;
    Vec::new()
}
