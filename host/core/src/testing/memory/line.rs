//! Who is next: leases, in order of acceptance, of priority, or of keys.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use super::store::{Entry, Lease, Queue, Store, Wait};
use crate::engine::{LeaseRequest, LeaseToken, Leased, Order, OrderKey, PRIORITY_MAX, Position, QueueId, RequestError};
use crate::testing::Moment;

impl Store {
    pub(super) fn lease(&mut self, want: &LeaseRequest, now: Moment) -> Result<Vec<Leased>, RequestError> {
        let queue = self.known(want.queue)?;
        let is_changing = queue.order != queue.definition.order;
        if queue.paused || is_changing {
            return Ok(Vec::new());
        }
        let mut line = match queue.order {
            Order::Arrival => self.line(queue, now),
            Order::Key => self.line_by_key(want.queue, queue, want.ttl.is_none(), now),
        };
        line.truncate(want.max.max(1));
        Ok(line.into_iter().map(|position| self.grant(want, position, now)).collect())
    }

    /// What is available, in order of acceptance or, where the queue has priorities, of these.
    fn line(&self, queue: &Queue, now: Moment) -> Vec<Position> {
        let is_free = |entry: &Entry| entry.is_due(now) && !self.leases.contains_key(&entry.entry);
        let free = queue.entries.iter().filter(|(_, entry)| is_free(entry));
        let mut line: Vec<_> = free.map(|(position, entry)| (queue.rank(entry), *position)).collect();
        line.sort_unstable();
        line.into_iter().map(|(_, position)| position).collect()
    }

    /// What is available where keys are kept in order. One message at a time of a key that nobody holds; all of them in a `chain`.
    ///
    /// A retry stands in the way of those behind it. What waits since it was accepted has not joined yet, and what is held
    /// has left.
    fn line_by_key(&self, id: QueueId, queue: &Queue, chain: bool, now: Moment) -> Vec<Position> {
        let leased = self.leases.values().filter(|lease| lease.token.queue == id);
        let leased = leased.filter_map(|lease| queue.entries[&lease.position].key.as_ref());
        let mut busy: HashSet<&OrderKey> = leased.collect();
        let mut line = Vec::new();
        for (position, entry) in &queue.entries {
            let is_in_line = !matches!(entry.wait, Wait::Delay(_) | Wait::Held);
            let is_behind = entry.key.as_ref().is_some_and(|key| busy.contains(key));
            if !is_in_line || is_behind || self.leases.contains_key(&entry.entry) {
                continue;
            }
            if entry.is_due(now) {
                line.push(*position);
            }
            if !(entry.is_due(now) && chain) {
                busy.extend(&entry.key);
            }
        }
        line
    }

    fn grant(&mut self, want: &LeaseRequest, position: Position, now: Moment) -> Leased {
        let queue = self.queue(want.queue);
        let entry = &queue.entries[&position];
        let token = LeaseToken {
            queue: want.queue,
            entry: entry.entry,
            epoch: self.epoch,
            attempt: entry.attempts + 1,
            accepted: entry.accepted,
            nonce: fastrand::u64(..),
        };
        let leased = Leased {
            token,
            topic: entry.topic.clone(),
            message: entry.message.clone(),
            hops: entry.hops,
            accepted: entry.accepted,
            place: entry.place(position),
            key: entry.key.as_ref().filter(|_| queue.order == Order::Key).map(number),
            alone: entry.alone,
        };
        let ends = want.ttl.map(|ttl| now.monotonic.plus(ttl));
        self.leases.insert(token.entry, Lease { token, position, since: now, ends });
        leased
    }

    /// How long until time alone may make something of `queue` available.
    pub(super) fn next_event(&self, queue: QueueId, now: Moment) -> Option<Duration> {
        let entries = self.queues.get(&queue).into_iter().flat_map(|queue| queue.entries.values());
        let due = entries.filter_map(|entry| entry.wait.due()).filter(|due| *due > now.wall);
        let due = due.map(|due| due.since(now.wall));
        let ends = self.leases.values().filter_map(|lease| lease.ends).map(|ends| ends.since(now.monotonic));
        due.chain(ends).min()
    }
}

impl Queue {
    /// Where a message stands by its priority: the lowest comes first.
    pub(super) fn rank(&self, entry: &Entry) -> u8 {
        if self.definition.priority { PRIORITY_MAX.saturating_sub(entry.priority) } else { 0 }
    }
}

fn number(key: &OrderKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
