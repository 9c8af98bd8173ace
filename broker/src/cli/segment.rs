//! `chronik segment`: what lies in a partition's segment files, for a person to read.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chronik_client::compression::Codec;
use chronik_core::ids::Offset;
use chronik_core::record_batch::{BatchHeader, EndMarker, RecordIter};
use clap::{Args, Subcommand};

use crate::storage::segments::{self, Extent, index};

#[derive(Args)]
pub struct SegmentArgs {
    #[command(subcommand)]
    command: SegmentCommand,
}

#[derive(Subcommand)]
enum SegmentCommand {
    /// Show the batches of segment files
    Inspect {
        /// Files, or directories of partitions, such as DATA/topics/TOPIC_ID/0
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Read segment files whole, and check every batch; a damaged one is an error
    Verify {
        /// Files, or directories
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Show the records of segment files
    Dump {
        /// Files, or directories
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
}

pub fn run(args: SegmentArgs) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = match args.command {
        SegmentCommand::Inspect { paths } => each(&paths, &mut |path| inspect(path, &mut out)),
        SegmentCommand::Verify { paths } => verify(&paths, &mut out),
        SegmentCommand::Dump { paths } => each(&paths, &mut |path| dump(path, &mut out)),
    };
    out.flush()?;
    result
}

/// Every segment file of some paths, in the order of their names.
fn each(paths: &[PathBuf], file: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut files = Vec::new();
    let mut dirs: Vec<PathBuf> = Vec::new();
    for path in paths {
        if path.is_dir() { dirs.push(path.clone()) } else { files.push(path.clone()) }
    }
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                files.push(path);
            }
        }
    }
    ensure!(!files.is_empty(), "there is no segment file (they end in .log)");
    files.sort();
    files.iter().try_for_each(|path| file(path))
}

/// What a walk over a file has seen.
#[derive(Default)]
struct Walked {
    batches: u64,
    records: u64,
    bytes: u64,
    /// What follows the whole batches: bytes that no checkpoint counts, or damage.
    rest: Option<String>,
}

fn walk(path: &Path, sink: &mut dyn FnMut(u64, &BatchHeader, &Bytes) -> Result<()>) -> Result<Walked> {
    let len = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    let mut walked = Walked::default();
    let damage = segments::walk(path, len, &mut |at, header, batch| {
        walked.batches += 1;
        walked.records += u64::from(header.record_count.unsigned_abs());
        walked.bytes = at + batch.len() as u64;
        sink(at, header, batch).map(|()| true)
    })?;
    walked.rest = damage.map(|damage| damage.to_string());
    Ok(walked)
}

fn inspect(path: &Path, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{}", path.display())?;
    let walked = walk(path, &mut |at, header, batch| {
        let codec = Codec::of(header.attributes).map_or_else(|e| e.to_string(), |codec| format!("{codec:?}"));
        write!(
            out,
            "  byte {at}: offsets {} to {}, {} records, {} bytes, epoch {}, {}, latest time {}",
            header.base_offset,
            header.last_offset(),
            header.record_count,
            batch.len(),
            header.leader_epoch.0,
            codec.to_lowercase(),
            header.max_timestamp,
        )?;
        if header.has_producer() {
            write!(
                out,
                ", producer {} epoch {} from sequence {}",
                header.producer_id, header.producer_epoch.0, header.base_sequence
            )?;
        }
        if header.is_transactional() && !header.is_control() {
            write!(out, ", in a transaction")?;
        }
        if let Some(horizon) = header.delete_horizon_ms() {
            let what = if header.is_control() { "the marker" } else { "tombstones" };
            write!(out, ", {what} may go at {horizon}")?;
        }
        match EndMarker::of(header, batch) {
            Some(marker) => write!(out, ", {}", told(&marker))?,
            None if header.is_control() => write!(out, ", control")?,
            None => {}
        }
        writeln!(out)?;
        Ok(())
    })?;
    writeln!(out, "  {} batches, {} records, {} bytes", walked.batches, walked.records, walked.bytes)?;
    if let Some(rest) = walked.rest {
        writeln!(out, "  then no whole batch, {rest}")?;
    }
    Ok(())
}

/// The same reading, and the same words for what it finds, as the broker's scrub.
fn verify(paths: &[PathBuf], out: &mut dyn Write) -> Result<()> {
    let mut damaged = 0;
    each(paths, &mut |path| {
        let bytes = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        let extent = Extent { base_offset: base_offset_of(path), bytes, end_offset: i64::MAX };
        let (mut records, mut unopened) = (0, None);
        let verified = segments::verify_file(path, &extent, &mut |header, batch| {
            records += u64::from(header.record_count.unsigned_abs());
            if let Err(e) = records_of(header, batch) {
                unopened.get_or_insert(e);
            }
            Ok::<_, io::Error>(())
        })?;
        for stretch in &verified.damaged {
            writeln!(out, "damaged  {}: {stretch}", path.display())?;
        }
        if let Some(e) = &unopened {
            writeln!(out, "damaged  {}: {e:#}", path.display())?;
        }
        if !verified.damaged.is_empty() || unopened.is_some() {
            damaged += 1;
            return Ok(());
        }
        writeln!(out, "whole    {}: {records} records", path.display())?;
        if !index::belongs(path, &verified.entries) {
            writeln!(out, "index    {}: is not of this file; a broker builds it anew", path.display())?;
        }
        Ok(())
    })?;
    ensure!(
        damaged == 0,
        "{damaged} files are not whole: damage, or, at the end of the newest file of a partition, what a broker that was \
         killed had not synced"
    );
    Ok(())
}

