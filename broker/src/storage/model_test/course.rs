//! One course of operations, done to the storage and to the model, which are compared after each.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chronik_client::compression::Codec;
use chronik_client::{BatchBuilder, NewRecord as Record, Producer};
use chronik_core::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicIdPartition};
use chronik_core::log::retention::Stretch;
use chronik_core::log::{AbortedTransaction, EndMarker};
use chronik_core::metadata::TopicConfig;
use chronik_core::record_batch::{BatchHeader, patch_base};
use tokio::sync::oneshot;

use super::model::{Batch, Expected, Log, Pass};
use super::{Kind, NewBatch, Op, TOPICS};
use crate::api::partitions::{PartitionReader, ReadError};
use crate::storage::copying::Copying;
use crate::storage::partition::{Acknowledge, DeleteRefused, Partition, Refused};
use crate::storage::read::Reader;
use crate::storage::segments::files_of;
use crate::storage::testing::{Bed, Debris, Obstacles};

const DELETE_RETENTION_MS: i64 = 300_000;

struct Topic {
    id: TopicIdPartition,
    kind: Kind,
    log: Log,
}

pub struct Course {
    bed: Bed,
    topics: Vec<Topic>,
    /// Makes every value another one.
    values: u64,
    /// An attempt has failed since the start: the next start removes what it left behind.
    files_may_be_left: bool,
    step: usize,
}

/// An append that was accepted, and what it answers.
struct Sent {
    acknowledge: Option<oneshot::Receiver<()>>,
}

/// The same batch as a transactional producer sends it.
fn in_transaction(batch: &Bytes) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[22] |= 0x10;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// The batches of records that a consumer hands to its user, as Kafka's own goes about it.
fn consumed(batches: &[Batch], aborted: &[AbortedTransaction]) -> Vec<Offset> {
    let mut aborted: Vec<AbortedTransaction> = aborted.to_vec();
    aborted.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
    let mut left_out = BTreeSet::new();
    let mut consumed = Vec::new();
    for batch in batches {
        while let Some(begun) = aborted.pop_if(|t| t.first_offset <= batch.header.last_offset()) {
            left_out.insert(begun.producer_id);
        }
        let id = batch.header.producer_id;
        if batch.marker.is_some_and(|marker| !marker.commit) {
            left_out.remove(&id);
        } else if !(batch.header.is_control() || batch.header.is_transactional() && left_out.contains(&id)) {
            consumed.push(batch.base());
        }
    }
    consumed
}

fn name(topic: usize) -> String {
    format!("topic-{topic}")
}

fn set(config: &mut TopicConfig, kind: Kind) {
    config.segment_bytes = 2500;
    config.segment_ms = 400_000;
    config.file_delete_delay_ms = 0;
    config.cleanup.delete = kind != Kind::Compacted;
    config.cleanup.compact = matches!(kind, Kind::Compacted | Kind::Both);
    config.retention_ms = if kind == Kind::Sized { -1 } else { 600_000 };
    config.retention_bytes = if matches!(kind, Kind::Sized | Kind::Both) { 6000 } else { -1 };
    config.compaction.min_dirty_ratio = if kind == Kind::Both { 300_000 } else { 0 };
    config.compaction.min_lag_ms = 0;
    config.compaction.delete_retention_ms = DELETE_RETENTION_MS;
}

