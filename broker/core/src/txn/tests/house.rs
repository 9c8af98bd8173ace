//! A shard with a clock, and whoever talks to it.

pub use kafka_protocol::error::ResponseError as Error;

use super::super::transaction::LAST_EPOCH;
use super::super::*;

pub const ID: &str = "tx";
pub const V0: TransactionVersion = TransactionVersion::V0;
pub const V2: TransactionVersion = TransactionVersion::V2;

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

pub fn named(partitions: &[(&str, i32)]) -> Vec<(TopicName, i32)> {
    partitions.iter().map(|(topic, partition)| (TopicName(text(topic)), *partition)).collect()
}

pub struct House {
    pub shard: Shard,
    pub now_ms: i64,
    pub records: Vec<Record>,
    /// Given, and not written yet.
    pub markers: Vec<Markers>,
    config: TxnConfig,
    tickets: u64,
    next_id: i64,
}

impl House {
    pub fn new() -> House {
        House::with(TxnConfig::default())
    }

    pub fn with(config: TxnConfig) -> House {
        let mut house = House {
            shard: Shard::new(config.clone()),
            now_ms: 1_700_000_000_000,
            records: Vec::new(),
            markers: Vec::new(),
            config,
            tickets: 0,
            next_id: 1000,
        };
        house.restart();
        house
    }

    fn take(&mut self, step: Step) -> Vec<Answer> {
        self.records.extend(step.records);
        self.markers.extend(step.markers);
        step.answers
            .into_iter()
            .map(|(ticket, answer)| {
                assert_eq!(ticket.0, self.tickets, "everybody is answered at once");
                answer
            })
            .collect()
    }

    pub fn call(&mut self, call: Call) -> Answer {
        self.tickets += 1;
        let step = self.shard.handle(self.now_ms, Ticket(self.tickets), call);
        let answers = self.take(step);
        let [answer] = answers.as_slice() else { panic!("{answers:?}") };
        answer.clone()
    }

    /// A call that gets a fresh producer id if it needs one.
    pub fn call_with_id(&mut self, call: impl Fn(Option<ProducerId>) -> Call) -> Answer {
        let before = (self.records.len(), self.markers.len());
        match self.call(call(None)) {
            Answer::NeedsProducerId => {
                assert_eq!(before, (self.records.len(), self.markers.len()), "nothing has changed");
                self.next_id += 1;
                self.call(call(Some(ProducerId(self.next_id))))
            }
            answer => answer,
        }
    }

    pub fn try_init(&mut self, id: &str, expected: Option<Producer>) -> Result<Producer, Error> {
        let call =
            |fresh| Call::InitProducerId { transactional_id: text(id), timeout_ms: 60_000, expected, fresh };
        match self.call_with_id(call) {
            Answer::InitProducerId(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn init(&mut self) -> Producer {
        self.try_init(ID, None).unwrap()
    }

    pub fn add_as(
        &mut self,
        id: &str,
        producer: Producer,
        partitions: &[(&str, i32)],
        version: TransactionVersion,
    ) -> Result<(), Error> {
        let partitions = named(partitions);
        match self.call(Call::AddPartitions { transactional_id: text(id), producer, partitions, version }) {
            Answer::AddPartitions(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn add(&mut self, producer: Producer, partitions: &[(&str, i32)]) -> Result<(), Error> {
        self.add_as(ID, producer, partitions, V2)
    }

    pub fn end_as(
        &mut self,
        id: &str,
        producer: Producer,
        commit: bool,
        version: TransactionVersion,
    ) -> Result<Producer, Error> {
        let call = |fresh| Call::EndTxn { transactional_id: text(id), producer, commit, version, fresh };
        match self.call_with_id(call) {
            Answer::EndTxn(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn end(&mut self, producer: Producer, commit: bool) -> Result<Producer, Error> {
        self.end_as(ID, producer, commit, V2)
    }

    /// All markers reach their partitions.
    pub fn mark(&mut self) {
        for Markers { transactional_id, producer, .. } in std::mem::take(&mut self.markers) {
            self.call(Call::MarkersWritten { transactional_id, producer });
        }
    }

    /// A whole transaction of version 2. Returns who the producer is afterwards.
    pub fn transact(&mut self, producer: Producer, commit: bool) -> Producer {
        self.add(producer, &[("t", 0)]).unwrap();
        let next = self.end(producer, commit).unwrap();
        self.mark();
        next
    }

    /// Time passes, and everything that is due happens at its time.
    pub fn pass(&mut self, ms: i64) {
        let until_ms = self.now_ms + ms;
        while let Some(at_ms) = self.shard.next_tick_ms().filter(|at_ms| *at_ms <= until_ms) {
            assert!(at_ms > self.now_ms, "time stands still");
            self.now_ms = at_ms;
            let step = self.shard.tick(at_ms);
            assert!(self.take(step).is_empty(), "nobody has asked");
        }
        self.now_ms = until_ms;
    }

    pub fn replayed(&self) -> Shard {
        let mut shard = Shard::new(self.config.clone());
        for record in &self.records {
            shard.replay(&record.key, record.value.as_deref()).unwrap();
        }
        shard
    }

    /// The shard is loaded from its log.
    pub fn restart(&mut self) {
        self.markers.clear();
        self.shard = self.replayed();
        let step = self.shard.loaded(self.now_ms);
        assert!(self.take(step).is_empty(), "nobody has asked");
    }

    pub fn state(&self) -> &'static str {
        self.shard.transactions.get(&text(ID)).map_or("none", |transaction| transaction.state.name())
    }

    /// The producer of `id` has had nearly all epochs.
    pub fn wear_out(&mut self, id: &str, epoch: i16) -> Producer {
        let mut transaction = Transaction::new(ProducerId(7), 60_000, self.now_ms);
        transaction.producer.epoch.0 = epoch;
        let value = Some(transaction.encode());
        self.records.push(Record { key: record::key(&text(id)), value });
        self.restart();
        Producer::new(7, epoch)
    }

    pub fn worn_out(&mut self) -> Producer {
        self.wear_out(ID, LAST_EPOCH)
    }
}
