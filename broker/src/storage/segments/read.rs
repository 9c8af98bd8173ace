//! Reading segment files: every checksum verified, damage never passed over.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use chronik_client::compression;
use chronik_core::ids::Offset;
use chronik_core::record_batch::{BatchError, BatchHeader, Batches, Crc, HEADER_LEN};

use super::index::INDEX_EVERY;
use super::walk::{BATCH_BYTES_MAX, Damage, is_damage};
use super::{Place, named};

/// So much is asked of the device at once. The log's flushes share it, and wait behind what has been asked for.
const STEP_BYTES: usize = 256 << 10;

/// Opens a file for reading. The kernel is told not to read ahead: it would ask the device for megabytes at once.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path).map_err(|e| named(path, e))?;
    // No more than advice.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    Ok(file)
}

/// Fills `buf` from `at` on, in steps.
pub(super) fn fill(file: &File, buf: &mut [u8], mut at: u64) -> io::Result<()> {
    for step in buf.chunks_mut(STEP_BYTES) {
        file.read_exact_at(step, at)?;
        at += step.len() as u64;
    }
    Ok(())
}

/// The records of a batch, decompressed under a cap.
pub fn records_of(header: &BatchHeader, batch: &Bytes) -> io::Result<Bytes> {
    if header.record_count == 0 {
        return Ok(Bytes::new());
    }
    compression::decompress(header.attributes, &batch.slice(HEADER_LEN..))
}

/// Whole batches at `place` from the one that holds `from`, below `to`: up to `max_bytes`, and at least one
/// if `min_one`. Damaged bytes are an error, never an answer; what is whole before them is given.
///
/// # Errors
/// `InvalidData` for damage.
pub fn read(place: &Place, from: Offset, to: Offset, max_bytes: usize, min_one: bool) -> io::Result<Bytes> {
    let file = open(&place.path)?;
    let rest = place.end.saturating_sub(place.at);
    // Enough for the skipped batches and the answer; a larger first batch is read again, alone.
    let mut want = (INDEX_EVERY + max_bytes as u64).min(rest);
    loop {
        let mut buf = vec![0; want as usize];
        fill(&file, &mut buf, place.at).map_err(|e| match is_damage(&e) {
            true => Damage::new(place.at, place.first, None, e).in_file(&place.path),
            false => named(&place.path, e),
        })?;
        let mut answer = 0..0;
        let mut complete = want == rest;
        let (mut whole, mut next) = (0, place.first);
        for batch in Batches::new(&buf, Crc::Check) {
            let damage = |why: String| Damage::new(place.at + whole, next, None, why).in_file(&place.path);
            let (header, range) = match batch {
                Ok(found) => found,
                Err(BatchError::Truncated { want: needed, .. })
                    if needed as u64 <= rest - whole && needed <= BATCH_BYTES_MAX =>
                {
                    want = want.max(whole + needed as u64);
                    break;
                }
                Err(_) if !answer.is_empty() => break,
                Err(e) => return Err(damage(e.to_string())),
            };
            // The checksum does not cover the offset.
            if header.base_offset < next || header.next_offset() > place.end_offset {
                if !answer.is_empty() {
                    break;
                }
                return Err(damage(format!("offset {} does not belong here", header.base_offset)));
            }
            (whole, next) = (range.end as u64, header.next_offset());
            if next <= from {
                continue;
            }
            let start = if answer.is_empty() { range.start } else { answer.start };
            let too_much = range.end - start > max_bytes && !(answer.is_empty() && min_one);
            if too_much || next > to {
                complete = true;
                break;
            }
            answer = start..range.end;
        }
        if complete || !answer.is_empty() {
            return Ok(Bytes::from(buf).slice(answer));
        }
        // The batch that is looked for is larger than what was read.
        want = (want * 4).min(rest);
    }
}
