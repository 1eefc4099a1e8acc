//! What follows from the rows that a transaction takes and adds: more rows, figures, and what memory must know once it
//! is committed.

use std::collections::BTreeMap;

use pelton_core::clock::WallMs;

use super::leases::Place;
use super::queue::Delta;
use super::stage::{Fresh, FreshDue, Grave, Take, Taken};
use super::window::DueAt;
use crate::failure::Failure;
use crate::row::{BodyRef, Row, RowBuffer};
use crate::tables::{DueKey, HELD, ParkedKey, RANK, ReadyKey, rank_of};

/// What must be known of a queue to follow its rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    /// It keeps order by key.
    pub(super) keyed: bool,
    /// It keeps priorities.
    pub(super) priority: bool,
    /// It has rows in `retrying`.
    pub(super) retrying: bool,
}

/// A message that is available at its old place.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) queue: u32,
    pub(super) place: Place,
    pub(super) whose: Whose,
}

/// What memory has to know of a message to find its line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whose {
    pub(crate) entry: u64,
    pub(crate) accepted: WallMs,
    pub(crate) key: Option<u64>,
    pub(crate) priority: u8,
}

impl Whose {
    pub(crate) fn of(row: Row<'_>) -> Self {
        Self { entry: row.entry(), accepted: row.accepted(), key: row.key(), priority: row.priority() }
    }
}

/// What follows from the rows that were taken: more rows, and what memory must know afterwards.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) attempts_kept: u32,
    /// By queue.
    pub(super) habits: Vec<Habits>,
    /// By queue, also where nothing is left to change.
    pub(super) deltas: BTreeMap<u32, Delta>,
    pub(super) fresh: Vec<Fresh>,
    /// Rows that go back to the very key that they had.
    pub(super) stays: Vec<(ReadyKey, RowBuffer)>,
    pub(super) due: Vec<(DueKey, RowBuffer)>,
    pub(super) parked: Vec<(ParkedKey, RowBuffer)>,
    /// Messages that come before those parked of their key, with their time in `due` or [`crate::tables::IN_READY`]. The same
    /// transaction may take them away.
    pub(super) marks: Vec<(ParkedKey, u64)>,
    /// Messages that wait for their next attempt and block their key, with their time.
    pub(super) retrying: Vec<(ParkedKey, u64)>,
    /// Messages that do so no longer where they were, and whether they waited for their time there.
    pub(super) unblocking: Vec<(ParkedKey, bool)>,
    pub(super) attempts: Vec<((u64, u32), Vec<u8>)>,
    /// Attempts beyond those that are kept: (entry, n).
    pub(super) attempts_dropped: Vec<(u64, u32)>,
    /// Entries that left for good.
    pub(super) histories_dropped: Vec<u64>,
    pub(super) bodies_released: Vec<BodyRef>,
    /// Keys of `due` that memory may have to know, and when each message was accepted.
    pub(super) waiting: Vec<(u32, DueAt, WallMs)>,
    pub(super) back: Vec<Back>,
    /// Keys of whom one message less is leased, and its position.
    pub(super) freed: Vec<(u32, u64, u64)>,
    /// Keys of whom one message less waits for its next attempt, and its position.
    pub(super) unretried: Vec<ParkedKey>,
}

impl Effects {
    fn delta(&mut self, queue: u32) -> &mut Delta {
        self.deltas.entry(queue).or_default()
    }

    fn count(&mut self, queue: u32, place: Place, sign: i64, row: Row<'_>) {
        let delta = self.delta(queue);
        delta.bytes += sign * i64::try_from(row.cost()).unwrap_or(i64::MAX);
        delta.expiring += if row.expires().is_some() { sign } else { 0 };
        match place {
            Place::Ready { .. } => delta.ready += sign,
            Place::Due { due, .. } => {
                delta.due += sign;
                delta.held += if due == HELD { sign } else { 0 };
            }
            Place::Parked { .. } => delta.parked += sign,
        }
    }

    /// Counts a row that is to be stored at a place, and tells it so.
    fn lay(&mut self, queue: u32, place: Place, row: &mut RowBuffer) {
        row.lie_at(queue, place);
        self.count(queue, place, 1, row.view());
    }

    pub(super) fn add_fresh(&mut self, mut fresh: Fresh) {
        let place = Place::Ready { rank: fresh.rank, position: fresh.position };
        self.lay(fresh.queue, place, &mut fresh.row);
        self.fresh.push(fresh);
    }

