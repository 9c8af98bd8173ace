//! Reading segment files: every checksum verified, damage never passed over.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use chronik_client::compression;
use chronik_core::ids::Offset;
use chronik_core::record_batch::{BatchError, BatchHeader, Batches, Crc, HEADER_LEN};
use thiserror::Error;

use super::index::INDEX_EVERY;
use super::{Place, named};

/// A walk reads so much at once, but for a batch that is larger.
const WALK_BYTES: usize = 1 << 20;
/// So much is asked of the device at once. The log's flushes share it, and wait behind what has been asked for.
const STEP_BYTES: usize = 256 << 10;

/// Where a file holds no whole batch although it should.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("byte {at}: {why}")]
pub struct Damage {
    pub at: u64,
    pub why: String,
}

impl Damage {
    fn new(at: u64, why: impl ToString) -> Damage {
        Damage { at, why: why.to_string() }
    }

    /// As the error of whoever needed the batch.
    pub fn in_file(&self, path: &Path) -> io::Error {
        named(path, io::Error::new(io::ErrorKind::InvalidData, self.to_string()))
    }
}

/// Opens a file for reading. The kernel is told not to read ahead: it would ask the device for megabytes at once.
fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path).map_err(|e| named(path, e))?;
    // No more than advice.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    Ok(file)
}

/// Fills `buf` from `at` on, in steps.
fn fill(path: &Path, file: &File, buf: &mut [u8], at: u64) -> io::Result<()> {
    let mut at = at;
    for step in buf.chunks_mut(STEP_BYTES) {
        file.read_exact_at(step, at).map_err(|e| named(path, e))?;
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

/// Walks over the batches of a file's first `end` bytes, every checksum verified, until `each` returns false. Ends at the
/// first damage, and returns it. `each` is given a batch's place, its header and its bytes.
///
/// # Errors
/// When the file cannot be read, or `each` fails.
pub fn walk<E: From<io::Error>>(
    path: &Path,
    end: u64,
    each: &mut dyn FnMut(u64, &BatchHeader, &Bytes) -> Result<bool, E>,
) -> Result<Option<Damage>, E> {
    let file = open(path)?;
    let (mut at, mut want, mut next) = (0, WALK_BYTES, 0);
    while at < end {
        let mut buf = vec![0; want.min((end - at) as usize)];
        fill(path, &file, &mut buf, at)?;
        let buf = Bytes::from(buf);
        let mut whole = 0;
        want = WALK_BYTES;
        for found in Batches::new(&buf, Crc::Check) {
            let place = at + whole as u64;
            let (header, range) = match found {
                Ok(found) => found,
                Err(BatchError::Truncated { want: needed, .. }) if needed as u64 <= end - place => {
                    // It is read again from its beginning, whole.
                    want = want.max(needed);
                    break;
                }
                Err(e) => return Ok(Some(Damage::new(place, e))),
            };
            if header.base_offset < next {
                let why = format!("offset {} follows on {}", header.base_offset, next - 1);
                return Ok(Some(Damage::new(place, why)));
            }
            (whole, next) = (range.end, header.next_offset());
            if !each(place, &header, &buf.slice(range))? {
                return Ok(None);
            }
        }
        at += whole as u64;
    }
    Ok(None)
}

/// Whole batches at `place` from the one that holds `from`, below `to`: up to `max_bytes`, and at least one
/// if `min_one`. Damaged bytes are an error, never an answer.
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
        fill(&place.path, &file, &mut buf, place.at)?;
        let mut answer = 0..0;
        let mut complete = want == rest;
        let (mut whole, mut next) = (0, place.first);
        for batch in Batches::new(&buf, Crc::Check) {
            let damage = |why: String| Damage::new(place.at + whole, why).in_file(&place.path);
            let (header, range) = match batch {
                Ok(found) => found,
                Err(BatchError::Truncated { want: needed, .. }) if needed as u64 <= rest - whole => {
                    want = want.max(whole + needed as u64);
                    break;
                }
                Err(e) => return Err(damage(e.to_string())),
            };
            // The checksum does not cover the offset.
            if header.base_offset < next || header.next_offset() > place.end_offset {
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
