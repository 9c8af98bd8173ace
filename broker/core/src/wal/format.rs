//! What lies on the disk: file headers and commit groups.
//!
//! A WAL file is [`FILE_HEADER_LEN`] bytes of header (the same block twice) followed by commit groups. A
//! group is a whole number of [`BLOCK`]s:
//!
//! ```text
//! header 64 B | directory: items x 56 B | payload | zeros | directory again | trailer 64 B
//! ```
//!
//! The directory says which partitions and offsets the group holds and where in the payload. It stands at
//! both ends, each time under a CRC of its own, so that a damaged group can still say what was lost. The
//! payload has a CRC32C. All numbers are little-endian. A block once submitted is never written again.

use bytes::Bytes;
use thiserror::Error;

use crate::ids::{DiskUuid, LeaderEpoch, TopicId, TopicIdPartition, Uuid, WalPosition};
use crate::record_batch::patch_base;

/// The unit of writing: groups start and end on multiples of it, buffers are aligned to it.
pub const BLOCK: usize = 4096;
/// Two copies of the file header, one block each.
pub const FILE_HEADER_LEN: u64 = 2 * BLOCK as u64;
pub const GROUP_HEADER_LEN: usize = 64;
pub const ITEM_LEN: usize = 56;

const FILE_MAGIC: u64 = u64::from_le_bytes(*b"CHRNKWAL");
const HEAD_MAGIC: u32 = u32::from_le_bytes(*b"CKGH");
const TAIL_MAGIC: u32 = u32::from_le_bytes(*b"CKGT");
const VERSION: u16 = 1;
const FILE_HEADER_USED: usize = 76;

/// Rounds up to whole blocks.
pub const fn round_up(n: usize) -> usize {
    n.div_ceil(BLOCK) * BLOCK
}

/// What an entry does to its partition. Replaying entries over newer segments changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// Whole record batches; `first..=last` are their offsets.
    Append = 1,
    /// The log was cut back so that it ends at `first`.
    Truncate = 2,
    /// The log now starts at `first`.
    LogStart = 3,
    PartitionCreated = 4,
    PartitionDeleted = 5,
    /// The metadata quorum's own: a log entry with index `first`.
    QuorumEntry = 16,
    QuorumVote = 17,
    /// Entries from index `first` on were removed.
    QuorumTruncate = 18,
    /// Entries up to and including index `last` are in a snapshot.
    QuorumPurge = 19,
}

impl EntryKind {
    pub const ALL: [EntryKind; 9] = [
        EntryKind::Append,
        EntryKind::Truncate,
        EntryKind::LogStart,
        EntryKind::PartitionCreated,
        EntryKind::PartitionDeleted,
        EntryKind::QuorumEntry,
        EntryKind::QuorumVote,
        EntryKind::QuorumTruncate,
        EntryKind::QuorumPurge,
    ];

    fn from_u8(n: u8) -> Option<EntryKind> {
        EntryKind::ALL.into_iter().find(|k| *k as u8 == n)
    }
}

/// One line of a group's directory: a run of entries of one partition and where its bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    pub kind: EntryKind,
    pub tp: TopicIdPartition,
    pub first: i64,
    pub last: i64,
    pub leader_epoch: LeaderEpoch,
    /// Where the body starts, from the start of the group.
    pub body_at: u32,
    pub body_len: u32,
    pub records: u32,
}

/// The header of a group, as found at its start and (as trailer) at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    pub generation: u64,
    pub position: WalPosition,
    /// All groups before this position were durable when this one was sealed.
    pub durable: WalPosition,
    /// The whole group with its padding, in bytes.
    pub group_len: u32,
    pub payload_len: u32,
    pub items: u32,
    pub payload_crc: u32,
}

impl GroupHeader {
    pub fn end(&self) -> WalPosition {
        WalPosition(self.position.0.saturating_add(u64::from(self.group_len)))
    }

    /// A group without entries: it records the durable position when the log goes idle or stops.
    pub fn is_seal(&self) -> bool {
        self.items == 0
    }

    pub fn directory_len(&self) -> usize {
        self.items as usize * ITEM_LEN
    }

    fn payload_at(&self) -> usize {
        GROUP_HEADER_LEN + self.directory_len()
    }

