//! Reading a partition: from memory, from the write-ahead log by position, or from segments.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use chronik_client::compression;
use chronik_core::ids::{LeaderEpoch, Offset};
use chronik_core::log::{
    ActiveProducer, ReadPlan, ReadRequest, ReadUpTo, TimestampAndOffset, TimestampPlan, WalSpan,
    find_timestamp, trim_run,
};
use chronik_core::record_batch::{BatchError, BatchHeader, Batches, Compression, Crc, RecordIter};
use tokio::runtime::{Builder, Runtime};

use super::partition::{Closed, Partition, State};
use super::priority::step_back;
use super::segments::{self, KnownDamage, Place};
use crate::api::partitions::{FoundOffset, Listeners, Offsets, PartitionReader, ReadBytes, ReadError};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How much of a segment a search by time reads at once.
const SEARCH_BYTES: usize = 1 << 20;
/// Threads that read old records, at most.
const READERS_MAX: usize = 32;
/// A plan may be overtaken by the segment writer, which moves bytes from the log into a segment.
const TRIES: usize = 4;

impl State {
    fn check_open(&self) -> Result<(), ReadError> {
        match &self.closed {
            None => Ok(()),
            Some(Closed::Deleted) => Err(ReadError::NotLeader),
            Some(Closed::Fenced(why)) => Err(ReadError::Storage(why.clone())),
            Some(Closed::Failed) => Err(ReadError::Storage("the write-ahead log has failed".to_string())),
        }
    }
}

/// Where the bytes are, once the lock is released.
enum Source {
    Ready(Vec<Bytes>),
    Wal(WalSpan, Offset),
    Segment(Offset, Offset),
}

/// What the disk had.
enum Found {
    Bytes(Bytes),
    /// No batch begins before this offset.
    NothingBefore(Offset),
    /// The bytes are somewhere else by now.
    Moved,
}

impl Partition {
    fn plan(&self, from: Offset, to: Offset, max_bytes: usize, min_one: bool) -> Result<Source, ReadError> {
        let state = self.state();
        state.check_open()?;
        let (limit, up_to) = match state.log.last_stable_offset() {
            stable if to <= stable => (stable, ReadUpTo::LastStableOffset),
            _ => (state.log.high_watermark(), ReadUpTo::HighWatermark),
        };
        let request = ReadRequest { from, max_bytes, at_least_one: min_one, up_to };
        let plan = state.log.read(&request).map_err(|e| ReadError::OutOfRange {
            offset: e.offset,
            log_start: e.log_start,
            log_end: e.log_end,
        })?;
        let moved = limit != to;
        drop(state);
        Ok(match plan {
            ReadPlan::Empty => Source::Ready(Vec::new()),
            ReadPlan::Memory(pieces) if moved => {
                let below = |piece: Bytes| trim_run(&piece, from, usize::MAX, false, to);
                Source::Ready(pieces.into_iter().map(below).filter(|piece| !piece.is_empty()).collect())
            }
            ReadPlan::Memory(pieces) => Source::Ready(pieces),
            ReadPlan::Wal { span, up_to } => Source::Wal(span, up_to.min(to)),
            ReadPlan::Segment { from, up_to } => Source::Segment(from, up_to.min(to)),
        })
    }

