//! Files with every kind of damage: what is whole is found, and what is not is never served.

use bytes::Bytes;
use chronik_core::record_batch::{BatchHeader, Batches, Crc};

use super::tests::batch;
use super::*;

const BATCHES: i64 = 100;
const END: Offset = BATCHES;

/// A segment of equal batches, one record each, with its index.
struct Bed {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Bed {
    fn new() -> Bed {
        let bed = Bed {
            dir: tempfile::tempdir().unwrap(),
            bytes: (0..BATCHES).flat_map(|n| batch(n, 3000)).collect(),
        };
        bed.write();
        index::complete(&bed.path(), bed.bytes.len() as u64).unwrap();
        bed
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(file_name(0, 0))
    }

    fn write(&self) {
        std::fs::write(self.path(), &self.bytes).unwrap();
    }

    /// Where a batch begins.
    fn at(&self, offset: Offset) -> u64 {
        self.bytes.len() as u64 / BATCHES as u64 * offset as u64
    }

    fn spoil(&mut self, at: u64, with: &[u8]) {
        self.bytes[at as usize..at as usize + with.len()].copy_from_slice(with);
        self.write();
    }

    fn state(&self) -> SegmentState {
        SegmentState {
            bytes: self.bytes.len() as u64,
            end_offset: END,
            max_timestamp: 1000 + END,
            written_ms: 50,
            ..SegmentState::begun(0)
        }
    }

    fn segments(&self) -> Segments {
        let mut segments = Segments::new(self.dir.path().to_path_buf(), vec![self.state()]);
        segments.seal();
        segments
    }

    fn extent(&self) -> Extent {
        Extent { base_offset: 0, bytes: self.bytes.len() as u64, end_offset: END }
    }

    /// What is damaged, as offsets; and that all others were seen, each once.
    fn verify(&self) -> Vec<Damaged> {
        let mut seen = Vec::new();
        let each = &mut |header: &BatchHeader, _: &Bytes| {
            seen.push(header.base_offset);
            Ok::<_, io::Error>(())
        };
        let damaged = verify_file(&self.path(), &self.extent(), each).unwrap().damaged;
        let lost = |n: &i64| damaged.iter().any(|d| (d.from_offset..d.to_offset).contains(n));
        // What turns out to be damaged by what follows it was seen before.
        assert!((0..END).filter(|n| !lost(n)).all(|n| seen.contains(&n)), "{seen:?} but {damaged:?}");
        damaged
    }

