//! The log's parts together, on a disk in memory.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::commit::{ActiveFile, Done, GroupCommit, Step};
use super::format::{BLOCK, Entry, EntryKind, FILE_HEADER_LEN, FileHeader, PreviousFile};
use super::profile::{PolicyKind, WalProfile, built_in};
use super::recovery::{Event, Media, PlantedBugs, Recovered, Row, Unreadable, recover};
use crate::ids::{DiskUuid, LeaderEpoch, TopicId, TopicIdPartition, Uuid, WalPosition};
use crate::record_batch::BatchBuilder;

const FILE_BYTES: u64 = 32 * BLOCK as u64;
const WAL: DiskUuid = DiskUuid(Uuid::from_u128(7));

#[derive(Clone, Default)]
struct Disk(BTreeMap<u32, Vec<u8>>);

impl Media for Disk {
    fn files(&mut self) -> Vec<(u32, u64)> {
        self.0.iter().map(|(slot, b)| (*slot, b.len() as u64)).collect()
    }
    fn read(&mut self, slot: u32, at: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let file = self.0.get(&slot).ok_or(Unreadable)?;
        let from = (at as usize).min(file.len());
        let to = (from + buf.len()).min(file.len());
        buf.fill(0);
        buf[..to - from].copy_from_slice(&file[from..to]);
        Ok(())
    }
}

