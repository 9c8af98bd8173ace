//! AlterConfigs (33): the older way; what a request does not name goes back to its default.

use std::collections::BTreeMap;

use chronik_core::controller::{
    ControllerError, ErrorCode, alter_configs, check_topic_name, config_resource,
};
use chronik_core::ids::BrokerId;
use chronik_core::metadata::ConfigResource;
use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse, ApiKey};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Broker, Reply, Request, text};

pub const API: Api = Api { key: ApiKey::AlterConfigs, min: 0, max: 2, serve: super::Serve::Call(serve) };

/// The request has no time limit of its own.
pub(super) const CHANGE_MS: i32 = 30_000;

/// The resources of a request that alters settings: each may be named once.
pub(super) struct Names<'a>(BTreeMap<(i8, &'a str), usize>);

impl<'a> Names<'a> {
    pub fn of(resources: impl Iterator<Item = (i8, &'a str)>) -> Names<'a> {
        let mut times = BTreeMap::new();
        resources.for_each(|resource| *times.entry(resource).or_default() += 1);
        Names(times)
    }

    /// Refuses a resource that is named more than once.
    pub fn once(&self, resource_type: i8, name: &str) -> Result<(), ControllerError> {
        if self.0.get(&(resource_type, name)).is_some_and(|times| *times > 1) {
            let why = "Each resource must appear at most once.";
            return Err(ControllerError::new(ErrorCode::InvalidRequest, why));
        }
        Ok(())
    }

    /// What the broker itself refuses, before the controller is asked.
    pub fn check(
        &self,
        resource_type: i8,
        name: &str,
        this_broker: BrokerId,
    ) -> Result<ConfigResource, ControllerError> {
        let refuse = |why: String| Err(ControllerError::new(ErrorCode::InvalidRequest, why));
        self.once(resource_type, name)?;
        let resource = config_resource(resource_type, name)?;
        match &resource {
            ConfigResource::Topic(name) if name.is_empty() => {
                return refuse("Default topic resources are not allowed.".to_string());
            }
            ConfigResource::Topic(name) => check_topic_name(name)?,
            ConfigResource::Broker(id) if *id != this_broker => {
                return refuse(format!("Unexpected broker id, expected {this_broker}, but received {id}"));
            }
            _ => {}
        }
        Ok(resource)
    }
}

/// The controller's answers, one per resource it was given.
type Decided = Vec<(ConfigResource, Result<(), ControllerError>)>;

/// What a response says of one resource: the two APIs have the same fields in types of their own.
pub(super) struct Answer {
    pub error_code: i16,
    pub error_message: Option<StrBytes>,
}

/// What the controller decided, put back among the resources that could not be read: one answer for each
/// of `parsed`, in order. Errors are counted for the API.
pub(super) fn answers<T>(
    broker: &Broker,
    api: ApiKey,
    parsed: Vec<Result<T, ControllerError>>,
    decided: Result<Decided, ControllerError>,
) -> Vec<Answer> {
    let missing = || ControllerError::new(ErrorCode::UnknownServerError, "The controller gave no answer");
    let mut decided = decided.map(|list| list.into_iter().map(|(_, result)| result));
    let mut next = || match &mut decided {
        Ok(list) => list.next().unwrap_or_else(|| Err(missing())),
        Err(e) => Err(e.clone()),
    };
    parsed.into_iter().map(|resource| answer(broker, api, resource.and_then(|_| next()))).collect()
}

/// What is told of one resource; an error is counted for the API.
pub(super) fn answer(broker: &Broker, api: ApiKey, result: Result<(), ControllerError>) -> Answer {
    match result {
        Ok(()) => Answer { error_code: 0, error_message: None },
        Err(e) => {
            broker.metrics.error(api as i16, e.code.code());
            Answer { error_code: e.code.code(), error_message: Some(text(e.message)) }
        }
    }
}

fn serve(mut request: Request) -> Reply {
    let body: AlterConfigsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = request.broker.clone();
    request.later(async move {
        let names = Names::of(body.resources.iter().map(|r| (r.resource_type, &*r.resource_name)));
        let this_broker = broker.config.broker_id;
        let parsed: Vec<_> = body.resources.iter().map(|r| parse(r, &names, this_broker)).collect();
        let changes: Vec<Altered> = parsed.iter().flatten().cloned().collect();
        let validate_only = body.validate_only;
        let decided =
            broker.change(CHANGE_MS, move |image| alter_configs(image, &changes, validate_only)).await;
        let answered = body.resources.into_iter().zip(answers(&broker, API.key, parsed, decided));
        let responses = answered.map(|(resource, answer)| {
            AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name)
                .with_error_code(answer.error_code)
                .with_error_message(answer.error_message)
        });
        AlterConfigsResponse::default().with_responses(responses.collect())
    })
}

/// A resource and all the settings it is to have.
type Altered = (ConfigResource, Vec<(String, Option<String>)>);

fn parse(
    resource: &AlterConfigsResource,
    names: &Names<'_>,
    this_broker: BrokerId,
) -> Result<Altered, ControllerError> {
    let known = names.check(resource.resource_type, &resource.resource_name, this_broker)?;
    let settings =
        resource.configs.iter().map(|c| (c.name.to_string(), c.value.as_ref().map(|v| v.to_string())));
    Ok((known, settings.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use kafka_protocol::messages::alter_configs_request::AlterableConfig;

    fn ask(name: &str, settings: &[(&str, &str)]) -> AlterConfigsRequest {
        let setting = |(name, value): &(&str, &str)| {
            AlterableConfig::default().with_name(text(*name)).with_value(Some(text(*value)))
        };
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(name))
            .with_configs(settings.iter().map(setting).collect());
        AlterConfigsRequest::default().with_resources(vec![resource])
    }

    #[tokio::test]
    async fn what_is_not_named_goes_back_in_every_version() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let config = || fixture.broker.metadata.image().topic("a").unwrap().config.clone();
        let before = config();
        for version in 0..=2 {
            let both = ask("a", &[("max.message.bytes", "777"), ("segment.bytes", "2000000")]);
            let response: AlterConfigsResponse = fixture.call(version, &both).await;
            assert_eq!((response.responses[0].error_code, config().max_message_bytes), (0, 777));
            let one: AlterConfigsResponse =
                fixture.call(version, &ask("a", &[("segment.bytes", "3000000")])).await;
            assert_eq!((one.responses[0].error_code, config().segment_bytes), (0, 3_000_000));
            assert_eq!(config().max_message_bytes, before.max_message_bytes);
        }
    }

    #[tokio::test]
    async fn refusals_carry_kafkas_codes() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        for (name, setting, code) in [("a", ("no.such", "1"), 40), ("gone", ("segment.bytes", "2000000"), 3)]
        {
            let response: AlterConfigsResponse = fixture.call(2, &ask(name, &[setting])).await;
            assert_eq!(response.responses[0].error_code, code);
            assert!(response.responses[0].error_message.is_some());
        }
        let mut twice = ask("a", &[("segment.bytes", "2000000")]);
        twice.resources.push(twice.resources[0].clone());
        let response: AlterConfigsResponse = fixture.call(2, &twice).await;
        assert_eq!(response.responses.iter().map(|r| r.error_code).collect::<Vec<_>>(), [42, 42]);
    }
}
