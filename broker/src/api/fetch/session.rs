//! Fetch sessions (KIP-227): the broker remembers what a client fetches, the client sends only what changes,
//! and is told only of what changed.
//!
//! The states of a session are its epochs: 1 when it is made, one more with each fetch, back to 1 after
//! `i32::MAX`. A request of another epoch than the expected one was lost or repeated, and is refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chronik_core::ids::{Offset, Uuid};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::Metrics;

/// A session may be pushed out by another only after this time.
const SAFE_FOR: Duration = Duration::from_secs(120);

/// The epoch of a request that begins a session, if it gets one.
const INITIAL: i32 = 0;
/// The epoch of a request that wants none, and ends the one it names.
const FINAL: i32 = -1;

/// How a request names a topic: by its name up to version 12, by its id from 13 on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicKey {
    Name(TopicName),
    Id(Uuid),
}

/// One partition of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartitionKey {
    pub topic: TopicKey,
    pub partition: i32,
}

/// What a client wants of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub key: PartitionKey,
    pub offset: Offset,
    pub max_bytes: i32,
    /// -1: not known.
    pub current_leader_epoch: i32,
    /// -1: not known.
    pub last_fetched_epoch: i32,
}

/// What of an answer decides whether the client must be told of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub high_watermark: Offset,
    pub log_start: Offset,
    pub has_records: bool,
    /// An error or a diverging epoch.
    pub is_special: bool,
}

#[derive(Debug)]
struct Cached {
    wanted: Wanted,
    high_watermark: Offset,
    log_start: Offset,
}

/// The partitions of one client, in the order they are read.
#[derive(Debug)]
pub struct Session {
    id: i32,
    /// The one the next request must have.
    epoch: i32,
    by_id: bool,
    created: Instant,
    used: Instant,
    next_place: u64,
    places: HashMap<PartitionKey, u64>,
    partitions: BTreeMap<u64, Cached>,
}

impl Session {
    fn set(&mut self, wanted: Wanted) {
        match self.places.get(&wanted.key).and_then(|place| self.partitions.get_mut(place)) {
            Some(cached) => cached.wanted = wanted,
            None => self.append(Cached { wanted, high_watermark: -1, log_start: -1 }),
        }
    }

    fn append(&mut self, cached: Cached) {
        self.places.insert(cached.wanted.key.clone(), self.next_place);
        self.partitions.insert(self.next_place, cached);
        self.next_place += 1;
    }

    fn forget(&mut self, key: &PartitionKey) {
        if let Some(place) = self.places.remove(key) {
            self.partitions.remove(&place);
        }
    }

    /// Whether the client must be told; remembers that it was. A partition that gave records goes to the end
    /// of the order, so that it cannot starve the others.
    fn must_tell(&mut self, key: &PartitionKey, told: &Told) -> bool {
        let Some(place) = self.places.get(key).copied() else { return false };
        let Some(cached) = self.partitions.get_mut(&place) else { return false };
        let changed = cached.high_watermark != told.high_watermark || cached.log_start != told.log_start;
        cached.high_watermark = told.high_watermark;
        cached.log_start = told.log_start;
        if told.is_special {
            // Whatever comes after an error is news.
            cached.high_watermark = -1;
        }
        if told.has_records
            && let Some(cached) = self.partitions.remove(&place)
        {
            self.append(cached);
        }
        changed || told.has_records || told.is_special
    }
}

/// A request, together with what its session remembers.
pub enum Context {
    /// No session, now or afterwards.
    Sessionless(Vec<Wanted>),
    /// All is told, and a session begun if there is room.
    Full {
        wanted: Vec<Wanted>,
        by_id: bool,
    },
    Incremental {
        session: Arc<Mutex<Session>>,
        epoch: i32,
        wanted: Vec<Wanted>,
    },
    Refused(ResponseError),
}

/// The session fields of a request.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub session_id: i32,
    pub epoch: i32,
    pub by_id: bool,
}

/// All sessions, at most so many.
pub struct FetchSessions {
    max: usize,
    sessions: Mutex<HashMap<i32, Arc<Mutex<Session>>>>,
    count: Gauge,
    evictions: Counter,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

impl FetchSessions {
    pub fn new(max: usize, metrics: &Metrics) -> FetchSessions {
        let (count, evictions) = (metrics.fetch_sessions.clone(), metrics.fetch_session_evictions.clone());
        FetchSessions { max, sessions: Mutex::default(), count, evictions }
    }

