//! Giving leases, prolonging them and taking them back: all from memory, but for what has to be read.

use std::time::Duration;

use super::Replies;
use super::leases::{Lease, Place};
use super::live::Live;
use super::queue::WindowEntry;
use super::stage::Take;
use super::waiting::Waiter;
use crate::command::{Grant, Now, Reply, Ticket};
use crate::failure::Failure;
use crate::history;
use pelton_core::clock::WallMs;
use pelton_core::engine::{Attempt, DeadCode, DeadReason, EntryId, LeaseRequest, LeaseToken, QueueId, SettleError};

impl<T: Ticket> Live<T> {
    /// Answers a lease request, or lets it wait.
    pub(super) fn lease(
        &mut self,
        ticket: T,
        want: &LeaseRequest,
        now: Now,
        replies: &mut Replies<T>,
    ) -> Result<(), Failure> {
        let queue = match self.check_queue(want.queue) {
            Ok(queue) => queue,
            Err(error) => {
                replies.push((ticket, Reply::Leased(Err(error))));
                return Ok(());
            }
        };
        let max = want.max.max(1);
        let ends = now.monotonic.plus(want.wait);
        self.give(queue, Waiter { ticket, max, ttl: want.ttl, ends }, now, replies).map(|waiter| {
            // Even one that does not want to wait: what the same caller submitted before may be in this batch.
            if let Some(waiter) = waiter {
                self.waiting.push(queue, waiter);
            }
        })
    }

    /// Answers the waiter with what is available; hands it back where that is nothing.
    fn give(
        &mut self,
        queue: u32,
        waiter: Waiter<T>,
        now: Now,
        replies: &mut Replies<T>,
    ) -> Result<Option<Waiter<T>>, Failure> {
        match self.take(queue, waiter.max, waiter.ttl, now) {
            Ok(grants) if grants.is_empty() => Ok(Some(waiter)),
            Ok(grants) => {
                replies.push((waiter.ticket, Reply::Leased(Ok(grants))));
                Ok(None)
            }
            Err(failure) => {
                replies.push((waiter.ticket, Reply::Leased(Err(failure.undone().into()))));
                Err(failure)
            }
        }
    }

