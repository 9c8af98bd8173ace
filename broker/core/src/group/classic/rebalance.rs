//! The way from one generation to the next.

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

use super::super::timers::Timer;
use super::super::turn::Turn;
use super::{ClassicGroup, InitialRebalance, Member, State};

/// When nobody came, a group looks again after its rebalance timeout, which clients choose; not more often than this.
const LOOK_AGAIN_MIN_MS: i32 = 100;

impl ClassicGroup {
    /// The longest of its members'.
    pub(super) fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0).max(0)
    }

    pub(super) fn all_have_joined(&self) -> bool {
        self.pending_join.is_empty() && self.members.values().all(Member::has_joined)
    }

    /// Something has changed: a new rebalance, or, if one is under way, maybe its end.
    pub(super) fn rebalance_or_complete(&mut self, turn: &mut Turn<'_>) {
        if self.is_preparing() { self.maybe_complete_join(turn) } else { self.prepare_rebalance(turn) }
    }

    /// Ends the join phase if all are there. An initial rebalance waits for more to come.
    pub(super) fn maybe_complete_join(&mut self, turn: &mut Turn<'_>) {
        if self.state == State::PreparingRebalance(None) && self.all_have_joined() {
            self.complete_join(turn);
        }
    }

    pub fn prepare_rebalance(&mut self, turn: &mut Turn<'_>) {
        if self.state == State::CompletingRebalance {
            self.reset_assignments(turn, ResponseError::RebalanceInProgress);
        }
        self.pending_sync.clear();
        turn.timers.cancel(Timer::Sync(self.id.clone()));
        if self.is_empty() {
            let delay_ms = turn.config.initial_rebalance_delay_ms;
            let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms).max(0);
            turn.schedule(Timer::Join(self.id.clone()), delay_ms);
            let initial = InitialRebalance { delay_ms, remaining_ms, new_member_added: false };
            self.transition(turn, State::PreparingRebalance(Some(initial)));
            return;
        }
        self.transition(turn, State::PreparingRebalance(None));
        if self.all_have_joined() {
            self.complete_join(turn);
        } else {
            turn.schedule(Timer::Join(self.id.clone()), self.rebalance_timeout_ms());
        }
    }

    /// [`Timer::Join`].
    pub fn join_time_is_up(&mut self, turn: &mut Turn<'_>) {
        let State::PreparingRebalance(initial) = &mut self.state else { return };
        match initial {
            Some(initial) if initial.new_member_added && initial.remaining_ms > 0 => {
                initial.new_member_added = false;
                let delay_ms = turn.config.initial_rebalance_delay_ms.min(initial.remaining_ms);
                initial.remaining_ms = initial.remaining_ms.saturating_sub(initial.delay_ms).max(0);
                initial.delay_ms = delay_ms;
                turn.schedule(Timer::Join(self.id.clone()), delay_ms);
            }
            _ => self.complete_join(turn),
        }
    }

    /// The next generation, of those who have joined, and of static members, who may yet come back.
    pub(super) fn complete_join(&mut self, turn: &mut Turn<'_>) {
        turn.timers.cancel(Timer::Join(self.id.clone()));
        let absent = self.members.iter().filter(|(_, member)| !member.has_joined() && !member.is_static());
        for member_id in absent.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.remove(turn, &member_id);
        }
        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Only static members are left, and none is there. Their sessions, or their return, will end this.
            let again_ms = self.rebalance_timeout_ms().max(LOOK_AGAIN_MIN_MS);
            turn.schedule(Timer::Join(self.id.clone()), again_ms);
            return;
        }
        self.next_generation(turn);
        if self.is_empty() {
            turn.step.records.push(self.record());
        } else {
            self.answer_joins(turn);
            turn.schedule(Timer::Sync(self.id.clone()), self.rebalance_timeout_ms());
        }
    }

    /// A leader that has not joined makes place for a member that has.
    fn elect_joined_leader(&mut self) -> bool {
        let Some(leader) = &self.leader else { return false };
        if self.members.get(leader).is_some_and(Member::has_joined) {
            return true;
        }
        let joined = self.members.iter().find(|(_, member)| member.has_joined());
        let Some((elected, _)) = joined else { return false };
        self.leader = Some(elected.clone());
        true
    }

    fn next_generation(&mut self, turn: &Turn<'_>) {
        self.generation = self.generation.checked_add(1).unwrap_or(0);
        self.protocol_name = self.select_protocol();
        self.subscribed_topics = self.topics_of_members();
        self.pending_sync = self.members.keys().cloned().collect();
        let next = if self.members.is_empty() { State::Empty } else { State::CompletingRebalance };
        self.transition(turn, next);
    }

    fn answer_joins(&mut self, turn: &mut Turn<'_>) {
        let mut waiting = Vec::new();
        for (member_id, member) in &mut self.members {
            member.is_new = false;
            turn.schedule(Timer::Session(self.id.clone(), member_id.clone()), member.session_timeout_ms);
            waiting.extend(member.awaiting_join.take().map(|waiting| (waiting, member_id.clone())));
        }
        for (waiting, member_id) in waiting {
            waiting.answer(turn, self.joined_with_members(member_id));
        }
    }

    /// [`Timer::Sync`]: who has not asked for its assignment is not there any more.
    pub fn sync_time_is_up(&mut self, turn: &mut Turn<'_>) {
        let expected = matches!(self.state, State::CompletingRebalance | State::Stable);
        if !expected || self.pending_sync.is_empty() {
            return;
        }
        for member_id in std::mem::take(&mut self.pending_sync) {
            self.remove(turn, &member_id);
        }
        self.prepare_rebalance(turn);
    }

    /// The group was loaded: sessions begin, and a group that is bigger than it may be now shall shrink.
    pub fn loaded(&mut self, turn: &mut Turn<'_>) {
        for (member_id, member) in &self.members {
            turn.schedule(self.session(member_id), member.session_timeout_ms);
        }
        if self.members.len() > turn.config.max_size {
            self.prepare_rebalance(turn);
        }
    }

    /// A member was heard of.
    pub fn renew_session(&self, turn: &mut Turn<'_>, member_id: &StrBytes) {
        if let Some(member) = self.members.get(member_id) {
            turn.schedule(self.session(member_id), member.session_timeout_ms);
        }
    }
}
