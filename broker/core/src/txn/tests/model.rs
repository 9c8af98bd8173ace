//! Producers that share transactional ids, transact, stall and die, by chance, with restarts of the broker that take
//! answers with them, or what was not written yet; and what holds whatever they do.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use super::house::*;

/// Transactional id and version of each client.
const CLIENTS: [(&str, TransactionVersion); 5] = [("a", V2), ("a", V2), ("a", V0), ("b", V2), ("b", V0)];

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Answered,
    /// The broker restarts before it has told: the client knows nothing.
    Unheard,
    /// The broker restarts before anything of it was durable.
    Lost,
}

#[derive(Clone, Debug)]
enum Ask {
    /// A new incarnation of the client.
    Init,
    /// The client goes on with a new epoch.
    Renew,
    Add(i32),
    End(bool),
}

#[derive(Clone, Debug)]
enum Op {
    Ask(usize, Ask, Fate),
    /// The client forgets what it knew, or does not hear that it is fenced.
    Crash(usize),
    /// Some of the markers that are due reach their partitions.
    Mark(usize),
    Pass(i64),
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let ask = prop_oneof![
        2 => Just(Ask::Init),
        1 => Just(Ask::Renew),
        6 => (0..3).prop_map(Ask::Add),
        4 => any::<bool>().prop_map(Ask::End),
    ];
    let fate = prop_oneof![8 => Just(Fate::Answered), 1 => Just(Fate::Unheard), 1 => Just(Fate::Lost)];
    let op = prop_oneof![
        20 => (0..CLIENTS.len(), ask, fate).prop_map(|(client, ask, fate)| Op::Ask(client, ask, fate)),
        1 => (0..CLIENTS.len()).prop_map(Op::Crash),
        8 => (0usize..4).prop_map(Op::Mark),
        3 => (1i64..40_000).prop_map(Op::Pass),
        1 => Just(Op::Restart),
    ];
    proptest::collection::vec(op, 1..120)
}

/// What is true of a transactional id.
#[derive(Clone, Debug, Default)]
struct Truth {
    /// Who may act, if anybody may.
    current: Option<Producer>,
    /// The highest that anybody was ever told.
    told: Option<Producer>,
    /// The partitions of the transaction that is ongoing.
    open: BTreeSet<i32>,
    /// What was decided and is not complete yet, its producer, and the partitions that have their markers to come.
    decided: Option<(Producer, bool, BTreeSet<i32>)>,
    last: Option<bool>,
}

struct Model {
    house: House,
    known: [Option<Producer>; CLIENTS.len()],
    truth: BTreeMap<StrBytes, Truth>,
}

impl Model {
    fn new(epoch: i16) -> Model {
        let config = TxnConfig { id_expiration_ms: 1_000_000_000_000, ..TxnConfig::default() };
        let mut model =
            Model { house: House::with(config), known: Default::default(), truth: BTreeMap::new() };
        if epoch >= 0 {
            let worn = model.house.wear_out("a", epoch);
            model.truth.insert(text("a"), Truth { told: Some(worn), ..Truth::default() });
        }
        model
    }