impl Course {
    pub fn run(ops: &[Op]) {
        let mut bed = Bed::new();
        let kinds = [Kind::Aged, Kind::Compacted];
        let topics = (0..TOPICS).map(|n| {
            let id = bed.create_topic(&name(n));
            Topic { id, kind: kinds[n % kinds.len()], log: Log::default() }
        });
        let topics = topics.collect();
        let mut course = Course { bed, topics, values: 0, files_may_be_left: false, step: 0 };
        course.configure_all();
        for op in ops {
            course.apply(op);
            course.step += 1;
            course.check();
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Produce { topic, batches } => {
                let sent: Vec<Sent> =
                    batches.iter().filter_map(|batch| self.produce(*topic, batch)).collect();
                self.wait_for(sent);
            }
            Op::End { topic, producer, commit, epoch, coordinator } => {
                let log = &self.topics[*topic].log;
                let marker = EndMarker {
                    producer_id: ProducerId(*producer),
                    producer_epoch: ProducerEpoch(log.next_of(*producer).map_or(5, |next| next.0) + epoch),
                    coordinator_epoch: log.coordinator_of(*producer).unwrap_or(3) + coordinator,
                    commit: *commit,
                };
                self.end(*topic, marker);
            }
            Op::Retry { topic, which } => {
                if let Some(bytes) = self.topics[*topic].log.again(*which) {
                    let sent = self.offer(*topic, bytes.into());
                    self.wait_for(sent);
                }
            }
            Op::DeleteRecords { topic, up_to } => self.delete_records(*topic, *up_to),
            Op::Evict { topic, bytes } => _ = self.partition(*topic).state().log.evict(*bytes),
            Op::Copy { topic, fails_after, meanwhile } => self.copy(*topic, *fails_after, *meanwhile),
            Op::Checkpoint { copies, fails: true } => self.bed.checkpoint_fails(*copies),
            Op::Checkpoint { copies, fails: false } => {
                self.bed.checkpoint(*copies).unwrap();
                self.was_checkpointed();
                if !self.files_may_be_left {
                    self.check_files();
                }
            }
            Op::Retain { after_ms } => self.retain(*after_ms),
            Op::Compact { meanwhile, fails_at } => self.compact(*meanwhile, *fails_at),
            Op::Configure { topic, kind } => {
                self.topics[*topic].kind = *kind;
                self.configure_all();
            }
            Op::Recreate { topic } => self.recreate(*topic),
            Op::Restart => {
                self.bed.restart();
                self.was_checkpointed();
                self.is_open();
            }
            Op::Crash { under_way, debris } => {
                if self.bed.settle() {
                    self.was_checkpointed();
                }
                let ends: Vec<Offset> = self.topics.iter().map(|t| t.log.end()).collect();
                for (topic, batch) in under_way {
                    // Nobody waits.
                    self.produce(*topic, batch);
                }
                // Files are copied while they are written: what was written meanwhile must not be there.
                let cut = debris.wal_filled_with.or((!under_way.is_empty()).then_some(0));
                let durable = self.bed.delivered();
                self.bed.crash(Debris { wal_filled_with: cut, ..*debris }, durable);
                for (n, end) in ends.into_iter().enumerate() {
                    let found = self.partition(n).state().log.log_end();
                    self.topics[n].log.crashed(end, found);
                }
                self.is_open();
            }
        }
    }

    fn partition(&self, topic: usize) -> Arc<Partition> {
        self.bed.partition(self.topics[topic].id).unwrap()
    }

    fn configure_all(&self) {
        for topic in &self.topics {
            self.bed.configure(topic.id, |config| set(config, topic.kind));
        }
    }

    /// The broker has started.
    fn is_open(&mut self) {
        self.configure_all();
        self.files_may_be_left = false;
        self.check_files();
    }

    /// A checkpoint was written just now.
    fn was_checkpointed(&mut self) {
        for n in 0..TOPICS {
            let segment_end = self.partition(n).state().log.segment_end();
            self.topics[n].log.checkpointed(segment_end);
        }
    }

    fn wait<T>(&mut self, told: oneshot::Receiver<T>) {
        if self.bed.wait(told) {
            self.was_checkpointed();
        }
    }

    fn wait_for(&mut self, sent: impl IntoIterator<Item = Sent>) {
        for told in sent.into_iter().filter_map(|sent| sent.acknowledge) {
            self.wait(told);
        }
    }

