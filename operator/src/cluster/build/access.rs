//! The brokers' ServiceAccount, which may do nothing, and the Secret with the admin token.

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

use super::Input;
use crate::cluster::names::{Names, TOKEN_KEY};

pub fn service_account(input: &Input<'_>) -> ServiceAccount {
    ServiceAccount {
        metadata: input.names.metadata(input.names.brokers()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The admin token is made once and never written again: brokers and the operator read it at any time.
pub fn token_secret(names: &Names, random: &[u8; 32]) -> Secret {
    let token = random.iter().fold(String::with_capacity(64), |mut token, byte| {
        let _ = write!(token, "{byte:02x}");
        token
    });
    Secret {
        metadata: names.metadata(names.token()),
        string_data: Some(BTreeMap::from([(TOKEN_KEY.to_string(), token)])),
        type_: Some("Opaque".to_string()),
        ..Secret::default()
    }
}