    /// Serves those who wait in queues where something changed.
    pub(super) fn serve_changed(&mut self, now: Now, replies: &mut Replies<T>) -> Result<(), super::Failed> {
        for queue in self.changed.list() {
            while self.queues[queue as usize].has_available()
                && let Some((number, waiter)) = self.waiting.pop(queue)
            {
                if let Some(waiter) = self.give(queue, waiter, now, replies)? {
                    self.waiting.insert(queue, number, waiter);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Answers those who waited long enough.
    pub(super) fn end_waits(&mut self, now: Now, replies: &mut Replies<T>) {
        while let Some(waiter) = self.waiting.pop_ended(now.monotonic) {
            replies.push((waiter.ticket, Reply::Leased(Ok(Vec::new()))));
        }
    }

    /// Leases up to `max` messages, as many as one answer may hold.
    fn take(&mut self, queue: u32, max: usize, ttl: Option<Duration>, now: Now) -> Result<Vec<Grant>, Failure> {
        let max = max.min(self.tuning.lease_entries).max(1);
        let mut grants = Vec::new();
        let mut bytes = 0;
        while grants.len() < max && (grants.is_empty() || bytes < self.tuning.lease_bytes) {
            let Some((place, entry)) = self.next_available(queue)? else { break };
            bytes += entry.content.bytes();
            grants.push(self.grant(queue, place, entry, ttl, now));
        }
        if !grants.is_empty() {
            self.touch(queue);
        }
        Ok(grants)
    }

    /// The next message in line: what is due again and what is ready take turns.
    fn next_available(&mut self, queue: u32) -> Result<Option<(Place, WindowEntry)>, Failure> {
        let at = queue as usize;
        if self.queues[at].window.len() == 0 && self.queues[at].returned.is_empty() {
            self.refill(queue, self.tuning.refill_entries)?;
        }
        let state = &mut self.queues[at];
        let has_ready = state.window.len() > 0 || !state.returned.is_empty();
        if (state.due_turn || !has_ready)
            && let Some(((due, position), _)) = state.due.overdue.pop_first()
        {
            state.due_turn = false;
            let entry = self.reader()?.due_at(queue, due, position)?;
            return Ok(Some((Place::Due { due, position }, entry)));
        }
        state.due_turn = true;
        if let Some((position, _)) = state.returned.pop_first() {
            let entry = self.reader()?.ready_at(queue, position)?;
            return Ok(Some((Place::Ready { position }, entry)));
        }
        Ok(state.window.pop().map(|entry| (Place::Ready { position: entry.position }, entry)))
    }

    fn grant(&mut self, queue: u32, place: Place, entry: WindowEntry, ttl: Option<Duration>, now: Now) -> Grant {
        let nonce = self.random.u64(..);
        let attempt = entry.attempts.saturating_add(1);
        let ends = ttl.map(|ttl| now.monotonic.plus(ttl));
        let lease = Lease { queue, place, nonce, attempt, accepted: entry.accepted, since: now.wall, ends };
        self.leases.insert(entry.entry, lease);
        let state = &mut self.queues[queue as usize];
        state.leased.insert((entry.accepted, entry.entry));
        state.leased_due += u64::from(matches!(place, Place::Due { .. }));
        let token = LeaseToken {
            queue: QueueId(queue),
            entry: EntryId(entry.entry),
            epoch: self.global.epoch,
            attempt,
            accepted: entry.accepted,
            nonce,
        };
        Grant { token, hops: entry.hops, accepted: entry.accepted, content: entry.content }
    }

    pub(super) fn extend(&mut self, token: LeaseToken, by: Duration, now: Now) -> Result<(), SettleError> {
        self.leases.find(&token, self.global.epoch)?;
        self.leases.prolong(token.entry.0, now.monotonic.plus(by));
        Ok(())
    }

    /// Puts a leased message back to its place, uncounted; a lost lease is passed over.
    pub(super) fn release(&mut self, token: LeaseToken) {
        if let Ok(lease) = self.leases.find(&token, self.global.epoch) {
            self.end_lease(token.entry.0, &lease);
            self.put_back(lease.queue, lease.place, lease.accepted);
        }
    }

    /// Makes a message available at its place; it is read from disk when it is leased again.
    pub(super) fn put_back(&mut self, queue: u32, place: Place, accepted: WallMs) {
        let state = &mut self.queues[queue as usize];
        match place {
            Place::Ready { position } => {
                state.returned.insert(position, accepted);
            }
            Place::Due { due, position } => {
                state.due.overdue.insert((due, position), accepted);
            }
        }
        self.touch(queue);
    }

    pub(super) fn end_lease(&mut self, entry: u64, lease: &Lease) {
        self.leases.remove(entry);
        let state = &mut self.queues[lease.queue as usize];
        state.leased.remove(&(lease.accepted, entry));
        state.leased_due -= u64::from(matches!(lease.place, Place::Due { .. }));
        self.touch(lease.queue);
    }

    /// Stages what becomes of messages whose lease ran out: the attempt counts, and they are available again at once, or
    /// dead when it was the last.
    pub(super) fn expire_leases(&mut self, now: Now) {
        while let Some(entry) = self.leases.first_expired(now.monotonic) {
            let Some(lease) = self.leases.get(entry) else { return };
            let reason = "its lease ran out before it was settled".to_owned();
            let attempt = history::encode(&Attempt {
                number: lease.attempt,
                at_ms: lease.since.0,
                outcome: "lease-expired".to_owned(),
                reason: reason.clone(),
                duration_us: u64::try_from(now.wall.since(lease.since).as_micros()).unwrap_or(u64::MAX),
                digest: None,
                log_tail: String::new(),
            });
            let max = self.queues[lease.queue as usize].retry.max_attempts;
            if lease.attempt >= max {
                let detail = format!("attempt {} of {max} ended with lease-expired: {reason}", lease.attempt);
                let reason = DeadReason { code: DeadCode::MaxAttempts, detail };
                self.stage_death(entry, &lease, reason, Some(attempt), now);
            } else {
                self.stage_take(entry, &lease, Take::Stay { attempt });
            }
        }
    }
}