    /// The bytes a group with these counts needs, before padding; `None` if they make no sense.
    fn needed(items: u32, payload_len: u32) -> Option<usize> {
        (items as usize).checked_mul(2 * ITEM_LEN)?.checked_add(2 * GROUP_HEADER_LEN + payload_len as usize)
    }
}

/// The file before another one: its generation, and where it begins. It ends where the other begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousFile {
    pub generation: u64,
    pub base: WalPosition,
}

/// The header of a WAL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The identity of the WAL directory: a file of another WAL is never read.
    pub wal: DiskUuid,
    /// Orders the files; grows by one with every file that is opened for writing.
    pub generation: u64,
    /// The position of the file's first group. The file of the generation before ends here, whatever lies
    /// behind that place in it.
    pub base: WalPosition,
    /// All groups before this position were durable when the file was opened.
    pub durable: WalPosition,
    /// The length of the file, in bytes.
    pub file_bytes: u64,
    /// The file that holds what comes before `base`, if any still did when this one was opened. If it is gone,
    /// this tells what went with it, and that nothing else may be read in its place.
    pub previous: Option<PreviousFile>,
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FormatError {
    #[error("not written yet")]
    Blank,
    #[error("no magic number")]
    Magic,
    #[error("format version {0} is newer than this program")]
    Version(u16),
    #[error("checksum mismatch")]
    Crc,
    #[error("impossible lengths")]
    Lengths,
    #[error("unknown entry kind {0}")]
    Kind(u8),
    #[error("cut short")]
    Short,
}

fn get<const N: usize>(b: &[u8], at: usize) -> Result<[u8; N], FormatError> {
    b.get(at..at + N).and_then(|s| s.try_into().ok()).ok_or(FormatError::Short)
}

fn u32_at(b: &[u8], at: usize) -> Result<u32, FormatError> {
    Ok(u32::from_le_bytes(get(b, at)?))
}

fn u64_at(b: &[u8], at: usize) -> Result<u64, FormatError> {
    Ok(u64::from_le_bytes(get(b, at)?))
}

fn put(b: &mut [u8], at: usize, v: &[u8]) {
    b[at..at + v.len()].copy_from_slice(v);
}

impl FileHeader {
    /// One block; the file holds it twice.
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut b = [0; BLOCK];
        put(&mut b, 0, &FILE_MAGIC.to_le_bytes());
        put(&mut b, 8, &VERSION.to_le_bytes());
        put(&mut b, 12, self.wal.0.as_bytes());
        put(&mut b, 28, &self.generation.to_le_bytes());
        put(&mut b, 36, &self.base.0.to_le_bytes());
        put(&mut b, 44, &self.durable.0.to_le_bytes());
        put(&mut b, 52, &self.file_bytes.to_le_bytes());
        // Generations begin at 1.
        let previous = self.previous.unwrap_or(PreviousFile { generation: 0, base: WalPosition(0) });
        put(&mut b, 60, &previous.generation.to_le_bytes());
        put(&mut b, 68, &previous.base.0.to_le_bytes());
        let crc = crc32c::crc32c(&b[..FILE_HEADER_USED]);
        put(&mut b, FILE_HEADER_USED, &crc.to_le_bytes());
        b
    }

    pub fn decode(b: &[u8]) -> Result<FileHeader, FormatError> {
        if b.iter().all(|x| *x == 0) {
            return Err(FormatError::Blank);
        }
        if u64_at(b, 0)? != FILE_MAGIC {
            return Err(FormatError::Magic);
        }
        let used = b.get(..FILE_HEADER_USED).ok_or(FormatError::Short)?;
        if crc32c::crc32c(used) != u32_at(b, FILE_HEADER_USED)? {
            return Err(FormatError::Crc);
        }
        let version = u16::from_le_bytes(get(b, 8)?);
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let previous = PreviousFile { generation: u64_at(b, 60)?, base: WalPosition(u64_at(b, 68)?) };
        Ok(FileHeader {
            wal: DiskUuid(Uuid::from_bytes(get(b, 12)?)),
            generation: u64_at(b, 28)?,
            base: WalPosition(u64_at(b, 36)?),
            durable: WalPosition(u64_at(b, 44)?),
            file_bytes: u64_at(b, 52)?,
            previous: Some(previous).filter(|previous| previous.generation > 0),
        })
    }

    /// The positions a file of this length can hold: `base..base + capacity`.
    pub fn capacity(file_bytes: u64) -> u64 {
        file_bytes.saturating_sub(FILE_HEADER_LEN)
    }
}

