//! What the scenarios act with: kubectl and helm, as a user would; a reader of the API; loads; and waiting.

pub mod api;
pub mod kafka;
pub mod load;
pub mod manifest;
pub mod metrics;
pub mod nodes;
pub mod wait;

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::bed::Bed;
use crate::bed::process::tail;
use api::{Api, Condition, condition, text};
use metrics::{Metrics, http_get};
use nodes::NodeWatch;
use wait::{s, until};

/// The client's image.
pub const CLIENT_IMAGE: &str = "localhost/chronik-e2e:dev";
/// The broker's image, which the operator uses unless told otherwise.
pub const BROKER_IMAGE: &str = "localhost/chronik-broker:dev";
/// Where the operator is.
pub const SYSTEM: &str = "chronik-system";
/// The operator's Helm release.
pub const OPERATOR: &str = "chronik-operator";
/// What begins the names of directories in which a failure is kept.
pub const FAILED: &str = "failed-";
/// How long kubectl and helm may take.
const COMMAND: Duration = s(180);

/// What scenarios act with.
pub struct Stage {
    pub bed: Bed,
    pub api: Api,
    pub nodes: NodeWatch,
    /// The repository.
    pub root: PathBuf,
    /// Where ledgers and what a failure left are written.
    pub out: PathBuf,
    /// The client's program, for loads from the outside.
    pub client: PathBuf,
    /// The long run.
    pub full: bool,
    volumes: AtomicU32,
    cleared: Mutex<Vec<String>>,
}

impl Stage {
    /// Connects to the bed that is up. Runs in its control plane's namespace.
    pub async fn open(root: PathBuf, out: PathBuf, client: PathBuf, full: bool) -> Result<Stage> {
        std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
        let (bed, api) = (Bed::open()?, Api::connect().await?);
        let nodes = NodeWatch::start(api.clone());
        Ok(Stage {
            bed,
            api,
            nodes,
            root,
            out,
            client,
            full,
            volumes: AtomicU32::new(0),
            cleared: Mutex::default(),
        })
    }

