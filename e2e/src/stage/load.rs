//! Load on a cluster from the outside (through a node port) and from the inside (from a pod, through the bootstrap
//! Service).

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::process::{Child, Command};

use super::Stage;
use super::api::text;
use super::manifest;
use super::wait::{s, until};
use crate::client::report::Report;

/// A load never runs longer than this, whatever becomes of the test.
const SECONDS_MAX: u64 = 3600;
/// How long a load may take to settle and to read everything back.
const SETTLE: Duration = s(180);

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub bootstrap: String,
    pub topic: String,
    pub rate: u64,
    /// `all` or `1`.
    pub acks: &'static str,
}

impl Wanted {
    fn args(&self, until: &str, out: &str) -> Vec<String> {
        let (rate, seconds) = (self.rate.to_string(), SECONDS_MAX.to_string());
        #[rustfmt::skip]
        let args = [
            "load", "--bootstrap", &self.bootstrap, "--topic", &self.topic, "--rate", &rate, "--seconds", &seconds,
            "--acks", self.acks, "--until", until, "--out", out, "--verify",
        ];
        args.map(str::to_owned).to_vec()
    }
}

/// A load from the outside.
pub struct Outside {
    child: Child,
    until: PathBuf,
    /// The ledger, for reading back again later.
    pub ledger: PathBuf,
    log: PathBuf,
}

/// A load from a pod.
pub struct Inside {
    namespace: String,
    name: String,
}

impl Stage {
    /// Starts a load from the outside and returns when it runs.
    pub async fn load_outside(&self, name: &str, wanted: &Wanted) -> Result<Outside> {
        let [until, ledger, log] =
            ["stop", "ledger", "log"].map(|kind| self.out.join(format!("{name}.{kind}")));
        for file in [&until, &ledger] {
            let _ = std::fs::remove_file(file);
        }
        let stderr = std::fs::File::create(&log)?;
        let args = wanted.args(&until.to_string_lossy(), &ledger.to_string_lossy());
        let child = Command::new(&self.client)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.client.display()))?;
        Ok(Outside { child, until, ledger, log })
    }

    /// Starts a load from a pod.
    pub async fn load_inside(&self, namespace: &str, name: &str, wanted: &Wanted) -> Result<Inside> {
        let args = wanted.args("/tmp/stop", "/tmp/ledger");
        self.apply(&manifest::client_pod(namespace, name, &args)).await?;
        let load = Inside { namespace: namespace.to_owned(), name: name.to_owned() };
        until(format!("pod {namespace}/{name} runs"), s(60), || async {
            let pod = self.api.get("pod", namespace, name).await?;
            let phase = text(&pod, "/status/phase").to_owned();
            ensure!(phase != "Failed", "the client failed: {}", self.pod_log(namespace, name).await?);
            ensure!(phase == "Running", "phase {phase}");
            Ok(())
        })
        .await?;
        Ok(load)
    }

    /// Runs the client in a pod to its end, and returns what it printed.
    pub async fn client_in_pod(&self, namespace: &str, name: &str, args: &[&str]) -> Result<String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.apply(&manifest::client_pod(namespace, name, &args)).await?;
        let (phase, log) = self.pod_end(namespace, name, s(90)).await?;
        ensure!(phase == "Succeeded", "{namespace}/{name} {phase}: {log}");
        self.kubectl(&["-n", namespace, "delete", "pod", name, "--wait=false"]).await?;
        Ok(log)
    }

    async fn pod_end(&self, namespace: &str, name: &str, limit: Duration) -> Result<(String, String)> {
        let phase = until(format!("pod {namespace}/{name} ends"), limit, || async {
            let pod = self.api.get("pod", namespace, name).await?;
            let phase = text(&pod, "/status/phase").to_owned();
            ensure!(phase == "Succeeded" || phase == "Failed", "phase {phase}");
            Ok(phase)
        })
        .await?;
        Ok((phase, self.pod_log(namespace, name).await?))
    }

    async fn pod_log(&self, namespace: &str, name: &str) -> Result<String> {
        self.kubectl(&["-n", namespace, "logs", name]).await
    }

    /// Holds what a ledger says against a cluster's records.
    pub async fn verify(&self, bootstrap: &str, ledger: &std::path::Path) -> Result<Report> {
        let ledger = ledger.to_string_lossy();
        let output = Command::new(&self.client)
            .args(["verify", "--bootstrap", bootstrap, "--ledger", &ledger])
            .stdin(Stdio::null())
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        report(&text).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Outside {
    /// Ends the load, and returns what it came to once everything has been read back.
    pub async fn finish(self) -> Result<Report> {
        std::fs::write(&self.until, "")?;
        let output = tokio::time::timeout(SETTLE, self.child.wait_with_output())
            .await
            .map_err(|_| anyhow!("the load has not settled within {} s", SETTLE.as_secs()))??;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        report(&text).with_context(|| std::fs::read_to_string(&self.log).unwrap_or_default())
    }
}

impl Inside {
    /// Ends the load, and returns what it came to once everything has been read back.
    pub async fn finish(self, stage: &Stage) -> Result<Report> {
        let (namespace, name) = (self.namespace.as_str(), self.name.as_str());
        let stop = ["-n", namespace, "exec", name, "--", "chronik-e2e-client", "stop", "/tmp/stop"];
        stage.kubectl(&stop).await?;
        let (_, log) = stage.pod_end(namespace, name, SETTLE).await?;
        stage.kubectl(&["-n", namespace, "delete", "pod", name, "--wait=false"]).await?;
        report(&log)
    }
}

/// The report is the last line of what a client prints that is JSON.
fn report(text: &str) -> Result<Report> {
    match text.lines().rev().find(|line| line.starts_with('{')) {
        Some(line) => serde_json::from_str(line).with_context(|| line.to_owned()),
        None => bail!("the client gave no report: {text}"),
    }
}
