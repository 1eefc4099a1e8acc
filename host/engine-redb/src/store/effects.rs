//! What follows from the rows that a transaction takes and adds: more rows, figures, and what memory must know once it
//! is committed.

use std::collections::BTreeMap;

use pelton_core::clock::WallMs;

use super::leases::Place;
use super::queue::{Delta, DueAt};
use super::stage::{Fresh, Grave, Take, Taken};
use crate::failure::Failure;
use crate::row::{BodyRef, Row, RowBuffer};
use crate::tables::{DueKey, HELD, RANK, ReadyKey};

/// What follows from the rows that were taken: more rows, and what memory must know afterwards.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) attempts_kept: u32,
    /// By queue, also where nothing is left to change.
    pub(super) deltas: BTreeMap<u32, Delta>,
    pub(super) fresh: Vec<Fresh>,
    /// Rows that go back to the very key that they had.
    pub(super) stays: Vec<(ReadyKey, RowBuffer)>,
    pub(super) due: Vec<(DueKey, RowBuffer)>,
    pub(super) attempts: Vec<((u64, u32), Vec<u8>)>,
    /// Attempts beyond those that are kept: (entry, n).
    pub(super) attempts_dropped: Vec<(u64, u32)>,
    /// Entries that left for good.
    pub(super) histories_dropped: Vec<u64>,
    pub(super) bodies_released: Vec<BodyRef>,
    /// Keys of `due` that memory may have to know, and when each message was accepted.
    pub(super) waiting: Vec<(u32, DueAt, WallMs)>,
    /// Messages that are available at their old place.
    pub(super) back: Vec<(u32, Place, WallMs)>,
}

impl Effects {
    fn delta(&mut self, queue: u32) -> &mut Delta {
        self.deltas.entry(queue).or_default()
    }

    fn count(&mut self, queue: u32, place: Place, sign: i64, cost: u64) {
        let delta = self.delta(queue);
        delta.bytes += sign * i64::try_from(cost).unwrap_or(i64::MAX);
        match place {
            Place::Ready { .. } => delta.ready += sign,
            Place::Due { .. } => delta.due += sign,
        }
    }

    pub(super) fn add_fresh(&mut self, fresh: Fresh) {
        let place = Place::Ready { position: fresh.position };
        self.count(fresh.queue, place, 1, fresh.row.view().cost());
        self.fresh.push(fresh);
    }

    pub(super) fn add_due(&mut self, key: DueKey, row: RowBuffer) {
        let (queue, due, position) = key;
        self.count(queue, Place::Due { due, position }, 1, row.view().cost());
        if due != HELD {
            self.waiting.push((queue, (due, position), row.view().accepted()));
        }
        self.due.push((key, row));
    }

    /// Counts an attempt in the row and keeps it in the history.
    fn count_attempt(&mut self, row: &mut RowBuffer, attempt: Option<Vec<u8>>) {
        let (entry, attempts, history) = (row.view().entry(), row.view().attempts(), row.view().history());
        row.set_attempts(attempts.saturating_add(1));
        if let Some(attempt) = attempt {
            self.attempts.push(((entry, history), attempt));
            row.set_history(history.saturating_add(1));
            if let Some(oldest) = history.checked_sub(self.attempts_kept) {
                self.attempts_dropped.push((entry, oldest));
            }
        }
    }

    /// A row that was taken out of its table, and what becomes of it.
    pub(super) fn take(&mut self, taken: &mut Taken, bytes: &[u8]) -> Result<(), Failure> {
        let row = Row::parse(bytes)?;
        let (queue, place) = (taken.queue, taken.place);
        if row.entry() != taken.entry {
            return Err(Failure::Damaged(format!("message {} lies where {} should be", row.entry(), taken.entry)));
        }
        self.count(queue, place, -1, row.cost());
        match std::mem::replace(&mut taken.take, Take::Remove) {
            Take::Remove => {
                if row.history() > 0 {
                    self.histories_dropped.push(row.entry());
                }
                self.bodies_released.extend(row.body());
            }
            Take::Wait { due, attempt } => {
                let mut moved = row.to_buffer();
                self.count_attempt(&mut moved, attempt);
                self.add_due((queue, due, place.position()), moved);
            }
            Take::Stay { attempt } => self.stay(taken, row, attempt),
            Take::Die { death, grave, attempt } => {
                let mut dead = row.died(&death);
                self.count_attempt(&mut dead, attempt);
                match grave {
                    Grave::Queue { queue, position } => {
                        // Its consumer, if it has one, has all attempts; those before are in the history.
                        dead.set_attempts(0);
                        self.add_fresh(Fresh { queue, position, row: dead, content: None });
                    }
                    Grave::Held => self.add_due((queue, HELD, place.position()), dead),
                }
            }
            Take::Revive { queue, position } => {
                self.add_fresh(Fresh { queue, position, row: row.revived(), content: None });
            }
        }
        Ok(())
    }

    fn stay(&mut self, taken: &Taken, row: Row<'_>, attempt: Vec<u8>) {
        let mut counted = row.to_buffer();
        self.count_attempt(&mut counted, Some(attempt));
        self.count(taken.queue, taken.place, 1, counted.view().cost());
        match taken.place {
            Place::Ready { position } => self.stays.push(((taken.queue, RANK, position), counted)),
            Place::Due { due, position } => self.due.push(((taken.queue, due, position), counted)),
        }
        self.back.push((taken.queue, taken.place, taken.accepted));
    }
}