impl Disk {
    fn write(&mut self, slot: u32, at: u64, bytes: &[u8]) {
        let file = self.0.entry(slot).or_insert_with(|| vec![0; FILE_BYTES as usize]);
        file[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn header(&self, slot: u32) -> Option<FileHeader> {
        FileHeader::decode(self.0.get(&slot)?.get(..BLOCK)?).ok()
    }

    fn open(&mut self, slot: u32, generation: u64, base: WalPosition, durable: WalPosition) -> ActiveFile {
        // Of the files in these tests, none is ever empty: the one before has the generation before.
        let before = self.header(slot.wrapping_sub(1)).filter(|h| h.generation + 1 == generation);
        let previous = before.map(|h| PreviousFile { generation: h.generation, base: h.base });
        let file_bytes = FILE_BYTES;
        let header = FileHeader { wal: WAL, generation, base, durable, file_bytes, previous }.encode();
        self.write(slot, 0, &header);
        self.write(slot, BLOCK as u64, &header);
        ActiveFile { slot, generation, base, file_bytes: FILE_BYTES }
    }
}

struct Log {
    disk: Disk,
    commit: GroupCommit<u64, Vec<u8>>,
    offsets: BTreeMap<i32, i64>,
    now_us: u64,
}

fn tp(partition: i32) -> TopicIdPartition {
    TopicIdPartition { topic_id: TopicId(Uuid::from_u128(1)), partition }
}

fn profile(policy: PolicyKind) -> WalProfile {
    WalProfile { policy, max_delay_us: 1000, ..built_in()["high"].0.clone() }
}

impl Log {
    fn new() -> Log {
        let mut disk = Disk::default();
        let file = disk.open(0, 1, WalPosition(0), WalPosition(0));
        let commit = GroupCommit::new(file, &[profile(PolicyKind::Pipelined)], 2, 0);
        Log { disk, commit, offsets: BTreeMap::new(), now_us: 0 }
    }

    fn push(&mut self, partition: i32, tag: u64, value: &[u8]) {
        let offset = self.offsets.entry(partition).or_default();
        let body = BatchBuilder::new().record(0, None, Some(value)).build();
        let entry = Entry {
            kind: EntryKind::Append,
            tp: tp(partition),
            first: *offset,
            last: *offset,
            leader_epoch: LeaderEpoch(3),
            records: 1,
            patch: true,
            body: Bytes::from(body),
            profile: 0,
            client: tag,
        };
        *offset += 1;
        self.commit.push(entry, self.now_us);
    }

    /// Writes all that is due; completes it too.
    fn drain(&mut self) -> Vec<Done<u64, Vec<u8>>> {
        let mut done = Vec::new();
        loop {
            match self.commit.poll(self.now_us, false) {
                Step::Write => {
                    let s = self.commit.take(self.now_us, |n| vec![0xAA; n]);
                    self.disk.write(s.slot, s.file_offset, &s.buf);
                    done.extend(self.commit.written(s.sequence, s.buf, self.now_us));
                }
                Step::Roll { base } => {
                    let old = self.commit.file();
                    let durable = self.commit.durable();
                    let file = self.disk.open(old.slot + 1, old.generation + 1, base, durable);
                    self.commit.rolled(file, durable);
                }
                Step::Wait { .. } => return done,
            }
        }
    }
}

fn recovered(disk: &mut Disk, bugs: PlantedBugs) -> (Recovered, Vec<(i32, i64, i64)>) {
    let mut runs = Vec::new();
    let r = recover(disk, WAL, Some(WalPosition(0)), bugs, &mut |event| {
        if let Event::Group(g) = event {
            for item in g.items {
                assert_eq!(g.body(item).len(), item.body_len as usize);
                runs.push((item.tp.partition, item.first, item.last));
            }
        }
    })
    .unwrap();
    (r, runs)
}

fn rows(r: &Recovered) -> Vec<Row> {
    r.rows.iter().map(|(row, _)| *row).collect()
}

#[test]
fn entries_of_a_partition_form_one_run_and_come_back() {
    let mut log = Log::new();
    for n in 0..6 {
        log.push(n % 2, n as u64, b"value");
    }
    let done = log.drain();
    assert_eq!(done.len(), 1, "one group for all that waited");
    let runs: Vec<_> =
        done[0].runs.iter().map(|r| (r.item.tp.partition, r.item.first, r.item.last)).collect();
    assert_eq!(runs, [(0, 0, 2), (1, 0, 2)]);
    let (r, runs) = recovered(&mut log.disk, PlantedBugs::default());
    assert_eq!(runs, [(0, 0, 2), (1, 0, 2)]);
    assert_eq!(rows(&r), [Row::Replay, Row::CleanEnd]);
    assert_eq!(r.end, log.commit.next_position());
}

#[test]
fn an_idle_log_seals_once() {
    let mut log = Log::new();
    log.push(0, 0, b"x");
    log.drain();
    assert_eq!(log.commit.poll(0, false), Step::Wait { until_us: Some(super::commit::SEAL_AFTER_US) });
    log.now_us = super::commit::SEAL_AFTER_US;
    assert!(log.drain()[0].is_seal);
    log.now_us *= 10;
    assert!(log.drain().is_empty() && log.commit.is_quiet());
    let (r, _) = recovered(&mut log.disk, PlantedBugs::default());
    assert_eq!(rows(&r), [Row::Replay, Row::Seal, Row::CleanEnd]);
}

#[test]
fn groups_are_durable_in_log_order_only() {
    let mut log = Log::new();
    log.push(0, 1, b"a");
    let a = log.commit.take(0, |n| vec![0; n]);
    log.push(0, 2, b"b");
    let b = log.commit.take(0, |n| vec![0; n]);
    log.push(0, 3, b"c");
    assert_eq!(log.commit.poll(0, false), Step::Wait { until_us: None }, "two slots, both busy");
    assert!(log.commit.written(b.sequence, b.buf, 5).is_empty());
    let done = log.commit.written(a.sequence, a.buf, 9);
    assert_eq!(done.iter().map(|d| d.runs[0].client).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn nothing_is_acknowledged_after_a_failure() {
    let mut log = Log::new();
    log.push(0, 1, b"a");
    let a = log.commit.take(0, |n| vec![0; n]);
    log.push(0, 2, b"b");
    let b = log.commit.take(0, |n| vec![0; n]);
    log.push(0, 3, b"c");
    let mut waiting = log.commit.fail();
    waiting.sort_unstable();
    assert_eq!(waiting, [1, 2, 3]);
    assert!(log.commit.written(a.sequence, a.buf, 1).is_empty());
    assert!(log.commit.written(b.sequence, b.buf, 1).is_empty());
    assert_eq!(log.commit.poll(1_000_000, true), Step::Wait { until_us: None });
}

#[test]
fn a_torn_tail_is_cut_and_never_returns() {
    let mut log = Log::new();
    log.push(0, 0, b"kept");
    log.drain();
    let cut = log.commit.next_position();
    log.push(0, 1, &[1; 6000]);
    log.drain();
    let behind = log.commit.next_position();
    log.push(0, 2, b"stale");
    log.drain();
    // The second group is torn; the third, whole, was in flight with it: a header names what was durable.
    let mut disk = log.disk.clone();
    disk.write(0, FILE_HEADER_LEN + cut.0 + BLOCK as u64, &[0; BLOCK]);
    let clean = recovered(&mut disk, PlantedBugs::default()).0;
    assert!(rows(&clean).contains(&Row::CorruptNamedByHead), "the third group knew the second durable");

    let mut log = Log::new();
    log.push(0, 0, b"kept");
    log.drain();
    log.push(0, 1, &[1; 6000]);
    let torn = log.commit.take(0, |n| vec![0; n]);
    log.push(0, 2, b"stale");
    let whole = log.commit.take(0, |n| vec![0; n]);
    log.disk.write(torn.slot, torn.file_offset, &torn.buf[..BLOCK]);
    log.disk.write(whole.slot, whole.file_offset, &whole.buf);
    let (r, runs) = recovered(&mut log.disk, PlantedBugs::default());
    assert_eq!((r.end, runs.len()), (cut, 1));
    assert_eq!(rows(&r).last(), Some(&Row::TornInFlight));

    // The next generation writes a group of the same length at the cut; the stale one lies behind it.
    log.disk.open(1, 2, cut, cut);
    log.offsets.insert(0, 1);
    let mut next = GroupCommit::new(
        ActiveFile { slot: 1, generation: 2, base: cut, file_bytes: FILE_BYTES },
        &[profile(PolicyKind::Pipelined)],
        1,
        0,
    );
    std::mem::swap(&mut log.commit, &mut next);
    log.push(0, 9, &[2; 6000]);
    log.drain();
    assert_eq!(log.commit.next_position(), behind);
    let (r, runs) = recovered(&mut log.disk, PlantedBugs::default());
    assert_eq!(runs, [(0, 0, 0), (0, 1, 1)]);
    assert_eq!(rows(&r), [Row::Replay, Row::NextFile, Row::Replay, Row::CleanEnd]);
    let (_, runs) = recovered(&mut log.disk, PlantedBugs { parse_stale_groups: true });
    assert_ne!(runs, [(0, 0, 0), (0, 1, 1)], "the planted bug shows");
}

/// Five groups over two files, then damage; returns what recovery says of it.
fn damaged(damage: impl Fn(&mut Disk, &[(u32, u64, usize)])) -> (Recovered, Vec<(i32, i64, i64)>) {
    let mut log = Log::new();
    let mut places = Vec::new();
    for n in 0..5 {
        log.push(n, n as u64, &[n as u8; 30_000]);
        for d in log.drain() {
            let file = log.commit.file();
            places.push((
                file.slot,
                FILE_HEADER_LEN + d.position.0 - file.base.0,
                (d.end.0 - d.position.0) as usize,
            ));
        }
    }
    damage(&mut log.disk, &places);
    recovered(&mut log.disk, PlantedBugs::default())
}

#[test]
fn corruption_below_the_durable_position_is_named() {
    let whole = damaged(|_, _| {});
    assert_eq!(whole.1.len(), 5);
    assert!(rows(&whole.0).contains(&Row::NextFile));

    let (r, runs) = damaged(|disk, at| disk.write(at[1].0, at[1].1 + 5000, b"rot"));
    assert_eq!(runs.len(), 4);
    assert_eq!(r.holes[0].row, Row::CorruptNamedByHead);
    assert_eq!(r.holes[0].named.as_ref().unwrap()[0].tp.partition, 1);

    let (r, runs) = damaged(|disk, at| disk.write(at[1].0, at[1].1, b"rot"));
    assert_eq!((runs.len(), r.holes[0].row), (4, Row::CorruptNamedByTail));
    assert_eq!(r.holes[0].named.as_ref().unwrap()[0].tp.partition, 1);

    let (r, runs) = damaged(|disk, at| disk.write(at[1].0, at[1].1, &vec![0x5A; at[1].2]));
    assert_eq!((runs.len(), r.holes[0].row), (4, Row::CorruptUnnamed));

    let (r, runs) = damaged(|disk, _| disk.write(0, 0, &[0xFF; 2 * BLOCK]));
    assert!(runs.len() < 5 && r.blank == [0]);
    assert_eq!((r.holes.len(), r.holes[0].start, rows(&r)[0]), (1, WalPosition(0), Row::LostFile));
}

#[test]
fn a_lost_file_below_the_durable_position_is_a_hole() {
    let mut log = Log::new();
    for n in 0..12 {
        log.push(0, n, &[n as u8; 30_000]);
        log.drain();
    }
    assert!(log.disk.0.len() >= 3);
    log.disk.write(1, 0, &[0xFF; 2 * BLOCK]);
    let (r, _) = recovered(&mut log.disk, PlantedBugs::default());
    assert!(rows(&r).iter().any(|row| matches!(row, Row::LostFile | Row::CorruptUnnamed)), "{:?}", rows(&r));
    assert_eq!(r.end, log.commit.next_position());
}

/// Found by the simulator: the file behind a cut was lost, and what had been cut off was read in its place.
#[test]
fn no_older_file_is_read_in_the_place_of_a_lost_one() {
    let mut log = Log::new();
    log.push(0, 0, b"kept");
    log.drain();
    let cut = log.commit.next_position();
    for (partition, tag) in [(0, 1), (1, 2)] {
        log.push(partition, tag, &[tag as u8; 6000]);
        let s = log.commit.take(0, |n| vec![0; n]);
        let torn = if tag == 1 { &s.buf[..BLOCK] } else { &s.buf[..] };
        log.disk.write(s.slot, s.file_offset, torn);
    }
    // The next generation begins at the cut, fills its file, and goes on in another one.
    log.offsets = BTreeMap::from([(0, 1)]);
    let file = log.disk.open(1, 2, cut, cut);
    log.commit = GroupCommit::new(file, &[profile(PolicyKind::Pipelined)], 1, 0);
    for n in 0..5 {
        log.push(0, n, &[9; 30_000]);
        log.drain();
    }
    assert_eq!(log.commit.file().generation, 3);
    let check = |disk: &mut Disk| {
        let (r, runs) = recovered(disk, PlantedBugs::default());
        assert_eq!((r.holes.len(), r.holes[0].start, r.holes[0].row), (1, cut, Row::LostFile));
        assert!(runs.iter().all(|run| run.0 == 0), "partition 1's run was cut off: {runs:?}");
    };
    let second = log.disk.0.remove(&1).unwrap();
    check(&mut log.disk);
    // One file more, and two in a row are lost: none is left that says where the second one began.
    log.disk.0.insert(1, second);
    for n in 5..10 {
        log.push(0, n, &[9; 30_000]);
        log.drain();
    }
    assert!(log.commit.file().generation >= 4);
    log.disk.0.remove(&1);
    log.disk.0.remove(&2);
    check(&mut log.disk);
}

#[test]
fn a_checkpoint_within_a_group_begins_with_that_group() {
    let mut log = Log::new();
    let mut runs = Vec::new();
    for _ in 0..3 {
        log.push(0, 0, &[0; 6000]);
        log.push(1, 1, &[1; 6000]);
        runs.extend(log.drain().remove(0).runs);
    }
    for (n, run) in runs.iter().enumerate() {
        let mut found = Vec::new();
        let recovered =
            recover(&mut log.disk, WAL, Some(run.position), PlantedBugs::default(), &mut |event| {
                if let Event::Group(g) = event {
                    found.extend(g.items.iter().map(|item| (item.tp, item.first)));
                }
            })
            .unwrap();
        assert_eq!(recovered.end, log.commit.next_position());
        let from: Vec<_> = runs[n / 2 * 2..].iter().map(|run| (run.item.tp, run.item.first)).collect();
        assert_eq!(found, from, "from run {n} on");
    }
}

#[test]
fn of_two_header_copies_the_newer_counts() {
    let mut log = Log::new();
    log.push(0, 0, b"x");
    log.drain();
    let header = FileHeader { generation: 7, base: WalPosition(1 << 20), ..log.disk.header(0).unwrap() };
    log.disk.write(0, BLOCK as u64, &header.encode());
    let (r, _) = recovered(&mut log.disk, PlantedBugs::default());
    assert_eq!(r.files[0].generation, 7, "or another file would get the same one");
}

#[test]
fn limits_bound_a_group_and_a_larger_entry_goes_alone() {
    let mut log = Log::new();
    let small = WalProfile { max_group_records: 3, max_group_bytes: 4096, ..profile(PolicyKind::Pipelined) };
    log.commit.set_profiles(&[small]);
    for n in 0..7 {
        log.push(0, n, b"v");
    }
    log.push(0, 7, &[0; 9000]);
    log.push(0, 8, b"v");
    let sizes: Vec<u64> = log.drain().iter().map(|d| d.tallies[0].records).collect();
    assert_eq!(sizes, [3, 3, 1, 1, 1]);
}

#[test]
fn the_earliest_due_entry_flushes_the_whole_log() {
    let mut log = Log::new();
    log.commit.set_profiles(&[profile(PolicyKind::Fixed), profile(PolicyKind::Pipelined)]);
    log.push(0, 0, b"patient");
    assert_eq!(log.commit.poll(0, false), Step::Wait { until_us: Some(1000) });
    assert_eq!(log.commit.poll(0, true), Step::Write, "a stop waits for nobody");
    log.push(1, 1, b"eager");
    log.commit.queue_profile_for_test(1);
    assert_eq!(log.drain()[0].runs.len(), 2);
}
