//! Volumes that are to grow. Pure: facts in, what to do out.
//!
//! A claim grows by its own object. The StatefulSet's claim templates cannot be changed, so the StatefulSet is deleted,
//! its pods and claims left behind, and made again with the new size.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use crate::crd::ChronikCluster;
use crate::crd::cluster::Volume;

use super::facts::Facts;
use super::names::{self, DATA, Names, WAL};
use super::status::is_default;

/// What is to be done for the volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Claims to be patched to a new size.
    pub grow: Vec<Grow>,
    /// StatefulSets whose templates say another size, by name.
    pub recreate: BTreeMap<String, Recreate>,
    /// What cannot grow, and why.
    pub refused: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Grow {
    pub claim: String,
    pub uid: String,
    pub size: Quantity,
}

/// The way from a StatefulSet to its successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recreate {
    /// The claims would be deleted with it: it has to let go of them first.
    LetGoOfClaims,
    /// Deleted without its pods; made again by the next apply.
    Delete { uid: String },
    /// It keeps its old templates, since its claims cannot grow.
    Keep,
}

pub fn plan(cluster: &ChronikCluster, names: &Names, facts: &Facts) -> Plan {
    let mut plan = Plan::default();
    for pool in &cluster.spec.pools {
        let set_name = names.stateful_set(&pool.name);
        let mut can_grow = true;
        let volumes = std::iter::once((DATA, &pool.storage.volume));
        let volumes: Vec<(&str, &Volume)> =
            volumes.chain(pool.storage.wal_volume.as_ref().map(|volume| (WAL, volume))).collect();
        for id in names::broker_ids(pool) {
            for (template, volume) in &volumes {
                let name = format!("{template}-{}", names.pod(&pool.name, id));
                let Some(claim) = facts.claims.get(&name) else { continue };
                match growth(facts, claim, volume) {
                    Ok(None) => (),
                    Ok(Some(grow)) => plan.grow.push(grow),
                    Err(why) => {
                        can_grow = false;
                        plan.refused.push(why);
                    }
                }
            }
        }
        if let Some(set) = facts.stateful_sets.get(&set_name)
            && volumes.iter().any(|(template, volume)| {
                // By what they are: Kubernetes stores 1024Gi as 1Ti.
                template_size(set, template).and_then(millis) != millis(&volume.size)
            })
        {
            let step = if can_grow { recreate(facts, set) } else { Recreate::Keep };
            plan.recreate.insert(set_name, step);
        }
    }
    plan
}

/// The StorageClass that the volumes of a new cluster would wait for in vain. Nothing is made before it is there: a claim
/// that names it could not be mended afterwards.
pub fn missing_class(cluster: &ChronikCluster, facts: &Facts) -> Option<String> {
    let classes = facts.storage_classes.as_ref()?;
    let pools = cluster.spec.pools.iter();
    let volumes =
        pools.flat_map(|pool| std::iter::once(&pool.storage.volume).chain(&pool.storage.wal_volume));
    volumes.map(|volume| volume.storage_class_name.as_deref()).find_map(|class| match class {
        Some(class) => (!classes.contains_key(class)).then(|| format!("there is no StorageClass {class}")),
        None => (!classes.values().any(is_default))
            .then(|| "there is no default StorageClass, and storage.storageClassName is not set".to_string()),
    })
}

fn growth(facts: &Facts, claim: &PersistentVolumeClaim, volume: &Volume) -> Result<Option<Grow>, String> {
    let name = claim.name_any();
    let asked = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage"));
    let asked = asked.and_then(millis).unwrap_or(0);
    let wanted = millis(&volume.size).ok_or_else(|| format!("{} is not a size", volume.size.0))?;
    if wanted <= asked || claim.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default();
    let expands = match &facts.storage_classes {
        Some(classes) => classes.get(class).and_then(|c| c.allow_volume_expansion).unwrap_or(false),
        // It may not be read here; Kubernetes refuses the patch where the class does not allow it.
        None => true,
    };
    if !expands {
        return Err(format!(
            "volume claim {name} cannot grow to {}: StorageClass {class:?} does not allow it",
            volume.size.0
        ));
    }
    Ok(Some(Grow { claim: name, uid: claim.uid().unwrap_or_default(), size: volume.size.clone() }))
}

fn template_size<'a>(set: &'a StatefulSet, template: &str) -> Option<&'a Quantity> {
    let templates = set.spec.as_ref()?.volume_claim_templates.as_ref()?;
    let found = templates.iter().find(|t| t.metadata.name.as_deref() == Some(template))?;
    found.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
}