    fn offsets(&self) -> Vec<(Offset, Offset)> {
        self.verify().iter().map(|d| (d.from_offset, d.to_offset)).collect()
    }
}

#[test]
fn a_whole_file_gives_its_index_too() {
    let bed = Bed::new();
    let found = verify_file(&bed.path(), &bed.extent(), &mut |_, _| Ok::<_, io::Error>(())).unwrap();
    assert_eq!(found.damaged, []);
    assert!(!found.entries.is_empty() && found.entries == index::entries(&bed.path()));
}

#[test]
fn each_kind_of_damage_costs_as_little_as_it_can() {
    let bed = Bed::new();
    let index: Vec<Offset> = index::entries(&bed.path()).iter().map(|e| e.offset).collect();
    let behind = |offset: Offset| *index.iter().find(|o| **o > offset).unwrap();
    for (what, field, with, lost) in [
        ("a record", 100, [0xff; 2].as_slice(), (40, 41)),
        ("the checksum", 17, &[1, 2, 3, 4], (40, 41)),
        ("a length that leads nowhere", 8, &[0, 0, 9, 0], (40, behind(40))),
        ("a length beyond the file", 8, &[0x7f, 0, 0, 0], (40, behind(40))),
        ("no batch at all", 0, &[0; 70], (40, behind(40))),
        ("an offset too low", 0, &3_i64.to_be_bytes(), (40, 41)),
        ("an offset beyond the end", 0, &1000_i64.to_be_bytes(), (40, 41)),
        // Nothing but what follows shows that it is not the true one.
        ("an offset a little too high", 0, &41_i64.to_be_bytes(), (40, 42)),
    ] {
        let mut bed = Bed::new();
        bed.spoil(bed.at(40) + field, with);
        let damaged = bed.verify();
        let offsets: Vec<_> = damaged.iter().map(|d| (d.from_offset, d.to_offset)).collect();
        assert_eq!(offsets, [lost], "{what}");
        assert_eq!((damaged[0].at, damaged[0].to), (bed.at(lost.0), bed.at(lost.1)), "{what}");
    }
}

#[test]
fn without_an_index_a_lost_length_costs_the_rest() {
    let mut bed = Bed::new();
    bed.spoil(bed.at(40) + 8, &[0, 0, 9, 0]);
    std::fs::remove_file(index::path_of(&bed.path())).unwrap();
    assert_eq!(bed.offsets(), [(40, END)]);
}

#[test]
fn a_file_that_is_cut_short_or_missing_is_damaged() {
    let mut bed = Bed::new();
    let whole = bed.extent();
    bed.bytes.truncate(bed.at(90) as usize + 5);
    bed.write();
    let each = &mut |_: &BatchHeader, _: &Bytes| Ok::<_, io::Error>(());
    let damaged = verify_file(&bed.path(), &whole, each).unwrap().damaged;
    assert_eq!((damaged[0].from_offset, damaged[0].to_offset), (90, END));
    assert!(damaged[0].why.contains("the file ends at"), "{}", damaged[0]);
    std::fs::remove_file(bed.path()).unwrap();
    let damaged = verify_file(&bed.path(), &whole, each).unwrap().damaged;
    assert_eq!((damaged[0].from_offset, damaged[0].to_offset, damaged.len()), (0, END, 1));
}

#[test]
fn damage_at_many_places_is_told_apart_within_bounds() {
    let mut bed = Bed::new();
    for n in [0, 7, 8, 99] {
        bed.spoil(bed.at(n) + 80, &[0xff]);
    }
    assert_eq!(bed.offsets(), [(0, 1), (7, 9), (99, 100)]);
    for n in 0..BATCHES / 2 {
        bed.spoil(bed.at(2 * n) + 80, &[0xff]);
    }
    let offsets = bed.offsets();
    assert_eq!((offsets.len(), offsets.last()), (16, Some(&(32, END))));
}

/// A device that cannot give some of its bytes.
#[test]
fn an_unreadable_place_costs_the_batch_that_holds_it() {
    let bed = Bed::new();
    let bad = bed.at(40) + 1500;
    let read = &mut |at: u64, len: usize| {
        let (from, to) = (at as usize, at as usize + len);
        match (at..to as u64).contains(&bad) {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(Bytes::copy_from_slice(&bed.bytes[from..to])),
        }
    };
    let mut seen = 0;
    let each = &mut |_: &BatchHeader, _: &Bytes| {
        seen += 1;
        Ok::<_, io::Error>(())
    };
    let damaged = verify::verify(read, &index::entries(&bed.path()), &bed.extent(), each).unwrap().damaged;
    let offsets: Vec<_> = damaged.iter().map(|d| (d.from_offset, d.to_offset)).collect();
    assert_eq!((offsets, seen), (vec![(40, 41)], END - 1));
    // A process without descriptors says nothing about the file.
    let starved = &mut |_: u64, _: usize| Err(io::Error::from_raw_os_error(libc::EMFILE));
    let each = &mut |_: &BatchHeader, _: &Bytes| Ok::<_, io::Error>(());
    assert!(verify::verify(starved, &[], &bed.extent(), each).is_err());
}

/// Reads from `from` on as a fetch does, until there is no more or an error.
fn read_on(segments: &mut Segments, from: Offset) -> (Vec<Offset>, io::Result<()>) {
    let (mut offsets, mut next) = (Vec::new(), from);
    loop {
        let read = segments.find(next).and_then(|place| match place {
            None => Ok(Bytes::new()),
            Some(place) => read(&place, next, END, 10_000, true),
        });
        match read {
            Ok(bytes) if bytes.is_empty() => return (offsets, Ok(())),
            Ok(bytes) => {
                offsets.extend(Batches::new(&bytes, Crc::Check).flatten().map(|(h, _)| h.base_offset))
            }
            Err(e) => return (offsets, Err(e)),
        }
        next = offsets.last().map_or(next, |last| last + 1);
    }
}

#[test]
fn what_is_damaged_is_refused_at_once_and_all_around_it_is_served() {
    let mut bed = Bed::new();
    // One that reading itself would not notice.
    bed.spoil(bed.at(40), &41_i64.to_be_bytes());
    bed.spoil(bed.at(70) + 8, &[0, 0, 9, 0]);
    let mut segments = bed.segments();
    let (state, _) = segments.closed_at(0).unwrap();
    let damaged = bed.verify();
    let resumed = damaged[1].to_offset;
    assert_eq!(segments.verified(&state, damaged.clone(), 1000), Change::Damaged);
    assert_eq!(segments.verified(&state, damaged, 1000), Change::None, "told once");
    assert_eq!((segments.damaged(), segments.cleanable().len(), segments.closed().len()), (1, 0, 1));

    let (offsets, end) = read_on(&mut segments, 0);
    assert_eq!(offsets, (0..40).collect::<Vec<_>>());
    assert!(KnownDamage::is(&end.unwrap_err()));
    let (offsets, end) = read_on(&mut segments, 42);
    assert_eq!(offsets, (42..70).collect::<Vec<_>>());
    assert!(KnownDamage::is(&end.unwrap_err()));
    let (offsets, end) = read_on(&mut segments, resumed);
    assert_eq!(offsets, (resumed..END).collect::<Vec<_>>());
    end.unwrap();
    for lost in [40, 41, 70, resumed - 1] {
        assert!(KnownDamage::is(&segments.find(lost).unwrap_err()), "{lost}");
    }
    // By time: what is before is found, and what might be in the damaged part is no answer.
    assert!(segments.find_time(1010, 0).unwrap().is_some());
    assert!(segments.find_time(1040, 40).is_err());
    segments.trim(END);
    assert_eq!((segments.damaged(), segments.states().len()), (0, 0), "retention may take it");
}

#[test]
fn the_order_of_verification_survives_and_damage_comes_first_after_a_restart() {
    let bed = Bed::new();
    let mut segments = bed.segments();
    let (state, _) = segments.closed_at(0).unwrap();
    let seen = |segments: &Segments| {
        let seen = segments.to_verify().next().unwrap();
        (seen.verified_ms, seen.suspect)
    };
    let restarted = |segments: &Segments| {
        let mut again = Segments::new(bed.dir.path().to_path_buf(), segments.states());
        again.seal();
        again
    };
    assert_eq!(seen(&segments), (50, false), "as old as its writing");
    assert_eq!(segments.verified(&state, Vec::new(), 1000), Change::None);
    assert_eq!((seen(&segments), seen(&restarted(&segments))), ((1000, false), (1000, false)));
    segments.suspect(77);
    assert_eq!((seen(&segments), seen(&restarted(&segments))), ((0, true), (0, true)));
    let lost = Damaged { at: 0, to: 10, from_offset: 0, to_offset: 1, why: "rot".to_string() };
    assert_eq!(segments.verified(&state, vec![lost], 2000), Change::Damaged);
    assert_eq!((seen(&segments), seen(&restarted(&segments))), ((2000, false), (0, true)));
    assert_eq!(segments.verified(&state, Vec::new(), 3000), Change::WholeAgain);
    assert_eq!((seen(&segments), segments.damaged()), ((3000, false), 0));
    let other = SegmentState { revision: 1, ..state };
    assert_eq!(segments.verified(&other, Vec::new(), 4000), Change::Gone);
    // The newest file is not closed.
    let open = Segments::new(bed.dir.path().to_path_buf(), segments.states());
    assert_eq!((open.to_verify().count(), open.closed_at(0)), (0, None));
}

#[test]
fn an_index_of_another_file_is_put_right() {
    let bed = Bed::new();
    let mut segments = bed.segments();
    let (state, path) = segments.closed_at(0).unwrap();
    let should = index::entries(&path);
    assert!(!segments.check_index(&state, &should));
    let bytes = std::fs::read(index::path_of(&path)).unwrap();
    let longer = [bytes.clone(), vec![1]].concat();
    for (wrong, is_rebuilt) in [(&bytes[..40], false), (b"rot".as_slice(), true), (longer.as_slice(), true)] {
        std::fs::write(index::path_of(&path), wrong).unwrap();
        assert_eq!(segments.check_index(&state, &should), is_rebuilt);
        segments.find(90).unwrap();
        assert_eq!(std::fs::read(index::path_of(&path)).unwrap(), bytes);
    }
}
