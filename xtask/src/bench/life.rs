//! Memory, start and recovery: what a server costs when nothing is asked of it, and how soon it
//! is there.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::host::resident_mib;
use super::rows::median;
use super::servers::Server;

/// How long a server is left alone before its memory is looked at.
const IDLE: Duration = Duration::from_secs(5);
/// How much is written before the crash whose recovery is timed.
const RECOVERY_BYTES: f64 = (1u64 << 30) as f64;
/// A pool in which that much waits without being recycled.
const RECOVERY_POOL: &str = "chronik.wal.size.bytes=8589934592";

/// Memory and start of one kind of server; medians.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Life {
    /// Resident when idle, in MiB.
    pub idle_mib: Option<f64>,
    /// From the start of the process on an empty directory to the first acknowledged record, in
    /// seconds.
    pub first_ack_new_s: Option<f64>,
    /// The same on a directory that was used before.
    pub first_ack_again_s: Option<f64>,
}

/// Chronik's recovery after a kill.
#[derive(Debug, Clone, Serialize)]
pub struct Recovery {
    /// Values written before the crash, in MiB; all of them lie in the WAL alone, since its pool
    /// is far from the half at which segments are written.
    pub wal_mib: f64,
    /// From the start of the process until it says it is ready, in seconds.
    pub ready_s: f64,
    /// Until the first acknowledged record, in seconds.
    pub first_ack_s: f64,
}

/// Measures starts and memory, each `times` times.
///
/// # Errors
/// When a server does not come up.
pub fn life(times: usize, tool: &Path, dir: &Path, start: impl Fn(&Path) -> Result<Server>) -> Result<Life> {
    let (mut idle, mut fresh, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..times {
        let dir = dir.join(format!("life-{turn}"));
        let begun = Instant::now();
        let mut server = start(&dir)?;
        first_ack(tool, &mut server)?;
        fresh.push(begun.elapsed().as_secs_f64());
        server.stop();
        let begun = Instant::now();
        let mut server = start(&dir)?;
        first_ack(tool, &mut server)?;
        again.push(begun.elapsed().as_secs_f64());
        server.wait()?;
        std::thread::sleep(IDLE);
        idle.push(resident_mib(server.pid())?);
        server.stop();
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(Life { idle_mib: median(idle), first_ack_new_s: median(fresh), first_ack_again_s: median(again) })
}

/// Writes about 1 GiB, kills the broker, and times its way back.
///
/// # Errors
/// When the broker does not come back.
pub fn recovery(tool: &Path, dir: &Path, start: impl Fn(&Path, &str) -> Result<Server>) -> Result<Recovery> {
    let dir = dir.join("recovery");
    let mut server = start(&dir, RECOVERY_POOL)?;
    server.wait()?;
    first_ack(tool, &mut server)?;
    let json = dir.join("fill.json");
    let mut bytes = 0.0;
    while bytes < RECOVERY_BYTES {
        let shape = ["--records-per-batch", "64", "--record-bytes", "1024", "--in-flight", "4"];
        let output = Command::new(tool)
            .args(["bench", "--quiet", "--topic", "recovery", "--warmup", "0", "--duration", "1"])
            .args(["--producers", "16", "--bootstrap", &server.bootstrap])
            .args(shape)
            .arg("--json")
            .arg(&json)
            .output()?;
        ensure!(output.status.success(), "filling the WAL: {}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json)?)?;
        bytes += report["records"].as_f64().context("no count of records")? * 1024.0;
    }
    let wal_mib = bytes / 1_048_576.0;
    server.crash()?;
    let begun = Instant::now();
    let mut server = start(&dir, RECOVERY_POOL)?;
    server.wait()?;
    let ready_s = begun.elapsed().as_secs_f64();
    first_ack(tool, &mut server)?;
    let first_ack_s = begun.elapsed().as_secs_f64();
    server.stop();
    std::fs::remove_dir_all(&dir)?;
    Ok(Recovery { wal_mib, ready_s, first_ack_s })
}

/// Tries until one record is acknowledged.
fn first_ack(tool: &Path, server: &mut Server) -> Result<()> {
    const TOPIC: &str = "first";
    let begun = Instant::now();
    let within = Duration::from_secs(90);
    let mut last = String::new();
    while begun.elapsed() < within {
        server.check_alive()?;
        let server = ["--bootstrap", server.bootstrap.as_str()];
        let produce = Command::new(tool)
            .args(["produce", "--acks", "1", "--topic", TOPIC])
            .args(server)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut produce = produce.context("cannot start chronik produce")?;
        if let Some(mut input) = produce.stdin.take() {
            // It may have ended already, for want of a server.
            let _ = input.write_all(b"first\n");
        }
        let produced = produce.wait_with_output()?;
        if produced.status.success() {
            return Ok(());
        }
        last = String::from_utf8_lossy(&produced.stderr).trim().to_owned();
        if last.contains("UNKNOWN_TOPIC_OR_PARTITION") {
            let create = ["topics", "create", TOPIC, "--partitions", "1"];
            Command::new(tool).args(create).args(server).output()?;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    anyhow::bail!("no record acknowledged within {within:?}: {last}")
}
