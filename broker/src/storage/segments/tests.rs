//! Files that are filled, read, given up, replaced and damaged.

use super::*;
use chronik_core::ids::LeaderEpoch;
use chronik_core::record_batch::BatchBuilder;

pub fn batch(offset: Offset, len: usize) -> Vec<u8> {
    let value = vec![offset as u8; len];
    BatchBuilder::new().at(offset, LeaderEpoch(0)).record(1000 + offset, None, Some(&value)).build()
}

const LIMITS: Limits = Limits { bytes: 100_000, age_ms: i64::MAX };

fn append(segments: &mut Segments, offset: Offset, len: usize) {
    let bytes = batch(offset, len);
    let time = 1000 + offset;
    let chunk = Chunk {
        bytes: &bytes,
        first: offset,
        next: offset + 1,
        first_timestamp: time,
        max_timestamp: time,
        now_ms: 5000 + offset,
    };
    segments.append(&chunk, &LIMITS).unwrap();
}

fn filled(dir: &Path) -> Segments {
    let mut segments = Segments::new(dir.join("topic/0"), Vec::new());
    for offset in 0..100 {
        append(&mut segments, offset, 3000);
    }
    segments.sync().unwrap();
    segments
}

#[test]
fn what_was_synced_is_read_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let states = filled(dir.path()).states();
    assert!(states.len() > 2, "rolled by size");
    let mut segments = Segments::new(dir.path().join("topic/0"), states);
    segments.check().unwrap();
    let mut next = 0;
    while let Some(place) = segments.find(next).unwrap() {
        let bytes = read(&place, next, 90, 10_000, true).unwrap();
        if bytes.is_empty() {
            break;
        }
        for found in Batches::new(&bytes, Crc::Check) {
            let (header, range) = found.unwrap();
            assert_eq!(header.base_offset, next);
            assert_eq!(&bytes[range], &batch(next, 3000)[..]);
            next += 1;
        }
    }
    assert_eq!(next, 90, "nothing at or beyond the limit");
    let (place, from) = segments.find_time(1050, 0).unwrap().unwrap();
    let found = read(&place, from, 100, 1 << 20, true).unwrap();
    assert!(from <= 50 && Batches::new(&found, Crc::Check).flatten().any(|(h, _)| h.base_offset == 50));
}

#[test]
fn a_batch_larger_than_the_limit_comes_alone_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = Segments::new(dir.path().join("t/0"), Vec::new());
    append(&mut segments, 0, 900_000);
    segments.sync().unwrap();
    let place = segments.find(0).unwrap().unwrap();
    assert_eq!(read(&place, 0, 1, 10, true).unwrap().len(), batch(0, 900_000).len());
    assert!(read(&place, 0, 1, 10, false).unwrap().is_empty());
}

#[test]
fn old_segments_are_given_up_and_their_files_wait_for_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = filled(dir.path());
    let before = segments.states();
    segments.trim(before[1].end_offset + 1);
    assert_eq!(segments.states(), before[2..]);
    let condemned = segments.take_condemned();
    assert_eq!(condemned.len(), 4, "two files and their indexes");
    assert!(condemned.iter().all(|path| path.is_file()) && segments.take_condemned().is_empty());
    // A start after a crash before the checkpoint finds all of them; one after it removes them.
    Segments::new(dir.path().join("topic/0"), before).check().unwrap();
    assert!(condemned[0].is_file());
    Segments::new(dir.path().join("topic/0"), segments.states()).check().unwrap();
    assert!(!condemned[0].exists());
    segments.trim(100);
    assert_eq!(segments.states(), [], "the newest too, once all of it is deleted");
    append(&mut segments, 100, 10);
    segments.sync().unwrap();
    assert_eq!(segments.states()[0].base_offset, 100);
}

#[test]
fn the_newest_file_is_closed_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = filled(dir.path());
    let all = segments.states();
    assert_eq!(segments.closed(), all[..all.len() - 1]);
    let first = all.last().unwrap().begun_ms;
    segments.close_old(10, first + 10);
    assert_eq!(segments.closed().len(), all.len() - 1, "not older, just as old");
    segments.close_old(10, first + 11);
    assert_eq!(segments.closed(), all);
    append(&mut segments, 100, 10);
    segments.sync().unwrap();
    assert_eq!(segments.states().len(), all.len() + 1);
    // By the records' own times, too.
    let bytes = batch(101, 10);
    let late =
        Chunk { bytes: &bytes, first: 101, next: 102, first_timestamp: 9999, max_timestamp: 9999, now_ms: 0 };
    segments.append(&late, &Limits { bytes: 100_000, age_ms: 100 }).unwrap();
    segments.sync().unwrap();
    assert_eq!(segments.states().last().unwrap().base_offset, 101);
}