fn recreate(facts: &Facts, set: &StatefulSet) -> Recreate {
    let uid = set.uid().unwrap_or_default();
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let deletes = policy.is_some_and(|p| p.when_deleted.as_deref() == Some("Delete"));
    let owns = facts.claims.values().any(|claim| claim.owner_references().iter().any(|o| o.uid == uid));
    if deletes || owns { Recreate::LetGoOfClaims } else { Recreate::Delete { uid } }
}

/// A quantity in thousandths.
pub fn millis(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let digits = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let scale: i128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        "Ei" => 1_000 << 60,
        // `e3` or `E3`; a lone `E` is exa.
        exponent => 10i128.checked_pow(exponent.get(1..)?.parse::<u32>().ok()?.checked_add(3)?)?,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i128 = whole.parse().ok()?;
    let mut total = whole.checked_mul(scale)?;
    if !fraction.is_empty() {
        let fraction = fraction.get(..fraction.len().min(9))?;
        let unit = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        total = total.checked_add(fraction.parse::<i128>().ok()?.checked_mul(scale)? / unit)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::build::tests::small;

    fn facts(expands: bool, policy: &str) -> Facts {
        let claim = json!({"metadata": {"name": "data-demo-main-0", "uid": "c1"},
            "spec": {"storageClassName": "local", "resources": {"requests": {"storage": "10Gi"}}}});
        let set = json!({"metadata": {"name": "demo-main", "uid": "s1"}, "spec": {
            "selector": {}, "serviceName": "x", "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": policy},
            "volumeClaimTemplates": [{"metadata": {"name": "data"},
                "spec": {"resources": {"requests": {"storage": "10Gi"}}}}]}});
        let class =
            json!({"metadata": {"name": "local"}, "provisioner": "p", "allowVolumeExpansion": expands});
        Facts {
            claims: BTreeMap::from([("data-demo-main-0".into(), serde_json::from_value(claim).unwrap())]),
            stateful_sets: BTreeMap::from([("demo-main".into(), serde_json::from_value(set).unwrap())]),
            storage_classes: Some(BTreeMap::from([("local".into(), serde_json::from_value(class).unwrap())])),
            ..Facts::default()
        }
    }

    fn grown() -> ChronikCluster {
        let mut cluster = small();
        cluster.spec.pools[0].storage.volume.size = Quantity("20Gi".into());
        cluster
    }

    fn planned(cluster: &ChronikCluster, facts: &Facts) -> Plan {
        plan(cluster, &Names::of(cluster, "cluster.local"), facts)
    }

    #[test]
    fn nothing_is_done_where_nothing_grows() {
        assert_eq!(planned(&small(), &facts(true, "Retain")), Plan::default());
    }

    #[test]
    fn a_claim_grows_and_its_statefulset_is_made_again() {
        let plan = planned(&grown(), &facts(true, "Retain"));
        let grow = Grow { claim: "data-demo-main-0".into(), uid: "c1".into(), size: Quantity("20Gi".into()) };
        assert_eq!(plan.grow, [grow]);
        assert_eq!(plan.recreate["demo-main"], Recreate::Delete { uid: "s1".into() });
        assert!(plan.refused.is_empty());
    }

    #[test]
    fn a_size_in_other_words_is_the_same_size() {
        let mut cluster = small();
        for same in ["10240Mi", "10737418240"] {
            cluster.spec.pools[0].storage.volume.size = Quantity(same.into());
            assert_eq!(planned(&cluster, &facts(true, "Retain")), Plan::default(), "{same}");
        }
    }

    #[test]
    fn a_statefulset_that_would_take_its_claims_along_lets_go_first() {
        assert_eq!(planned(&grown(), &facts(true, "Delete")).recreate["demo-main"], Recreate::LetGoOfClaims);
        let mut owned = facts(true, "Retain");
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo-main", "uid": "s1"}]);
        owned.claims.get_mut("data-demo-main-0").unwrap().metadata.owner_references =
            serde_json::from_value(owner).unwrap();
        assert_eq!(planned(&grown(), &owned).recreate["demo-main"], Recreate::LetGoOfClaims);
    }

    #[test]
    fn where_the_class_does_not_expand_everything_stays_and_says_why() {
        let plan = planned(&grown(), &facts(false, "Retain"));
        assert_eq!(plan.grow, []);
        assert_eq!(plan.recreate["demo-main"], Recreate::Keep);
        assert!(
            plan.refused[0].contains("data-demo-main-0") && plan.refused[0].contains("local"),
            "{plan:?}"
        );
    }

    #[test]
    fn a_larger_claim_of_an_earlier_cluster_is_fine() {
        let mut cluster = small();
        cluster.spec.pools[0].storage.volume.size = Quantity("5Gi".into());
        let mut facts = facts(false, "Retain");
        facts.stateful_sets.clear();
        assert_eq!(planned(&cluster, &facts), Plan::default());
    }

    /// What Kubernetes and the next apply make of a plan.
    fn carried_out(cluster: &ChronikCluster, facts: &mut Facts, plan: &Plan) {
        for grow in &plan.grow {
            let claim = facts.claims.get_mut(&grow.claim).unwrap();
            let requests =
                claim.spec.as_mut().unwrap().resources.as_mut().unwrap().requests.as_mut().unwrap();
            requests.insert("storage".into(), grow.size.clone());
        }
        for (name, step) in &plan.recreate {
            match step {
                Recreate::Keep => (),
                Recreate::LetGoOfClaims => {
                    let spec = facts.stateful_sets.get_mut(name).unwrap().spec.as_mut().unwrap();
                    spec.persistent_volume_claim_retention_policy.as_mut().unwrap().when_deleted =
                        Some("Retain".into());
                    facts.claims.values_mut().for_each(|claim| claim.metadata.owner_references = None);
                }
                Recreate::Delete { uid } => {
                    let gone = facts.stateful_sets.remove(name).unwrap();
                    assert_eq!(gone.uid().as_ref(), Some(uid));
                    let policy = gone.spec.unwrap().persistent_volume_claim_retention_policy.unwrap();
                    assert_ne!(
                        policy.when_deleted.as_deref(),
                        Some("Delete"),
                        "it would take the claims along"
                    );
                    let owned =
                        facts.claims.values().any(|c| c.owner_references().iter().any(|o| o.uid == *uid));
                    assert!(!owned, "the garbage collector would take an owned claim");
                }
            }
        }
        if facts.stateful_sets.is_empty() {
            let mut set = self::facts(true, "Retain").stateful_sets.remove("demo-main").unwrap();
            let template = &mut set.spec.as_mut().unwrap().volume_claim_templates.as_mut().unwrap()[0];
            let requests =
                template.spec.as_mut().unwrap().resources.as_mut().unwrap().requests.as_mut().unwrap();
            // Kubernetes stores sizes in its own words.
            let size = millis(&cluster.spec.pools[0].storage.volume.size).unwrap() / 1000;
            requests.insert("storage".into(), Quantity(size.to_string()));
            facts.stateful_sets.insert("demo-main".into(), set);
        }
    }

    proptest::proptest! {
        /// Whatever the sizes, policies and owners: after a few looks there is nothing left to do, or it is said why
        /// not, and no claim went with its StatefulSet.
        #[test]
        fn growth_ends_and_takes_no_claim_along(
            wanted in proptest::sample::select(vec!["5Gi", "10Gi", "10240Mi", "1.5Ti", "1024Gi", "20e9"]),
            has in proptest::sample::select(vec!["5Gi", "10Gi", "20Gi", "2Ti"]),
            expands: bool,
            deletes: bool,
            owned: bool,
        ) {
            let mut cluster = small();
            cluster.spec.pools[0].storage.volume.size = Quantity(wanted.into());
            let mut facts = facts(expands, if deletes { "Delete" } else { "Retain" });
            let claim = facts.claims.get_mut("data-demo-main-0").unwrap();
            let requests = claim.spec.as_mut().unwrap().resources.as_mut().unwrap().requests.as_mut().unwrap();
            requests.insert("storage".into(), Quantity(has.into()));
            if owned {
                let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo-main", "uid": "s1"}]);
                claim.metadata.owner_references = serde_json::from_value(owner).unwrap();
            }
            for _ in 0..4 {
                let plan = planned(&cluster, &facts);
                carried_out(&cluster, &mut facts, &plan);
                assert!(facts.claims.contains_key("data-demo-main-0"));
            }
            let last = planned(&cluster, &facts);
            if last.refused.is_empty() {
                assert_eq!(last, Plan::default());
            } else {
                assert!(last.grow.is_empty() && last.recreate.values().all(|step| *step == Recreate::Keep));
            }
        }
    }

    #[test]
    fn quantities_are_compared_by_what_they_are() {
        let of = |text: &str| millis(&Quantity(text.into()));
        assert_eq!(of("1Gi"), Some(1000 << 30));
        assert_eq!(of("1.5Gi"), Some(1500 << 30));
        assert_eq!(of("1024Mi"), of("1Gi"));
        assert_eq!(of("1e3"), of("1k"));
        assert_eq!(of("2E"), of("2000P"));
        assert_eq!(of("100m"), Some(100));
        for bad in ["", "Gi", "x", "1Zi", "1e", "--1", "1e99", "9999999999999999999999999999Ei"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