fn encode_header(out: &mut [u8], magic: u32, h: &GroupHeader) {
    put(out, 0, &magic.to_le_bytes());
    put(out, 4, &VERSION.to_le_bytes());
    put(out, 6, &[0, 0]);
    put(out, 8, &h.generation.to_le_bytes());
    put(out, 16, &h.position.0.to_le_bytes());
    put(out, 24, &h.durable.0.to_le_bytes());
    put(out, 32, &h.group_len.to_le_bytes());
    put(out, 36, &h.payload_len.to_le_bytes());
    put(out, 40, &h.items.to_le_bytes());
    put(out, 44, &h.payload_crc.to_le_bytes());
    put(out, 48, &[0; 12]);
}

/// The fields of a header or trailer, before any checksum has been looked at.
fn decode_fields(b: &[u8], magic: u32) -> Result<GroupHeader, FormatError> {
    let head = b.get(..GROUP_HEADER_LEN).ok_or(FormatError::Short)?;
    if head.iter().all(|x| *x == 0) {
        return Err(FormatError::Blank);
    }
    if u32_at(b, 0)? != magic {
        return Err(FormatError::Magic);
    }
    let h = GroupHeader {
        generation: u64_at(b, 8)?,
        position: WalPosition(u64_at(b, 16)?),
        durable: WalPosition(u64_at(b, 24)?),
        group_len: u32_at(b, 32)?,
        payload_len: u32_at(b, 36)?,
        items: u32_at(b, 40)?,
        payload_crc: u32_at(b, 44)?,
    };
    let needed = GroupHeader::needed(h.items, h.payload_len).ok_or(FormatError::Lengths)?;
    if h.group_len as usize != round_up(needed) {
        return Err(FormatError::Lengths);
    }
    let version = u16::from_le_bytes(get(b, 4)?);
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    Ok(h)
}

fn encode_item(out: &mut [u8], item: &Item) {
    put(out, 0, &[item.kind as u8, 0, 0, 0]);
    put(out, 4, &item.tp.partition.to_le_bytes());
    put(out, 8, item.tp.topic_id.0.as_bytes());
    put(out, 24, &item.first.to_le_bytes());
    put(out, 32, &item.last.to_le_bytes());
    put(out, 40, &item.leader_epoch.0.to_le_bytes());
    put(out, 44, &item.body_at.to_le_bytes());
    put(out, 48, &item.body_len.to_le_bytes());
    put(out, 52, &item.records.to_le_bytes());
}

fn decode_item(b: &[u8]) -> Result<Item, FormatError> {
    let kind: [u8; 1] = get(b, 0)?;
    Ok(Item {
        kind: EntryKind::from_u8(kind[0]).ok_or(FormatError::Kind(kind[0]))?,
        tp: TopicIdPartition {
            partition: i32::from_le_bytes(get(b, 4)?),
            topic_id: TopicId(Uuid::from_bytes(get(b, 8)?)),
        },
        first: i64::from_le_bytes(get(b, 24)?),
        last: i64::from_le_bytes(get(b, 32)?),
        leader_epoch: LeaderEpoch(i32::from_le_bytes(get(b, 40)?)),
        body_at: u32_at(b, 44)?,
        body_len: u32_at(b, 48)?,
        records: u32_at(b, 52)?,
    })
}

fn decode_items(h: &GroupHeader, directory: &[u8]) -> Result<Vec<Item>, FormatError> {
    let payload = h.payload_at() as u64..h.payload_at() as u64 + u64::from(h.payload_len);
    directory
        .chunks_exact(ITEM_LEN)
        .map(|chunk| {
            let item = decode_item(chunk)?;
            let end = u64::from(item.body_at) + u64::from(item.body_len);
            if u64::from(item.body_at) < payload.start || end > payload.end {
                return Err(FormatError::Lengths);
            }
            Ok(item)
        })
        .collect()
}

fn directory_crc(header: &[u8], directory: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), directory)
}

/// The header at the start of a group: only its own fields; [`decode_directory`] checks it with the directory.
pub fn peek_header(b: &[u8]) -> Result<GroupHeader, FormatError> {
    decode_fields(b, HEAD_MAGIC)
}

