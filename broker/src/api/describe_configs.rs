//! DescribeConfigs (32): every setting that acts, its value, and where that came from.

use chronik_core::controller::check_topic_name;
use chronik_core::controller::resource_type::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use chronik_core::ids::BrokerId;
use chronik_core::metadata::MetadataImage;
use chronik_core::metadata::config::{
    ConfigEntry, ConfigKind, ConfigSource, describe_broker, describe_broker_default, describe_group,
    describe_topic,
};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{ApiKey, DescribeConfigsRequest, DescribeConfigsResponse};

use super::{Api, Reply, Request, broker_logger, text};

pub const API: Api = Api { key: ApiKey::DescribeConfigs, min: 1, max: 4, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: DescribeConfigsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let image = request.broker.metadata.image();
    let this_broker = request.broker.config.broker_id;
    let version = request.head.version;
    let results = body.resources.iter().map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        let show = |e| setting(e, body.include_synonyms, body.include_documentation, version);
        let described = match resource.resource_type {
            BROKER_LOGGER => broker_logger::describe(&resource.resource_name, this_broker)
                .map_err(|e| (ResponseError::InvalidRequest, e.message)),
            _ => describe(&image, this_broker, resource)
                .map(|entries| entries.into_iter().map(show).collect::<Vec<_>>()),
        };
        match described {
            Ok(mut configs) => {
                let keys = resource.configuration_keys.as_deref().unwrap_or_default();
                configs.retain(|config| keys.is_empty() || keys.contains(&config.name));
                result.with_configs(configs)
            }
            Err((error, why)) => {
                request.broker.metrics.error(API.key as i16, error.code());
                result.with_error_code(error.code()).with_error_message(Some(text(why)))
            }
        }
    });
    let response = DescribeConfigsResponse::default().with_results(results.collect());
    request.head.reply(&response)
}

fn describe(
    image: &MetadataImage,
    this_broker: BrokerId,
    resource: &DescribeConfigsResource,
) -> Result<Vec<ConfigEntry>, (ResponseError, String)> {
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        TOPIC => {
            if let Err(e) = check_topic_name(name) {
                return Err((ResponseError::InvalidTopicException, e.message));
            }
            if image.topic(name).is_none() {
                let why = "This server does not host this topic-partition.".to_string();
                return Err((ResponseError::UnknownTopicOrPartition, why));
            }
            Ok(describe_topic(image, name))
        }
        BROKER if name.is_empty() => Ok(describe_broker_default(image)),
        BROKER => match name.parse::<i32>() {
            Ok(id) if id == this_broker.0 => Ok(describe_broker(image, this_broker)),
            Ok(_) => {
                let why = format!(
                    "Unexpected broker id, expected {this_broker} or empty string, but received {name}"
                );
                Err((ResponseError::InvalidRequest, why))
            }
            Err(_) => Err((
                ResponseError::InvalidRequest,
                format!("Broker id must be an integer, but it is: {name}"),
            )),
        },
        CLIENT_METRICS if name.is_empty() => {
            let why = "Client metrics subscription name must not be empty".to_string();
            Err((ResponseError::InvalidRequest, why))
        }
        CLIENT_METRICS => Ok(no_subscription().to_vec()),
        GROUP if name.is_empty() => {
            Err((ResponseError::InvalidRequest, "Group name must not be empty".to_string()))
        }
        GROUP => Ok(describe_group(image, name)),
        other => Err((ResponseError::InvalidRequest, format!("Unsupported resource type: {other}"))),
    }
}

/// What Kafka tells of a subscription to clients' metrics that nobody has made: there are no others here.
fn no_subscription() -> [ConfigEntry; 3] {
    let default = |name: &str, value: &str, kind: ConfigKind, doc: &'static str| ConfigEntry {
        name: name.to_string(),
        value: Some(value.to_string()),
        source: ConfigSource::Default,
        kind,
        read_only: false,
        sensitive: false,
        synonyms: Vec::new(),
        doc,
    };
    [
        default("interval.ms", "300000", ConfigKind::Int, "How often clients are to push, in milliseconds."),
        default("match", "", ConfigKind::List, "Which clients are to push."),
        default("metrics", "", ConfigKind::List, "Which metrics they are to push."),
    ]
}

