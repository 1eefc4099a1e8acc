//! What time does by itself: leases run out, delayed messages join the order of their key, messages expire.

use super::store::{Entry, Store, Wait};
use crate::clock::WallMs;
use crate::engine::{Attempt, DeadCode, DeadReason, EntryId, Expired, Order, Position, QueueId};
use crate::testing::Moment;

impl Entry {
    /// When time does something about it, at the earliest, if it did what is due at `now`.
    pub(super) fn sweep_at(&self, now: WallMs) -> WallMs {
        let expires = self.expires.unwrap_or(WallMs(u64::MAX));
        match self.wait {
            Wait::Delay(at) if at > now => at.min(expires),
            _ => expires,
        }
    }

    fn has_expired(&self, now: Moment) -> bool {
        self.expires.is_some_and(|expires| expires <= now.wall)
    }
}

impl Store {
    /// Does all that is due; whether there was anything.
    pub(super) fn pass_time(&mut self, now: Moment) -> bool {
        let ran_out = self.end_leases(now);
        let changed = self.change_orders();
        let swept = (changed || self.sweep_at <= now.wall) && self.sweep(now);
        ran_out || changed || swept
    }

    /// Ends the leases that ran out, each as a failed attempt; whether there were any.
    fn end_leases(&mut self, now: Moment) -> bool {
        let leases = self.leases.values().filter_map(|lease| Some((lease.ends?, lease.token.entry)));
        let mut ended: Vec<_> = leases.filter(|(ends, _)| *ends <= now.monotonic).collect();
        ended.sort_unstable();
        for (_, entry) in &ended {
            self.run_out(*entry, now);
        }
        !ended.is_empty()
    }

    fn run_out(&mut self, entry: EntryId, now: Moment) {
        let Some(lease) = self.leases.remove(&entry) else { return };
        let held_for = now.monotonic.since(lease.since.monotonic);
        let attempt = Attempt {
            number: lease.token.attempt,
            at_ms: lease.since.wall.0,
            outcome: "lease-expired".to_owned(),
            reason: "the lease ran out before it was settled".to_owned(),
            duration_us: u64::try_from(held_for.as_micros()).unwrap_or(u64::MAX),
            digest: None,
            log_tail: String::new(),
        };
        let entry = self.take(lease.token.queue, lease.position);
        self.fail_again(lease.token.queue, lease.position, entry, attempt, now);
    }

    /// Puts new orders in force where nothing is leased in the old one; whether there were any.
    fn change_orders(&mut self) -> bool {
        let leases = &self.leases;
        let is_drained = |id: QueueId| leases.values().all(|lease| lease.token.queue != id);
        let mut changed = false;
        for (id, queue) in &mut self.queues {
            if queue.order != queue.definition.order && is_drained(*id) {
                queue.order = queue.definition.order;
                changed = true;
            }
        }
        changed
    }

    /// Lets messages expire and join; whether there were any.
    fn sweep(&mut self, now: Moment) -> bool {
        let is_free = |entry: &Entry| !self.leases.contains_key(&entry.entry);
        let mut expired = Vec::new();
        let mut joining = Vec::new();
        for (id, queue) in &self.queues {
            for (position, entry) in queue.entries.iter().filter(|(_, entry)| is_free(entry)) {
                if entry.has_expired(now) {
                    expired.push((entry.expires, *id, *position));
                } else if let Wait::Delay(at) = entry.wait
                    && queue.order == Order::Key
                    && at <= now.wall
                {
                    joining.push((at, *id, *position));
                }
            }
        }
        expired.sort_unstable();
        joining.sort_unstable();
        for (_, queue, position) in &expired {
            self.expire(*queue, *position, now);
        }
        for (_, queue, position) in &joining {
            self.join(*queue, *position);
        }
        let entries = self.queues.values().flat_map(|queue| queue.entries.values());
        self.sweep_at = entries.map(|entry| entry.sweep_at(now.wall)).min().unwrap_or(WallMs(u64::MAX));
        !expired.is_empty() || !joining.is_empty()
    }

    fn expire(&mut self, queue: QueueId, position: Position, now: Moment) {
        let entry = self.take(queue, position);
        self.queue_mut(queue).expired += 1;
        let is_kept = self.queue(queue).definition.expired == Expired::DeadLetter;
        if is_kept && self.dead_letters_of(queue).is_some() {
            let detail = "its time to live was over before it was delivered".to_owned();
            self.bury(queue, position, entry, DeadReason { code: DeadCode::Expired, detail }, now);
        }
    }

    /// Puts a message whose delay is over at the end of its queue.
    fn join(&mut self, queue: QueueId, position: Position) {
        let entry = self.take(queue, position);
        let position = self.next_place();
        self.put(queue, position, Entry { wait: Wait::Nothing, ..entry });
    }
}
