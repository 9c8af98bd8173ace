//! UpdateFeatures (57): the levels of the cluster's features are to change (KIP-584).
//!
//! The levels are the program's. So what is asked for is judged as Kafka judges it, and then a level can only be set
//! to what it is.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse, UpdateFeaturesRequest, UpdateFeaturesResponse};

use super::{Api, Reply, Request, api_versions, text};

pub const API: Api = Api { key: ApiKey::UpdateFeatures, min: 0, max: 2, serve: super::Serve::Call(serve) };

/// Kafka's `FeatureUpdate.UpgradeType`: upgrade, safe downgrade, unsafe downgrade.
const UPGRADE: i8 = 1;
const UPGRADE_TYPES: std::ops::RangeInclusive<i8> = 1..=3;
/// From this version on, features have no results of their own.
const WITHOUT_RESULTS_FROM: i16 = 2;

fn serve(mut request: Request) -> Reply {
    let body: UpdateFeaturesRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    // Version 0 says whether the level may go down, and Kafka does not read it.
    let mut updates = body.feature_updates;
    if version == 0 {
        updates.iter_mut().for_each(|update| update.upgrade_type = UPGRADE);
    }
    let broker_id = request.broker.config.broker_id.0;
    let refused = updates.iter().find_map(|update| {
        let why = check(update, broker_id).err()?;
        let (level, feature) = (update.max_version_level, &update.feature);
        Some(format!("Invalid update version {level} for feature {feature}. {why}"))
    });
    let mut response = UpdateFeaturesResponse::default();
    if let Some(why) = refused {
        let code = ResponseError::InvalidUpdateVersion.code();
        request.broker.metrics.error(API.key as i16, code);
        let why =
            format!("The update failed for all features since the following feature had an error: {why}");
        response = response.with_error_code(code).with_error_message(Some(text(why)));
    } else if version < WITHOUT_RESULTS_FROM {
        let result = |update: FeatureUpdateKey| {
            UpdatableFeatureResult::default()
                .with_feature(update.feature)
                .with_error_message(Some(text("NONE")))
        };
        response.results = updates.into_iter().map(result).collect();
    }
    request.head.reply(&response)
}

/// Judges one change by the features that ApiVersions tells.
fn check(update: &FeatureUpdateKey, broker_id: i32) -> Result<(), String> {
    let known = api_versions::with_features(ApiVersionsResponse::default(), api_versions::LEVEL_0_FROM);
    let level = update.max_version_level;
    if !UPGRADE_TYPES.contains(&update.upgrade_type) {
        return Err("The controller does not support the given upgrade type.".to_string());
    }
    if level < 0 {
        return Err("A feature version cannot be less than 0.".to_string());
    }
    let Some(supported) = known.supported_features.iter().find(|f| f.name == update.feature) else {
        return Err(match level {
            0 => format!("Feature {} not found.", update.feature),
            _ => format!("Local controller {broker_id} does not support this feature."),
        });
    };
    let (min, max) = (supported.min_version, supported.max_version);
    if !(min..=max).contains(&level) {
        return Err(format!("Local controller {broker_id} only supports versions {min}-{max}"));
    }
    let finalized = known.finalized_features.iter().find(|f| f.name == update.feature);
    let current = finalized.map_or(0, |f| f.max_version_level);
    match (level.cmp(&current), update.upgrade_type) {
        (std::cmp::Ordering::Equal, _) => Ok(()),
        (std::cmp::Ordering::Less, UPGRADE) => Err(
            "Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe downgrade."
                .to_string(),
        ),
        (std::cmp::Ordering::Greater, kind) if kind != UPGRADE => {
            Err("Can't downgrade to a newer version.".to_string())
        }
        _ => Err(format!("This version runs at level {current} only.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;

    fn ask(feature: &str, level: i16, upgrade_type: i8) -> UpdateFeaturesRequest {
        let update = FeatureUpdateKey::default()
            .with_feature(text(feature))
            .with_max_version_level(level)
            .with_upgrade_type(upgrade_type);
        UpdateFeaturesRequest::default().with_feature_updates(vec![update])
    }

    #[tokio::test]
    async fn a_level_may_stay_in_every_version() {
        let fixture = Fixture::new().await;
        for version in 0..=2 {
            let response: UpdateFeaturesResponse =
                fixture.call(version, &ask("transaction.version", 2, 1)).await;
            let results: Vec<i16> = response.results.iter().map(|r| r.error_code).collect();
            assert_eq!((response.error_code, results), (0, if version < 2 { vec![0] } else { vec![] }));
        }
    }

    #[tokio::test]
    async fn refusals_are_kafkas() {
        let fixture = Fixture::new().await;
        for (feature, level, upgrade_type, words) in [
            ("transaction.version", 2, 0, "does not support the given upgrade type"),
            ("transaction.version", -1, 1, "cannot be less than 0"),
            ("transaction.version", 3, 1, "Local controller 1 only supports versions 0-2"),
            ("transaction.version", 1, 1, "Can't downgrade the version of this feature without"),
            ("transaction.version", 1, 2, "runs at level 2 only"),
            ("metadata.version", 20, 1, "Local controller 1 does not support this feature."),
            ("foo", 0, 3, "not found"),
        ] {
            let response: UpdateFeaturesResponse = fixture.call(2, &ask(feature, level, upgrade_type)).await;
            let why = response.error_message.unwrap_or_default();
            assert_eq!(response.error_code, 95, "{feature} {level}: {why}");
            let prefix = format!("had an error: Invalid update version {level} for feature {feature}. ");
            assert!(why.contains(&prefix) && why.contains(words), "{why}");
        }
    }
}
