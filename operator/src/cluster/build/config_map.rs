//! The ConfigMap: `broker.yaml`, with the settings that need a restart and no others.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::Input;
use crate::cluster::names::CONFIG_FILE;
use crate::cluster::settings;

pub fn text(input: &Input<'_>) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(&settings::fixed(&input.cluster.spec, input.cluster_id))
}

pub fn build(input: &Input<'_>, text: &str) -> ConfigMap {
    ConfigMap {
        metadata: input.names.metadata(input.names.config()),
        data: Some(BTreeMap::from([(CONFIG_FILE.to_string(), text.to_string())])),
        ..ConfigMap::default()
    }
}
