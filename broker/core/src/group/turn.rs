//! One call or one tick: the time, the settings, the topics and the timers it sees, and what it leads to.

use bytes::Bytes;

use super::timers::{Timer, Timers};
use super::{Answer, GroupConfig, GroupRecord, Step, Ticket};
pub(super) use crate::coordinator::own;
use crate::metadata::MetadataImage;

pub(super) struct Turn<'a> {
    pub now_ms: i64,
    pub config: &'a GroupConfig,
    pub image: &'a MetadataImage,
    pub timers: &'a mut Timers,
    pub step: Step,
}

impl<'a> Turn<'a> {
    pub fn new(
        now_ms: i64,
        config: &'a GroupConfig,
        image: &'a MetadataImage,
        timers: &'a mut Timers,
    ) -> Turn<'a> {
        Turn { now_ms, config, image, timers, step: Step::default() }
    }

    pub fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.step.answers.push((ticket, answer));
    }

    pub fn record(&mut self, key: Bytes, value: Option<Bytes>) {
        self.step.records.push(GroupRecord { key, value });
    }

    /// At least a millisecond ahead: clients choose some of these times, and a tick must come to an end.
    pub fn schedule(&mut self, timer: Timer, delay_ms: i32) {
        let at_ms = self.now_ms.saturating_add(i64::from(delay_ms.max(1)));
        self.timers.schedule(timer, at_ms);
    }

    /// As [`Turn::schedule`], if there is no such deadline yet.
    pub fn schedule_if_absent(&mut self, timer: Timer, delay_ms: i32) {
        let at_ms = self.now_ms.saturating_add(i64::from(delay_ms.max(1)));
        self.timers.schedule_if_absent(timer, at_ms);
    }

    /// Whether these records may be one batch.
    pub fn fits<'r>(&self, records: impl IntoIterator<Item = &'r GroupRecord>) -> bool {
        records.into_iter().map(GroupRecord::size).sum::<usize>() <= self.config.max_batch_bytes
    }
}

/// As [`own`].
pub(super) fn own_bytes(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