    async fn read_pieces(
        self: Arc<Self>,
        from: Offset,
        to: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<ReadBytes, ReadError> {
        let mut from = from;
        let mut moved = 0;
        while moved < TRIES {
            let source = self.plan(from, to, max_bytes, min_one)?;
            let found = match source {
                Source::Ready(pieces) => return Ok(read_of(pieces)),
                other => {
                    let this = self.clone();
                    blocking(move || this.read_disk(other, from, max_bytes, min_one)).await?
                }
            };
            match found {
                Found::Bytes(bytes) if bytes.is_empty() => return Ok(ReadBytes::default()),
                Found::Bytes(bytes) => return Ok(read_of(vec![bytes])),
                // Compaction has left nothing up to there.
                Found::NothingBefore(next) if next > from && next < to => from = next,
                Found::NothingBefore(_) => return Ok(ReadBytes::default()),
                Found::Moved => moved += 1,
            }
        }
        Err(ReadError::Storage("the bytes kept moving while they were read".to_string()))
    }

    /// The transactions are looked up after the records: one that compaction removes meanwhile, with its marker, must not be
    /// told of with records without the marker. Where any was forgotten, its records may have been read: once more, then.
    async fn read_decided(
        self: Arc<Self>,
        from: Offset,
        to: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<ReadBytes, ReadError> {
        for _ in 0..TRIES {
            let removals = self.state().log.transactions().removals();
            let mut read = self.clone().read_pieces(from, to, max_bytes, min_one).await?;
            let Some(end) = end_of(&read) else { return Ok(read) };
            let state = self.state();
            if state.log.transactions().removals() == removals {
                read.aborted = state.log.aborted_between(from, end);
                return Ok(read);
            }
        }
        Err(ReadError::Storage("transactions kept going while their records were read".to_string()))
    }

    /// Blocks.
    fn read_disk(&self, source: Source, from: Offset, max_bytes: usize, min_one: bool) -> io::Result<Found> {
        match source {
            Source::Ready(_) => Ok(Found::Moved),
            Source::Wal(span, to) => {
                let Some(run) = self.read_span(span)? else { return Ok(Found::Moved) };
                Ok(Found::Bytes(trim_run(&run, from, max_bytes, min_one, to)))
            }
            Source::Segment(at, to) => {
                let found = self.on_disk().segments.find(at);
                let place = match found {
                    Ok(Some(place)) => place,
                    // All of it was compacted away, or retention was faster.
                    Ok(None) => return Ok(Found::NothingBefore(to)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Moved),
                    Err(e) => return Err(e),
                };
                match self.read_segment(&place, at, to, max_bytes, min_one) {
                    // A batch that does not fit is not given, and is no gap.
                    Ok(bytes)
                        if bytes.is_empty()
                            && (min_one || self.read_segment(&place, at, to, 0, true)?.is_empty()) =>
                    {
                        Ok(Found::NothingBefore(place.end_offset.min(to)))
                    }
                    Ok(bytes) => Ok(Found::Bytes(bytes)),
                    // Deleted or cleaned while it was looked for.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Moved),
                    Err(e) => Err(e),
                }
            }
        }
    }

    /// As [`segments::read`]; where it meets damage, the scrub looks at the segment next.
    fn read_segment(
        &self,
        place: &Place,
        from: Offset,
        to: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> io::Result<Bytes> {
        let read = segments::read(place, from, to, max_bytes, min_one);
        if read.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::InvalidData) {
            self.on_disk().segments.suspect(from);
        }
        read
    }

    /// A run's bytes from the write-ahead log, every batch's checksum verified.
    pub(super) fn read_span(&self, span: WalSpan) -> io::Result<Option<Bytes>> {
        let Some(bytes) = self.disk.wal.read(span.position, span.len as usize)? else { return Ok(None) };
        for batch in Batches::new(&bytes, Crc::Check) {
            batch.map_err(|e| {
                io::Error::other(format!("{}: WAL position {}: {e}", self.name(), span.position))
            })?;
        }
        Ok(Some(bytes))
    }

    async fn search_time(
        self: Arc<Self>,
        timestamp: i64,
        to: Offset,
    ) -> Result<Option<FoundOffset>, ReadError> {
        let mut from = {
            let state = self.state();
            state.check_open()?;
            state.log.log_start()
        };
        loop {
            let plan = self.state().log.offset_for_timestamp(timestamp, from);
            let this = self.clone();
            let found = match plan {
                TimestampPlan::NotFound => return Ok(None),
                TimestampPlan::Found(found) => Some(found),
                TimestampPlan::Wal { span, from: start, up_to } => {
                    from = up_to;
                    let run = blocking(move || this.read_span(span)).await?;
                    match run {
                        Some(run) => find_timestamp(&run, timestamp, start, up_to),
                        None => {
                            from = start; // In a segment by now.
                            None
                        }
                    }
                }
                TimestampPlan::Segment { from: start, up_to } => {
                    from = up_to;
                    blocking(move || this.search_segments(timestamp, start, up_to)).await?
                }
            };
            if let Some(found) = found.filter(|f| f.offset < to) {
                // Of a compressed batch, only the header has been judged so far.
                match self.clone().within_batch(found, timestamp, to).await? {
                    Within::Exactly(found) => return Ok(Some(found).filter(|f| f.offset < to)),
                    Within::After(next) => from = next,
                }
            }
            if from >= to {
                return Ok(None);
            }
        }
    }

    /// Opens the batch that a search by time has found, if it is compressed, and looks for the record itself.
    async fn within_batch(
        self: Arc<Self>,
        found: TimestampAndOffset,
        timestamp: i64,
        to: Offset,
    ) -> Result<Within, ReadError> {
        let read = self.read_pieces(found.offset, to, 1, true).await?;
        let Some(batch) = read.pieces.into_iter().next() else { return Ok(Within::Exactly(place_of(found))) };
        let storage = |e: BatchError| ReadError::Storage(e.to_string());
        let header = BatchHeader::parse(&batch).map_err(storage)?;
        if header.compression().map_err(storage)? == Compression::None {
            return Ok(Within::Exactly(place_of(found)));
        }
        let opened = blocking(move || {
            // One at a time: a small batch may become large.
            static OPENING: Mutex<()> = Mutex::new(());
            let _one = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
            let opened = compression::opened(&batch)?;
            let records = RecordIter::new(&opened).map_err(io::Error::other)?;
            let mut records = records.map_while(Result::ok);
            let late = records.find(|r| r.offset >= found.offset && r.timestamp >= timestamp);
            Ok(late.map(|record| (record.timestamp, record.offset)))
        });
        Ok(match opened.await? {
            Some((timestamp, offset)) => {
                Within::Exactly(FoundOffset { timestamp, offset, leader_epoch: found.leader_epoch })
            }
            None => Within::After(header.next_offset()),
        })
    }

    fn search_segments(
        &self,
        timestamp: i64,
        from: Offset,
        up_to: Offset,
    ) -> io::Result<Option<TimestampAndOffset>> {
        let mut at = from;
        loop {
            let found = self.on_disk().segments.find_time(timestamp, at)?;
            let Some((place, start)) = found.filter(|(_, start)| *start < up_to) else { return Ok(None) };
            at = start;
            let bytes = self.read_segment(&place, at, up_to, SEARCH_BYTES, true)?;
            if let Some(found) = find_timestamp(&bytes, timestamp, at, up_to) {
                return Ok(Some(found));
            }
            let next =
                Batches::new(&bytes, Crc::Skip).flatten().last().map(|(header, _)| header.next_offset());
            match next {
                Some(next) if next > at => at = next,
                // Nothing more in this segment below `up_to`: the next one, if any.
                _ => match self.on_disk().segments.end_of_segment_at(at) {
                    Some(end) if end > at => at = end,
                    _ => return Ok(None),
                },
            }
        }
    }
}

fn read_of(pieces: Vec<Bytes>) -> ReadBytes {
    ReadBytes { pieces, aborted: Vec::new() }
}

/// The offset behind what was read.
fn end_of(read: &ReadBytes) -> Option<Offset> {
    let last = read.pieces.iter().rfind(|piece| !piece.is_empty())?;
    let (header, _) = Batches::new(last, Crc::Skip).flatten().last()?;
    Some(header.next_offset())
}

/// What a look into a batch has shown.
enum Within {
    Exactly(FoundOffset),
    /// Its header promised more than it holds: search on from there.
    After(Offset),
}

fn place_of(found: TimestampAndOffset) -> FoundOffset {
    FoundOffset { timestamp: found.timestamp, offset: found.offset, leader_epoch: found.leader_epoch }
}

/// Threads for reading old records. A runtime that drives nothing brings them as they are needed, and ends them when
/// nobody reads.
static READERS: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_current_thread()
        .max_blocking_threads(READERS_MAX)
        .thread_name("reader")
        .on_thread_start(step_back)
        .build()
});

