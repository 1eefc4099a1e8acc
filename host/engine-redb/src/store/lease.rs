//! Giving leases, prolonging them and taking them back: all from memory, but for what has to be read.

use std::time::Duration;

use super::Replies;
use super::effects::Whose;
use super::keyed::Chain;
use super::keys::Waiting;
use super::leases::{Lease, Place};
use super::live::Live;
use super::stage::Take;
use super::waiting::Waiter;
use super::window::WindowEntry;
use crate::command::{Grant, Now, Reply, Ticket};
use crate::failure::Failure;
use crate::history;
use pelton_core::engine::{Attempt, EntryId, LeaseRequest, LeaseToken, QueueId, SettleError};

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
        let mut chain = Chain::new(ttl.is_none(), now.monotonic);
        let staged_before = self.stage.taken.len();
        while grants.len() < max && (grants.is_empty() || bytes < self.tuning.lease_bytes) {
            // What is found to be expired or in the way is staged, and that has to end too: the commit goes on with it.
            if self.stage.taken.len() - staged_before > self.tuning.stage_on_lease {
                break;
            }
            let Some((place, entry)) = self.next_available(queue, &mut chain)? else { break };
            if entry.is_expired(now.wall) {
                self.stage_expired(queue, place, &entry, now);
                continue;
            }
            bytes += entry.content.bytes();
            grants.push(self.grant(queue, place, entry, ttl, now));
        }
        if !grants.is_empty() {
            self.touch(queue);
        }
        Ok(grants)
    }

    /// The next message that may be leased.
    fn next_available(&mut self, queue: u32, chain: &mut Chain) -> Result<Option<(Place, WindowEntry)>, Failure> {
        let state = &self.queues[queue as usize];
        if state.record.paused || state.is_changing_order() {
            return Ok(None);
        }
        if self.leases.len() >= self.tuning.leases.max(1) {
            self.turn_away(queue);
            return Ok(None);
        }
        if state.keyed {
            return self.next_of_keys(queue, chain);
        }
        self.next_in_lines(queue)
    }

    /// Remembers that nothing of the queue was leased because there are too many leases.
    fn turn_away(&mut self, queue: u32) {
        self.turned_away.mark(queue);
        if !std::mem::replace(&mut self.leases_full, true) {
            let leases = self.leases.len();
            tracing::warn!(
                leases,
                "As many messages are leased as may be: nothing more is leased, of any queue, until some of them are settled."
            );
        }
    }

    /// The next message of the first line that has one.
    pub(super) fn next_in_lines(&mut self, queue: u32) -> Result<Option<(Place, WindowEntry)>, Failure> {
        for line in 0..self.queues[queue as usize].lines.len() {
            if let Some(next) = self.next_in_line(queue, line)? {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    /// The next message of a line: what is due again and what is ready take turns.
    pub(super) fn next_in_line(&mut self, queue: u32, line: usize) -> Result<Option<(Place, WindowEntry)>, Failure> {
        let at = queue as usize;
        if self.queues[at].lines[line].is_dry() {
            self.refill(queue, line, self.tuning.refill_entries)?;
        }
        let state = &mut self.queues[at];
        let next = &mut state.lines[line];
        let rank = next.rank;
        if (next.due_turn || !next.has_ready())
            && let Some(((due, position), _)) = next.overdue.pop_first()
        {
            next.due_turn = false;
            state.overdue -= 1;
            let entry = self.reader()?.due_at(queue, due, position)?;
            return Ok(Some((Place::Due { due, position }, entry)));
        }
        next.due_turn = true;
        if let Some((position, _)) = next.returned.pop_first() {
            let entry = self.reader()?.ready_at(queue, rank, position)?;
            return Ok(Some((Place::Ready { rank, position }, entry)));
        }
        Ok(next.window.pop().map(|entry| (Place::Ready { rank, position: entry.position }, entry)))
    }

    fn grant(&mut self, queue: u32, place: Place, entry: WindowEntry, ttl: Option<Duration>, now: Now) -> Grant {
        let nonce = self.random.u64(..);
        let WindowEntry { entry: id, attempts, hops, priority, alone, accepted, key, cost, content, .. } = entry;
        let attempt = attempts.saturating_add(1);
        let ends = ttl.map(|ttl| now.monotonic.plus(ttl));
        let state = &mut self.queues[queue as usize];
        let key = key.filter(|_| state.keyed);
        let lease = Lease { queue, place, nonce, attempt, key, priority, cost, accepted, since: now.wall, ends };
        self.leases.insert(id, lease);
        state.leased.insert((accepted, id));
        state.held_bytes += cost;
        state.leased_due += u64::from(matches!(place, Place::Due { .. }));
        if let Some(key) = key {
            state.keys.lease(key, place);
        }
        let (epoch, queue, entry) = (self.global.epoch, QueueId(queue), EntryId(id));
        let token = LeaseToken { queue, entry, epoch, attempt, accepted, nonce };
        Grant { token, hops, accepted, place: place.told(), key, alone, content }
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
            let Lease { accepted, key, priority, .. } = lease;
            let whose = Whose { entry: token.entry.0, accepted, key, priority };
            self.put_back(lease.queue, lease.place, whose);
            let state = &mut self.queues[lease.queue as usize];
            if let Some(key) = lease.key.filter(|_| state.keyed) {
                state.keys.unlease(key, lease.place.position());
                state.keys.offer(key);
            }
        }
    }

    /// Makes a message available at its place; it is read from disk when it is leased again.
    pub(super) fn put_back(&mut self, queue: u32, place: Place, whose: Whose) {
        let Whose { entry: id, accepted, key, priority } = whose;
        let state = &mut self.queues[queue as usize];
        if let Place::Ready { rank, position } = place
            && state.line(rank).window.is_ahead(position)
            && !state.keys.is_aside(position)
        {
            // The window comes to it.
            return;
        }
        if matches!(place, Place::Due { .. }) {
            state.overdue += 1;
        }
        match (place, key.filter(|_| state.keyed)) {
            // It is found where it lies.
            (Place::Parked { .. }, _) => {}
            (_, Some(key)) => {
                state.keys.wait(key, Waiting { place, id, accepted, entry: None });
                state.keys.offer(key);
            }
            (Place::Ready { rank, position }, None) => {
                state.line(rank).returned.insert(position, accepted);
            }
            (Place::Due { due, position }, None) => {
                let rank = state.rank(priority);
                state.line(rank).overdue.insert((due, position), accepted);
            }
        }
        self.touch(queue);
    }

    pub(super) fn end_lease(&mut self, entry: u64, lease: &Lease) {
        self.leases.remove(entry);
        let state = &mut self.queues[lease.queue as usize];
        state.leased.remove(&(lease.accepted, entry));
        state.held_bytes = state.held_bytes.saturating_sub(lease.cost);
        state.leased_due -= u64::from(matches!(lease.place, Place::Due { .. }));
        self.touch(lease.queue);
        self.leases_full &= self.leases.len() > self.tuning.leases / 2;
        // There is room for a lease again, whichever queue wanted one.
        for queue in self.turned_away.drain() {
            self.changed.mark(queue);
        }
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
            let ended = format!("lease-expired: {reason}");
            let retry = &self.queues[lease.queue as usize].retry;
            if let Some(reason) = retry.exhausted(lease.attempt, now.wall.since(lease.accepted), &ended) {
                self.stage_death(entry, &lease, reason, Some(attempt), now);
            } else {
                self.stage_take(entry, &lease, Take::Stay { attempt });
            }
        }
    }
}