/// As the name of the file says.
fn base_offset_of(path: &Path) -> Offset {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('.').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn dump(path: &Path, out: &mut dyn Write) -> Result<()> {
    let walked = walk(path, &mut |_, header, batch| {
        if let Some(marker) = EndMarker::of(header, batch) {
            let EndMarker { producer_id, producer_epoch, .. } = marker;
            writeln!(
                out,
                "{}\t{}\t{} of producer {producer_id} epoch {producer_epoch}",
                header.base_offset,
                header.max_timestamp,
                told(&marker),
            )?;
            return Ok(());
        }
        let records = records_of(header, batch)?;
        for record in RecordIter::opened(header, &records) {
            let record = record?;
            let shown = |bytes: Option<&[u8]>| {
                bytes.map_or_else(|| "null".to_string(), |b| format!("{:?}", String::from_utf8_lossy(b)))
            };
            write!(
                out,
                "{}\t{}\t{}\t{}",
                record.offset,
                record.timestamp,
                shown(record.key),
                shown(record.value)
            )?;
            for (name, value) in record.headers {
                write!(out, "\t{}={}", String::from_utf8_lossy(name), shown(value))?;
            }
            writeln!(out)?;
        }
        Ok(())
    })?;
    match walked.rest {
        None => Ok(()),
        Some(rest) => {
            writeln!(out, "then no whole batch, {rest}")?;
            Ok(())
        }
    }
}

fn told(marker: &EndMarker) -> String {
    let what = if marker.commit { "commit" } else { "abort" };
    format!("{what} by coordinator epoch {}", marker.coordinator_epoch)
}

fn records_of(header: &BatchHeader, batch: &Bytes) -> Result<Bytes> {
    let records = segments::records_of(header, batch);
    records.with_context(|| format!("the batch of offset {} cannot be opened", header.base_offset))
}

#[cfg(test)]
mod tests {
    use chronik_core::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
    use chronik_core::record_batch::{BatchBuilder, patch_base};

    use super::*;

    #[test]
    fn files_are_shown_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00000000000000000000.log");
        let batch = |offset: i64| {
            BatchBuilder::new()
                .at(offset, LeaderEpoch(2))
                .record(7, Some(b"k"), None)
                .record(8, None, Some(b"v"))
                .build()
        };
        std::fs::write(&path, [batch(0), batch(2)].concat()).unwrap();
        let shown = |show: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            show(&mut out);
            String::from_utf8(out).unwrap()
        };
        let text = shown(&|out| inspect(&path, out).unwrap());
        assert!(
            text.contains("offsets 2 to 3, 2 records") && text.contains("2 batches, 4 records"),
            "{text}"
        );
        let text = shown(&|out| dump(&path, out).unwrap());
        assert_eq!(text.lines().next(), Some("0\t7\t\"k\"\tnull"), "{text}");
        let dirs = [dir.path().to_path_buf()];
        assert!(shown(&|out| verify(&dirs, out).unwrap()).starts_with("whole"));
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let text = shown(&|out| assert!(verify(&dirs, out).is_err()));
        assert!(text.starts_with("damaged") && text.contains("checksum"), "{text}");
        assert!(text.contains("offsets from 2 on cannot be read"), "{text}");
        std::fs::write(&path, [batch(0), vec![7; 90], batch(2)].concat()).unwrap();
        let text = shown(&|out| assert!(verify(&dirs, out).is_err()));
        assert!(text.contains(&format!("bytes {} to", batch(0).len())), "{text}");
        let marker = |commit| EndMarker {
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(2),
            coordinator_epoch: 5,
            commit,
        };
        let mut second = marker(false).batch(9);
        patch_base(&mut second, 1, LeaderEpoch(2)).unwrap();
        std::fs::write(&path, [marker(true).batch(9), second].concat()).unwrap();
        let text = shown(&|out| dump(&path, out).unwrap());
        assert!(text.starts_with("0\t9\tcommit by coordinator epoch 5 of producer 7 epoch 2\n"), "{text}");
        let text = shown(&|out| inspect(&path, out).unwrap());
        assert!(text.contains(", abort by coordinator epoch 5\n"), "{text}");
        std::fs::write(&path, batch(0)).unwrap();
        std::fs::write(path.with_extension("index"), [1; 32]).unwrap();
        let text = shown(&|out| verify(&dirs, out).unwrap());
        assert!(text.starts_with("whole") && text.contains("index    "), "{text}");
        assert!(each(&[dir.path().join("none.txt")], &mut |path| inspect(path, &mut io::sink())).is_err());
    }
}