    fn produce(&mut self, topic: usize, new: &NewBatch) -> Option<Sent> {
        let now_ms = self.bed.now_ms();
        let mut builder = BatchBuilder::new();
        if new.producer > 0 {
            let (epoch, next) = self.topics[topic].log.next_of(new.producer).unwrap_or((5, 0));
            let next = if new.epoch > 0 { 0 } else { next };
            let producer = Producer { id: new.producer, epoch: epoch + new.epoch };
            builder = builder.producer(producer, (next + new.sequence).max(0));
        }
        for record in &new.records {
            self.values += 1;
            let key = record.key.map(|key| vec![b'k', key]);
            let value = record.value_bytes.map(|len| {
                let mut value = self.values.to_be_bytes().to_vec();
                // Some of it is hard to compress.
                let noise = (0..u64::from(len)).map(|n| ((n * n * self.values) >> 3) as u8);
                value.extend(noise);
                value
            });
            let timestamp = record.age_ms.map_or(-1, |age| now_ms - age);
            builder.push(Record { timestamp, key: key.as_deref(), value: value.as_deref(), headers: &[] });
        }
        let codec = Codec::of(i16::from(new.codec)).unwrap();
        let batch = builder.build_compressed(codec).unwrap();
        let transactional = new.transactional && new.producer > 0;
        self.offer(topic, if transactional { in_transaction(&batch) } else { batch })
    }

    /// A transaction ends, or not, as the model says.
    fn end(&mut self, topic: usize, marker: EndMarker) {
        let partition = self.partition(topic);
        let epoch = partition.state().log.leading().unwrap();
        let now_ms = self.bed.now_ms();
        let mut bytes = marker.batch(now_ms);
        let log = &mut self.topics[topic].log;
        let expected = log.expected(&BatchHeader::parse(&bytes).unwrap(), Some(marker));
        match partition.append_marker(marker, now_ms) {
            Ok(told) => {
                assert_eq!(expected, Expected::New);
                patch_base(&mut bytes, log.end(), epoch).unwrap();
                log.append(&bytes.into());
                self.wait(told);
            }
            Err(Refused::Log(e)) => assert_eq!(expected, Expected::Refused(e.kafka_code()), "{e}"),
            Err(e) => panic!("{e}"),
        }
    }

    /// Sends a batch, which fares as the model says. `None` when it was refused.
    fn offer(&mut self, topic: usize, bytes: Bytes) -> Option<Sent> {
        let partition = self.partition(topic);
        let epoch = partition.state().log.leading().unwrap();
        let log = &mut self.topics[topic].log;
        let expected = log.expected(&BatchHeader::parse(&bytes).unwrap(), None);
        let (batch, accepted) = match self.bed.append(&partition, &bytes) {
            Ok(accepted) => accepted,
            Err(Refused::Log(e)) => {
                assert_eq!(expected, Expected::Refused(e.kafka_code()), "{e}");
                return None;
            }
            Err(e) => panic!("{e}"),
        };
        match accepted.queued {
            true => {
                assert_eq!((expected, accepted.base_offset), (Expected::New, log.end()));
                let mut stored = bytes.to_vec();
                batch.patch(&mut stored, accepted.base_offset, epoch).unwrap();
                log.append(&stored.into());
            }
            false => assert_eq!(expected, Expected::Duplicate(accepted.base_offset)),
        }
        assert_eq!(accepted.log_start, log.start);
        let acknowledge = match accepted.acknowledge {
            Acknowledge::When(told) => Some(told),
            Acknowledge::Now => None,
        };
        Some(Sent { acknowledge })
    }

    fn delete_records(&mut self, topic: usize, up_to: i64) {
        let partition = self.partition(topic);
        let log = &self.topics[topic].log;
        let to = up_to.rem_euclid(log.end() + 2);
        match partition.delete_before(to) {
            Err(e) => assert!(e == DeleteRefused::OutOfRange && to > log.end(), "{e}"),
            Ok(None) => assert!(to <= log.start),
            Ok(Some(told)) => {
                assert!(to > log.start && to <= log.end());
                self.wait(told);
                self.topics[topic].log.start = to;
            }
        }
    }

