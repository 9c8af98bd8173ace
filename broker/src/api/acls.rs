//! DescribeAcls (29), CreateAcls (30) and DeleteAcls (31), as a Kafka without an authorizer answers them.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use kafka_protocol::messages::{
    ApiKey, CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse,
    DescribeAclsRequest, DescribeAclsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Reply, Request, text};

pub const DESCRIBE: Api =
    Api { key: ApiKey::DescribeAcls, min: 1, max: 3, serve: super::Serve::Call(describe) };
pub const CREATE: Api = Api { key: ApiKey::CreateAcls, min: 1, max: 3, serve: super::Serve::Call(create) };
pub const DELETE: Api = Api { key: ApiKey::DeleteAcls, min: 1, max: 3, serve: super::Serve::Call(delete) };

/// What Kafka's enumerations have for an element that a client does not know itself.
const UNKNOWN: i8 = 0;

/// SECURITY_DISABLED and why; counted as an error of the API.
fn disabled(request: &Request) -> (i16, Option<StrBytes>) {
    let code = ResponseError::SecurityDisabled.code();
    request.broker.metrics.error(request.head.api_key, code);
    (code, Some(text("No Authorizer is configured.")))
}

/// Kafka reads no request with such an element.
fn unreadable(request: &str) -> Reply {
    Reply::Close(format!("{request} contains UNKNOWN elements"))
}

fn describe(mut request: Request) -> Reply {
    let body: DescribeAclsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let elements =
        [body.resource_type_filter, body.pattern_type_filter, body.operation, body.permission_type];
    if elements.contains(&UNKNOWN) {
        return unreadable("DescribeAclsRequest");
    }
    let (code, why) = disabled(&request);
    request.head.reply(&DescribeAclsResponse::default().with_error_code(code).with_error_message(why))
}

fn create(mut request: Request) -> Reply {
    let body: CreateAclsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let unknown = body.creations.iter().any(|acl| {
        [acl.resource_type, acl.resource_pattern_type, acl.operation, acl.permission_type].contains(&UNKNOWN)
    });
    if unknown {
        return unreadable("CreateAclsRequest");
    }
    let (code, why) = disabled(&request);
    let result = AclCreationResult::default().with_error_code(code).with_error_message(why);
    request.head.reply(&CreateAclsResponse::default().with_results(vec![result; body.creations.len()]))
}

fn delete(mut request: Request) -> Reply {
    let body: DeleteAclsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let unknown = body.filters.iter().any(|filter| {
        let elements = [filter.resource_type_filter, filter.pattern_type_filter];
        elements.contains(&UNKNOWN) || [filter.operation, filter.permission_type].contains(&UNKNOWN)
    });
    if unknown {
        return unreadable("DeleteAclsRequest");
    }
    let (code, why) = disabled(&request);
    let result = DeleteAclsFilterResult::default().with_error_code(code).with_error_message(why);
    request.head.reply(&DeleteAclsResponse::default().with_filter_results(vec![result; body.filters.len()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use kafka_protocol::messages::create_acls_request::AclCreation;
    use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;

    #[tokio::test]
    async fn there_is_no_authorizer_in_any_version() {
        let fixture = Fixture::new().await;
        let asked = DescribeAclsRequest::default()
            .with_resource_type_filter(1)
            .with_operation(1)
            .with_permission_type(1);
        let acl = AclCreation::default().with_resource_type(2).with_operation(3).with_permission_type(3);
        let filter = DeleteAclsFilter::default()
            .with_resource_type_filter(1)
            .with_operation(1)
            .with_permission_type(1);
        for version in 1..=3 {
            let told: DescribeAclsResponse = fixture.call(version, &asked).await;
            assert_eq!((told.error_code, told.resources.len()), (54, 0));
            assert_eq!(told.error_message.as_deref(), Some("No Authorizer is configured."));
            let request = CreateAclsRequest::default().with_creations(vec![acl.clone(); 2]);
            let told: CreateAclsResponse = fixture.call(version, &request).await;
            assert_eq!(told.results.iter().map(|r| r.error_code).collect::<Vec<_>>(), [54, 54]);
            let request = DeleteAclsRequest::default().with_filters(vec![filter.clone()]);
            let told: DeleteAclsResponse = fixture.call(version, &request).await;
            assert_eq!(told.filter_results.iter().map(|r| r.error_code).collect::<Vec<_>>(), [54]);
        }
    }

    #[tokio::test]
    async fn elements_that_a_client_does_not_know_itself_close_the_connection() {
        let fixture = Fixture::new().await;
        let describe = fixture.start(3, &DescribeAclsRequest::default()).await;
        assert!(matches!(describe, Reply::Close(_)), "{describe:?}");
        let creations = vec![AclCreation::default()];
        let create = fixture.start(3, &CreateAclsRequest::default().with_creations(creations)).await;
        assert!(matches!(create, Reply::Close(_)), "{create:?}");
        let filters = vec![DeleteAclsFilter::default()];
        let delete = fixture.start(3, &DeleteAclsRequest::default().with_filters(filters)).await;
        assert!(matches!(delete, Reply::Close(_)), "{delete:?}");
    }
}
