//! Verifying a segment file whole, beyond damage too: what of it can be read, and what cannot.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use chronik_core::ids::Offset;
use chronik_core::record_batch::{BatchHeader, Batches, Crc, HEADER_LEN};

use super::index::{self, Entry, Indexed};
use super::named;
use super::walk::{BATCH_BYTES_MAX, Cursor, Damage, ReadAt, is_damage, walk_from};
use crate::storage::wal::files::{is_around_cache, open_around_cache, read_aligned};

/// So many damaged places of a file are told apart; behind the last of them it is lost as a whole.
const DAMAGED_MAX: usize = 16;
/// So many entries of the index are tried to find the next whole batch.
const PROBES_MAX: usize = 256;

/// A stretch of a segment file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    pub at: u64,
    /// Where the next whole batch begins, or the file ends.
    pub to: u64,
    /// The offsets that are lost; those of them that compaction had left out too.
    pub from_offset: Offset,
    pub to_offset: Offset,
    pub why: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damaged { at, to, from_offset, to_offset, why } = self;
        write!(f, "bytes {at} to {to}: {why}: ")?;
        match *to_offset {
            Offset::MAX => write!(f, "offsets from {from_offset} on cannot be read"),
            to => write!(f, "offsets {from_offset} to {} cannot be read", to - 1),
        }
    }
}

/// What a file should hold.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub base_offset: Offset,
    /// Its synced length.
    pub bytes: u64,
    /// The offset behind its last batch; `Offset::MAX` where nobody knows.
    pub end_offset: Offset,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    pub damaged: Vec<Damaged>,
    /// The index as it should be. Of no use when something is damaged.
    pub entries: Vec<Entry>,
}

/// Reads all of a file, around the page cache where possible: the device is asked, and nobody's pages make room.
pub struct Reading {
    file: File,
    len: u64,
    is_around_cache: bool,
}

impl Reading {
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Reading> {
        let file = open_around_cache(path)?;
        Ok(Reading { len: file.metadata()?.len(), is_around_cache: is_around_cache(&file), file })
    }

    /// # Errors
    /// When it cannot be read, or the file ends before.
    pub fn read(&self, at: u64, len: usize) -> io::Result<Bytes> {
        if at + len as u64 > self.len {
            let why = format!("the file ends at byte {}", self.len);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        self.forget(at, len);
        let (buf, lead) = read_aligned(&self.file, at, len)?;
        self.forget(at, len);
        Ok(buf.into_bytes().slice(lead..lead + len))
    }

    /// Without a way around it, the page cache must neither answer for the device nor keep what is read once.
    fn forget(&self, at: u64, len: usize) {
        if !self.is_around_cache {
            let len = std::num::NonZeroU64::new(len as u64);
            let _ = rustix::fs::fadvise(&self.file, at, len, rustix::fs::Advice::DontNeed);
        }
    }
}

/// Verifies a whole file: every checksum, the chain of offsets, the length. Goes on behind damage where a whole batch can
/// be found: behind the damaged one, or by the entries of the index. `each` is given what is whole.
///
/// # Errors
/// When reading fails although nothing says that the file is damaged, or `each` fails.
pub fn verify<E: From<io::Error>>(
    read: ReadAt<'_>,
    known: &[Entry],
    extent: &Extent,
    each: &mut dyn FnMut(&BatchHeader, &Bytes) -> Result<(), E>,
) -> Result<Verified, E> {
    let Extent { base_offset, bytes: end, end_offset } = *extent;
    let mut found = Verified::default();
    let mut indexed = Indexed::default();
    let mut cursor = Cursor { at: 0, next: base_offset, end, end_offset };
    loop {
        let damage = walk_from(read, cursor, &mut |_, header, batch| {
            found.entries.extend(indexed.note(header));
            each(header, batch).map(|()| true)
        })?;
        let Some(damage) = damage else { return Ok(found) };
        let resumed = match found.damaged.len() + 1 < DAMAGED_MAX {
            true => resume(read, known, &damage, &cursor)?,
            false => None,
        };
        let (to, to_offset) = resumed.unwrap_or((end, end_offset));
        let Damage { at, next, why, .. } = damage;
        found.damaged.push(Damaged { at, to, from_offset: next, to_offset, why });
        if resumed.is_none() {
            return Ok(found);
        }
        (cursor.at, cursor.next) = (to, to_offset);
    }
}

/// Place and offset of the first whole batch that can be found behind damage.
fn resume(
    read: ReadAt<'_>,
    known: &[Entry],
    damage: &Damage,
    cursor: &Cursor,
) -> io::Result<Option<(u64, Offset)>> {
    // Several may be damaged, one behind the other. Their lengths lead on as long as they make sense.
    let mut next = damage.behind;
    for _ in 0..PROBES_MAX {
        let Some(at) = next else { break };
        let Some(header) = header_at(read, at, damage.next, cursor)? else { break };
        if is_whole(read, at, &header)? {
            return Ok(Some((at, header.base_offset)));
        }
        next = Some(at + header.size_in_bytes() as u64);
    }
    for entry in known.iter().filter(|entry| entry.at > damage.at).take(PROBES_MAX) {
        let header = header_at(read, entry.at, damage.next, cursor)?;
        if let Some(header) = header.filter(|header| header.base_offset == entry.offset)
            && is_whole(read, entry.at, &header)?
        {
            return Ok(Some((entry.at, entry.offset)));
        }
    }
    Ok(None)
}

/// The header there, if it could be that of a batch behind `next`.
fn header_at(read: ReadAt<'_>, at: u64, next: Offset, cursor: &Cursor) -> io::Result<Option<BatchHeader>> {
    let rest = cursor.end.saturating_sub(at);
    if rest < HEADER_LEN as u64 {
        return Ok(None);
    }
    let header = readable(read(at, HEADER_LEN))?.and_then(|bytes| BatchHeader::parse(&bytes).ok());
    Ok(header.filter(|header| {
        let size = header.size_in_bytes();
        let fits = size as u64 <= rest && size <= BATCH_BYTES_MAX;
        fits && header.base_offset >= next && header.next_offset() <= cursor.end_offset
    }))
}

fn is_whole(read: ReadAt<'_>, at: u64, header: &BatchHeader) -> io::Result<bool> {
    let batch = readable(read(at, header.size_in_bytes()))?;
    Ok(batch.is_some_and(|batch| Batches::new(&batch, Crc::Check).next().is_some_and(|found| found.is_ok())))
}

/// What was read; `None` where the device has lost it.
fn readable(read: io::Result<Bytes>) -> io::Result<Option<Bytes>> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if is_damage(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Verifies the file at `path`.
///
/// # Errors
/// As [`verify`], and when the file cannot be opened.
pub fn verify_file<E: From<io::Error>>(
    path: &Path,
    extent: &Extent,
    each: &mut dyn FnMut(&BatchHeader, &Bytes) -> Result<(), E>,
) -> Result<Verified, E> {
    let known = index::entries(path);
    let file = match Reading::open(path) {
        Ok(file) => file,
        Err(e) if is_damage(&e) || e.kind() == io::ErrorKind::NotFound => {
            let lost = Damaged {
                at: 0,
                to: extent.bytes,
                from_offset: extent.base_offset,
                to_offset: extent.end_offset,
                why: format!("the file cannot be opened: {e}"),
            };
            return Ok(Verified { damaged: vec![lost], entries: Vec::new() });
        }
        Err(e) => return Err(named(path, e).into()),
    };
    verify(&mut |at, len| file.read(at, len), &known, extent, each)
}