    fn copy(&mut self, topic: usize, fails_after: Option<usize>, meanwhile: Option<(usize, i64)>) {
        if self.bed.is_nearly_full() {
            // Who copies cannot make room for a deletion meanwhile.
            self.bed.checkpoint(true).unwrap();
            self.was_checkpointed();
        }
        let partition = self.partition(topic);
        let segment_end = partition.state().log.segment_end();
        let dir = partition.on_disk().segments.dir().to_path_buf();
        let obstacles = fails_after.map(|n| {
            let bases = self.topics[topic].log.bases_from(segment_end).into_iter().skip(n);
            Obstacles::at(bases.map(|base| dir.join(format!("{base:020}.log"))).collect())
        });
        let copied = self.copy_chunks(topic, &partition, meanwhile);
        drop(obstacles);
        match copied {
            Ok(()) => assert_eq!(partition.state().log.segment_end(), self.topics[topic].log.end()),
            Err(e) => {
                assert!(fails_after.is_some(), "{e}");
                self.files_may_be_left = true;
                partition.on_disk().segments.abandon();
            }
        }
    }

    fn copy_chunks(
        &mut self,
        topic: usize,
        partition: &Arc<Partition>,
        meanwhile: Option<(usize, i64)>,
    ) -> io::Result<()> {
        let mut copying = Copying::begin(partition);
        if let Some((chunks, up_to)) = meanwhile {
            for _ in 0..chunks {
                copying.chunk(self.bed.now_ms())?;
            }
            self.delete_records(topic, up_to);
        }
        while copying.chunk(self.bed.now_ms())? {}
        copying.finish()
    }

    fn retain(&mut self, after_ms: i64) {
        self.bed.pass_time(after_ms);
        let before: Vec<_> = (0..TOPICS).map(|n| self.stretches(n)).collect();
        self.bed.retain();
        for (n, (bases, mut stretches)) in before.into_iter().enumerate() {
            let partition = self.partition(n);
            // Retention closes old files first.
            let active = partition.on_disk().segments.active_base();
            for (stretch, base) in stretches.iter_mut().zip(&bases) {
                stretch.is_closed_segment = Some(*base) != active;
            }
            let config = partition.settings().topic.clone();
            let expected = self.topics[n].log.retained_from(&stretches, &config, self.bed.now_ms());
            if self.bed.wait_for_starts(&partition) {
                self.was_checkpointed();
            }
            assert_eq!(partition.log_start(), expected, "{stretches:?}");
            self.topics[n].log.start = expected;
        }
    }

    /// The files of a partition and what follows in the log, and where the files begin. They hold what the model says.
    fn stretches(&self, topic: usize) -> (Vec<Offset>, Vec<Stretch>) {
        let partition = self.partition(topic);
        let states = partition.on_disk().segments.states();
        let log = &self.topics[topic].log;
        let synced_end = partition.state().log.segment_end();
        for state in states.iter().filter(|s| s.end_offset <= synced_end) {
            if let Some(expected) = log.stretch(state.base_offset, state.end_offset) {
                assert_eq!((state.bytes, state.max_timestamp), expected, "{state:?}");
            }
        }
        (states.iter().map(|s| s.base_offset).collect(), partition.stretches())
    }