#[test]
fn cleaned_files_take_the_place_of_others_unless_those_have_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = filled(dir.path());
    let old = segments.closed()[..2].to_vec();
    let new = SegmentState { revision: 1, bytes: 3100, end_offset: old[1].end_offset, ..old[0].clone() };
    std::fs::write(segments.path_of(&new), batch(old[1].end_offset - 1, 3000)).unwrap();
    assert!(segments.replace(&old, std::slice::from_ref(&new)));
    let place = segments.find(0).unwrap().unwrap();
    assert_eq!((place.end, place.end_offset), (3100, old[1].end_offset));
    assert_eq!(segments.take_condemned().len(), 4);
    assert!(!segments.replace(&old, &[new]), "they are gone");
}

#[test]
fn damage_is_an_error_and_unsynced_bytes_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = filled(dir.path());
    append(&mut segments, 100, 10);
    assert!(segments.find(100).unwrap().is_none());
    assert_eq!(segments.end(), 100);
    segments.abandon();
    let place = segments.find(0).unwrap().unwrap();
    let file = OpenOptions::new().write(true).open(&place.path).unwrap();
    file.write_all_at(b"rot", 2000).unwrap();
    assert!(read(&place, 0, 100, 1 << 20, true).is_err());
}

/// The checksum covers neither a batch's offset nor its length.
#[test]
fn damage_that_no_checksum_covers_is_an_error_and_no_gap() {
    for (what, at, bytes) in [
        ("an offset too low", 0, [0; 8].as_slice()),
        ("an offset too high", 0, [0, 0, 1, 0, 0, 0, 0, 0].as_slice()),
        ("a length beyond the file", 8, [1, 0, 0, 0].as_slice()),
        ("a length that is none", 8, [0, 0, 0, 0].as_slice()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = filled(dir.path());
        let place = segments.find(60).unwrap().unwrap();
        // The last batch of the file.
        let last = place.end - batch(0, 3000).len() as u64;
        let file = OpenOptions::new().write(true).open(&place.path).unwrap();
        file.write_all_at(bytes, last + at).unwrap();
        let wanted = place.end_offset - 1;
        let mut again = Segments::new(dir.path().join("topic/0"), segments.states());
        let place = again.find(wanted).unwrap().unwrap();
        let read = read(&place, wanted, 1000, 1 << 20, true);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData, "{what}");
        let walked = walk(&place.path, place.end, &mut |_, _, _| Ok::<_, io::Error>(true)).unwrap();
        // Nothing follows that would show that the offset is too high.
        assert_eq!(walked.map(|damage| damage.at), (what != "an offset too high").then_some(last), "{what}");
    }
}

#[test]
fn the_index_lies_beside_the_file_and_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = filled(dir.path());
    let states = segments.states();
    let index = index::path_of(&segments.path_of(&states[0]));
    let bytes = std::fs::read(&index).unwrap();
    assert!(!bytes.is_empty());
    // Written as the file grew, as it would be built from it.
    index::rebuild(&segments.path_of(&states[0]), states[0].bytes).unwrap();
    assert_eq!(std::fs::read(&index).unwrap(), bytes);

    let last = states[0].end_offset - 1;
    assert!(segments.find(last).unwrap().unwrap().at > 0);
    for rotten in [b"".as_slice(), b"rot", &[0; 320]] {
        std::fs::write(&index, rotten).unwrap();
        {
            let mut segments = Segments::new(dir.path().join("topic/0"), states.clone());
            let place = segments.find(last).unwrap().unwrap();
            assert!(place.at > 0 && !read(&place, last, 100, 1 << 20, true).unwrap().is_empty());
        }
        assert_eq!(std::fs::read(&index).unwrap(), bytes);
    }
    // While it is in use.
    std::fs::write(&index, [1; 64]).unwrap();
    let place = segments.find(last).unwrap().unwrap();
    assert!(place.at > 0 && !read(&place, last, 100, 1 << 20, true).unwrap().is_empty());

    segments.trim(states[0].end_offset);
    assert!(segments.take_condemned().contains(&index));
    let kept: u64 = states[1..].iter().map(|s| s.bytes).sum();
    assert_eq!(segments.bytes(), kept);
    Segments::new(dir.path().join("topic/0"), segments.states()).check().unwrap();
    assert!(!index.exists(), "what belongs to no segment goes at the start");
}
