//! A consumer that overfilled queues with what it emitted: a pure machine. It gets nothing more until they drained, but for one
//! message now and then: where consumers feed each other in a circle, nothing would drain without.

use std::time::Duration;

use crate::clock::Monotonic;
use crate::engine::QueueId;

/// How often a throttled consumer gets one message.
const PAUSE: Duration = Duration::from_secs(10);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Not empty.
    queues: Vec<QueueId>,
    next: Monotonic,
}

impl Throttle {
    pub(super) fn new(queues: Vec<QueueId>, now: Monotonic) -> Self {
        Self { queues, next: now.plus(PAUSE) }
    }

    /// It overfilled these as well.
    pub(super) fn add(&mut self, queues: Vec<QueueId>) {
        self.queues.extend(queues);
        self.queues.sort_unstable();
        self.queues.dedup();
    }

    /// Whether all its queues have drained, as `is_full` tells.
    pub(super) fn has_drained(&mut self, is_full: impl Fn(QueueId) -> bool) -> bool {
        self.queues.retain(|queue| is_full(*queue));
        self.queues.is_empty()
    }

    /// Whether it is time for one message; if so, the next comes after a pause.
    pub(super) fn single(&mut self, now: Monotonic) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now.plus(PAUSE);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_every_queue_has_drained() {
        let (a, b) = (QueueId(1), QueueId(2));
        let mut throttle = Throttle::new(vec![a], Monotonic(0));
        throttle.add(vec![b, a]);
        assert!(!throttle.has_drained(|queue| queue == b), "b is still full");
        assert!(throttle.has_drained(|queue| queue == a), "a does not count any more");
    }

    #[test]
    fn one_message_passes_every_ten_seconds() {
        let at = |seconds: u64| Monotonic(seconds * 1_000_000_000);
        let mut throttle = Throttle::new(vec![QueueId(1)], at(5));
        let passed: Vec<u64> = (0..=40).filter(|second| throttle.single(at(*second))).collect();
        assert_eq!(passed, [15, 25, 35]);
    }
}
