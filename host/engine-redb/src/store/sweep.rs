//! Collecting messages that expired and that nobody leases: a bounded look at the queues that have messages that expire, now and then.
//!
//! What is leased is looked at then; this is for what nobody comes to.

use pelton_core::clock::Monotonic;

use super::bulk::walk;
use super::effects::Whose;
use super::leases::Place;
use super::live::Live;
use crate::command::{Now, Ticket};
use crate::cursor::After;
use crate::failure::Failure;

/// Where the look goes on, and when.
#[derive(Debug)]
pub(super) struct Sweep {
    queue: u32,
    after: After,
    pub(super) at: Monotonic,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { queue: 0, after: After::START, at: Monotonic(0) }
    }
}

impl<T: Ticket> Live<T> {
    /// Whether there is anything to sweep, ever.
    pub(super) fn has_expiring(&self) -> bool {
        self.queues.iter().any(|queue| queue.stored.expiring > 0)
    }

    /// Stages the end of messages that expired, if it is time to look. Nothing may be staged before, and nothing else before the commit:
    /// what is read is all there is. Whether it staged something.
    pub(super) fn sweep(&mut self, now: Now) -> Result<bool, Failure> {
        if now.monotonic < self.sweep.at || !self.has_expiring() {
            return Ok(false);
        }
        let queue = self.sweep.queue;
        let is_over = match self.queues.get(queue as usize) {
            None => {
                self.sweep = Sweep { at: now.monotonic.plus(self.tuning.sweep_wait), ..Sweep::default() };
                return Ok(false);
            }
            Some(state) if state.stored.expiring == 0 => true,
            Some(_) => self.sweep_queue(queue, now)?,
        };
        if is_over {
            self.sweep = Sweep { queue: queue + 1, after: After::START, at: now.monotonic };
        } else if !self.has_staged() {
            self.sweep.at = now.monotonic.plus(self.tuning.sweep_step_wait);
        }
        Ok(self.has_staged())
    }

    /// One step in a queue. Whether it came to the end.
    fn sweep_queue(&mut self, queue: u32, now: Now) -> Result<bool, Failure> {
        let rows_max = self.tuning.sweep_rows.max(1);
        let start = self.sweep.after;
        let mut expired = Vec::new();
        let (mut seen, mut last, mut is_over) = (0, start, false);
        self.reader()?;
        let reader = self.reader.as_ref().expect("it was made just now");
        let leases = &self.leases;
        let ended = walk(reader, queue, start, |place, after, row| {
            // What waits for its time is looked at when that has come.
            is_over = matches!(place, Place::Due { due, .. } if due > now.wall.0);
            if is_over || seen == rows_max {
                return Ok(false);
            }
            (seen, last) = (seen + 1, after);
            if row.expires().is_some_and(|expires| expires <= now.wall) && !leases.holds(row.entry()) {
                expired.push((place, Whose::of(row)));
            }
            Ok(true)
        })?;
        self.sweep.after = last;
        let changed: Vec<_> =
            expired.into_iter().map(|(place, whose)| (place, whose, self.expiry(queue, now))).collect();
        if !changed.is_empty() {
            self.stage_changed(queue, changed);
        }
        Ok(ended || is_over)
    }
}
