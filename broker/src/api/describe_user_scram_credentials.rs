//! DescribeUserScramCredentials (50): there are no users, as nobody logs in yet.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_user_scram_credentials_response::DescribeUserScramCredentialsResult;
use kafka_protocol::messages::{
    ApiKey, DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Reply, Request, text};

pub const API: Api =
    Api { key: ApiKey::DescribeUserScramCredentials, min: 0, max: 0, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: DescribeUserScramCredentialsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let mut times: BTreeMap<StrBytes, usize> = BTreeMap::new();
    body.users.into_iter().flatten().for_each(|user| *times.entry(user.name).or_default() += 1);
    let results = times.into_iter().map(|(user, times)| {
        let (error, why) = if times > 1 {
            let why = "Cannot describe SCRAM credentials for the same user twice in a single request";
            (ResponseError::DuplicateResource, why)
        } else {
            let why = "Attempt to describe a user credential that does not exist";
            (ResponseError::ResourceNotFound, why)
        };
        request.broker.metrics.error(API.key as i16, error.code());
        DescribeUserScramCredentialsResult::default()
            .with_error_code(error.code())
            .with_error_message(Some(text(format!("{why}: {user}"))))
            .with_user(user)
    });
    let results = results.collect();
    request.head.reply(&DescribeUserScramCredentialsResponse::default().with_results(results))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use kafka_protocol::messages::describe_user_scram_credentials_request::UserName;

    #[tokio::test]
    async fn nobody_has_credentials() {
        let fixture = Fixture::new().await;
        let user = |name: &str| UserName::default().with_name(text(name));
        for (users, expected) in [
            (None, vec![]),
            (Some(vec![]), vec![]),
            (Some(vec![user("b"), user("a"), user("b")]), vec![("a", 91), ("b", 92)]),
        ] {
            let request = DescribeUserScramCredentialsRequest::default().with_users(users);
            let response: DescribeUserScramCredentialsResponse = fixture.call(0, &request).await;
            let told: Vec<(&str, i16)> =
                response.results.iter().map(|r| (r.user.as_str(), r.error_code)).collect();
            assert_eq!((response.error_code, told), (0, expected));
        }
    }
}
