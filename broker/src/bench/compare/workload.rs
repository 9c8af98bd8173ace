//! What is sent to both brokers, and what a cleaner must leave of it.

use std::collections::{BTreeSet, HashMap};

use anyhow::Result;
use bytes::Bytes;
use chronik_client::compression::Codec;
use chronik_client::{BatchBuilder, NewRecord, Producer};

/// A record to be sent.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, Option<&'static [u8]>)>,
    /// Its time, from where its round begins.
    pub time_ms: i64,
}

impl Sent {
    pub fn put(key: &str, value: &str) -> Self {
        Self { key: Some(key.into()), value: Some(value.into()), ..Self::default() }
    }

    pub fn tombstone(key: &str) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    pub fn keyless(value: &str) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    pub fn at(mut self, time_ms: i64) -> Self {
        self.time_ms = time_ms;
        self
    }

    pub fn header(mut self, name: &'static str, value: Option<&'static [u8]>) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// A batch to be sent.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Which of the case's idempotent producers sends it.
    pub producer: Option<usize>,
    pub codec: Codec,
    pub records: Vec<Sent>,
}

impl Batch {
    pub fn of(records: impl Into<Vec<Sent>>) -> Self {
        Self { producer: None, codec: Codec::None, records: records.into() }
    }

    pub fn by(mut self, producer: usize) -> Self {
        self.producer = Some(producer);
        self
    }

    pub fn packed(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Its bytes. `sender`: the producer, and the number of the first record.
    ///
    /// # Errors
    /// The encoder's.
    pub fn build(&self, begins_ms: i64, sender: Option<(Producer, i32)>) -> Result<Bytes> {
        let mut builder = BatchBuilder::new();
        if let Some((producer, sequence)) = sender {
            builder = builder.producer(producer, sequence);
        }
        for Sent { key, value, headers, time_ms } in &self.records {
            let timestamp = begins_ms + time_ms;
            builder.push(NewRecord { timestamp, key: key.as_deref(), value: value.as_deref(), headers });
        }
        Ok(builder.build_compressed(self.codec)?)
    }
}

/// What must be left after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// All: nothing may be cleaned.
    Everything,
    /// The newest record of each key, a tombstone too.
    Newest,
    /// The newest record of each key, if it has a value.
    Values,
    /// Tombstones may go at any moment: it is not looked at.
    Unsure,
}

/// Some batches, and what is done before and after they are sent.
#[derive(Debug, Clone)]
pub struct Round {
    /// Settings of the topic that are altered first.
    pub alter: &'static [(&'static str, &'static str)],
    /// What was altered deletes everything, and that is waited for.
    pub empties: bool,
    /// In order. The last two are the witness and the closing record.
    pub batches: Vec<Batch>,
    pub left: Left,
}

/// One topic of one partition, and what happens to it.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: &'static str,
    pub settings: Vec<(&'static str, &'static str)>,
    pub rounds: [Round; 2],
    /// What both brokers must refuse, after all else.
    pub refused: Vec<Batch>,
}

/// The key of a record that is overwritten at once. Only a pass that knows all keys of its round can take it away: when it
/// has gone, the round is cleaned.
const WITNESS: &str = "~witness";
/// The time of the record that comes last in a round, and by which Kafka begins another segment: those before it are
/// closed.
const CLOSING_TIME_MS: i64 = 30_000;

/// An answer to a batch that is taken, or is there already, in words.
pub fn answered(base: i64) -> String {
    format!("offset {base}")
}

impl Round {
    pub fn of(batches: impl Into<Vec<Batch>>, left: Left) -> Self {
        let mut batches = batches.into();
        batches.push(Batch::of([Sent::put(WITNESS, "first"), Sent::put(WITNESS, "second")]));
        batches.push(Batch::of([]));
        Self { alter: &[], empties: false, batches, left }
    }

    pub fn altering(mut self, alter: &'static [(&'static str, &'static str)]) -> Self {
        self.alter = alter;
        self
    }

    pub fn emptying(mut self) -> Self {
        self.empties = true;
        self
    }

    fn len(&self) -> i64 {
        self.batches.iter().map(|batch| batch.records.len() as i64).sum()
    }

    /// All but the closing record, and that.
    pub fn split(&self) -> (&[Batch], &[Batch]) {
        self.batches.split_at(self.batches.len().saturating_sub(1))
    }
}

impl Case {
    pub fn new(name: &'static str, rounds: [Round; 2]) -> Self {
        let mut case = Self { name, settings: Vec::new(), rounds, refused: Vec::new() };
        for (number, round) in case.rounds.iter_mut().enumerate() {
            if let Some(closing) = round.batches.last_mut() {
                closing.records.push(Sent::put(&format!("~end-{number}"), "").at(CLOSING_TIME_MS));
            }
        }
        case
    }

    pub fn with(mut self, settings: &[(&'static str, &'static str)]) -> Self {
        self.settings.extend(settings);
        self
    }

    pub fn refusing(mut self, refused: impl Into<Vec<Batch>>) -> Self {
        self.refused = refused.into();
        self
    }

    pub fn topic(&self) -> String {
        format!("compare-{}", self.name)
    }

