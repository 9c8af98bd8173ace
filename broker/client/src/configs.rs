//! Settings as a server tells them: their values, or all that it knows of them.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{ApiKey, DescribeConfigsRequest};
use kafka_protocol::protocol::StrBytes;

use super::admin::{ConfigEntry, ConfigSource, Resource, first};
use super::cluster::Client;
use super::error::{ClientError, check};

/// The first version in which settings are documented.
const DOCUMENTED_FROM: i16 = 3;

/// A setting, what it is, and what stands behind its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigDetails {
    /// The setting itself.
    pub entry: ConfigEntry,
    /// Whether its value is told to nobody.
    pub sensitive: bool,
    /// The type of its values, by Kafka's name in lower case; empty where the server does not tell.
    pub kind: &'static str,
    /// The value in effect first, then what would take its place, one by one.
    pub synonyms: Vec<ConfigSynonym>,
    /// Empty where the server does not tell.
    pub documentation: String,
}

/// A value that a setting has or would fall back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// The setting that it is a value of: a topic's setting falls back to a broker's.
    pub name: String,
    /// `None` for a secret.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: ConfigSource,
}

fn kind(config_type: i8) -> &'static str {
    let names = ["", "boolean", "string", "int", "short", "long", "double", "list", "class", "password"];
    usize::try_from(config_type).ok().and_then(|at| names.get(at).copied()).unwrap_or_default()
}

fn synonym(synonym: DescribeConfigsSynonym) -> ConfigSynonym {
    ConfigSynonym {
        name: synonym.name.to_string(),
        value: synonym.value.map(|value| value.to_string()),
        source: ConfigSource::from_wire(synonym.source),
    }
}

fn entry(told: &DescribeConfigsResourceResult) -> ConfigEntry {
    ConfigEntry {
        name: told.name.to_string(),
        value: told.value.as_ref().map(|value| value.to_string()),
        source: ConfigSource::from_wire(told.config_source),
        read_only: told.read_only,
    }
}

fn details(told: DescribeConfigsResourceResult) -> ConfigDetails {
    ConfigDetails {
        entry: entry(&told),
        sensitive: told.is_sensitive,
        kind: kind(told.config_type),
        synonyms: told.synonyms.into_iter().map(synonym).collect(),
        documentation: told.documentation.map(|text| text.to_string()).unwrap_or_default(),
    }
}

impl Client {
    /// All settings of a resource.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn describe_configs(&mut self, resource: &Resource) -> Result<Vec<ConfigEntry>, ClientError> {
        Ok(self.described(resource, &[], false).await?.iter().map(entry).collect())
    }

    /// The settings of a resource that have one of these names; all of them with none.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn config_details(
        &mut self,
        resource: &Resource,
        names: &[String],
    ) -> Result<Vec<ConfigDetails>, ClientError> {
        Ok(self.described(resource, names, true).await?.into_iter().map(details).collect())
    }

    async fn described(
        &mut self,
        resource: &Resource,
        names: &[String],
        in_full: bool,
    ) -> Result<Vec<DescribeConfigsResourceResult>, ClientError> {
        let (kind, name) = resource.wire();
        let keys = names.iter().map(|name| StrBytes::from_string(name.clone())).collect();
        let wanted = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(name)
            .with_configuration_keys(Some(keys).filter(|_| !names.is_empty()));
        let offered = self.offered(ApiKey::DescribeConfigs).await?;
        let documented = offered.is_some_and(|versions| versions.max >= DOCUMENTED_FROM);
        let request = DescribeConfigsRequest::default()
            .with_resources(vec![wanted])
            .with_include_synonyms(in_full)
            .with_include_documentation(in_full && documented);
        let response = match resource.broker() {
            Some(id) => self.broker(id).await?.call(&request).await?,
            None => self.ask(&request).await?,
        };
        let what = || format!("describe the settings of {resource}");
        let result = first(response.results, what)?;
        check(result.error_code, result.error_message.as_deref(), what)?;
        Ok(result.configs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_kafkas_names() {
        assert_eq!([kind(1), kind(5), kind(9)], ["boolean", "long", "password"]);
        assert_eq!([kind(0), kind(10), kind(-1)], [""; 3]);
    }
}