    /// Finds or refuses the session of a request. `wanted` is what it names, each partition once.
    pub fn begin(
        &self,
        asked: Asked,
        wanted: Vec<Wanted>,
        forgotten: &[PartitionKey],
        now: Instant,
    ) -> Context {
        if asked.epoch == INITIAL || asked.epoch == FINAL {
            if asked.session_id != 0 {
                self.remove(asked.session_id);
            }
            return match asked.epoch {
                FINAL => Context::Sessionless(wanted),
                _ => Context::Full { wanted, by_id: asked.by_id },
            };
        }
        let Some(session) = lock(&self.sessions).get(&asked.session_id).cloned() else {
            return Context::Refused(ResponseError::FetchSessionIdNotFound);
        };
        let mut state = lock(&session);
        if state.epoch != asked.epoch {
            return Context::Refused(ResponseError::InvalidFetchSessionEpoch);
        }
        if state.by_id != asked.by_id {
            return Context::Refused(ResponseError::FetchSessionTopicIdError);
        }
        for partition in &wanted {
            state.set(partition.clone());
        }
        for key in forgotten {
            state.forget(key);
        }
        if state.partitions.is_empty() {
            drop(state);
            self.remove(asked.session_id);
            return Context::Sessionless(Vec::new());
        }
        state.used = now;
        state.epoch = next(state.epoch);
        let epoch = state.epoch;
        let wanted = state.partitions.values().map(|c| c.wanted.clone()).collect();
        drop(state);
        Context::Incremental { session, epoch, wanted }
    }

    /// Begins a session over what was just answered; 0 when there is no room for one.
    pub fn create(&self, by_id: bool, told: Vec<(Wanted, Told)>, now: Instant) -> i32 {
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= self.max && !self.make_room(&mut sessions, told.len(), now) {
            return 0;
        }
        let id = loop {
            let id = i32::from_ne_bytes(first_four(Uuid::new_v4())) & i32::MAX;
            if id != 0 && !sessions.contains_key(&id) {
                break id;
            }
        };
        let mut session = Session {
            id,
            epoch: next(INITIAL),
            by_id,
            created: now,
            used: now,
            next_place: 0,
            places: HashMap::new(),
            partitions: BTreeMap::new(),
        };
        for (wanted, told) in told {
            let high_watermark = if told.is_special { -1 } else { told.high_watermark };
            session.append(Cached { wanted, high_watermark, log_start: told.log_start });
        }
        sessions.insert(id, Arc::new(Mutex::new(session)));
        self.count.set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
        id
    }

    /// Kafka's rule: the session longest unused goes if that is long enough; else the smallest that has had
    /// its time, if the new one is larger.
    fn make_room(&self, sessions: &mut HashMap<i32, Arc<Mutex<Session>>>, size: usize, now: Instant) -> bool {
        let facts: Vec<(Instant, Instant, usize, i32)> = sessions
            .values()
            .map(|s| lock(s))
            .map(|s| (s.used, s.created, s.partitions.len(), s.id))
            .collect();
        let past = |since: Instant| now.saturating_duration_since(since) > SAFE_FOR;
        let unused = facts.iter().min_by_key(|f| f.0).filter(|f| past(f.0));
        let smallest = || facts.iter().filter(|f| past(f.1)).min_by_key(|f| f.2).filter(|f| f.2 < size);
        let Some(evicted) = unused.or_else(smallest) else { return false };
        sessions.remove(&evicted.3);
        self.evictions.inc();
        true
    }

    fn remove(&self, id: i32) {
        let mut sessions = lock(&self.sessions);
        sessions.remove(&id);
        self.count.set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
    }

    pub fn len(&self) -> usize {
        lock(&self.sessions).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn first_four(id: Uuid) -> [u8; 4] {
    let [a, b, c, d, ..] = id.into_bytes();
    [a, b, c, d]
}

/// Says for each of the answered partitions whether the client must be told, and gives the session's id; or
/// that another request of the session came meanwhile.
pub fn answer(
    session: &Mutex<Session>,
    epoch: i32,
    told: &[(&PartitionKey, Told)],
) -> Result<(i32, Vec<bool>), ResponseError> {
    let mut session = lock(session);
    if session.epoch != epoch {
        return Err(ResponseError::InvalidFetchSessionEpoch);
    }
    let tell = told.iter().map(|(key, told)| session.must_tell(key, told)).collect();
    Ok((session.id, tell))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::text;

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicKey::Name(TopicName(text("a"))), partition }
    }

    fn want(partition: i32) -> Wanted {
        Wanted {
            key: key(partition),
            offset: 0,
            max_bytes: 100,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
        }
    }

    fn told(high_watermark: i64) -> Told {
        Told { high_watermark, log_start: 0, has_records: false, is_special: false }
    }

    fn sessions(max: usize) -> FetchSessions {
        FetchSessions::new(max, &Metrics::new([]))
    }

    fn asked(session_id: i32, epoch: i32) -> Asked {
        Asked { session_id, epoch, by_id: false }
    }

    fn make(sessions: &FetchSessions, partitions: i32, now: Instant) -> i32 {
        sessions.create(false, (0..partitions).map(|p| (want(p), told(0))).collect(), now)
    }

    fn refusal(context: Context) -> Option<ResponseError> {
        match context {
            Context::Refused(e) => Some(e),
            _ => None,
        }
    }

