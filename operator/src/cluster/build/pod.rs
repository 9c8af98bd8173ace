//! The brokers' pods. They pass the `restricted` pod security standard.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, DownwardAPIVolumeFile,
    DownwardAPIVolumeSource, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath,
    ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec,
    Probe, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;

use super::Input;
use crate::broker::admin::ADMIN_PORT;
use crate::cluster::names::{
    ADMIN_PORT_NAME, ADVERTISED, BOOTSTRAP, CONFIG_FILE, CONFIG_HASH, CONTAINER, DATA, RACK, TOKEN_KEY, WAL,
};
use crate::crd::cluster::{Pool, SeccompType};

/// The user and group of the broker's image.
const USER: i64 = 10001;
const CONFIG_DIR: &str = "/etc/chronik/config";

pub fn template(input: &Input<'_>, pool: &Pool, config_hash: &str) -> PodTemplateSpec {
    let spec = &input.cluster.spec;
    // The operator's own labels and annotations are what it finds its pods by, and what brokers believe.
    let others = |(name, value): (&String, &String)| {
        (!name.starts_with("chronik.io/")).then(|| (name.clone(), value.clone()))
    };
    let mut labels: BTreeMap<String, String> = pool.pod_labels.iter().filter_map(others).collect();
    labels.extend(input.names.pool_labels(&pool.name));
    let mut annotations: BTreeMap<String, String> = pool.pod_annotations.iter().filter_map(others).collect();
    annotations.insert(CONFIG_HASH.to_string(), config_hash.to_string());
    let selector = &pool.node_selector;
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(input.names.brokers()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(pool.termination_grace_period_seconds),
            image_pull_secrets: Some(spec.image_pull_secrets.clone()).filter(|secrets| !secrets.is_empty()),
            node_selector: Some(selector.clone()).filter(|labels| !labels.is_empty()),
            tolerations: Some(pool.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
            priority_class_name: pool.priority_class_name.clone(),
            affinity: Some(apart(input)),
            security_context: Some(pod_security(input)),
            containers: vec![container(input, pool)],
            volumes: Some(volumes(input)),
            ..PodSpec::default()
        }),
    }
}

/// No two brokers of a cluster on one host: one host's end would take both.
fn apart(input: &Input<'_>) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(LabelSelector {
            match_labels: Some(input.names.selector()),
            ..LabelSelector::default()
        }),
        topology_key: "kubernetes.io/hostname".to_string(),
        ..PodAffinityTerm::default()
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![term]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn pod_security(input: &Input<'_>) -> PodSecurityContext {
    let seccomp = &input.cluster.spec.io.seccomp_profile;
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        // Volumes with many segments would be walked through at each start otherwise.
        fs_group_change_policy: Some("OnRootMismatch".to_string()),
        seccomp_profile: Some(SeccompProfile {
            type_: match seccomp.kind {
                SeccompType::RuntimeDefault => "RuntimeDefault",
                SeccompType::Localhost => "Localhost",
            }
            .to_string(),
            localhost_profile: seccomp.localhost_profile.clone(),
        }),
        ..PodSecurityContext::default()
    }
}

fn container(input: &Input<'_>, pool: &Pool) -> Container {
    let spec = &input.cluster.spec;
    let port = |name: &str, port: i32| ContainerPort {
        name: Some(name.to_string()),
        container_port: port,
        protocol: Some("TCP".to_string()),
        ..ContainerPort::default()
    };
    let mut ports: Vec<ContainerPort> = spec.listeners.iter().map(|l| port(&l.name, l.port)).collect();
    ports.push(port(ADMIN_PORT_NAME, i32::from(ADMIN_PORT)));
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_string(),
        mount_path: path.to_string(),
        read_only: Some(true).filter(|_| read_only),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount(DATA, "/var/lib/chronik", false)];
    mounts.extend(pool.storage.wal_volume.as_ref().map(|_| mount(WAL, "/var/lib/chronik-wal", false)));
    mounts.extend([
        mount("config", CONFIG_DIR, true),
        mount("admin", "/etc/chronik/admin", true),
        mount("placement", "/etc/chronik/placement", true),
        mount("tmp", "/tmp", false),
    ]);
    let command = ["chronik", "broker", "--config", &format!("{CONFIG_DIR}/{CONFIG_FILE}")];
    Container {
        name: CONTAINER.to_string(),
        image: Some(input.image.to_string()),
        image_pull_policy: spec.image_pull_policy.map(|policy| policy.name().to_string()),
        command: Some(command.map(str::to_string).to_vec()),
        env: Some(vec![EnvVar {
            name: "CHRONIK_BROKER_ID".to_string(),
            value_from: Some(EnvVarSource {
                field_ref: Some(field("metadata.labels['apps.kubernetes.io/pod-index']")),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        }]),
        ports: Some(ports),
        resources: pool.resources.clone(),
        volume_mounts: Some(mounts),
        // The admin server answers while a log is being recovered, however long that takes.
        liveness_probe: Some(probe("/livez", 10, 5, 6)),
        readiness_probe: Some(probe("/readyz", 2, 2, 2)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_string()]),
                ..Capabilities::default()
            }),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_string()),
        ..Container::default()
    }
}

fn probe(path: &str, period: i32, timeout: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_string()),
            port: IntOrString::String(ADMIN_PORT_NAME.to_string()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn field(path: &str) -> ObjectFieldSelector {
    ObjectFieldSelector { field_path: path.to_string(), ..ObjectFieldSelector::default() }
}

/// All but the claims' volumes, which the StatefulSet adds.
fn volumes(input: &Input<'_>) -> Vec<Volume> {
    let volume = |name: &str| Volume { name: name.to_string(), ..Volume::default() };
    let placement = [ADVERTISED, RACK, BOOTSTRAP].map(|annotation| DownwardAPIVolumeFile {
        path: annotation.trim_start_matches("chronik.io/").to_string(),
        field_ref: Some(field(&format!("metadata.annotations['{annotation}']"))),
        ..DownwardAPIVolumeFile::default()
    });
    vec![
        Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: input.names.config(),
                items: Some(vec![key(CONFIG_FILE)]),
                ..ConfigMapVolumeSource::default()
            }),
            ..volume("config")
        },
        Volume {
            secret: Some(SecretVolumeSource {
                secret_name: Some(input.names.token()),
                items: Some(vec![key(TOKEN_KEY)]),
                ..SecretVolumeSource::default()
            }),
            ..volume("admin")
        },
        Volume {
            downward_api: Some(DownwardAPIVolumeSource {
                items: Some(placement.to_vec()),
                ..DownwardAPIVolumeSource::default()
            }),
            ..volume("placement")
        },
        Volume {
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_string()),
                size_limit: Some(Quantity("16Mi".to_string())),
            }),
            ..volume("tmp")
        },
    ]
}

fn key(name: &str) -> KeyToPath {
    KeyToPath { key: name.to_string(), path: name.to_string(), ..KeyToPath::default() }
}