    /// `delete.retention.ms`.
    pub fn delete_retention_ms(&self) -> i64 {
        let set = self.settings.iter().rev().find(|(name, _)| *name == "delete.retention.ms");
        set.and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
    }

    /// Every batch of the rounds up to this one, with its first offset and its round.
    fn batches(&self, round: usize) -> impl Iterator<Item = (i64, usize, &Batch)> {
        let batches = self.rounds.iter().take(round + 1).enumerate();
        let batches = batches.flat_map(|(number, round)| round.batches.iter().map(move |b| (number, b)));
        batches.scan(0, |end, (number, batch)| {
            let base = *end;
            *end += batch.records.len() as i64;
            Some((base, number, batch))
        })
    }

    /// Where the log ends after a round.
    pub fn end(&self, round: usize) -> i64 {
        self.rounds.iter().take(round + 1).map(Round::len).sum()
    }

    /// Where the witness of a round is.
    pub fn witness(&self, round: usize) -> i64 {
        // Two records of its own, and the closing one.
        self.end(round) - 3
    }

    /// Where the log begins after a round.
    pub fn start(&self, round: usize) -> i64 {
        let empties = self.rounds.iter().take(round + 1).rposition(|round| round.empties);
        empties.filter(|number| *number > 0).map_or(0, |number| self.end(number - 1))
    }

    /// The last batch that a producer has sent, and its first offset.
    fn last_batch_of(&self, producer: usize, round: usize) -> Option<(i64, &Batch)> {
        let of = self.batches(round).filter(|(_, _, batch)| batch.producer == Some(producer));
        of.last().map(|(base, _, batch)| (base, batch))
    }

    /// The first offset of the last batch that a producer has sent.
    pub fn last_of(&self, producer: usize, round: usize) -> Option<i64> {
        self.last_batch_of(producer, round).map(|(base, _)| base)
    }

    /// What must be answered, in the end, to the last batch of each producer sent again, and to what must be refused.
    pub fn answers(&self) -> Vec<String> {
        let again = (0..).map_while(|producer| self.last_batch_of(producer, 1));
        let refused = self.refused.iter().map(|batch| (-1, batch));
        let all = again.chain(refused);
        let has_keys = |batch: &Batch| batch.records.iter().all(|record| record.key.is_some());
        let answer = |(base, batch)| match has_keys(batch) {
            true => answered(base),
            // Before anybody looks whether it was there already.
            false => "INVALID_RECORD".to_owned(),
        };
        all.map(answer).collect()
    }

    /// The offsets that must be left after a round, and only those; `None` where nobody can know.
    pub fn left(&self, round: usize) -> Option<BTreeSet<i64>> {
        let left = self.rounds.get(round)?.left;
        let start = self.start(round);
        let sent = self.batches(round).flat_map(|(base, _, batch)| (base..).zip(&batch.records));
        let sent = sent.filter(|(offset, _)| *offset >= start);
        let mut newest = HashMap::new();
        match left {
            Left::Everything => return Some(sent.map(|(offset, _)| offset).collect()),
            Left::Unsure => return None,
            Left::Newest | Left::Values => {
                for (offset, record) in sent {
                    if let Some(key) = &record.key {
                        newest.insert(key, (offset, record.value.is_some()));
                    }
                }
            }
        }
        let stays = |has_value: bool| has_value || left == Left::Newest;
        Some(newest.into_values().filter(|(_, has_value)| stays(*has_value)).map(|(o, _)| o).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(left: Left) -> Case {
        let first = Round::of(
            [
                Batch::of([Sent::put("a", "1"), Sent::put("b", "1")]).by(0),
                Batch::of([Sent::tombstone("a"), Sent::keyless("x")]),
            ],
            left,
        );
        Case::new("test", [first, Round::of([Batch::of([Sent::put("b", "2")]).by(0)], Left::Newest)])
    }

    #[test]
    fn the_model_keeps_the_newest_of_each_key() {
        let left =
            |left, round| case(left).left(round).map(|offsets| offsets.into_iter().collect::<Vec<_>>());
        assert_eq!(left(Left::Everything, 0), Some((0..7).collect()));
        assert_eq!(left(Left::Newest, 0), Some(vec![1, 2, 5, 6]));
        assert_eq!(left(Left::Values, 0), Some(vec![1, 5, 6]));
        assert_eq!(left(Left::Unsure, 0), None);
        assert_eq!(left(Left::Newest, 1), Some(vec![2, 6, 7, 9, 10]));
    }

    #[test]
    fn places_are_counted_over_rounds() {
        let mut case = case(Left::Newest);
        assert_eq!([0, 1].map(|round| (case.witness(round), case.end(round))), [(4, 7), (8, 11)]);
        assert_eq!([0, 1].map(|round| case.last_of(0, round)), [Some(0), Some(7)]);
        assert_eq!((case.last_of(1, 1), case.start(1)), (None, 0));
        assert_eq!(
            case.clone().refusing([Batch::of([Sent::keyless("x")])]).answers(),
            ["offset 7", "INVALID_RECORD"]
        );
        case.rounds[1].empties = true;
        assert_eq!((case.start(0), case.start(1)), (0, 7));
        assert_eq!(case.left(1).map(|left| left.len()), Some(3));
    }
}
