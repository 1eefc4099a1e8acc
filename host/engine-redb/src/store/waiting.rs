//! Who waits for messages, in order, and until when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pelton_core::clock::Monotonic;

use crate::command::Ticket;

/// Waiters of one queue from which on those that nobody listens to any more are looked for.
const SWEEP_FROM: usize = 64;

/// A lease request that found nothing yet.
#[derive(Debug)]
pub(crate) struct Waiter<T> {
    pub(crate) ticket: T,
    pub(crate) max: usize,
    pub(crate) ttl: Option<Duration>,
    pub(crate) ends: Monotonic,
}

/// All waiters. Each is in its queue's line and in `ends`.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    lines: BTreeMap<u32, BTreeMap<u64, Waiter<T>>>,
    ends: BTreeSet<(Monotonic, u32, u64)>,
    next: u64,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { lines: BTreeMap::new(), ends: BTreeSet::new(), next: 0 }
    }
}

impl<T: Ticket> Waiting<T> {
    /// Puts a waiter at the end of the queue's line.
    pub(crate) fn push(&mut self, queue: u32, waiter: Waiter<T>) {
        self.sweep(queue);
        let number = self.next;
        self.next += 1;
        self.insert(queue, number, waiter);
    }

    /// Puts a waiter back to where it stood.
    pub(crate) fn insert(&mut self, queue: u32, number: u64, waiter: Waiter<T>) {
        self.ends.insert((waiter.ends, queue, number));
        self.lines.entry(queue).or_default().insert(number, waiter);
    }

    /// Takes the first of the queue's line that somebody still listens to.
    pub(crate) fn pop(&mut self, queue: u32) -> Option<(u64, Waiter<T>)> {
        let line = self.lines.get_mut(&queue)?;
        while let Some((number, waiter)) = line.pop_first() {
            self.ends.remove(&(waiter.ends, queue, number));
            if !waiter.ticket.abandoned() {
                return Some((number, waiter));
            }
        }
        None
    }

    /// Takes a waiter whose time is up.
    pub(crate) fn pop_ended(&mut self, now: Monotonic) -> Option<Waiter<T>> {
        let (ends, queue, number) = *self.ends.first()?;
        if ends > now {
            return None;
        }
        self.ends.pop_first();
        self.lines.get_mut(&queue)?.remove(&number)
    }

    pub(crate) fn next_end(&self) -> Option<Monotonic> {
        self.ends.first().map(|(ends, _, _)| *ends)
    }

    pub(crate) fn into_tickets(self) -> impl Iterator<Item = T> {
        self.lines.into_values().flat_map(BTreeMap::into_values).map(|waiter| waiter.ticket)
    }

    /// Callers that give up early and come back must not make the line longer each time.
    fn sweep(&mut self, queue: u32) {
        let Some(line) = self.lines.get_mut(&queue) else { return };
        if line.len() < SWEEP_FROM || !line.len().is_power_of_two() {
            return;
        }
        let ends = &mut self.ends;
        line.retain(|number, waiter| {
            let stays = !waiter.ticket.abandoned();
            if !stays {
                ends.remove(&(waiter.ends, queue, *number));
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Addressee(bool);

    impl Ticket for Addressee {
        fn abandoned(&self) -> bool {
            !self.0
        }
    }

    fn waiter(listens: bool, max: usize, ends: u64) -> Waiter<Addressee> {
        Waiter { ticket: Addressee(listens), max, ttl: None, ends: Monotonic(ends) }
    }

    #[test]
    fn first_come_first_served_but_for_those_who_left() {
        let mut waiting = Waiting::default();
        waiting.push(0, waiter(false, 1, 10));
        waiting.push(0, waiter(true, 2, 30));
        waiting.push(1, waiter(true, 3, 20));
        let (number, first) = waiting.pop(0).expect("one listens");
        assert_eq!(first.max, 2);
        waiting.insert(0, number, first);
        assert_eq!(waiting.next_end(), Some(Monotonic(20)), "who left is gone");
        assert_eq!(waiting.pop_ended(Monotonic(19)).map(|waiter| waiter.max), None);
        assert_eq!(waiting.pop_ended(Monotonic(20)).map(|waiter| waiter.max), Some(3));
        assert_eq!(waiting.into_tickets().count(), 1);
    }

    #[test]
    fn the_line_is_swept() {
        let mut waiting = Waiting::default();
        for _ in 0..10 * SWEEP_FROM {
            waiting.push(0, waiter(false, 1, 10));
        }
        assert!(waiting.into_tickets().count() <= SWEEP_FROM);
    }
}
