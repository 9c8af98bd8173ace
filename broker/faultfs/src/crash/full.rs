//! A broker that is killed on a disk full to the last byte, while retention and compaction are at work.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};

use super::faults::{Bed, Load, wait};
use super::process::{Running, Spec};
use super::rounds::LIVELY;
use crate::mount::Mounted;

/// A small reserve.
const RESERVE: u64 = 256 << 10;
/// Acknowledged batches before the disk fills up: so much is in segments then.
const BATCHES: usize = 2000;

/// A broker with logs that live fast, on a file system of its own.
fn lively(bed: &Bed) -> Result<(Mounted, Spec)> {
    let (mounted, mut spec) = bed.on_mount()?;
    for (name, value) in LIVELY {
        spec = spec.with(name, value);
    }
    Ok((mounted, spec.with("chronik.disk.reserve.bytes", &RESERVE.to_string())))
}

/// Killed while the disk is full: the start says why it cannot, or serves; and all is there once there is room.
pub fn killed_while_full(bed: &Bed) -> Result<String> {
    let (mounted, spec) = lively(bed)?;
    let running = spec.start()?;
    running.create_topics()?;
    let mut load = Load::new(bed);
    let mut killed = Some(running);
    load.run(&spec, |signals| {
        wait("much is acknowledged", || signals.acked.load(Ordering::SeqCst) > BATCHES)?;
        mounted.state().lock().limit_free_space(0);
        wait("produce is refused", || signals.storage_errors.load(Ordering::SeqCst) > 0)?;
        killed.take().map_or(Ok(()), Running::kill)
    })?;
    let mut full = spec.spawn()?;
    let remark = match full.wait_ready() {
        Ok(_) => {
            load.verify(&full).context("while the disk is full")?;
            "it served while the disk was full".to_owned()
        }
        Err(error) => {
            ensure!(!full.is_alive(), "neither ready nor ended: {error:#}");
            let output = full.output();
            ensure!(!output.contains("panicked"), "the broker panicked:\n{output}");
            let line = output.lines().find(|line| line.contains("No space left"));
            line.with_context(|| format!("no line says why:\n{output}"))?.trim().to_owned()
        }
    };
    full.kill()?;
    mounted.state().lock().unlimit_free_space();
    load.verify(&spec.start()?).context("with room again")?;
    Ok(format!("{remark}; {} records kept", load.journal.acked_records()))
}
