//! Whether memory knows as many messages as the counters say there are.
//!
//! redb trusts a file that was closed in order. A flipped bit in one of its keys leads searches past rows that are there: nothing that is
//! read looks wrong, and messages are passed over in silence. Where all of a queue is in memory, which is so whenever it has been read to
//! its end, the numbers tell. Nothing is read for that.

use super::queue::Queue;
use crate::failure::Failure;

impl Queue {
    /// Compares what is in memory with the counters, if the queue was read to an end since it was last compared. Nothing of it may be
    /// staged: that has left memory, and is counted still. Nor are the numbers compared while its order changes, which moves rows past
    /// memory, and begins anew in the end.
    pub(super) fn check_whole(&mut self) -> Result<(), Failure> {
        if self.is_changing_order() {
            return Ok(());
        }
        // A key with parked messages is busy until they are gone, but for those that were not looked for yet.
        if self.stored.parked > 0 && self.keys.is_idle() {
            return Err(self.hidden("wait for their key", self.stored.parked, 0));
        }
        if !self.came_to_an_end {
            return Ok(());
        }
        // What is parked is not all in memory.
        self.came_to_an_end = self.stored.parked > 0;
        let in_lines: usize = self.lines.iter().map(|line| line.window.len() + line.returned.len()).sum();
        let overdue: usize = self.lines.iter().map(|line| line.overdue.len()).sum();
        let waiting_in_due = self.overdue.saturating_sub(overdue as u64);
        if self.stored.parked == 0 && self.lines.iter().all(|line| line.window.live) {
            let waiting = (self.keys.waiting() as u64).saturating_sub(waiting_in_due);
            let leased = (self.leased.len() as u64).saturating_sub(self.leased_due);
            self.compare("are ready", self.stored.ready, in_lines as u64 + waiting + leased)?;
        }
        if self.due.edge.is_none() {
            let stored = self.stored.due.saturating_sub(self.stored.held);
            self.compare("wait for their time", stored, self.due.len() as u64 + self.overdue + self.leased_due)?;
        }
        Ok(())
    }

    /// Compares how many messages come before others of their key with how many were read.
    pub(super) fn check_retrying(&self, found: u64) -> Result<(), Failure> {
        self.compare("hold up their key", self.stored.retrying, found)
    }

    fn compare(&self, what: &str, stored: u64, found: u64) -> Result<(), Failure> {
        if found == stored { Ok(()) } else { Err(self.hidden(what, stored, found)) }
    }

    fn hidden(&self, what: &str, stored: u64, found: u64) -> Failure {
        Failure::Damaged(format!("of the {stored} messages of queue '{}' that {what} {found} are found", self.name))
    }
}