    /// Runs kubectl.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        printed("kubectl", args, call("kubectl", args, None).await?)
    }

    /// Runs helm.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        printed("helm", args, call("helm", args, None).await?)
    }

    /// `kubectl apply`.
    pub async fn apply(&self, manifest: &Value) -> Result<()> {
        let args = ["apply", "-f", "-"];
        printed("kubectl", &args, call("kubectl", &args, Some(manifest.to_string())).await?)?;
        Ok(())
    }

    /// `kubectl apply` of what must be refused; the refusal must say `why`.
    pub async fn refused(&self, manifest: &Value, why: &str) -> Result<()> {
        let output = call("kubectl", &["apply", "-f", "-"], Some(manifest.to_string())).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "was accepted: {manifest}");
        ensure!(said.contains(why), "refused, but not because of {why:?}: {said}");
        Ok(())
    }

    /// Whether the API server would take these manifests, given as YAML.
    pub async fn takes(&self, manifests: &str) -> Result<()> {
        let args = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"];
        printed("kubectl", &args, call("kubectl", &args, Some(manifests.to_owned())).await?).map(drop)
    }

    /// Deletes an object and waits until it is gone.
    pub async fn delete(&self, namespace: &str, kind: &str, name: &str, limit: Duration) -> Result<()> {
        self.kubectl(&["-n", namespace, "delete", kind, name, "--wait=false", "--ignore-not-found"]).await?;
        self.gone(namespace, kind, name, limit).await
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, namespace: &str, kind: &str, name: &str, limit: Duration) -> Result<()> {
        until(format!("{kind} {namespace}/{name} gone"), limit, || async {
            let found = self.api.find(kind, namespace, name).await?;
            let Some(found) = found else { return Ok(()) };
            bail!("still there, with finalizers {}", found["metadata"]["finalizers"])
        })
        .await
    }

    /// Makes a namespace that demands the `restricted` standard.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        self.apply(&manifest::namespace(name)).await
    }

    /// Makes a local volume on a node, of the StorageClass `local`.
    pub async fn volume(&self, node: u32) -> Result<String> {
        self.volume_of("local", node).await
    }

    /// Makes a local volume on a node.
    pub async fn volume_of(&self, class: &str, node: u32) -> Result<String> {
        let number = self.volumes.fetch_add(1, Ordering::Relaxed);
        // Unique also when scenarios run again on a bed that was kept.
        let name = format!("volume-{}-{number}", std::process::id());
        let path = self.bed.volume(&name)?;
        self.apply(&manifest::storage_class(class)).await?;
        self.apply(&manifest::local_volume(&name, class, node, &path)).await?;
        Ok(name)
    }

    /// Installs the operator, unless that is done already. On node 1, which no test kills.
    pub async fn operator(&self) -> Result<()> {
        if self.api.find("deployment", SYSTEM, OPERATOR).await?.is_none() {
            self.namespace(SYSTEM).await?;
            self.install_operator().await?;
        }
        self.operator_ready(s(60)).await
    }

    /// `helm upgrade --install` of the operator's chart. It looks at everything more often than by default, so that no
    /// test waits long for a correction.
    pub async fn install_operator(&self) -> Result<()> {
        self.install_operator_with(&[]).await
    }

    /// The same with further arguments.
    pub async fn install_operator_with(&self, more: &[&str]) -> Result<()> {
        let chart = self.root.join("charts/chronik-operator").display().to_string();
        let node = r"nodeSelector.kubernetes\.io/hostname=n1";
        let args = ["upgrade", "--install", OPERATOR, &chart, "-n", SYSTEM, "--wait"];
        let args = [args.as_slice(), &["--set", node, "--set", "resyncSeconds=10"], more].concat();
        self.helm(&args).await.map(|_| ())
    }

    /// Waits until an operator is ready and no other is left.
    pub async fn operator_ready(&self, limit: Duration) -> Result<()> {
        until("the operator ready", limit, || async {
            let pods = self.operator_pods().await?;
            ensure!(pods.len() == 1, "{} pods", pods.len());
            ensure!(condition(&pods[0], "Ready").status == "True", "not ready");
            Ok(())
        })
        .await
    }

    /// The operator's pods.
    pub async fn operator_pods(&self) -> Result<Vec<Value>> {
        self.api.list("pod", SYSTEM, Some("app.kubernetes.io/name=chronik-operator")).await
    }

    /// Kills the operator's pod at once. The Deployment makes another.
    pub async fn kill_operator(&self) -> Result<()> {
        for pod in self.operator_pods().await? {
            let name = text(&pod, "/metadata/name");
            // A process that is killed says nothing more: it keeps its lease until that runs out.
            for process in self.bed.processes_of_pod(text(&pod, "/metadata/uid")) {
                crate::bed::process::signal(process, rustix::process::Signal::KILL);
            }
            let delete = ["-n", SYSTEM, "delete", "pod", name, "--grace-period=0", "--force", "--wait=false"];
            self.kubectl(&delete).await?;
        }
        Ok(())
    }

    /// Waits until a cluster is Ready at its newest generation, with nothing under way, and returns it.
    pub async fn ready(&self, namespace: &str, name: &str, limit: Duration) -> Result<Value> {
        let cluster = self.expect(namespace, name, "Ready", "True", "Ready", limit).await?;
        ensure!(text(&cluster, "/status/ready") == "1/1", "Ready, but {}", cluster["status"]["ready"]);
        Ok(cluster)
    }

    /// Waits until a cluster's condition has this status and reason.
    pub async fn expect(
        &self,
        namespace: &str,
        name: &str,
        kind: &str,
        status: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<Value> {
        self.expect_of("chronikcluster", namespace, name, (kind, status, reason), limit).await
    }

    /// Waits until a topic is Ready at its newest generation.
    pub async fn topic_ready(&self, namespace: &str, name: &str, limit: Duration) -> Result<Value> {
        self.expect_of("chroniktopic", namespace, name, ("Ready", "True", "Synced"), limit).await
    }

    /// Waits until a topic is not Ready for this reason.
    pub async fn topic_refused(
        &self,
        namespace: &str,
        name: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<Value> {
        self.expect_of("chroniktopic", namespace, name, ("Ready", "False", reason), limit).await
    }

    async fn expect_of(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        (wanted, status, reason): (&str, &str, &str),
        limit: Duration,
    ) -> Result<Value> {
        until(format!("{kind} {namespace}/{name}: {wanted} {status} {reason}"), limit, || async {
            let object = self.api.get(kind, namespace, name).await?;
            let generation = api::number(&object, "/metadata/generation");
            let observed = api::number(&object, "/status/observedGeneration");
            ensure!(observed == generation, "generation {generation}, observed {observed}");
            let is: Condition = condition(&object, wanted);
            ensure!(is.status == status && is.reason == reason, "{wanted} is {is}");
            Ok(object)
        })
        .await
    }

    /// The pod of a cluster's one broker.
    pub async fn broker_pod(&self, namespace: &str, cluster: &str) -> Result<Value> {
        self.api.get("pod", namespace, &format!("{cluster}-main-0")).await
    }

    /// Which pod the broker runs in, and how often its container was started in it: neither changes without a restart.
    pub async fn life(&self, namespace: &str, cluster: &str) -> Result<(String, i64)> {
        let pod = self.broker_pod(namespace, cluster).await?;
        let restarts = api::number(&pod, "/status/containerStatuses/0/restartCount");
        Ok((text(&pod, "/metadata/uid").to_owned(), restarts))
    }

    /// What the broker's `/metrics` says now.
    pub async fn broker_metrics(&self, namespace: &str, cluster: &str) -> Result<Metrics> {
        Metrics::fetch(&self.admin_address(namespace, cluster).await?).await
    }

    /// A page of the broker's admin server that needs the token.
    pub async fn broker_page(&self, namespace: &str, cluster: &str, path: &str) -> Result<Value> {
        let secret = self.api.get("secret", namespace, &format!("{cluster}-admin-token")).await?;
        let token = base64(text(&secret, "/data/token"))?;
        let address = self.admin_address(namespace, cluster).await?;
        let page = http_get(&address, path, Some(token.trim())).await?;
        Ok(serde_json::from_str(&page)?)
    }

    async fn admin_address(&self, namespace: &str, cluster: &str) -> Result<String> {
        let pod = self.broker_pod(namespace, cluster).await?;
        let ip = text(&pod, "/status/podIP");
        ensure!(!ip.is_empty(), "the broker's pod has no address yet");
        Ok(format!("{ip}:9644"))
    }

    /// Where clients connect, by a listener's name, as the cluster's status tells users.
    pub fn bootstrap(&self, cluster: &Value, listener: &str) -> Result<String> {
        let all = cluster.pointer("/status/listeners").and_then(Value::as_array);
        let of = all.into_iter().flatten().find(|of| text(of, "/name") == listener);
        let bootstrap = of.map(|of| text(of, "/bootstrap")).unwrap_or_default();
        ensure!(
            !bootstrap.is_empty(),
            "no bootstrap address of {listener} in {}",
            cluster["status"]["listeners"]
        );
        Ok(bootstrap.to_owned())
    }

    /// Deletes a namespace and all that is in it. That it goes is seen at the end, by [`all_cleared`](Self::all_cleared).
    pub async fn clear(&self, namespace: &str) -> Result<()> {
        self.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
        self.cleared.lock().unwrap_or_else(PoisonError::into_inner).push(namespace.to_owned());
        Ok(())
    }

    /// Waits until every namespace that a scenario has cleared is gone.
    pub async fn all_cleared(&self) -> Result<()> {
        let cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for namespace in cleared {
            self.gone("", "namespace", &namespace, s(60)).await?;
        }
        Ok(())
    }

    /// Writes down what a human would look at first when a scenario has failed.
    pub async fn diagnose(&self, scenario: &str) {
        let dir = self.out.join(format!("{FAILED}{scenario}"));
        let _ = std::fs::create_dir_all(&dir);
        let looks: [(&str, &[&str]); 7] = [
            ("objects", &["get", "nodes,pods,pvc,pv,statefulsets,services,chronik", "-A", "-o", "wide"]),
            ("clusters.yaml", &["get", "chronikclusters", "-A", "-o", "yaml"]),
            ("topics.yaml", &["get", "chroniktopics", "-A", "-o", "yaml"]),
            ("pods.yaml", &["get", "pods", "-A", "-o", "yaml"]),
            ("events", &["get", "events", "-A", "--sort-by=.lastTimestamp"]),
            ("operator.log", &["-n", SYSTEM, "logs", "deployment/chronik-operator", "--tail=400"]),
            (
                "operator-before.log",
                &["-n", SYSTEM, "logs", "deployment/chronik-operator", "-p", "--tail=200"],
            ),
        ];
        for (name, args) in looks {
            if let Ok(output) = call("kubectl", args, None).await {
                let _ = std::fs::write(dir.join(name), [output.stdout, output.stderr].concat());
            }
        }
        for pod in self.brokers().await {
            let (namespace, name) = (text(&pod, "/metadata/namespace"), text(&pod, "/metadata/name"));
            let args = ["-n", namespace, "logs", name, "--tail=300"];
            if let Ok(output) = call("kubectl", &args, None).await {
                let file = dir.join(format!("{namespace}-{name}.log"));
                let _ = std::fs::write(file, [output.stdout, output.stderr].concat());
            }
        }
        println!("   what was there then: {}", dir.display());
    }

    /// After a failure: nodes that are still dead are started, and the scenario's namespaces go, so that the next
    /// scenario fails only by its own.
    pub async fn recover(&self) -> Result<()> {
        for name in self.nodes.killed() {
            let number = name.trim_start_matches('n').parse()?;
            tokio::task::block_in_place(|| self.bed.start_node(number))?;
            until(format!("{name} ready"), s(90), || async {
                let node = self.api.get("node", "", &name).await?;
                ensure!(condition(&node, "Ready").status == "True", "not yet");
                Ok(())
            })
            .await?;
            self.nodes.settled(&name);
        }
        let cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for namespace in self.api.list("namespace", "", None).await? {
            let name = text(&namespace, "/metadata/name");
            if name.starts_with("e2e-") && cleared.iter().all(|cleared| cleared != name) {
                self.clear(name).await?;
            }
        }
        Ok(())
    }

    async fn brokers(&self) -> Vec<Value> {
        let mut brokers = Vec::new();
        for namespace in self.api.list("namespace", "", None).await.unwrap_or_default() {
            let name = text(&namespace, "/metadata/name");
            let label = Some("app.kubernetes.io/component=broker");
            brokers.extend(self.api.list("pod", name, label).await.unwrap_or_default());
        }
        brokers
    }
}

async fn call(program: &str, args: &[&str], stdin: Option<String>) -> Result<Output> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        pipe.write_all(text.as_bytes()).await?;
    }
    let limit = tokio::time::timeout(COMMAND, child.wait_with_output());
    limit
        .await
        .with_context(|| format!("{program} {}: not done in time", args.join(" ")))?
        .map_err(Into::into)
}

fn printed(program: &str, args: &[&str], output: Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let said = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    bail!("{program} {}: {}\n{}", args.join(" "), output.status, tail(&said))
}

/// What Kubernetes writes in a Secret's data.
fn base64(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => bail!("{:?} is no letter of base64", other as char),
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(String::from_utf8(bytes)?)
}

/// How long something took, for tables.
pub fn took(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read() {
        assert_eq!(base64("aGVsbG8=").unwrap(), "hello");
        assert_eq!(base64("aGVsbG8h").unwrap(), "hello!");
        assert_eq!(base64("").unwrap(), "");
        assert!(base64("a b").is_err());
    }
}