    fn compact(&mut self, meanwhile: Option<i64>, fails_at: Option<usize>) {
        let Some(work) = self.bed.cleaner().dirtiest() else { return };
        let topic = self.topics.iter().position(|t| t.id == work.partition.id).unwrap();
        assert!(matches!(self.topics[topic].kind, Kind::Compacted | Kind::Both));
        if let Some(up_to) = meanwhile {
            self.delete_records(topic, up_to);
            self.bed.checkpoint(false).unwrap();
            self.was_checkpointed();
        }
        let obstacles = fails_at.map(|n| {
            let on_disk = work.partition.on_disk();
            let dir = on_disk.segments.dir();
            let states = on_disk.segments.states();
            let highest = states.iter().map(|s| s.revision).max().unwrap_or(0) + 1;
            let names = states.iter().skip(n).flat_map(|s| {
                (1..=highest).map(|revision| dir.join(format!("{:020}.{revision}.log", s.base_offset)))
            });
            Obstacles::at(names.collect::<Vec<PathBuf>>())
        });
        let cleaned_to = work.partition.on_disk().cleaned_to;
        let cleaned = self.bed.cleaner().clean(&work);
        assert!(cleaned.is_ok() || meanwhile.is_some() || obstacles.is_some(), "{cleaned:?}");
        self.files_may_be_left |= cleaned.is_err();
        drop(obstacles);
        let pass = Pass {
            dirty_from: work.plan.dirty_from,
            end: work.plan.end,
            now_ms: self.bed.now_ms(),
            delete_retention_ms: DELETE_RETENTION_MS,
            is_whole: work.partition.on_disk().cleaned_to > cleaned_to,
        };
        let found = Batch::all_in(&self.read_all(topic));
        self.topics[topic].log.compacted(&pass, found);
    }

    fn recreate(&mut self, topic: usize) {
        let gone = self.partition(topic);
        self.bed.delete_topic(&name(topic));
        let reader = Reader(gone);
        let refused = self.bed.runtime.block_on(reader.read(0, 0, 1, true)).unwrap_err();
        assert_eq!(refused, ReadError::NotLeader);
        let id = self.bed.create_topic(&name(topic));
        self.topics[topic] = Topic { id, log: Log::default(), kind: self.topics[topic].kind };
        self.configure_all();
    }

    /// Everything that is visible, as a consumer reads it from the beginning.
    fn read_all(&mut self, topic: usize) -> Bytes {
        let reader = Reader(self.partition(topic));
        let offsets = reader.offsets();
        let mut from = offsets.log_start;
        let mut all = Vec::new();
        while from < offsets.high_watermark {
            let read = reader.read(from, offsets.high_watermark, 1500, true);
            let bytes: Bytes = self.bed.runtime.block_on(read).unwrap().pieces.concat().into();
            let Some(last) = Batch::all_in(&bytes).pop() else { break };
            from = last.header.next_offset();
            all.extend_from_slice(&bytes);
        }
        all.into()
    }

    /// No file is left behind that nobody needs.
    fn check_files(&mut self) {
        let known = (0..TOPICS).flat_map(|n| {
            let partition = self.partition(n);
            let on_disk = partition.on_disk();
            let paths = on_disk.segments.states().into_iter().map(|s| on_disk.segments.path_of(&s));
            paths.flat_map(files_of).collect::<Vec<_>>()
        });
        let known: Vec<PathBuf> = known.collect();
        for path in self.bed.files() {
            assert!(known.contains(&path), "{} is left behind", path.display());
        }
    }

    fn check(&mut self) {
        self.bed.is_well();
        for n in 0..TOPICS {
            self.check_offsets(n);
            self.check_reads(n);
            self.check_decided(n);
            self.check_times(n);
            self.stretches(n);
        }
    }

    fn check_offsets(&self, topic: usize) {
        let partition = self.partition(topic);
        let log = &self.topics[topic].log;
        let offsets = Reader(partition.clone()).offsets();
        let all = (offsets.log_start, offsets.last_stable, offsets.high_watermark, offsets.log_end);
        assert_eq!(all, (log.start, log.last_stable(), log.end(), log.end()));
        let epochs: BTreeMap<Offset, LeaderEpoch> =
            log.visible().map(|b| (b.base().max(log.start), b.header.leader_epoch)).collect();
        for (offset, epoch) in epochs {
            assert_eq!(
                partition.state().log.leader_epochs().epoch_for(offset),
                Some(epoch),
                "offset {offset}"
            );
        }
        let segment_end = partition.state().log.segment_end();
        let uncopied = log.visible().filter(|b| b.header.next_offset() > segment_end);
        let uncopied: usize = uncopied.map(|b| b.bytes.len()).sum();
        // A run of which a part is deleted counts as a whole.
        assert!(partition.uncopied_bytes() >= uncopied as u64);
        if segment_end > log.start || log.start == 0 {
            assert_eq!(partition.uncopied_bytes(), uncopied as u64);
        }
    }