    pub(super) fn add_due(&mut self, fresh: FreshDue) {
        let FreshDue { queue, due, position, mut row } = fresh;
        self.lay(queue, Place::Due { due, position }, &mut row);
        if due != HELD {
            self.waiting.push((queue, (due, position), row.view().accepted()));
        }
        self.due.push(((queue, due, position), row));
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
        let (queue, place) = (taken.queue, taken.place);
        let row = Row::at(queue, place, bytes)?;
        if row.entry() != taken.entry {
            return Err(Failure::Damaged(format!("message {} lies where {} should be", row.entry(), taken.entry)));
        }
        self.count(queue, place, -1, row);
        self.freed.extend(taken.frees.map(|key| (queue, key, place.position())));
        let take = std::mem::replace(&mut taken.take, Take::Remove);
        let habits = self.habits[queue as usize];
        let in_due = matches!(place, Place::Due { .. });
        if let Some(key) = row.key()
            && (taken.marked || habits.retrying && (in_due || !habits.keyed))
            && !matches!(take, Take::Stay { .. } | Take::Lose { .. })
        {
            self.unblocking.push(((queue, key, place.position()), taken.waited));
        }
        match take {
            Take::Remove => {
                if row.history() > 0 {
                    self.histories_dropped.push(row.entry());
                }
                self.bodies_released.extend(row.body());
            }
            Take::Wait { due, chosen, attempt } => {
                let mut moved = row.to_buffer();
                self.count_attempt(&mut moved, attempt);
                moved.set_chosen(chosen);
                moved.set_alone(false);
                self.wait(queue, due, place.position(), moved);
            }
            Take::Retime { due } => self.wait(queue, due, place.position(), row.to_buffer()),
            Take::Stay { attempt } => self.stay(taken, row.to_buffer(), attempt),
            Take::Lose { attempt } => {
                let mut lost = row.to_buffer();
                lost.set_alone(true);
                self.lose(taken, lost, attempt);
            }
            Take::Die { death, grave, attempt } => {
                let mut dead = row.died(&death);
                self.count_attempt(&mut dead, attempt);
                self.bury(queue, place.position(), grave, dead);
            }
            Take::Revive { queue, position } => self.append(queue, position, row.revived()),
            Take::Park => {
                let (mut row, key, position) = (row.to_buffer(), row.key().unwrap_or(0), place.position());
                self.lay(queue, Place::Parked { key, position }, &mut row);
                self.parked.push(((queue, key, position), row));
            }
            Take::Align => {
                let (mut row, position) = (row.to_buffer(), place.position());
                self.lay(queue, Place::Ready { rank: RANK, position }, &mut row);
                self.stays.push(((queue, RANK, position), row));
            }
            Take::Promote { position } => self.append(queue, position, row.to_buffer()),
        }
        Ok(())
    }

    /// To the end of a queue.
    fn append(&mut self, queue: u32, position: u64, row: RowBuffer) {
        let priority = row.view().priority();
        let rank = if self.habits[queue as usize].priority { rank_of(priority) } else { RANK };
        self.add_fresh(Fresh { queue, rank, position, row, content: None });
    }

    fn bury(&mut self, queue: u32, position: u64, grave: Grave, mut dead: RowBuffer) {
        match grave {
            Grave::Queue { queue, position } => {
                // Its consumer, if it has one, has all attempts; those before are in the history.
                dead.set_attempts(0);
                self.append(queue, position, dead);
            }
            Grave::Held => self.add_due(FreshDue { queue, due: HELD, position, row: dead }),
        }
    }

    /// Lets it wait for its time, at its old position; where order is kept by key, its key waits with it.
    fn wait(&mut self, queue: u32, due: u64, position: u64, row: RowBuffer) {
        if let Some(key) = row.view().key()
            && self.habits[queue as usize].keyed
        {
            self.retrying.push(((queue, key, position), due));
        }
        self.add_due(FreshDue { queue, due, position, row });
    }

    /// A message that nobody held stays where it is, in memory too.
    fn lose(&mut self, taken: &Taken, mut counted: RowBuffer, attempt: Vec<u8>) {
        self.count_attempt(&mut counted, Some(attempt));
        self.put(taken.queue, taken.place, counted);
    }

    fn stay(&mut self, taken: &Taken, mut counted: RowBuffer, attempt: Vec<u8>) {
        let (queue, place, whose) = (taken.queue, taken.place, Whose::of(counted.view()));
        self.count_attempt(&mut counted, Some(attempt));
        self.back.push(Back { queue, place, whose });
        self.put(queue, place, counted);
    }

    /// Puts a row to the very key that it had.
    fn put(&mut self, queue: u32, place: Place, mut counted: RowBuffer) {
        self.lay(queue, place, &mut counted);
        match place {
            Place::Ready { rank, position } => self.stays.push(((queue, rank, position), counted)),
            Place::Due { due, position } => self.due.push(((queue, due, position), counted)),
            Place::Parked { key, position } => self.parked.push(((queue, key, position), counted)),
        }
    }
}
