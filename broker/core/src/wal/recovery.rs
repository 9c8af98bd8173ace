//! Recovery: a walk over the log's positions, and a decision table for what is found there.
//!
//! The valid range of a file of generation g is `base(g) .. min(base(h) for h > g)`, at most its capacity:
//! a later header says where the earlier files end, so that what was cut never returns (invariant 11). It also
//! names the file before it and where that one begins: if that file is lost, no older one is read in its place. If two
//! in a row are lost, the one before them counts up to what its own groups knew to be durable.
//! The walk starts at the checkpoint. A hole above the last position known durable is a torn tail and is cut
//! off; a hole below it is corruption and is reported with the partitions that the group's directories name.

use std::fmt;

use super::format::{
    BLOCK, FILE_HEADER_LEN, FileHeader, FormatError, GroupHeader, Item, PreviousFile, decode_directory,
    decode_end_directory, decode_group, peek_header, peek_trailer,
};
use crate::ids::{DiskUuid, WalPosition};

/// A sector that the device would not give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// The WAL directory as recovery sees it.
pub trait Media {
    /// The slots for which a file exists, with its length.
    fn files(&mut self) -> Vec<(u32, u64)>;
    /// Fills `buf` from the file; what lies behind its end reads as zeros.
    fn read(&mut self, slot: u32, at: u64, buf: &mut [u8]) -> Result<(), Unreadable>;
}

/// What recovery found at a position and what it does about it. One row of the table each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// A whole group: replay it.
    Replay,
    /// A whole group without entries: it tells what was durable.
    Seal,
    /// The next generation begins here: go on in its file.
    NextFile,
    /// Nothing here and nothing behind: the log ends.
    CleanEnd,
    /// A damaged group, nothing complete behind it, nothing known durable behind it: cut it off.
    TornTail,
    /// A hole with complete groups behind it, none of which was known durable: they were in flight together
    /// and none was acknowledged. Cut them all off.
    TornInFlight,
    /// A damaged group below a durable position, its first directory readable: fence what it names.
    CorruptNamedByHead,
    /// The same, only the directory at its end readable.
    CorruptNamedByTail,
    /// The same, neither readable: fence all that cannot prove to be whole.
    CorruptUnnamed,
    /// A file below a durable position is missing or its headers are damaged: likewise.
    LostFile,
}

impl Row {
    pub const ALL: [Row; 10] = [
        Row::Replay,
        Row::Seal,
        Row::NextFile,
        Row::CleanEnd,
        Row::TornTail,
        Row::TornInFlight,
        Row::CorruptNamedByHead,
        Row::CorruptNamedByTail,
        Row::CorruptUnnamed,
        Row::LostFile,
    ];
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What lies at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Whole {
        entries: bool,
    },
    /// Zeros, or a group of an earlier use of the file.
    Nothing,
    Damaged,
    /// No file covers the position.
    OutsideFile,
}

/// The facts that a hole is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Beyond {
    /// The greatest position behind the hole that somebody recorded as durable.
    durable: WalPosition,
    /// A complete group or a later file lies behind.
    complete: bool,
}

/// The decision table.
fn decide(at: WalPosition, found: Found, beyond: Beyond, head: bool, tail: bool) -> Row {
    let was_durable = beyond.durable > at;
    match (found, was_durable) {
        (Found::Whole { entries: true }, _) => Row::Replay,
        (Found::Whole { entries: false }, _) => Row::Seal,
        (Found::OutsideFile, true) => Row::LostFile,
        (_, true) if head => Row::CorruptNamedByHead,
        (_, true) if tail => Row::CorruptNamedByTail,
        (_, true) => Row::CorruptUnnamed,
        (_, false) if beyond.complete => Row::TornInFlight,
        (Found::Damaged, false) => Row::TornTail,
        (_, false) => Row::CleanEnd,
    }
}