/// The trailer in the last 64 bytes of a group's last block: only its own fields.
pub fn peek_trailer(last_block: &[u8]) -> Result<GroupHeader, FormatError> {
    let at = last_block.len().checked_sub(GROUP_HEADER_LEN).ok_or(FormatError::Short)?;
    decode_fields(&last_block[at..], TAIL_MAGIC)
}

/// Header and directory from the start of a group; `b` starts at the group and holds at least both.
pub fn decode_directory(b: &[u8]) -> Result<(GroupHeader, Vec<Item>), FormatError> {
    let h = peek_header(b)?;
    let directory =
        b.get(GROUP_HEADER_LEN..GROUP_HEADER_LEN + h.directory_len()).ok_or(FormatError::Short)?;
    if directory_crc(&b[..GROUP_HEADER_LEN - 4], directory) != u32_at(b, GROUP_HEADER_LEN - 4)? {
        return Err(FormatError::Crc);
    }
    Ok((h, decode_items(&h, directory)?))
}

/// Directory and trailer from the end of a group; `b` ends with the group and holds at least both.
pub fn decode_end_directory(b: &[u8]) -> Result<(GroupHeader, Vec<Item>), FormatError> {
    let h = peek_trailer(b)?;
    let trailer_at = b.len() - GROUP_HEADER_LEN;
    let directory_at = trailer_at.checked_sub(h.directory_len()).ok_or(FormatError::Short)?;
    let (directory, trailer) = b[directory_at..].split_at(h.directory_len());
    if directory_crc(&trailer[..GROUP_HEADER_LEN - 4], directory) != u32_at(trailer, GROUP_HEADER_LEN - 4)? {
        return Err(FormatError::Crc);
    }
    Ok((h, decode_items(&h, directory)?))
}

/// A whole group, every checksum verified.
pub fn decode_group(b: &[u8]) -> Result<(GroupHeader, Vec<Item>), FormatError> {
    let (h, items) = decode_directory(b)?;
    let group = b.get(..h.group_len as usize).ok_or(FormatError::Short)?;
    let payload = &group[h.payload_at()..h.payload_at() + h.payload_len as usize];
    if crc32c::crc32c(payload) != h.payload_crc {
        return Err(FormatError::Crc);
    }
    // A torn write may miss only the end: a group counts when both ends are there and agree.
    let (tail, tail_items) = decode_end_directory(group)?;
    if tail != h || tail_items != items {
        return Err(FormatError::Crc);
    }
    Ok((h, items))
}

/// An entry on its way into a group. `C` is whoever waits for it.
#[derive(Clone, Debug)]
pub struct Entry<C> {
    pub kind: EntryKind,
    pub tp: TopicIdPartition,
    pub first: i64,
    pub last: i64,
    pub leader_epoch: LeaderEpoch,
    pub records: u32,
    /// The body is one batch whose base offset (`first`) and leader epoch are written into the group's copy.
    pub patch: bool,
    pub body: Bytes,
    /// Index of the profile that governs the entry's wait.
    pub profile: usize,
    pub client: C,
}

/// The layout of a group: which runs it holds and where each entry's body goes.
pub struct Layout {
    pub items: Vec<Item>,
    /// For each entry, where its body goes, from the start of the group.
    places: Vec<u32>,
    payload_len: u32,
    /// The whole group with its padding.
    pub group_len: usize,
}

