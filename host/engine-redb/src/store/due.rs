//! Messages that wait for their time: loading their keys by time, and making them available when it has come.

use pelton_core::clock::WallMs;

use super::live::Live;
use crate::command::{Now, Ticket};
use crate::failure::Failure;
use crate::row::Row;
use crate::tables::HELD;

impl<T: Ticket> Live<T> {
    /// Makes available what is due in every queue.
    pub(super) fn ripen_due(&mut self, now: Now) -> Result<(), Failure> {
        let limit = self.tuning.due_entries;
        for queue in 0..self.queue_count() {
            let mut ripened = false;
            // Each load moves the edge ahead, so that this ends with the keys on disk at the latest.
            loop {
                let due = &mut self.queues[queue as usize].due;
                ripened |= due.ripen(now.wall, limit);
                if !due.is_starved(limit) {
                    break;
                }
                self.load_due(queue, limit)?;
            }
            if ripened {
                self.touch(queue);
            }
        }
        Ok(())
    }

    /// Loads up to `keys_max` keys behind the edge of a queue's due window.
    pub(super) fn load_due(&mut self, queue: u32, keys_max: usize) -> Result<(), Failure> {
        let Some(edge) = self.queues[queue as usize].due.edge else { return Ok(()) };
        self.reader()?;
        let reader = self.reader.as_ref().expect("it was made just now");
        let due = &mut self.queues[queue as usize].due;
        let mut rows = reader.due.range((queue, edge.0, edge.1)..(queue, HELD, 0))?;
        for _ in 0..=keys_max.max(1) {
            let Some(row) = rows.next() else {
                due.edge = None;
                return Ok(());
            };
            let (key, value) = row?;
            let (_, at, position) = key.value();
            // The edge itself is loaded already, and what is leased comes back by itself.
            let row = Row::parse(value.value())?;
            if (at, position) != edge && !self.leases.holds(row.entry()) {
                due.load((at, position), row.accepted());
            }
            due.edge = Some((at, position));
        }
        Ok(())
    }

    /// When the next message of any queue is due.
    pub(super) fn next_due(&self) -> Option<WallMs> {
        let limit = self.tuning.due_entries;
        self.queues.iter().filter_map(|queue| queue.due.next(limit)).min()
    }
}
