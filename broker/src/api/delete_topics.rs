//! DeleteTopics (20), by name or by id (KIP-516).

use chronik_core::controller::{DeletedTopic, TopicRef, delete_topics};
use chronik_core::ids::{TopicId, Uuid};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{ApiKey, DeleteTopicsRequest, DeleteTopicsResponse, TopicName};

use super::{Api, Reply, Request, text};

pub const API: Api = Api { key: ApiKey::DeleteTopics, min: 1, max: 6, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: DeleteTopicsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = request.broker.clone();
    let version = request.head.version;
    request.later(async move {
        let mut results = Vec::new();
        let mut wanted = Vec::new();
        if version >= 6 {
            for topic in body.topics {
                match (topic.name, topic.topic_id) {
                    (Some(name), id) if id.is_nil() => wanted.push(TopicRef::Name(name.to_string())),
                    (None, id) if !id.is_nil() => wanted.push(TopicRef::Id(TopicId(id))),
                    (name, id) => {
                        let why = match name {
                            Some(_) => "You may not specify both topic name and topic id.",
                            None => "Neither topic name nor id were specified.",
                        };
                        results.push(refused(name, id, ResponseError::InvalidRequest.code(), why));
                    }
                }
            }
        } else {
            wanted.extend(body.topic_names.iter().map(|name| TopicRef::Name(name.to_string())));
        }
        let asked = wanted.clone();
        match broker.change(body.timeout_ms, move |image| delete_topics(image, &asked)).await {
            Ok(deleted) => results.extend(deleted.into_iter().map(|d| result(d, version))),
            Err(e) => results.extend(wanted.into_iter().map(|topic| {
                let (name, id) = match topic {
                    TopicRef::Name(name) => (Some(TopicName(text(name))), Uuid::nil()),
                    TopicRef::Id(id) => (None, id.0),
                };
                refused(name, id, e.code.code(), &e.message)
            })),
        }
        for result in &mut results {
            broker.metrics.error(API.key as i16, result.error_code);
            if version < 5 {
                result.error_message = None;
            }
        }
        DeleteTopicsResponse::default().with_responses(results)
    })
}

fn refused(name: Option<TopicName>, id: Uuid, code: i16, why: &str) -> DeletableTopicResult {
    DeletableTopicResult::default()
        .with_name(name)
        .with_topic_id(id)
        .with_error_code(code)
        .with_error_message(Some(text(why)))
}

fn result(deleted: DeletedTopic, version: i16) -> DeletableTopicResult {
    let id = deleted.id.filter(|_| version >= 6).map_or(Uuid::nil(), |id| id.0);
    let name = deleted.name.map(|name| TopicName(text(name)));
    match deleted.result {
        Ok(()) => DeletableTopicResult::default().with_name(name).with_topic_id(id).with_error_message(None),
        Err(e) => refused(name, id, e.code.code(), &e.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use kafka_protocol::messages::delete_topics_request::DeleteTopicState;

    fn names(names: &[&str]) -> DeleteTopicsRequest {
        let names = names.iter().map(|n| TopicName(text(*n))).collect();
        DeleteTopicsRequest::default().with_topic_names(names).with_timeout_ms(10_000)
    }

    fn states(states: Vec<(Option<&str>, Uuid)>) -> DeleteTopicsRequest {
        let state = |(name, id): (Option<&str>, Uuid)| {
            DeleteTopicState::default().with_name(name.map(|n| TopicName(text(n)))).with_topic_id(id)
        };
        let states = states.into_iter().map(state).collect();
        DeleteTopicsRequest::default().with_topics(states).with_timeout_ms(10_000)
    }

    #[tokio::test]
    async fn topics_go_by_name_in_every_version() {
        let fixture = Fixture::new().await;
        for version in 1..=6 {
            fixture.create_topic("a", 1).await;
            let request = if version >= 6 { states(vec![(Some("a"), Uuid::nil())]) } else { names(&["a"]) };
            let response: DeleteTopicsResponse = fixture.call(version, &request).await;
            assert_eq!(response.responses[0].error_code, 0, "version {version}");
            assert!(fixture.broker.metadata.image().topic("a").is_none());
        }
    }

    #[tokio::test]
    async fn topics_go_by_id() {
        let fixture = Fixture::new().await;
        let id = fixture.create_topic("a", 1).await.0;
        let response: DeleteTopicsResponse = fixture.call(6, &states(vec![(None, id)])).await;
        let result = &response.responses[0];
        assert_eq!(
            (result.error_code, result.topic_id, result.name.as_deref().map(|n| &**n)),
            (0, id, Some("a"))
        );
        assert!(fixture.broker.metadata.image().topic("a").is_none());
    }

    #[tokio::test]
    async fn refusals_carry_kafkas_codes() {
        let fixture = Fixture::new().await;
        let id = fixture.create_topic("a", 1).await.0;
        for (state, code) in [
            ((Some("gone"), Uuid::nil()), 3),
            ((None, Uuid::from_u128(9)), 100),
            ((Some("a"), id), 42),
            ((None, Uuid::nil()), 42),
        ] {
            let response: DeleteTopicsResponse = fixture.call(6, &states(vec![state])).await;
            assert_eq!(response.responses[0].error_code, code, "{state:?}");
            assert!(response.responses[0].error_message.is_some());
        }
        let response: DeleteTopicsResponse = fixture.call(4, &names(&["gone"])).await;
        assert_eq!(response.responses[0].error_code, 3);
        assert!(fixture.broker.metadata.image().topic("a").is_some());
    }
}
