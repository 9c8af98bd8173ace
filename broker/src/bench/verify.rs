//! Reading everything back: each acknowledged record must be at exactly its offset, with every
//! byte, once.

use std::time::Instant;

use anyhow::{Context, Result};
use chronik_client::{Client, Position, Record, batches};
use serde::Serialize;

use super::ledger::{Fate, Ledger};
use super::payload::Mark;
use super::plan::Plan;

const FETCH_BYTES: i32 = 8 << 20;
const FAULTS_NAMED: usize = 10;

/// What reading back found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Of them, found where and as they should be.
    pub found: u64,
    /// Of them, not found there.
    pub missing: u64,
    /// Records of this run that lie at an offset where they should not: a second copy, or the
    /// first at a wrong place.
    pub misplaced: u64,
    /// Records whose bytes are not what was sent.
    pub corrupt: u64,
    /// Records found that were sent and never acknowledged. No fault.
    pub unacknowledged: u64,
    /// Records of others. A fault only in a topic this run made.
    pub foreign: u64,
    /// The first faults, in words.
    pub faults: Vec<String>,
}

impl Verification {
    /// Whether the broker kept its word.
    pub fn is_good(&self) -> bool {
        self.missing == 0 && self.faults.is_empty()
    }

    fn fault(&mut self, what: impl FnOnce() -> String) {
        if self.faults.len() < FAULTS_NAMED {
            self.faults.push(what());
        }
    }
}

/// One bit per request.
#[derive(Default)]
struct Bits(Vec<Vec<u64>>);

impl Bits {
    fn of(requests: impl Iterator<Item = usize>) -> Self {
        Self(requests.map(|count| vec![0; count.div_ceil(64)]).collect())
    }

    fn set(&mut self, producer: u32, request: u32) {
        if let Some(word) =
            self.0.get_mut(producer as usize).and_then(|words| words.get_mut(request as usize / 64))
        {
            *word |= 1 << (request % 64);
        }
    }

    fn get(&self, producer: u32, request: u32) -> bool {
        let word = self.0.get(producer as usize).and_then(|words| words.get(request as usize / 64));
        word.is_some_and(|word| word >> (request % 64) & 1 == 1)
    }
}

/// The comparison of one run's ledger with what a broker holds.
pub struct Verifier {
    ledger: Ledger,
    seed: u64,
    records_per_batch: u32,
    created: bool,
    /// Requests that were acknowledged, as the ledger had it before the reading began.
    acknowledged: Bits,
    /// Requests whose last record was found.
    found: Bits,
    result: Verification,
}

impl Verifier {
    /// Prepares the comparison. `created`: the topic holds nothing but this run's records.
    pub fn new(ledger: Ledger, seed: u64, records_per_batch: u32, created: bool) -> Self {
        let mut acknowledged = Bits::of(ledger.requests());
        let mut result = Verification::default();
        for (count, producer) in ledger.requests().zip(0u32..) {
            for request in 0..count as u32 {
                if !matches!(ledger.fate(producer, request), None | Some(Fate::Open)) {
                    acknowledged.set(producer, request);
                    result.acknowledged += u64::from(records_per_batch);
                }
            }
        }
        let found = Bits::of(ledger.requests());
        Self { ledger, seed, records_per_batch, created, acknowledged, found, result }
    }

    /// Reads all partitions from where the run found them to their end.
    ///
    /// # Errors
    /// When a partition cannot be read; a broken batch is named with its offset.
    pub async fn read_back(
        mut self,
        client: &mut Client,
        plan: &Plan,
        mut tell: impl FnMut(u64),
    ) -> Result<Verification> {
        let (mut read, mut told) = (0u64, Instant::now());
        for target in &plan.targets {
            let end = client.list_offset(&plan.topic, target.index, Position::Latest).await?;
            let mut next = target.start_offset;
            while next < end {
                let fetched = client.fetch(&plan.topic, target.index, next, FETCH_BYTES, 1_000).await?;
                let before = next;
                for batch in batches(fetched.records) {
                    let batch = batch.with_context(|| format!("{}-{}", plan.topic, target.index))?;
                    for record in batch.records()?.iter().filter(|record| record.offset >= next) {
                        self.record(target.index, target.start_offset, record);
                        read += 1;
                    }
                    next = next.max(batch.next_offset);
                }
                anyhow::ensure!(
                    next > before,
                    "{}-{} ends at offset {end} but gives nothing from {next} on",
                    plan.topic,
                    target.index
                );
                if told.elapsed().as_secs() >= 1 {
                    tell(read);
                    told = Instant::now();
                }
            }
        }
        Ok(self.finish())
    }

