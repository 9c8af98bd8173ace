//! A disk that is full to the last byte, while retention and compaction are at work: what is acknowledged stays, reads and
//! deletion go on, and writes resume by themselves.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};

use super::faults::{Bed, Load, fill, wait};
use super::kafka::Connection;
use super::process::{Running, Spec};
use super::rounds::LIVELY;
use super::starts::delete_to;
use super::topics::{Life, Part};
use crate::mount::Mounted;

/// A small reserve.
const RESERVE: u64 = 256 << 10;
/// Acknowledged batches before the disk fills up: so much is in segments then.
const BATCHES: usize = 2000;

/// So many records are deleted.
const DELETED: i64 = 12_000;

/// A broker with logs that live fast, on a file system of its own.
fn lively(bed: &Bed) -> Result<(Mounted, Spec)> {
    let (mounted, mut spec) = bed.on_mount()?;
    for (name, value) in LIVELY {
        spec = spec.with(name, value);
    }
    Ok((mounted, spec.with("chronik.disk.reserve.bytes", &RESERVE.to_string())))
}

/// Deleting records makes the room that lets writes resume, though there was none left at all.
pub fn deleting_makes_room(bed: &Bed) -> Result<String> {
    let (mounted, spec) = lively(bed)?;
    // More than what the broker has set aside for itself.
    let spec = spec.with("chronik.disk.reserve.bytes", &(1200_u64 << 10).to_string());
    let mut running = spec.start()?;
    running.create_topics()?;
    let mut load = Load::new(bed);
    let mut starts = std::mem::take(&mut load.journal.starts);
    let deleted = load.run(&spec, |signals| {
        let acked = || signals.acked.load(Ordering::SeqCst);
        let mut broker = Connection::open(&spec.address())?;
        let mut parts = Vec::new();
        wait("there is something to delete", || {
            let mut end = |part: Part| broker.offset(part.topic(), part.partition(), -1);
            parts = Part::living(Life::Deleted).filter_map(|part| Some((part, end(part).ok()?))).collect();
            parts.iter().map(|(_, end)| end).sum::<i64>() > DELETED
        })?;
        fill(&mounted, 0, signals)?;
        for part in Part::all() {
            let start = broker.offset(part.topic(), part.partition(), -2)?;
            broker.fetch(part.topic(), part.partition(), start).context("fetches must go on")?;
        }
        let before = acked();
        for (part, end) in &parts {
            delete_to(&mut broker, &mut starts, *part, *end).context("DeleteRecords must go on")?;
        }
        wait("writes resume", || acked() > before + 100)?;
        ensure!(running.is_alive(), "the broker ended:\n{}", running.output());
        Ok(parts.iter().map(|(_, end)| end).sum::<i64>())
    });
    let output = running.output();
    let deleted = deleted.with_context(|| format!("the broker said:\n{output}"))?;
    mounted.state().lock().unlimit_free_space();
    load.journal.starts = starts;
    load.verify(&running).context("before the restart")?;
    running.kill()?;
    load.verify(&spec.start()?).context("after the kill")?;
    Ok(format!("{deleted} records deleted, {} acknowledged", load.journal.acked_records()))
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
        fill(&mounted, 0, signals)?;
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
