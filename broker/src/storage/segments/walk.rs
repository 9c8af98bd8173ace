//! Walking over the batches of a file: every checksum and the chain of offsets verified.

use std::io;
use std::path::Path;

use bytes::Bytes;
use chronik_core::ids::Offset;
use chronik_core::record_batch::{BatchError, BatchHeader, Batches, Crc, HEADER_LEN};
use thiserror::Error;

use super::named;
use super::read::{fill, open};

/// A walk reads so much at once, but for a batch that is larger.
const WALK_BYTES: usize = 1 << 20;
/// Around what cannot be read, it reads less and less, down to a header, and then what that one asks for.
const SMALL_BYTES: usize = HEADER_LEN;
/// No batch is larger: half of the largest WAL file. A length beyond it is damage, and no reason to allocate.
pub const BATCH_BYTES_MAX: usize = 128 << 20;

/// Where a file holds no whole batch although it should.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("byte {at}: {why}")]
pub struct Damage {
    pub at: u64,
    pub why: String,
    /// Everything before this offset was whole.
    pub next: Offset,
    /// Where the next batch begins, if the damaged one tells its length truly.
    pub behind: Option<u64>,
}

impl Damage {
    pub(super) fn new(at: u64, next: Offset, behind: Option<u64>, why: impl ToString) -> Damage {
        Damage { at, why: why.to_string(), next, behind }
    }

    /// As the error of whoever needed the batch.
    pub fn in_file(&self, path: &Path) -> io::Error {
        named(path, io::Error::new(io::ErrorKind::InvalidData, self.to_string()))
    }
}

/// Gives so many bytes from there on.
pub type ReadAt<'a> = &'a mut dyn FnMut(u64, usize) -> io::Result<Bytes>;

/// How far a walk has come, and how far it may go.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    pub at: u64,
    /// The next batch has this offset or a later one.
    pub next: Offset,
    pub end: u64,
    /// No batch reaches beyond this offset.
    pub end_offset: Offset,
}

/// Whether an error of reading says that bytes are lost, and not that the process lacks something.
pub fn is_damage(e: &io::Error) -> bool {
    const LOST: [i32; 5] = [libc::EIO, libc::EBADMSG, libc::EUCLEAN, libc::ENODATA, libc::EREMOTEIO];
    let kinds = [io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData];
    kinds.contains(&e.kind()) || e.raw_os_error().is_some_and(|code| LOST.contains(&code))
}

/// Walks over the batches of a file's first `end` bytes until `each` returns false. Ends at the first damage, and returns
/// it. `each` is given a batch's place, its header and its bytes.
///
/// # Errors
/// When the file cannot be opened, or `each` fails.
pub fn walk<E: From<io::Error>>(
    path: &Path,
    end: u64,
    each: &mut dyn FnMut(u64, &BatchHeader, &Bytes) -> Result<bool, E>,
) -> Result<Option<Damage>, E> {
    let file = open(path)?;
    let mut read = |at, len| {
        let mut buf = vec![0; len];
        fill(&file, &mut buf, at).map_err(|e| named_if_needed(path, e))?;
        Ok(Bytes::from(buf))
    };
    walk_from(&mut read, Cursor { at: 0, next: 0, end, end_offset: Offset::MAX }, each)
}

/// The code of the system's error must stay to be seen.
fn named_if_needed(path: &Path, e: io::Error) -> io::Error {
    if is_damage(&e) { e } else { named(path, e) }
}

/// As [`walk`], from wherever a batch begins.
pub fn walk_from<E: From<io::Error>>(
    read: ReadAt<'_>,
    from: Cursor,
    each: &mut dyn FnMut(u64, &BatchHeader, &Bytes) -> Result<bool, E>,
) -> Result<Option<Damage>, E> {
    let Cursor { mut at, mut next, end, end_offset } = from;
    // Where the last batch began, and the offset that was next before it.
    let mut before = None;
    // So much is read at once, and the batch at `at` needs so much.
    let (mut chunk, mut needed) = (WALK_BYTES, 0);
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.max(needed));
        let buf = match read(at, len) {
            Ok(buf) => buf,
            Err(e) if is_damage(&e) && len > needed.max(SMALL_BYTES) => {
                // What lies before the unreadable place is read still.
                chunk = (chunk / 16).max(SMALL_BYTES);
                continue;
            }
            Err(e) if is_damage(&e) => {
                let behind = (needed > 0).then_some(at + needed as u64);
                return Ok(Some(Damage::new(at, next, behind, e)));
            }
            Err(e) => return Err(e.into()),
        };
        needed = 0;
        let mut whole = 0;
        for found in Batches::new(&buf, Crc::Check) {
            let place = at + whole as u64;
            let (header, range) = match found {
                Ok(found) => found,
                Err(BatchError::Truncated { want, .. })
                    if want as u64 <= end - place && want <= BATCH_BYTES_MAX =>
                {
                    // It is read again from its beginning, whole.
                    needed = want;
                    break;
                }
                Err(e) => {
                    let header = buf.get(whole..).and_then(|rest| BatchHeader::parse(rest).ok());
                    let behind = header.map(|header| place + header.size_in_bytes() as u64);
                    return Ok(Some(Damage::new(place, next, behind, e)));
                }
            };
            let behind = Some(at + range.end as u64);
            if header.base_offset < next {
                let why = format!("offset {} follows on {}", header.base_offset, next - 1);
                // The checksum does not cover the offset: it may be the one before that has too high a one.
                let either = before.filter(|(_, next_then)| header.base_offset >= *next_then);
                let (place, next) = either.unwrap_or((place, next));
                return Ok(Some(Damage::new(place, next, behind, why)));
            }
            if header.next_offset() > end_offset {
                let why =
                    format!("offset {} lies beyond the segment's end, {end_offset}", header.base_offset);
                return Ok(Some(Damage::new(place, next, behind, why)));
            }
            before = Some((place, next));
            (whole, next) = (range.end, header.next_offset());
            if !each(place, &header, &buf.slice(range))? {
                return Ok(None);
            }
        }
        at += whole as u64;
    }
    Ok(None)
}