fn setting(
    entry: ConfigEntry,
    synonyms: bool,
    documentation: bool,
    version: i16,
) -> DescribeConfigsResourceResult {
    let mut told = DescribeConfigsResourceResult::default()
        .with_name(text(entry.name))
        .with_value(entry.value.map(text))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.sensitive);
    if synonyms {
        let synonym = |s: chronik_core::metadata::config::ConfigSynonym| {
            let value = s.value.map(text);
            DescribeConfigsSynonym::default()
                .with_name(text(s.name))
                .with_value(value)
                .with_source(s.source as i8)
        };
        told.synonyms = entry.synonyms.into_iter().map(synonym).collect();
    }
    if version >= 3 {
        told.config_type = entry.kind as i8;
        told.documentation = documentation.then(|| text(entry.doc));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;

    fn ask(resource_type: i8, name: &str, keys: Option<Vec<&str>>) -> DescribeConfigsRequest {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(text(name))
            .with_configuration_keys(keys.map(|keys| keys.into_iter().map(text).collect()));
        DescribeConfigsRequest::default().with_resources(vec![resource])
    }

    #[tokio::test]
    async fn a_topics_settings_in_every_version() {
        let fixture = Fixture::with(&[("message.max.bytes", "5000")]).await;
        fixture.create_topic("a", 1).await;
        for version in 1..=4 {
            let request = ask(TOPIC, "a", Some(vec!["max.message.bytes"])).with_include_synonyms(true);
            let request = if version >= 3 { request.with_include_documentation(true) } else { request };
            let response: DescribeConfigsResponse = fixture.call(version, &request).await;
            let result = &response.results[0];
            assert_eq!((result.error_code, result.configs.len()), (0, 1));
            let setting = &result.configs[0];
            // The value comes from the broker's static configuration.
            assert_eq!((setting.value.as_deref(), setting.config_source), (Some("5000"), 4));
            assert!(setting.synonyms.iter().any(|s| &*s.name == "message.max.bytes"));
            if version >= 3 {
                assert!(
                    setting.documentation.as_ref().is_some_and(|d| !d.is_empty()) && setting.config_type == 3
                );
            }
        }
    }

    #[tokio::test]
    async fn all_settings_unless_some_are_named() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        for (resource_type, name, at_least) in [(TOPIC, "a", 15), (BROKER, "1", 60), (CLIENT_METRICS, "m", 3)]
        {
            let all: DescribeConfigsResponse = fixture.call(4, &ask(resource_type, name, None)).await;
            assert!(all.results[0].configs.len() >= at_least, "{name}");
            assert!(
                all.results[0].configs.iter().all(|c| c.synonyms.is_empty() && c.documentation.is_none())
            );
            let empty: DescribeConfigsResponse =
                fixture.call(4, &ask(resource_type, name, Some(vec![]))).await;
            assert_eq!(empty, all);
        }
    }

    #[tokio::test]
    async fn a_groups_settings_whether_it_is_there_or_not() {
        let fixture = Fixture::new().await;
        let name = "consumer.heartbeat.interval.ms";
        let request = ask(GROUP, "g", Some(vec![name])).with_include_synonyms(true);
        for (set, value, source, synonyms) in [(None, "5000", 5, 1), (Some("6000"), "6000", 8, 2)] {
            fixture.alter_config(GROUP, "g", name, set).await;
            let response: DescribeConfigsResponse = fixture.call(4, &request).await;
            let [setting] = &response.results[0].configs[..] else { panic!("{response:?}") };
            assert_eq!((setting.value.as_deref(), setting.config_source), (Some(value), source));
            assert_eq!((setting.synonyms.len(), setting.read_only), (synonyms, false));
        }
    }

    #[tokio::test]
    async fn refusals_carry_kafkas_codes() {
        let fixture = Fixture::new().await;
        for (resource_type, name, code) in [
            (TOPIC, "gone", 3),
            (TOPIC, "a b", 17),
            (BROKER, "7", 42),
            (BROKER, "x", 42),
            (99, "", 42),
            (CLIENT_METRICS, "", 42),
            (GROUP, "", 42),
        ] {
            let response: DescribeConfigsResponse = fixture.call(4, &ask(resource_type, name, None)).await;
            assert_eq!(response.results[0].error_code, code, "{resource_type} {name}");
            assert!(response.results[0].error_message.is_some());
        }
    }

    #[tokio::test]
    async fn every_key_of_the_broker_is_told_with_its_type_and_meaning() {
        let fixture = Fixture::with(&[("chronik.requests.max", "7"), ("max.connections", "8")]).await;
        let request = ask(BROKER, "1", None).with_include_synonyms(true).with_include_documentation(true);
        let response: DescribeConfigsResponse = fixture.call(4, &request).await;
        let told = &response.results[0].configs;
        for key in crate::config::KEYS.iter() {
            let setting = told.iter().filter(|c| *c.name == *key.name).collect::<Vec<_>>();
            let [setting] = &setting[..] else { panic!("{}: told {} times", key.name, setting.len()) };
            let documented = setting.documentation.as_ref().is_some_and(|text| !text.is_empty());
            assert!(documented && setting.config_type > 0, "{}", key.name);
            // What is not set has no value, as in Kafka.
            assert_eq!(setting.value.is_none(), setting.synonyms.is_empty(), "{}", key.name);
        }
        let find = |name: &str| told.iter().find(|c| *c.name == *name).unwrap();
        let shown = |name: &str| {
            let setting = find(name);
            (setting.value.as_deref(), setting.config_source, setting.read_only)
        };
        assert_eq!(shown("chronik.requests.max"), (Some("7"), 4, true));
        assert_eq!(shown("max.connections"), (Some("8"), 4, false));
        assert_eq!(shown("broker.rack"), (None, 5, true));
        assert_eq!(find("max.connections").synonyms.len(), 2);
    }
}
