//! Dynamic settings are altered.

use super::{ControllerError, ErrorCode};
use crate::metadata::{ConfigResource, MetadataImage, MetadataRecord};

/// What IncrementalAlterConfigs does to a value, by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum AlterOp {
    Set = 0,
    Delete = 1,
    Append = 2,
    Subtract = 3,
}

impl AlterOp {
    pub fn from_wire(op: i8) -> Option<AlterOp> {
        [AlterOp::Set, AlterOp::Delete, AlterOp::Append, AlterOp::Subtract]
            .into_iter()
            .find(|known| *known as i8 == op)
    }
}

/// One change of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigOp {
    pub name: String,
    pub op: AlterOp,
    pub value: Option<String>,
}

/// One answer per resource, in the order asked.
pub type PerResource = Vec<(ConfigResource, Result<(), ControllerError>)>;

/// Reads a resource's type (Kafka: 2 topic, 4 broker) and name as they stand in a request.
pub fn config_resource(resource_type: i8, name: &str) -> Result<ConfigResource, ControllerError> {
    match resource_type {
        2 => Ok(ConfigResource::Topic(name.to_string())),
        4 if name.is_empty() => Ok(ConfigResource::BrokerDefault),
        4 => name.parse().map(|id| ConfigResource::Broker(BrokerId(id))).map_err(|_| {
            ControllerError::new(
                ErrorCode::InvalidRequest,
                format!("Node id must be an integer, but it is: {name}"),
            )
        }),
        other => Err(ControllerError::new(
            ErrorCode::InvalidRequest,
            format!("Resource type {other} has no configuration here"),
        )),
    }
}

/// The type and name of a resource as they stand in an answer.
pub fn resource_name(resource: &ConfigResource) -> (i8, String) {
    match resource {
        ConfigResource::Topic(name) => (2, name.clone()),
        ConfigResource::Broker(id) => (4, id.to_string()),
        ConfigResource::BrokerDefault => (4, String::new()),
    }
}

use crate::ids::BrokerId;

/// IncrementalAlterConfigs: each resource is altered as a whole or not at all.
pub fn incremental_alter_configs(
    image: &MetadataImage,
    requests: &[(ConfigResource, Vec<ConfigOp>)],
    validate_only: bool,
) -> (Vec<MetadataRecord>, PerResource) {
    let _ = (image, requests, validate_only);
    (Vec::new(), Vec::new())
}

/// AlterConfigs: what is not given is removed.
pub fn alter_configs(
    image: &MetadataImage,
    requests: &[(ConfigResource, Vec<(String, Option<String>)>)],
    validate_only: bool,
) -> (Vec<MetadataRecord>, PerResource) {
    let _ = (image, requests, validate_only);
    (Vec::new(), Vec::new())
}
