//! What this device does best, measured at start: the flush mode and the number of groups in flight.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use chronik_core::wal::format::BLOCK;

use super::buffer::AlignedBuf;
use super::engine::{Engine, GroupFile, block_on};
use super::{FlushMode, files};

/// Microseconds of one write of a block, flushed, by each mode: a low quantile, for on a busy machine the rest
/// measures the wait for a processor.
#[derive(Clone, Copy, Debug)]
pub struct FlushTimes {
    pub dsync_us: u64,
    pub fdatasync_us: u64,
}

/// Below this, gathering beats depth.
const SHORT_FLUSH_US: u64 = 500;

impl FlushTimes {
    /// Whether a flush is so short that one group in flight is best.
    pub fn is_short(&self) -> bool {
        self.dsync_us.min(self.fdatasync_us) <= SHORT_FLUSH_US
    }

    /// `fdatasync` is a second operation for every group, with a wake-up of its own, and costs processor time that an
    /// idle device does not show: it must be faster by more than a quarter.
    pub fn best(&self) -> FlushMode {
        if self.dsync_us * 4 <= self.fdatasync_us * 5 { FlushMode::Dsync } else { FlushMode::Fdatasync }
    }
}

/// Groups per second with so many in flight, groups of [`GROUP_BLOCKS`].
#[derive(Clone, Copy, Debug)]
pub struct DepthRate {
    pub in_flight: usize,
    pub groups_per_second: u64,
}

const ROUNDS: usize = 24;
const GROUP_BLOCKS: usize = 12;
pub const DEPTHS: [usize; 4] = [1, 2, 4, 8];

fn scratch(dir: &Path, flush: FlushMode) -> io::Result<File> {
    const NAME: &str = "probe.tmp";
    let path = dir.join(NAME);
    let _ = std::fs::remove_file(&path);
    files::create_zeroed(dir, NAME, (64 * GROUP_BLOCKS * BLOCK) as u64)?;
    let file = files::open_for_groups(&path, flush);
    std::fs::remove_file(&path)?;
    file
}

async fn one(file: &GroupFile, flush: FlushMode, blocks: usize, n: usize) -> io::Result<u64> {
    let started = Instant::now();
    let at = (n * blocks * BLOCK) % (63 * GROUP_BLOCKS * BLOCK);
    let at = (at / BLOCK * BLOCK) as u64;
    file.write(flush, AlignedBuf::new(blocks * BLOCK, None), at).await.0?;
    Ok(started.elapsed().as_micros() as u64)
}

/// Times both flush modes through the engine that will be used. Takes a few tens of milliseconds.
pub fn flush_times(dir: &Path, engine: Engine) -> io::Result<FlushTimes> {
    let time = |flush| -> io::Result<u64> {
        let file = scratch(dir, flush)?;
        block_on(engine, async {
            let file = GroupFile::new(engine, file);
            let mut times = Vec::with_capacity(ROUNDS);
            for n in 0..ROUNDS {
                times.push(one(&file, flush, 1, n).await?);
            }
            times.sort_unstable();
            Ok(times[ROUNDS / 8])
        })?
    };
    Ok(FlushTimes { dsync_us: time(FlushMode::Dsync)?, fdatasync_us: time(FlushMode::Fdatasync)? })
}

/// Groups per second at each depth of [`DEPTHS`].
pub fn depth_rates(dir: &Path, engine: Engine, flush: FlushMode) -> io::Result<Vec<DepthRate>> {
    let file = scratch(dir, flush)?;
    block_on(engine, async {
        let file = GroupFile::new(engine, file);
        let mut rates = Vec::new();
        for in_flight in DEPTHS {
            let started = Instant::now();
            let mut flying = tokio::task::JoinSet::new();
            let total = 8 * ROUNDS.max(in_flight);
            for n in 0..total {
                if flying.len() >= in_flight {
                    flying.join_next().await.transpose().map_err(io::Error::other)?.transpose()?;
                }
                let file = file.clone();
                flying.spawn_local(async move { one(&file, flush, GROUP_BLOCKS, n).await });
            }
            while let Some(done) = flying.join_next().await {
                done.map_err(io::Error::other)??;
            }
            let per_second = total as f64 / started.elapsed().as_secs_f64();
            rates.push(DepthRate { in_flight, groups_per_second: per_second as u64 });
        }
        Ok(rates)
    })?
}

/// How many groups to keep in flight. One, while a flush is short: the next group is gathered meanwhile, and
/// larger groups cost less than more of them (measured: a fast disk acknowledges fewer records with four in
/// flight than with one). On a device with long flushes depth hides the latency: the smallest depth that
/// comes within a tenth of the best.
pub fn choose_in_flight(times: &FlushTimes, rates: &[DepthRate]) -> usize {
    if times.is_short() {
        return 1;
    }
    let best = rates.iter().map(|r| r.groups_per_second).max().unwrap_or(0);
    let near = rates.iter().find(|r| r.groups_per_second * 10 >= best * 9);
    near.map_or(1, |r| r.in_flight)
}
