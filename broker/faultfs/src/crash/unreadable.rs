//! A segment that the disk cannot read: the scrub finds it, the broker lives, and what lies around it is served.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::batch::{Record, Writer, encode};
use super::faults::{Bed, wait};
use super::kafka::Connection;
use super::rounds::LIVELY;

const TOPIC: &str = "scrubbed";
const BATCHES: i64 = 40;
const RECORD_BYTES: usize = 100_000;
/// The offset whose record cannot be read: one batch each, of a little more than its record.
const LOST: i64 = 4;

/// Of all closed segments, one block of the oldest cannot be read, and later can be again.
pub fn a_block_of_a_segment(bed: &Bed) -> Result<String> {
    let (mounted, mut spec) = bed.on_mount()?;
    for (name, value) in LIVELY {
        spec = spec.with(name, value);
    }
    let mut running = spec.clone().with("chronik.scrub.interval.ms", "-1").start()?;
    let mut broker = Connection::open(&spec.address())?;
    broker.create_topic(TOPIC, 1, &[("segment.bytes", "1048576"), ("retention.ms", "-1")])?;
    wait("the topic has a leader", || broker.partitions_with_leader(TOPIC).is_ok_and(|n| n == 1))?;
    for n in 0..BATCHES {
        let value = Some(vec![n as u8; RECORD_BYTES]);
        let record = Record { key: None, value, headers: Vec::new() };
        let sent = broker.send_produce(-1, vec![(TOPIC, 0, encode(&[record], Writer::PLAIN, 1000 + n))])?;
        let produced = broker.receive_produce(sent)?;
        ensure!(produced.iter().all(|(_, _, p)| p.error == 0), "the broker refuses");
    }
    // What was just written is served from memory.
    running.terminate()?;
    running.wait_exit(std::time::Duration::from_secs(20))?;
    let oldest = oldest_segment(&spec.data_dir)?;
    let bad = (std::fs::metadata(&oldest)?.ino(), RECORD_BYTES as u64 * LOST as u64 + 50_000);
    mounted.state().lock().faults_mut().unreadable = Some(bad);

    let mut running = spec.with("chronik.scrub.interval.ms", "1000").start()?;
    let damaged = |running: &super::process::Running| running.metric("chronik_scrub_damaged_segments").ok();
    wait("the scrub finds it", || damaged(&running) == Some(1))?;
    ensure!(mounted.state().lock().stats().failed_reads > 0, "nothing was unreadable");
    let mut broker = Connection::open(&running.spec().address())?;
    let refused = broker.fetch(TOPIC, 0, LOST).map(|_| ()).unwrap_err().to_string();
    ensure!(refused.contains("error 56"), "not KAFKA_STORAGE_ERROR: {refused}");
    let mut read = |from: i64, to: i64| -> Result<()> {
        let mut next = from;
        while next < to {
            let batches = broker.fetch(TOPIC, 0, next)?;
            let last = batches.last().with_context(|| format!("nothing at {next} of {to}"))?;
            next = last.base_offset + 1;
        }
        Ok(())
    };
    read(0, LOST).context("before the damage")?;
    read(LOST + 1, BATCHES).context("behind the damage")?;
    ensure!(running.is_alive(), "the broker ended:\n{}", running.output());
    let output = running.output();
    let line = output.lines().find(|line| line.contains("damage in a segment"));
    let line = line.with_context(|| format!("no line says what is damaged:\n{output}"))?.to_owned();
    ensure!(line.contains("offsets 4 to 4") && line.contains("Input/output error"), "{line}");

    mounted.state().lock().faults_mut().unreadable = None;
    wait("it is whole again", || damaged(&running) == Some(0))?;
    read(0, BATCHES).context("when it can be read again")?;
    Ok("found without a reader, 1 batch of 40 refused, whole again later".to_owned())
}

/// The first file of the only topic.
fn oldest_segment(data_dir: &Path) -> Result<PathBuf> {
    let mut dirs = vec![data_dir.join("topics")];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            match path.is_dir() {
                true => dirs.push(path),
                false => files.extend(path.extension().is_some_and(|e| e == "log").then_some(path.clone())),
            }
        }
    }
    files.sort();
    ensure!(files.len() > 2, "too few segments: {files:?}");
    files.into_iter().next().context("no segment")
}