    #[test]
    fn epochs_follow_each_other() {
        let (all, now) = (sessions(10), Instant::now());
        let id = make(&all, 2, now);
        for epoch in 1..4 {
            let Context::Incremental { wanted, epoch: next, .. } =
                all.begin(asked(id, epoch), vec![], &[], now)
            else {
                panic!("epoch {epoch} was refused")
            };
            assert_eq!((wanted.len(), next), (2, epoch + 1));
        }
        for wrong in [1, 3, 5] {
            let context = all.begin(asked(id, wrong), vec![], &[], now);
            assert_eq!(refusal(context), Some(ResponseError::InvalidFetchSessionEpoch));
        }
        let other = if id == 1 { 2 } else { 1 };
        assert_eq!(
            refusal(all.begin(asked(other, 1), vec![], &[], now)),
            Some(ResponseError::FetchSessionIdNotFound)
        );
        let by_id = Asked { by_id: true, ..asked(id, 4) };
        assert_eq!(
            refusal(all.begin(by_id, vec![], &[], now)),
            Some(ResponseError::FetchSessionTopicIdError)
        );
        assert_eq!(next(i32::MAX), 1);
    }

    #[test]
    fn partitions_join_change_and_leave() {
        let (all, now) = (sessions(10), Instant::now());
        let id = make(&all, 2, now);
        let moved = Wanted { offset: 7, ..want(1) };
        let Context::Incremental { wanted, .. } =
            all.begin(asked(id, 1), vec![moved.clone(), want(5)], &[key(0)], now)
        else {
            panic!("refused")
        };
        assert_eq!(wanted, [moved, want(5)]);
        // One that forgets all its partitions is over.
        let context = all.begin(asked(id, 2), vec![], &[key(1), key(5)], now);
        assert!(matches!(context, Context::Sessionless(w) if w.is_empty()));
        assert!(all.is_empty());
    }

    #[test]
    fn only_news_is_told() {
        let (all, now) = (sessions(10), Instant::now());
        let id = make(&all, 3, now);
        let tell = |epoch: i32, told: [Told; 3]| {
            let Context::Incremental { session, epoch, wanted } =
                all.begin(asked(id, epoch), vec![], &[], now)
            else {
                panic!("refused")
            };
            let keys: Vec<_> = wanted.iter().map(|w| &w.key).zip(told).collect();
            answer(&session, epoch, &keys).unwrap().1
        };
        let error = Told { is_special: true, high_watermark: -1, ..told(0) };
        assert_eq!(tell(1, [told(0); 3]), [false; 3]);
        assert_eq!(tell(2, [told(0), told(4), error]), [false, true, true]);
        // The error is gone: that is news too, once.
        assert_eq!(tell(3, [told(0), told(4), told(0)]), [false, false, true]);
        assert_eq!(tell(4, [told(0), told(4), told(0)]), [false; 3]);
    }

    #[test]
    fn who_gave_records_is_read_last() {
        let (all, now) = (sessions(10), Instant::now());
        let id = make(&all, 3, now);
        let Context::Incremental { session, epoch, wanted } = all.begin(asked(id, 1), vec![], &[], now)
        else {
            panic!("refused")
        };
        let full = Told { has_records: true, ..told(9) };
        answer(&session, epoch, &[(&wanted[0].key, full), (&wanted[1].key, told(0))]).unwrap();
        let Context::Incremental { wanted, .. } = all.begin(asked(id, 2), vec![], &[], now) else {
            panic!("refused")
        };
        assert_eq!(wanted.iter().map(|w| w.key.partition).collect::<Vec<_>>(), [1, 2, 0]);
        // The first request of the two cannot be answered any more.
        assert_eq!(answer(&session, epoch, &[]), Err(ResponseError::InvalidFetchSessionEpoch));
    }

    #[test]
    fn a_full_cache_gives_way_only_to_the_old_and_the_small() {
        let all = sessions(2);
        let start = Instant::now();
        let (small, large) = (make(&all, 1, start), make(&all, 5, start));
        assert_eq!(make(&all, 9, start), 0);
        let later = start + SAFE_FOR + Duration::from_secs(1);
        // Both are in use, so the smaller goes, but only for one that is larger.
        for id in [small, large] {
            assert!(refusal(all.begin(asked(id, 1), vec![], &[], later)).is_none());
        }
        assert_eq!(make(&all, 1, later), 0);
        let new = make(&all, 2, later);
        assert!(new != 0 && refusal(all.begin(asked(small, 2), vec![], &[], later)).is_some());
        // The large one has not been used for long.
        let last = later + SAFE_FOR + Duration::from_secs(1);
        assert!(refusal(all.begin(asked(new, 1), vec![], &[], last)).is_none());
        assert!(make(&all, 1, last) != 0 && all.len() == 2);
        assert!(refusal(all.begin(asked(large, 2), vec![], &[], last)).is_some());
        assert_eq!(sessions(0).create(false, vec![], start), 0);
    }

    #[test]
    fn a_full_request_ends_the_session_it_names() {
        let (all, now) = (sessions(10), Instant::now());
        let id = make(&all, 1, now);
        assert!(matches!(all.begin(asked(id, 0), vec![], &[], now), Context::Full { .. }));
        assert!(all.is_empty());
        let id = make(&all, 1, now);
        assert!(matches!(all.begin(asked(id, -1), vec![], &[], now), Context::Sessionless(_)));
        assert!(all.is_empty());
    }
}