    fn check_reads(&mut self, topic: usize) {
        let reader = Reader(self.partition(topic));
        let log = &self.topics[topic].log;
        let runtime = &self.bed.runtime;
        for from in log.start - 1..=log.end() + 1 {
            let max_bytes = [1, 700, 4000, 1 << 20][(from as usize).wrapping_add(self.step) % 4];
            let min_one = (from + self.step as i64 / 4) % 3 > 0;
            let read = runtime.block_on(reader.read(from, log.end(), max_bytes, min_one));
            if from < log.start || from > log.end() {
                assert!(matches!(read, Err(ReadError::OutOfRange { .. })), "{read:?} from {from}");
                continue;
            }
            let read = read.unwrap().pieces.concat();
            let wanted = log.read(from);
            let first = wanted.first().map_or(0, Bytes::len);
            let is_owed = first > 0 && (min_one || first <= max_bytes);
            assert_eq!(read.is_empty(), !is_owed, "from {from}, {max_bytes} bytes, {min_one}");
            assert!(read.len() <= max_bytes.max(first));
            let mut rest = &read[..];
            for batch in wanted {
                if rest.is_empty() {
                    break;
                }
                rest = rest.strip_prefix(&batch[..]).unwrap_or_else(|| {
                    panic!(
                        "from {from}: not {:?} but {:?}",
                        Batch::all_in(&batch),
                        Batch::all_in(&read.clone().into())
                    )
                });
            }
            assert_eq!(rest, b"", "more than there is");
        }
    }

    /// A consumer of decided records gets what was committed, wherever it begins and however little it reads at once.
    fn check_decided(&mut self, topic: usize) {
        let reader = Reader(self.partition(topic));
        let log = &self.topics[topic].log;
        let (runtime, end) = (&self.bed.runtime, log.last_stable());
        for from in log.start..end {
            let max_bytes = [1, 700, 4000][(from as usize).wrapping_add(self.step) % 3];
            let read = runtime.block_on(reader.read_committed(from, end, max_bytes, true)).unwrap();
            let batches = Batch::all_in(&read.pieces.concat().into());
            assert!(batches.iter().all(|b| b.header.next_offset() <= end), "from {from}: not decided yet");
            let first = log.visible().find(|b| b.header.next_offset() > from);
            let is_owed = first.is_some_and(|first| first.header.next_offset() <= end);
            assert_eq!(!batches.is_empty(), is_owed, "from {from}");
            assert_eq!(consumed(&batches, &read.aborted), log.decided(&batches), "from {from}");
        }
    }

    fn check_times(&mut self, topic: usize) {
        let reader = Reader(self.partition(topic));
        let (log, runtime) = (&self.topics[topic].log, &self.bed.runtime);
        let end = log.end();
        let now_ms = self.bed.now_ms();
        for age_ms in [i64::MAX / 2, 1_000_000, 400_000 + self.step as i64 * 7_919, 0, -50_000, -1_000_000] {
            let timestamp = (now_ms.saturating_sub(age_ms)).max(0);
            let found = runtime.block_on(reader.offset_for_timestamp(timestamp, end)).unwrap();
            assert_eq!(found.map(|f| (f.offset, f.timestamp)), log.search(timestamp), "{timestamp}");
        }
        let latest = runtime.block_on(reader.max_timestamp(end)).unwrap();
        let expected = log.max_timestamp().and_then(|latest| log.search(latest));
        let latest = latest.map(|f| (f.offset, f.timestamp));
        // Nobody looks for the latest but one, where the latest of a file is deleted and the file is there still.
        assert!(
            latest == expected || latest.is_none() && log.latest_is_gone(),
            "{latest:?}, not {expected:?}"
        );
    }
}
