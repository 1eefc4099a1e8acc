//! What becomes of leased messages: settled, given back, failed, lost with the process that ran them.

use std::time::Duration;

use super::store::{Entry, SETTLED_MAX, Store, Wait};
use crate::engine::{Attempt, EngineError, LeaseToken, Lost, Position, QueueId, SettleError, Settlement, Verdict};
use crate::testing::Moment;

impl Store {
    pub(super) fn extend(&mut self, token: LeaseToken, by: Duration, now: Moment) -> Result<(), SettleError> {
        self.held(&token)?;
        if let Some(lease) = self.leases.get_mut(&token.entry)
            && lease.ends.is_some()
        {
            lease.ends = Some(now.monotonic.plus(by));
        }
        Ok(())
    }

    pub(super) fn release(&mut self, token: LeaseToken) {
        if let Ok(position) = self.held(&token) {
            self.leases.remove(&token.entry);
            let entry = self.take(token.queue, position);
            self.give_back(token.queue, position, entry);
        }
    }

    pub(super) fn settle(&mut self, settlement: Settlement, now: Moment) -> Result<(), SettleError> {
        let Settlement { lease: token, attempt, verdict } = settlement;
        let position = self.held(&token)?;
        if let Verdict::Done { emits } = &verdict
            && let Some(lost) = emits.iter().find(|emit| self.known(emit.queue).is_err())
        {
            let detail = format!("an emit is for the queue with id {}, which does not exist", lost.queue.0);
            return Err(EngineError::Corrupt(detail).into());
        }
        self.leases.remove(&token.entry);
        self.remember_settled(token);
        let mut entry = self.take(token.queue, position);
        entry.history.extend(attempt);
        match verdict {
            Verdict::Done { emits } => {
                for emit in emits {
                    let position = self.next_place();
                    self.insert(position, emit, now);
                }
            }
            Verdict::Again { at, chosen } => {
                entry.attempts = token.attempt;
                entry.wait = Wait::Retry { at, chosen };
                entry.alone = false;
                self.put(token.queue, position, entry);
            }
            Verdict::Dead { reason } => {
                entry.attempts = token.attempt;
                self.bury(token.queue, position, entry, reason, now);
            }
        }
        Ok(())
    }

    /// Counts the attempt of a delivery that its process did not survive; whether the message was there.
    pub(super) fn lose(&mut self, lost: Lost, now: Moment) -> bool {
        let Lost { queue, entry: id, place, attempt } = lost;
        let is_it = |entry: &Entry| entry.entry == id && entry.place(place.position) == place;
        let found = self.queues.get(&queue).and_then(|queue| queue.entries.get(&place.position));
        if !found.is_some_and(is_it) || self.leases.contains_key(&id) {
            return false;
        }
        let mut entry = self.take(queue, place.position);
        entry.alone = true;
        self.fail_again(queue, place.position, entry, attempt, now);
        true
    }

    /// Counts a failed attempt of a message, already taken out of `queue`: it goes back to its place, or is dead when the attempt was
    /// its last.
    pub(super) fn fail_again(
        &mut self,
        queue: QueueId,
        position: Position,
        mut entry: Entry,
        attempt: Attempt,
        now: Moment,
    ) {
        entry.attempts += 1;
        let ended = format!("{}: {}", attempt.outcome, attempt.reason);
        entry.history.push(attempt);
        let retry = &self.queue(queue).definition.retry;
        match retry.exhausted(entry.attempts, now.wall.since(entry.accepted), &ended) {
            Some(reason) => self.bury(queue, position, entry, reason, now),
            None => self.give_back(queue, position, entry),
        }
    }

    /// Puts a message whose time had come back to its place, where it is available whatever the wall clock does.
    fn give_back(&mut self, queue: QueueId, position: Position, entry: Entry) {
        self.put(queue, position, Entry { wait: Wait::Nothing, ..entry });
    }

    /// The place of the message that `token` is a valid lease of.
    fn held(&self, token: &LeaseToken) -> Result<Position, SettleError> {
        match self.leases.get(&token.entry) {
            Some(lease) if lease.token == *token => Ok(lease.position),
            _ if self.settled_set.contains(token) => Err(SettleError::AlreadySettled),
            _ => Err(SettleError::LeaseLost),
        }
    }

    fn remember_settled(&mut self, token: LeaseToken) {
        if self.settled.len() == SETTLED_MAX
            && let Some(oldest) = self.settled.pop_front()
        {
            self.settled_set.remove(&oldest);
        }
        self.settled.push_back(token);
        self.settled_set.insert(token);
    }
}