    fn truth(&mut self, id: &str) -> &mut Truth {
        self.truth.entry(text(id)).or_default()
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Ask(index, ask, fate) => self.ask(*index, ask, *fate),
            Op::Crash(index) => self.known[*index] = None,
            Op::Mark(at) => self.mark(*at),
            Op::Pass(ms) => {
                self.house.pass(*ms);
                self.see_markers(None);
            }
            Op::Restart => self.restart(),
        }
    }

    fn restart(&mut self) {
        self.house.restart();
        self.see_markers(None);
    }

    fn ask(&mut self, index: usize, ask: &Ask, fate: Fate) {
        if fate == Fate::Lost {
            let (records, markers) = (self.house.records.len(), self.house.markers.clone());
            let truth = self.truth.clone();
            let _ = self.send(index, ask);
            self.house.records.truncate(records);
            self.house.markers = markers;
            self.truth = truth;
            return self.restart();
        }
        let heard = self.send(index, ask);
        if fate == Fate::Unheard {
            return self.restart();
        }
        match heard {
            Some(Ok(producer)) => self.known[index] = Some(producer),
            Some(Err(Error::ProducerFenced | Error::InvalidProducerIdMapping)) => self.known[index] = None,
            _ => {}
        }
    }

    /// Sends a request, and looks at what it does. `None` if the client has nothing to ask.
    fn send(&mut self, index: usize, ask: &Ask) -> Option<Result<Producer, Error>> {
        let (id, version) = CLIENTS[index];
        let known = self.known[index];
        let before = self.truth(id).clone();
        Some(match ask {
            Ask::Init => self.init(id, None, &before),
            Ask::Renew => self.init(id, Some(known?), &before),
            Ask::Add(partition) => {
                let producer = known?;
                let added = self.house.add_as(id, producer, &[("t", *partition)], version);
                let may = before.current == Some(producer) && before.decided.is_none();
                assert_eq!(added.is_ok(), may, "{producer:?} of {before:?}");
                if may {
                    self.truth(id).open.insert(*partition);
                }
                added.map(|()| producer)
            }
            Ask::End(commit) => self.end(id, version, known?, *commit, &before),
        })
    }

    fn init(&mut self, id: &str, expected: Option<Producer>, before: &Truth) -> Result<Producer, Error> {
        let result = self.house.try_init(id, expected);
        self.see_markers(None);
        match result {
            Ok(producer) => {
                assert!(before.open.is_empty() && before.decided.is_none(), "{before:?} goes on");
                let again = expected.is_some() && Some(producer) == before.current;
                assert!(again || Some(producer) > before.told, "{producer:?} is not above {before:?}");
                let truth = self.truth(id);
                truth.current = Some(producer);
                truth.told = truth.told.max(Some(producer));
                truth.last = None;
            }
            Err(Error::ConcurrentTransactions) => {
                assert!(!before.open.is_empty() || before.decided.is_some())
            }
            Err(Error::ProducerFenced) => assert!(expected.is_some() && expected != before.current),
            Err(other) => panic!("{other:?}"),
        }
        result
    }

    fn end(
        &mut self,
        id: &str,
        version: TransactionVersion,
        producer: Producer,
        commit: bool,
        before: &Truth,
    ) -> Result<Producer, Error> {
        let result = self.house.end_as(id, producer, commit, version);
        self.see_markers(Some(commit));
        let decided = self.truth(id).decided.clone();
        match result {
            Ok(told) => {
                assert!(before.decided.is_none());
                if before.current == Some(producer) && !before.open.is_empty() {
                    let partitions = decided.map(|(_, commit, partitions)| (commit, partitions));
                    assert_eq!(partitions, Some((commit, before.open.clone())));
                } else if before.current == Some(producer) && told != producer {
                    assert!(!commit, "an abort of nothing");
                    self.truth(id).last = Some(false);
                } else {
                    assert_eq!(before.last, Some(commit), "{producer:?} hears again of {before:?}");
                    assert_eq!(Some(told), before.current);
                }
                let truth = self.truth(id);
                truth.current = Some(told);
                truth.told = truth.told.max(Some(told));
            }
            Err(error) => {
                let ongoing = before.current == Some(producer) && !before.open.is_empty();
                assert!(!ongoing, "{producer:?} ends {before:?}: {error:?}");
            }
        }
        result
    }

    /// Markers that are due: those of a decision that is known, or that was made just now, by an EndTxn with this outcome, or
    /// by the coordinator itself, which then fences the producer.
    fn see_markers(&mut self, by_client: Option<bool>) {
        for markers in self.house.markers.clone() {
            let Markers { transactional_id, producer, commit, partitions } = markers;
            let truth = self.truth.entry(transactional_id).or_default();
            let partitions: BTreeSet<i32> = partitions.iter().map(|(_, partition)| *partition).collect();
            match &truth.decided {
                Some(decided) => assert_eq!(*decided, (producer, commit, partitions), "decided twice"),
                None => {
                    assert_eq!(truth.open, partitions);
                    assert_eq!(by_client.unwrap_or(false), commit);
                    assert!(Some(producer) >= truth.current);
                    if by_client.is_none() {
                        assert!(Some(producer) > truth.current, "{producer:?} does not fence {truth:?}");
                        truth.current = None;
                    }
                    truth.open.clear();
                    truth.decided = Some((producer, commit, partitions));
                }
            }
        }
    }

    fn mark(&mut self, at: usize) {
        if self.house.markers.is_empty() {
            return;
        }
        let at = at % self.house.markers.len();
        let Markers { transactional_id, producer, .. } = self.house.markers.remove(at);
        let truth = self.truth.entry(transactional_id.clone()).or_default();
        truth.last = truth.decided.take().map(|(_, commit, _)| commit);
        // Nobody ends a transaction whose producer was fenced, so that nobody asks again.
        truth.last = truth.last.filter(|_| truth.current.is_some());
        self.house.call(Call::MarkersWritten { transactional_id, producer });
    }

    /// The log tells everything that matters.
    fn check_log(&self) {
        let loaded = self.house.replayed();
        let forgotten = |transactions: &Transactions| {
            let all = transactions.iter();
            let forget = |t: &Transaction| Transaction { last_epoch: None, ..t.clone() };
            all.map(|(id, transaction)| (id.clone(), forget(transaction))).collect::<Transactions>()
        };
        assert_eq!(forgotten(&loaded.transactions), forgotten(&self.house.shard.transactions));
        for (id, truth) in &self.truth {
            let decided = loaded.transactions.get(id).and_then(|transaction| transaction.state.decided());
            assert_eq!(decided, truth.decided.as_ref().map(|(_, commit, _)| *commit));
        }
    }

    /// Nothing goes wrong any more: each client in turn makes a transaction.
    fn settle(&mut self) {
        for (index, (id, version)) in CLIENTS.into_iter().enumerate() {
            self.known[index] = None;
            for _ in 0..2 {
                while !self.house.markers.is_empty() {
                    self.mark(0);
                }
                self.ask(index, &Ask::Init, Fate::Answered);
            }
            assert!(self.known[index].is_some(), "{id} cannot begin");
            self.ask(index, &Ask::Add(1), Fate::Answered);
            self.ask(index, &Ask::End(true), Fate::Answered);
            assert_eq!(self.house.markers.len(), 1, "{id} cannot end with {version:?}");
            self.mark(0);
        }
    }
}

proptest! {
    #[test]
    fn whatever_producers_do_each_transaction_ends_once(ops in ops(), epoch in -1i16..5) {
        let mut model = Model::new(if epoch < 0 { -1 } else { i16::MAX - 6 + epoch });
        for op in &ops {
            model.run(op);
            model.check_log();
        }
        model.settle();
        model.check_log();
    }
}