/// A stretch of the log that was durable once and cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    pub start: WalPosition,
    pub end: WalPosition,
    /// What it held, if a directory could be read.
    pub named: Option<Vec<Item>>,
    pub row: Row,
    /// The file, and where in it.
    pub place: Option<(u32, u64)>,
}

/// A whole group found by recovery.
pub struct FoundGroup<'a> {
    pub header: GroupHeader,
    pub items: &'a [Item],
    /// The group's bytes; an item's body lies at `body_at`.
    pub bytes: &'a [u8],
    pub slot: u32,
    pub file_offset: u64,
}

impl FoundGroup<'_> {
    /// The body of one of the group's items.
    pub fn body(&self, item: &Item) -> &[u8] {
        let at = item.body_at as usize;
        self.bytes.get(at..at + item.body_len as usize).unwrap_or_default()
    }

    pub fn body_position(&self, item: &Item) -> WalPosition {
        WalPosition(self.header.position.0 + u64::from(item.body_at))
    }
}

/// What recovery hands over, in log order.
pub enum Event<'a> {
    Group(FoundGroup<'a>),
    Hole(&'a Hole),
}

/// A file with a readable header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundFile {
    pub slot: u32,
    pub generation: u64,
    pub base: WalPosition,
    /// Where its content ends (equal to `base` when nothing in it counts).
    pub end: WalPosition,
}

#[derive(Debug)]
pub struct Recovered {
    /// Where the log ends: the base of the next generation.
    pub end: WalPosition,
    pub files: Vec<FoundFile>,
    /// The file before `end`, which the next header must name even if it is lost.
    pub previous: Option<PreviousFile>,
    /// Files without a readable header: zeroed, torn while being opened, or damaged.
    pub blank: Vec<u32>,
    pub holes: Vec<Hole>,
    /// Bytes of groups replayed.
    pub replayed_bytes: u64,
    pub rows: Vec<(Row, WalPosition)>,
}

/// Deliberate bugs for the simulator (`chronik-sim`) to catch. All off unless a test says so.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlantedBugs {
    /// Reads on in a file behind the place where the next generation begins.
    pub parse_stale_groups: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(
        "file {slot} belongs to another WAL ({found}, this one is {wal}): was the directory mixed with another broker's?"
    )]
    Foreign { slot: u32, found: DiskUuid, wal: DiskUuid },
    #[error("file {slot} was written by a newer version of the program (WAL format {version})")]
    Newer { slot: u32, version: u16 },
}

/// Walks the log from `checkpoint` to its end. Without a checkpoint it begins with the oldest file there is: for
/// tools. A log that was never recycled has one, position 0: then a missing first file is noticed.
///
/// # Errors
/// When the files are another log's, or of a newer version.
pub fn recover(
    media: &mut dyn Media,
    wal: DiskUuid,
    checkpoint: Option<WalPosition>,
    bugs: PlantedBugs,
    sink: &mut dyn FnMut(Event<'_>),
) -> Result<Recovered, RecoveryError> {
    let mut walk = Walk::open(media, wal, checkpoint, bugs)?;
    walk.run(sink);
    Ok(walk.finish())
}

#[derive(Clone, Copy)]
struct WalkFile {
    slot: u32,
    header: FileHeader,
    /// The positions behind this are another generation's.
    limit: WalPosition,
}

struct Walk<'a> {
    window: Window<'a>,
    files: Vec<WalkFile>,
    blank: Vec<u32>,
    at: WalPosition,
    /// The greatest position known durable.
    durable: WalPosition,
    /// Nothing behind this position can change the judgement of a hole any more.
    evidence_to: WalPosition,
    complete_from: Option<WalPosition>,
    holes: Vec<Hole>,
    replayed_bytes: u64,
    rows: Vec<(Row, WalPosition)>,
}