    fn record(&mut self, partition: i32, start: i64, record: &Record) {
        let value = record.value.as_deref().unwrap_or_default();
        let mark = Mark::read(value).filter(|mark| mark.seed == self.seed);
        let at = || format!("partition {partition} offset {}", record.offset);
        let Some(mark) = mark else {
            self.result.foreign += 1;
            if self.created {
                self.result.fault(|| format!("{}: not a record of this run", at()));
            }
            return;
        };
        if !mark.matches(value) || record.key.is_some() || !record.headers.is_empty() {
            self.result.corrupt += 1;
            self.result.fault(|| format!("{}: the bytes of {mark:?} were changed", at()));
            return;
        }
        // Where the batch must have begun for this record to lie here.
        let base = record.offset - start - i64::from(mark.place);
        let right_place = match self.ledger.fate(mark.producer, mark.request) {
            None => false,
            Some(Fate::At(offset)) => i64::from(offset) == base,
            // The first copy is where it belongs; from now on the ledger knows its place.
            Some(Fate::Open | Fate::Unplaced) => {
                self.ledger.acknowledge(mark.producer, mark.request, Some(base))
            }
        };
        if !right_place || mark.partition != partition || mark.place >= self.records_per_batch {
            self.result.misplaced += 1;
            self.result.fault(|| format!("{}: {mark:?} does not belong here", at()));
            return;
        }
        if mark.place + 1 == self.records_per_batch {
            self.found.set(mark.producer, mark.request);
        }
        match self.acknowledged.get(mark.producer, mark.request) {
            true => self.result.found += 1,
            false => self.result.unacknowledged += 1,
        }
    }

    fn finish(mut self) -> Verification {
        self.result.missing = self.result.acknowledged.saturating_sub(self.result.found);
        if self.result.missing > 0 {
            for (count, producer) in self.ledger.requests().zip(0u32..) {
                for request in 0..count as u32 {
                    if self.acknowledged.get(producer, request) && !self.found.get(producer, request) {
                        let fate = self.ledger.fate(producer, request);
                        self.result.fault(|| {
                            format!(
                                "acknowledged and missing: request {request} of producer {producer}, {fate:?}"
                            )
                        });
                    }
                }
            }
        }
        self.result
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const SEED: u64 = 3;
    const START: i64 = 100;

    fn record(offset: i64, request: u32, place: u32) -> Record {
        let mut value = vec![0; 40];
        Mark { seed: SEED, producer: 0, partition: 0, request, place }.write(&mut value);
        Record { offset, timestamp: 0, key: None, value: Some(value.into()), headers: Vec::new() }
    }

    /// Three requests of two records: acknowledged at 100, never acknowledged, acknowledged at 104.
    fn verified(records: &[Record]) -> Verification {
        let mut ledger = Ledger::new(1);
        for _ in 0..3 {
            ledger.open(0);
        }
        assert!(ledger.acknowledge(0, 0, Some(0)) && ledger.acknowledge(0, 2, Some(4)));
        let mut verifier = Verifier::new(ledger, SEED, 2, true);
        for record in records {
            verifier.record(0, START, record);
        }
        verifier.finish()
    }

    fn whole() -> Vec<Record> {
        vec![
            record(100, 0, 0),
            record(101, 0, 1),
            record(102, 1, 0),
            record(103, 1, 1),
            record(104, 2, 0),
            record(105, 2, 1),
        ]
    }

    #[test]
    fn a_whole_log_is_good_with_and_without_what_was_never_acknowledged() {
        let all = verified(&whole());
        assert!(all.is_good(), "{all:?}");
        assert_eq!((all.acknowledged, all.found, all.unacknowledged), (4, 4, 2));
        let mut records = whole();
        records.drain(2..4);
        let without = verified(&records);
        assert!(without.is_good(), "{without:?}");
        assert_eq!((without.found, without.unacknowledged), (4, 0));
    }

    #[test]
    fn a_lost_record_is_missed() {
        let mut records = whole();
        records.remove(5);
        let result = verified(&records);
        assert!(!result.is_good());
        assert_eq!((result.missing, result.misplaced), (1, 0));
        assert!(result.faults[0].contains("request 2 of producer 0"), "{:?}", result.faults);
    }

    #[test]
    fn a_record_at_another_offset_is_misplaced_and_missed() {
        let mut records = whole();
        records[4].offset = 110;
        let result = verified(&records);
        assert_eq!((result.missing, result.misplaced, result.is_good()), (1, 1, false));
    }

    #[test]
    fn second_copies_are_noticed_acknowledged_or_not() {
        for copy in [record(106, 0, 0), record(106, 1, 0)] {
            let mut records = whole();
            records.push(copy);
            let result = verified(&records);
            assert_eq!((result.missing, result.misplaced, result.is_good()), (0, 1, false));
        }
    }

    #[test]
    fn changed_and_foreign_bytes_are_noticed() {
        let mut records = whole();
        let mut value = records[1].value.as_ref().unwrap().to_vec();
        value[39] ^= 1;
        records[1].value = Some(value.into());
        records[3].value = Some(Bytes::from_static(b"something else"));
        let result = verified(&records);
        assert_eq!((result.corrupt, result.foreign, result.missing), (1, 1, 1));
        assert!(!result.is_good());
    }

    #[test]
    fn a_request_that_never_left_is_a_fault() {
        let mut records = whole();
        records.push(record(106, 9, 0));
        assert_eq!(verified(&records).misplaced, 1);
    }
}
