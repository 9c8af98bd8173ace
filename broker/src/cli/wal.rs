//! `chronik wal`: what a device can do, and what lies in a write-ahead log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chronik_core::ids::{DiskUuid, WalPosition};
use chronik_core::store::checkpoint::Checkpoint;
use chronik_core::wal::format::{BLOCK, FileHeader, Item};
use chronik_core::wal::recovery::{Event, PlantedBugs, Recovered, recover};
use clap::{Args, Subcommand};

use crate::storage::durable;
use crate::storage::identity;
use crate::storage::logs::CHECKPOINT_FILE;
use crate::storage::wal::engine::{self, EngineChoice};
use crate::storage::wal::{files, probe};

#[derive(Args)]
pub struct WalArgs {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Subcommand)]
enum WalCommand {
    /// Measure flush modes and groups in flight in a directory, and say what a broker would choose
    Probe {
        /// The directory to write in; its files are removed again
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Show the files and groups of a write-ahead log
    Inspect {
        /// The WAL directory, such as DATA/wal
        dir: PathBuf,
        /// Show every group, not only the files
        #[arg(long)]
        groups: bool,
    },
    /// List the partitions that a stopped broker will not serve because records are lost, or give them free
    Fenced {
        /// The data directory; its broker must be stopped
        data_dir: PathBuf,
        /// Serve this partition again without the lost records, which leave a gap in its offsets; `all` for every
        #[arg(long, value_name = "TOPIC_ID-PARTITION")]
        accept_loss: Vec<String>,
    },
    /// Read a whole write-ahead log as a start would, and say what a start would do; changes nothing
    Verify {
        /// The WAL directory, such as DATA/wal
        dir: PathBuf,
        /// The data directory with the checkpoint; by default the WAL directory's parent
        #[arg(long)]
        data_dir: Option<PathBuf>,
    },
}

pub fn run(args: WalArgs) -> Result<()> {
    match args.command {
        WalCommand::Probe { dir } => measure(&dir),
        WalCommand::Inspect { dir, groups } => inspect(&dir, groups),
        WalCommand::Fenced { data_dir, accept_loss } => fenced(&data_dir, &accept_loss),
        WalCommand::Verify { dir, data_dir } => verify(&dir, data_dir.as_deref()),
    }
}

fn measure(dir: &Path) -> Result<()> {
    let place = || format!("cannot measure in {}", dir.display());
    let mut engines = vec![engine::choose(EngineChoice::Auto).map_err(anyhow::Error::msg)?];
    if engines[0].0 == engine::Engine::IoUring {
        engines.push((engine::Engine::Pwrite, "for comparison".to_string()));
    }
    for (engine, why) in engines {
        println!("engine {engine} ({why})");
        let times = probe::flush_times(dir, engine).with_context(place)?;
        println!(
            "  one 4 KiB block, flushed:  O_DSYNC {} us, fdatasync {} us",
            times.dsync_us, times.fdatasync_us
        );
        let rates = probe::depth_rates(dir, engine, times.best()).with_context(place)?;
        for rate in &rates {
            println!("  48 KiB groups, {} in flight: {} per second", rate.in_flight, rate.groups_per_second);
        }
        let depth = probe::choose_in_flight(&times, &rates);
        println!("  a broker would flush by {} with {depth} in flight", times.best());
    }
    Ok(())
}

/// The WAL's identity, from any of its files.
fn wal_of(dir: &Path) -> Result<DiskUuid> {
    let found = files::list(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    if found.is_empty() {
        bail!("{}: no WAL files (they are named 00000.wal and so on)", dir.display());
    }
    for (slot, _) in found {
        let file = files::open_for_reading(dir, slot)?;
        for copy in 0..2 {
            let (block, _) = files::read_aligned(&file, copy * BLOCK as u64, BLOCK)?;
            if let Ok(header) = FileHeader::decode(block.as_ref()) {
                return Ok(header.wal);
            }
        }
    }
    bail!("{}: no file has a readable header", dir.display())
}

fn walk(dir: &Path, checkpoint: Option<WalPosition>, sink: &mut dyn FnMut(Event<'_>)) -> Result<Recovered> {
    let wal = wal_of(dir)?;
    let mut media = files::DirMedia::open(dir)?;
    Ok(recover(&mut media, wal, checkpoint, PlantedBugs::default(), sink)?)
}

fn inspect(dir: &Path, groups: bool) -> Result<()> {
    let mut count = 0u64;
    let mut entries = 0u64;
    let recovered = walk(dir, None, &mut |event| match event {
        Event::Group(group) => {
            count += 1;
            entries += group.items.len() as u64;
            if groups {
                let h = &group.header;
                println!("{:>14}  {} bytes, durable to {}", h.position, h.group_len, h.durable);
                group.items.iter().for_each(|item| println!("{:>14}  {}", "", line(item)));
            }
        }
        Event::Hole(hole) => {
            println!("{:>14}  DAMAGED up to {} ({})", hole.start, hole.end, hole.row);
        }
    })?;
    println!("write-ahead log {}", wal_of(dir)?);
    println!("{:<12} {:>10} {:>16} {:>16} {:>12}", "file", "generation", "from", "to", "bytes");
    for file in &recovered.files {
        let bytes = file.end.0 - file.base.0;
        let name = files::file_name(file.slot);
        println!("{name:<12} {:>10} {:>16} {:>16} {bytes:>12}", file.generation, file.base.0, file.end.0);
    }
    for slot in &recovered.blank {
        println!("{:<12} {:>10}", files::file_name(*slot), "blank");
    }
    println!("{count} groups with {entries} entries; the log ends at position {}", recovered.end);
    Ok(())
}

fn fenced(data_dir: &Path, accept_loss: &[String]) -> Result<()> {
    if !data_dir.is_dir() {
        bail!("{}: no such directory", data_dir.display());
    }
    let _lock = identity::lock(data_dir)?;
    let Some(bytes) = durable::read(data_dir, CHECKPOINT_FILE)? else {
        bail!("{}: no checkpoint; start the broker and stop it once", data_dir.display());
    };
    let mut checkpoint = Checkpoint::decode(&bytes)?;
    let mut freed = 0;
    let mut known = 0;
    for (id, state) in &mut checkpoint.partitions {
        let Some(why) = state.fenced.clone() else { continue };
        known += 1;
        if accept_loss.iter().any(|name| name == "all" || *name == id.to_string()) {
            state.fenced = None;
            freed += 1;
            println!("{id}: will be served again; accepted: {why}");
        } else {
            println!("{id}: {why}");
        }
    }
    if freed > 0 {
        durable::replace(data_dir, CHECKPOINT_FILE, &checkpoint.encode())?;
    }
    if known == 0 {
        println!("no partition is fenced");
    }
    if freed == 0 && !accept_loss.is_empty() {
        bail!("none of the partitions named is fenced");
    }
    Ok(())
}

fn line(item: &Item) -> String {
    let Item { kind, tp, first, last, records, body_len, leader_epoch, .. } = item;
    format!(
        "{kind:?} {tp} offsets {first}..={last} ({records} records, {body_len} bytes, epoch {leader_epoch})"
    )
}

fn verify(dir: &Path, data_dir: Option<&Path>) -> Result<()> {
    let data_dir = data_dir.or_else(|| dir.parent());
    let checkpoint = match data_dir.map(|dir| durable::read(dir, CHECKPOINT_FILE)).transpose()?.flatten() {
        Some(bytes) => Some(Checkpoint::decode(&bytes).context("the checkpoint")?.position),
        None => None,
    };
    let recovered = walk(dir, checkpoint, &mut |_| {})?;
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    for (row, _) in &recovered.rows {
        *rows.entry(row.to_string()).or_default() += 1;
    }
    match checkpoint {
        Some(position) => println!("from the checkpoint at {position} to the end at {}", recovered.end),
        None => println!("from the oldest file, for want of a checkpoint, to the end at {}", recovered.end),
    }
    for (row, count) in rows {
        println!("  {row:<20} {count:>10}");
    }
    for hole in &recovered.holes {
        println!("damaged: positions {} to {} ({})", hole.start, hole.end, hole.row);
        for item in hole.named.iter().flatten() {
            println!("  {}", line(item));
        }
        if hole.named.is_none() {
            println!("  it does not say what it held");
        }
    }
    if !recovered.holes.is_empty() {
        bail!("{} damaged stretch(es) below what was acknowledged", recovered.holes.len());
    }
    println!("whole: nothing that was acknowledged is damaged");
    Ok(())
}
