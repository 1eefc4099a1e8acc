//! Changing the order of a queue while it holds messages: in bounded steps, each a transaction, and nothing is leased meanwhile.
//!
//! A change first makes everything as it is in order of arrival, wherever an earlier one broke off, and then marks what blocks its key
//! where that is wanted. The queue's record says that a change is not complete, from the transaction that declares another order to the one
//! that completes the change; so that one which a restart breaks off, or which is taken back halfway, is carried through as well.

use super::leases::Place;
use super::live::Live;
use super::queue::Queue;
use super::stage::Take;
use super::window::DueAt;
use crate::command::Ticket;
use crate::failure::Failure;
use crate::row::Row;
use crate::tables::{HELD, RANK, rank_of};

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// What is parked and what is marked becomes as it is in order of arrival.
    Clearing,
    /// Behind this key of `due` retries are to be marked.
    Marking(DueAt),
}

impl Queue {
    /// Whether the order in which messages are leased is about to change: nothing is leased until then.
    pub(crate) fn is_changing_order(&self) -> bool {
        self.turn.is_some() || self.record.settings.order_by_key != self.keyed
    }

    /// Whether it is to change and nothing is leased any more.
    pub(crate) fn may_change_order(&self) -> bool {
        self.is_changing_order() && self.leased.is_empty() && self.staged == 0
    }

    /// From here on rows may lie as in either order. Memory of them is worth nothing.
    fn begin_turn(&mut self) {
        self.keyed = false;
        self.turn = Some(Turn::Clearing);
        self.forget_all();
    }

    /// The change is complete, and committed.
    pub(crate) fn end_turn(&mut self) {
        self.keyed = self.record.settings.order_by_key;
        self.turn = None;
        self.record.turning = false;
        self.forget_all();
    }
}

impl<T: Ticket> Live<T> {
    /// One step towards the order that was declared; nothing of the queue is leased. The step that finds nothing left to do stages its
    /// completion.
    pub(super) fn turn_order(&mut self, queue: u32) -> Result<(), Failure> {
        let state = &mut self.queues[queue as usize];
        let wants_keys = state.record.settings.order_by_key;
        let turn = match state.turn {
            None => {
                state.begin_turn();
                Turn::Clearing
            }
            // It was taken back.
            Some(Turn::Marking(_)) if !wants_keys => Turn::Clearing,
            Some(turn) => turn,
        };
        let next = match turn {
            Turn::Clearing if self.unpark(queue)? || self.unmark(queue)? => Some(Turn::Clearing),
            // Messages of a key come in the order in which they were accepted, whatever priority they had.
            Turn::Clearing if wants_keys && self.unrank(queue)? => Some(Turn::Clearing),
            Turn::Clearing => wants_keys.then_some(Turn::Marking((0, 0))),
            Turn::Marking(after) => self.mark_retries(queue, after)?.map(Turn::Marking),
        };
        match next {
            Some(next) => self.queues[queue as usize].turn = Some(next),
            None => self.stage.turned.push(queue),
        }
        self.touch(queue);
        Ok(())
    }

    /// Stages that messages behind `after` which wait for their next attempt block their key. Where to go on, if before the end.
    fn mark_retries(&mut self, queue: u32, after: DueAt) -> Result<Option<DueAt>, Failure> {
        let rows_max = self.tuning.order_rows.max(1);
        let (due, position) = after;
        self.reader()?;
        let reader = self.reader.as_ref().expect("it was made just now");
        let (mut seen, mut last) = (0, after);
        for row in reader.due.range((queue, due, position.saturating_add(1))..(queue, HELD, 0))?.take(rows_max) {
            let (key, row) = row?;
            let (queue, due, position) = key.value();
            (seen, last) = (seen + 1, (due, position));
            let row = Row::at(queue, Place::Due { due, position }, row.value())?;
            if let Some(key) = row.key().filter(|_| row.attempts() > 0) {
                self.stage.marks.push(((queue, key, position), due));
            }
        }
        Ok((seen == rows_max).then_some(last))
    }

    /// Stages that what waits for its key waits no longer. Whether there was any.
    fn unpark(&mut self, queue: u32) -> Result<bool, Failure> {
        let rows_max = self.tuning.order_rows.max(1);
        self.reader()?;
        let reader = self.reader.as_ref().expect("it was made just now");
        let mut parked = Vec::new();
        for row in reader.parked.range((queue, 0, 0)..=(queue, u64::MAX, u64::MAX))?.take(rows_max) {
            let (key, row) = row?;
            let (queue, key, position) = key.value();
            let place = Place::Parked { key, position };
            parked.push((place, Row::at(queue, place, row.value())?.entry()));
        }
        let any = !parked.is_empty();
        for (place, entry) in parked {
            self.stage_free(queue, place, entry, Take::Align);
        }
        Ok(any)
    }

    /// Stages that what was stored by priority is so no longer. Whether there was any.
    fn unrank(&mut self, queue: u32) -> Result<bool, Failure> {
        let rows_max = self.tuning.order_rows.max(1);
        self.reader()?;
        let reader = self.reader.as_ref().expect("it was made just now");
        let before = reader.ready.range((queue, 0, 0)..(queue, RANK, 0))?;
        let behind = reader.ready.range((queue, RANK + 1, 0)..=(queue, rank_of(0), u64::MAX))?;
        let mut ranked = Vec::new();
        for row in before.chain(behind).take(rows_max) {
            let (key, row) = row?;
            let (queue, rank, position) = key.value();
            let place = Place::Ready { rank, position };
            ranked.push((place, Row::at(queue, place, row.value())?.entry()));
        }
        let any = !ranked.is_empty();
        for (place, entry) in ranked {
            self.stage_free(queue, place, entry, Take::Align);
        }
        Ok(any)
    }

    /// Stages that nothing blocks its key any more. Whether there was any such.
    fn unmark(&mut self, queue: u32) -> Result<bool, Failure> {
        let rows_max = self.tuning.order_rows.max(1);
        self.reader()?;
        let reader = self.reader.as_ref().expect("it was made just now");
        let rows = reader.retrying.range((queue, 0, 0)..=(queue, u64::MAX, u64::MAX))?.take(rows_max);
        let marks = rows.map(|row| Ok(row?.0.value())).collect::<Result<Vec<_>, Failure>>()?;
        let any = !marks.is_empty();
        self.stage.unmarks.extend(marks);
        Ok(any)
    }
}