/// Runs disk I/O off the runtime's threads.
async fn blocking<T: Send + 'static>(
    io: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ReadError> {
    let readers = READERS.as_ref().map_err(|e| ReadError::Storage(e.to_string()))?;
    match readers.spawn_blocking(io).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) if KnownDamage::is(&e) => Err(ReadError::Damaged(e.to_string())),
        Ok(Err(e)) => {
            tracing::error!("a read failed: {e}");
            Err(ReadError::Storage(e.to_string()))
        }
        Err(e) => Err(ReadError::Storage(format!("a read was abandoned: {e}"))),
    }
}

/// What the handlers hold: the partition by reference count.
pub struct Reader(pub Arc<Partition>);

impl PartitionReader for Reader {
    fn offsets(&self) -> Offsets {
        let state = self.0.state();
        let log = &state.log;
        Offsets {
            log_start: log.log_start(),
            last_stable: log.last_stable_offset(),
            high_watermark: log.high_watermark(),
            log_end: log.log_end(),
            leader_epoch: log.leading().unwrap_or(LeaderEpoch(-1)),
            committed_bytes: state.committed_bytes,
        }
    }

    fn read(
        &self,
        from: Offset,
        to: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> BoxFuture<'_, Result<ReadBytes, ReadError>> {
        Box::pin(self.0.clone().read_pieces(from, to, max_bytes, min_one))
    }

    fn read_committed(
        &self,
        from: Offset,
        to: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> BoxFuture<'_, Result<ReadBytes, ReadError>> {
        Box::pin(self.0.clone().read_decided(from, to, max_bytes, min_one))
    }

    fn offset_for_timestamp(
        &self,
        timestamp: i64,
        to: Offset,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ReadError>> {
        Box::pin(self.0.clone().search_time(timestamp, to))
    }

    fn max_timestamp(&self, to: Offset) -> BoxFuture<'_, Result<Option<FoundOffset>, ReadError>> {
        let latest = {
            let in_tail = self.0.state().log.max_timestamp().map(|(timestamp, _)| timestamp);
            in_tail.max(self.0.on_disk().segments.max_timestamp())
        };
        match latest {
            Some(timestamp) if timestamp >= 0 => self.offset_for_timestamp(timestamp, to),
            _ => Box::pin(async { Ok(None) }),
        }
    }

    fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.0.state().log.leader_epochs().epoch_for(offset)
    }

    fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.0.state();
        state.log.leader_epochs().end_offset_for(epoch, state.log.log_end())
    }

    fn producers(&self) -> Vec<ActiveProducer> {
        self.0.state().log.producers().active().collect()
    }

    fn listeners(&self) -> &Listeners {
        &self.0.listeners
    }
}