impl Layout {
    /// Gathers the appends of each partition into one run, so that a reader gets them as one slice; the order
    /// of a partition's entries is kept, the order between partitions does not matter. Also returns, for each
    /// run, the index of its first entry.
    pub fn plan<C>(entries: &[Entry<C>]) -> (Layout, Vec<usize>) {
        let mut items: Vec<Item> = Vec::with_capacity(entries.len().min(64));
        let mut firsts: Vec<usize> = Vec::with_capacity(entries.len().min(64));
        let mut run_of: Vec<u32> = Vec::with_capacity(entries.len());
        let mut latest: std::collections::HashMap<TopicIdPartition, u32, RunHash> =
            std::collections::HashMap::default();
        for (n, e) in entries.iter().enumerate() {
            let joined = latest.get(&e.tp).copied().filter(|run| {
                let run = &items[*run as usize];
                let both_appends = e.kind == EntryKind::Append && run.kind == EntryKind::Append;
                both_appends && run.last + 1 == e.first && run.leader_epoch == e.leader_epoch
            });
            let run = joined.unwrap_or_else(|| {
                firsts.push(n);
                items.push(Item {
                    kind: e.kind,
                    tp: e.tp,
                    first: e.first,
                    last: e.last,
                    leader_epoch: e.leader_epoch,
                    body_at: 0,
                    body_len: 0,
                    records: 0,
                });
                latest.insert(e.tp, items.len() as u32 - 1);
                items.len() as u32 - 1
            });
            let item = &mut items[run as usize];
            item.last = e.last;
            item.body_len += e.body.len() as u32;
            item.records += e.records;
            run_of.push(run);
        }
        let mut at = (GROUP_HEADER_LEN + items.len() * ITEM_LEN) as u32;
        let payload_at = at;
        let mut cursors: Vec<u32> = Vec::with_capacity(items.len());
        for item in &mut items {
            item.body_at = at;
            cursors.push(at);
            at += item.body_len;
        }
        let places = run_of
            .iter()
            .zip(entries)
            .map(|(run, e)| {
                let cursor = &mut cursors[*run as usize];
                let place = *cursor;
                *cursor += e.body.len() as u32;
                place
            })
            .collect();
        let payload_len = at - payload_at;
        let group_len = round_up(at as usize + items.len() * ITEM_LEN + GROUP_HEADER_LEN);
        (Layout { items, places, payload_len, group_len }, firsts)
    }

    /// Bytes of padding in the group.
    pub fn padding(&self) -> usize {
        self.group_len - 2 * (GROUP_HEADER_LEN + self.items.len() * ITEM_LEN) - self.payload_len as usize
    }

    /// Writes the group into `out` (exactly [`Layout::group_len`] bytes, whatever they held): the one copy of
    /// the record bytes, with base offsets and leader epochs patched in it.
    pub fn encode<C>(
        &self,
        entries: &[Entry<C>],
        generation: u64,
        position: WalPosition,
        durable: WalPosition,
        out: &mut [u8],
    ) -> GroupHeader {
        let directory_len = self.items.len() * ITEM_LEN;
        let payload_at = GROUP_HEADER_LEN + directory_len;
        let payload_end = payload_at + self.payload_len as usize;
        for (n, item) in self.items.iter().enumerate() {
            encode_item(&mut out[GROUP_HEADER_LEN + n * ITEM_LEN..], item);
        }
        for (e, place) in entries.iter().zip(&self.places) {
            let at = *place as usize;
            put(out, at, &e.body);
            if e.patch {
                // Only a body shorter than a batch header can fail, and such a body was never accepted.
                let patched = patch_base(&mut out[at..at + e.body.len()], e.first, e.leader_epoch);
                debug_assert!(patched.is_ok());
            }
        }
        let tail_at = self.group_len - GROUP_HEADER_LEN;
        out[payload_end..tail_at - directory_len].fill(0);
        let header = GroupHeader {
            generation,
            position,
            durable,
            group_len: self.group_len as u32,
            payload_len: self.payload_len,
            items: self.items.len() as u32,
            payload_crc: crc32c::crc32c(&out[payload_at..payload_end]),
        };
        out.copy_within(GROUP_HEADER_LEN..payload_at, tail_at - directory_len);
        for (at, magic) in [(0, HEAD_MAGIC), (tail_at, TAIL_MAGIC)] {
            encode_header(&mut out[at..at + GROUP_HEADER_LEN], magic, &header);
            let crc = directory_crc(&out[at..at + GROUP_HEADER_LEN - 4], &out[GROUP_HEADER_LEN..payload_at]);
            put(out, at + GROUP_HEADER_LEN - 4, &crc.to_le_bytes());
        }
        header
    }
}

/// Topic ids are random already: fold them instead of hashing them.
#[derive(Clone, Copy, Default)]
struct RunHash;

impl std::hash::BuildHasher for RunHash {
    type Hasher = Fold;
    fn build_hasher(&self) -> Fold {
        Fold(0)
    }
}

struct Fold(u64);

impl std::hash::Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn write_i32(&mut self, n: i32) {
        self.write_u64(n as u64);
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}