impl<'a> Walk<'a> {
    fn open(
        media: &'a mut dyn Media,
        wal: DiskUuid,
        checkpoint: Option<WalPosition>,
        bugs: PlantedBugs,
    ) -> Result<Walk<'a>, RecoveryError> {
        let mut files = Vec::new();
        let mut blank = Vec::new();
        let mut header = vec![0; BLOCK];
        for (slot, file_bytes) in media.files() {
            // The copies differ where the write of a header was torn. The newer one counts: its generation has
            // been used and must not be given to another file.
            let mut found = Err(FormatError::Blank);
            for copy in 0..2 {
                if media.read(slot, copy * BLOCK as u64, &mut header).is_ok() {
                    let newer = |f: &FileHeader, h: &FileHeader| f.generation < h.generation;
                    match FileHeader::decode(&header) {
                        Ok(h) if found.as_ref().is_ok_and(|f| !newer(f, &h)) => {}
                        Err(_) if found.is_ok() => {}
                        decoded => found = decoded,
                    }
                }
            }
            match found {
                Ok(h) if h.wal != wal => return Err(RecoveryError::Foreign { slot, found: h.wal, wal }),
                Ok(mut h) => {
                    h.file_bytes = file_bytes;
                    files.push(WalkFile { slot, header: h, limit: h.base });
                }
                Err(FormatError::Version(version)) => return Err(RecoveryError::Newer { slot, version }),
                Err(_) => blank.push(slot),
            }
        }
        files.sort_by_key(|f| f.header.generation);
        let mut window = Window::new(media);
        if bugs.parse_stale_groups {
            files.iter_mut().for_each(|f| f.limit = f.capacity_end());
        } else {
            window.limit(&mut files);
        }
        let oldest = || files.iter().filter(|f| f.limit > f.header.base).map(|f| f.header.base).min();
        let start = checkpoint.or_else(oldest).unwrap_or_default();
        let covers = files.iter().find(|f| f.header.base <= start && start < f.limit);
        let at = covers.copied().and_then(|f| window.group_holding(&f, start)).unwrap_or(start);
        let durable = files.iter().map(|f| f.header.durable).fold(start, WalPosition::max);
        Ok(Walk {
            window,
            files,
            blank,
            at,
            durable,
            evidence_to: at,
            complete_from: None,
            holes: Vec::new(),
            replayed_bytes: 0,
            rows: Vec::new(),
        })
    }

    fn run(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        loop {
            let row = self.step(sink);
            self.rows.push((row, self.at));
            if matches!(row, Row::CleanEnd | Row::TornTail | Row::TornInFlight) {
                return;
            }
        }
    }

    /// The file whose valid range covers a position. Of two (a planted bug only), the older.
    fn file_at(&self, at: WalPosition) -> Option<WalkFile> {
        let covers = |f: &&WalkFile| f.header.base <= at && at.0 + BLOCK as u64 <= f.limit.0;
        self.files.iter().find(covers).copied()
    }

    /// Judges one position, hands over what is there, and moves on.
    fn step(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> Row {
        let at = self.at;
        let Some(file) = self.file_at(at) else {
            return self.outside(sink);
        };
        // The base of a generation is where the one before it ends: note the passage.
        if file.header.base == at && self.rows.last().is_some_and(|(row, _)| *row != Row::NextFile) {
            return Row::NextFile;
        }
        let place = file.place(at);
        let found = self.window.group(&file, at);
        if let Ok((header, items, bytes)) = &found {
            self.durable = self.durable.max(header.durable);
            let row = decide(at, Found::Whole { entries: !header.is_seal() }, Beyond::default(), true, true);
            if !header.is_seal() {
                self.replayed_bytes += u64::from(header.group_len);
                let group = FoundGroup { header: *header, items, bytes, slot: file.slot, file_offset: place };
                sink(Event::Group(group));
            }
            self.at = header.end();
            return row;
        }
        let found = match found {
            Err(Damage::Nothing) => Found::Nothing,
            _ => Found::Damaged,
        };
        let beyond = self.look_beyond(&file, at);
        let head = self.window.head(&file, at);
        let tail = if head.is_none() { self.window.tail_of(&file, at) } else { None };
        let row = decide(at, found, beyond, head.is_some(), tail.is_some());
        let (end, named) = match row {
            Row::CorruptNamedByHead | Row::CorruptNamedByTail => match head.or(tail) {
                Some((h, items)) => (h.end(), Some(items)),
                None => return row,
            },
            Row::CorruptUnnamed => (self.window.next_group(&file, at).unwrap_or(file.limit), None),
            _ => return row,
        };
        self.hole(Hole { start: at, end, named, row, place: Some((file.slot, place)) }, sink);
        row
    }

    /// No file covers this position: the end of the log, or a file is lost.
    fn outside(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> Row {
        let at = self.at;
        let later = self.files.iter().filter(|f| f.header.base > at && f.limit > f.header.base);
        let next = later.map(|f| f.header.base).min();
        let complete = next.is_some();
        let mut beyond = Beyond { durable: self.durable, complete };
        for f in self.files.clone() {
            if f.header.base > at && f.limit > f.header.base {
                let there = self.window.scan(&f, f.header.base);
                beyond.durable = beyond.durable.max(there.durable);
            }
        }
        let row = decide(at, Found::OutsideFile, beyond, false, false);
        if row == Row::LostFile {
            let end = next.unwrap_or(beyond.durable);
            self.hole(Hole { start: at, end, named: None, row, place: None }, sink);
            if next.is_none() {
                // Nothing behind the lost file: the log goes on after what was known durable.
                self.durable = self.durable.max(end);
            }
        }
        row
    }

    fn hole(&mut self, hole: Hole, sink: &mut dyn FnMut(Event<'_>)) {
        self.at = hole.end;
        sink(Event::Hole(&hole));
        self.holes.push(hole);
    }

    /// What lies behind a hole, in this file and in later ones. Read once per log, not once per hole.
    fn look_beyond(&mut self, file: &WalkFile, at: WalPosition) -> Beyond {
        if self.evidence_to <= at {
            for f in self.files.clone() {
                let from = if f.slot == file.slot { WalPosition(at.0 + BLOCK as u64) } else { f.header.base };
                if f.limit <= f.header.base || from <= at && f.slot != file.slot || f.limit <= from {
                    continue;
                }
                let there = self.window.scan(&f, from);
                self.durable = self.durable.max(there.durable);
                if there.complete || f.header.base > at {
                    self.complete_from = self.complete_from.max(Some(f.limit));
                }
            }
            self.evidence_to = WalPosition(u64::MAX);
        }
        Beyond { durable: self.durable, complete: self.complete_from.is_some_and(|p| p > at) }
    }

    fn finish(self) -> Recovered {
        let end = self.at;
        let found = |f: &WalkFile| FoundFile {
            slot: f.slot,
            generation: f.header.generation,
            base: f.header.base,
            end: f.limit.min(end).max(f.header.base),
        };
        let named = self.files.iter().filter_map(|f| f.header.previous);
        let held = self.files.iter().filter(|f| f.limit > f.header.base);
        let held = held.map(|f| PreviousFile { generation: f.header.generation, base: f.header.base });
        let previous = held.chain(named).filter(|p| p.base < end).max_by_key(|p| p.generation);
        Recovered {
            end,
            previous,
            files: self.files.iter().map(found).collect(),
            blank: self.blank,
            holes: self.holes,
            replayed_bytes: self.replayed_bytes,
            rows: self.rows,
        }
    }
}

impl WalkFile {
    /// Where its content ends if the file is full.
    fn capacity_end(&self) -> WalPosition {
        WalPosition(self.header.base.0.saturating_add(FileHeader::capacity(self.header.file_bytes)))
    }

    fn place(&self, at: WalPosition) -> u64 {
        FILE_HEADER_LEN + (at.0 - self.header.base.0)
    }

    fn is_ours(&self, h: &GroupHeader, at: WalPosition) -> bool {
        h.generation == self.header.generation && h.position == at && h.end() <= self.limit
    }
}

enum Damage {
    Nothing,
    Broken,
}

fn is_aligned(position: WalPosition) -> bool {
    position.0.is_multiple_of(BLOCK as u64)
}

/// A stretch of one file in memory, so that blocks are read in large pieces.
struct Window<'a> {
    media: &'a mut dyn Media,
    slot: u32,
    start: u64,
    buf: Vec<u8>,
}

const WINDOW: usize = 1 << 20;

impl<'a> Window<'a> {
    fn new(media: &'a mut dyn Media) -> Window<'a> {
        Window { media, slot: u32::MAX, start: 0, buf: Vec::new() }
    }

    /// `len` bytes at `at`, or `None` if the device gives an error for them.
    fn bytes(&mut self, file: &WalkFile, at: u64, len: usize) -> Option<&[u8]> {
        let end = at + len as u64;
        let inside = self.slot == file.slot && self.start <= at && end <= self.start + self.buf.len() as u64;
        if !inside && !self.fill(file, at, len.max(WINDOW)) && !self.fill(file, at, len) {
            self.slot = u32::MAX;
            return None;
        }
        let from = (at - self.start) as usize;
        self.buf.get(from..from + len)
    }

    fn fill(&mut self, file: &WalkFile, at: u64, len: usize) -> bool {
        self.buf.resize(len, 0);
        self.slot = file.slot;
        self.start = at;
        self.media.read(file.slot, at, &mut self.buf).is_ok()
    }

    /// Finds where the content of each file ends; they come in the order of their generations.
    fn limit(&mut self, files: &mut [WalkFile]) {
        let mut next_base = WalPosition(u64::MAX);
        for n in (0..files.len()).rev() {
            let (generation, base) = (files[n].header.generation, files[n].header.base);
            // Later ones that are lost are known by what the ones behind them say.
            let named = || files[n + 1..].iter().filter_map(|f| f.header.previous);
            let lost = named().filter(|lost| lost.generation > generation).map(|lost| lost.base);
            let limit = lost.fold(files[n].capacity_end().min(next_base), WalPosition::min);
            let later = files[n + 1..].iter().map(|f| f.header.generation);
            let behind = later.chain(named().map(|p| p.generation)).filter(|g| *g >= generation).min();
            next_base = next_base.min(base);
            files[n].limit = limit;
            if behind.is_some_and(|next| next > generation + 1) {
                // The next one is lost, and so is what would have told where it began. Nothing is ever cut below what was
                // known durable: so much counts, and the rest may have been cut.
                let durable = self.scan(&files[n], base).durable;
                files[n].limit = limit.min(durable.max(base));
            }
        }
    }

    /// Looks at every block of a file for headers and trailers of its generation.
    fn scan(&mut self, file: &WalkFile, from: WalPosition) -> Beyond {
        let mut beyond = Beyond { durable: file.header.durable, complete: false };
        let mut at = from;
        while at.0 + BLOCK as u64 <= file.limit.0 {
            if let Some((h, _)) = self.head(file, at) {
                beyond.durable = beyond.durable.max(h.durable);
                if self.group(file, at).is_ok() {
                    beyond.complete = true;
                    at = h.end();
                    continue;
                }
            } else if let Some((h, _)) = self.tail_in(file, at) {
                beyond.durable = beyond.durable.max(h.durable);
            }
            at.0 += BLOCK as u64;
        }
        beyond
    }

    /// A whole group, every checksum verified.
    fn group(&mut self, file: &WalkFile, at: WalPosition) -> Result<(GroupHeader, Vec<Item>, &[u8]), Damage> {
        let place = file.place(at);
        let block = self.bytes(file, place, BLOCK).ok_or(Damage::Broken)?;
        let h = match peek_header(block) {
            Ok(h) if file.is_ours(&h, at) => h,
            Ok(h) if h.generation != file.header.generation => return Err(Damage::Nothing),
            // A block of zeros may be the start of a torn group: its other blocks tell, in look_beyond.
            Err(FormatError::Blank) => return Err(Damage::Nothing),
            _ => return Err(Damage::Broken),
        };
        let bytes = self.bytes(file, place, h.group_len as usize).ok_or(Damage::Broken)?;
        match decode_group(bytes) {
            Ok((h, items)) => Ok((h, items, bytes)),
            Err(_) => Err(Damage::Broken),
        }
    }

    /// Where the group begins that a position lies in: a checkpoint names the bytes it needs, which are
    /// somewhere in a group. `None` if the position is a group's beginning, or within nothing that is known.
    fn group_holding(&mut self, file: &WalkFile, position: WalPosition) -> Option<WalPosition> {
        let mut block = WalPosition(position.0 / BLOCK as u64 * BLOCK as u64);
        loop {
            if let Some((h, _)) = self.head(file, block) {
                let within = h.position < position && position < h.end();
                // Otherwise what holds the position is damaged, and begins where this group ends or later.
                let begins = if within { h.position } else { h.end() };
                return (begins < position && (within || !is_aligned(position))).then_some(begins);
            }
            if block <= file.header.base {
                return (!is_aligned(position)).then_some(block);
            }
            block.0 -= BLOCK as u64;
        }
    }

    /// Header and first directory of a group of this file, under their own checksum.
    fn head(&mut self, file: &WalkFile, at: WalPosition) -> Option<(GroupHeader, Vec<Item>)> {
        let place = file.place(at);
        let h = peek_header(self.bytes(file, place, BLOCK)?).ok().filter(|h| file.is_ours(h, at))?;
        let len = BLOCK.max(super::format::GROUP_HEADER_LEN + h.directory_len());
        decode_directory(self.bytes(file, place, len)?).ok()
    }

    /// The trailer that ends with the block at `at`, and its directory.
    fn tail_in(&mut self, file: &WalkFile, at: WalPosition) -> Option<(GroupHeader, Vec<Item>)> {
        let place = file.place(at);
        let h = peek_trailer(self.bytes(file, place, BLOCK)?).ok()?;
        let ends_here = h.end().0 == at.0 + BLOCK as u64;
        if !ends_here || h.position < file.header.base || !file.is_ours(&h, h.position) {
            return None;
        }
        let from = file.place(h.position);
        decode_end_directory(self.bytes(file, from, h.group_len as usize)?).ok()
    }

    /// The trailer of the group that starts at `at`, if it can be found before another group begins.
    fn tail_of(&mut self, file: &WalkFile, at: WalPosition) -> Option<(GroupHeader, Vec<Item>)> {
        let mut block = at;
        while block.0 + BLOCK as u64 <= file.limit.0 {
            if let Some((h, items)) = self.tail_in(file, block) {
                return (h.position == at).then_some((h, items));
            }
            block.0 += BLOCK as u64;
            if self.head(file, block).is_some() {
                return None;
            }
        }
        None
    }

    /// The next position behind `at` where a group of this file is recognisable.
    fn next_group(&mut self, file: &WalkFile, at: WalPosition) -> Option<WalPosition> {
        let mut block = WalPosition(at.0 + BLOCK as u64);
        while block.0 + BLOCK as u64 <= file.limit.0 {
            if self.head(file, block).is_some() {
                return Some(block);
            }
            // The end of a group whose start is damaged too: it names what it held.
            if let Some((h, _)) = self.tail_in(file, block).filter(|(h, _)| h.position > at) {
                return Some(h.position);
            }
            block.0 += BLOCK as u64;
        }
        None
    }
}
