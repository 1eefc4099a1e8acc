//! Changing the order of a queue while it holds messages: in bounded steps, each a transaction, and nothing is leased meanwhile.

use super::leases::Place;
use super::live::Live;
use super::stage::Take;
use crate::command::Ticket;
use crate::failure::Failure;
use crate::row::Row;
use crate::tables::HELD;

impl<T: Ticket> Live<T> {
    /// One step towards the order that was declared; nothing of the queue is leased. The step that finds nothing left to do changes it.
    pub(super) fn turn_order(&mut self, queue: u32) -> Result<(), Failure> {
        let wants_keys = self.queues[queue as usize].record.settings.order_by_key;
        let staged = if wants_keys { self.mark_retries(queue)? } else { self.unpark(queue)? || self.unmark(queue)? };
        if !staged {
            self.queues[queue as usize].change_order();
        }
        self.touch(queue);
        Ok(())
    }

    /// Stages that messages which wait for their next attempt block their key. Whether there were any, or more to look at.
    fn mark_retries(&mut self, queue: u32) -> Result<bool, Failure> {
        let rows_max = self.tuning.order_rows.max(1);
        let (due, position) = self.queues[queue as usize].turned;
        self.reader()?;
        let reader = self.reader.as_ref().expect("it was made just now");
        let mut seen = 0;
        let mut last = (due, position);
        let mut marks = Vec::new();
        for row in reader.due.range((queue, due, position.saturating_add(1))..(queue, HELD, 0))?.take(rows_max) {
            let (key, row) = row?;
            let (queue, due, position) = key.value();
            (seen, last) = (seen + 1, (due, position));
            let row = Row::at(queue, Place::Due { due, position }, row.value())?;
            if let Some(key) = row.key().filter(|_| row.attempts() > 0) {
                marks.push(((queue, key, position), due));
            }
        }
        self.queues[queue as usize].turned = last;
        // What is staged has to be committed before the keys are read from disk.
        let any = !marks.is_empty();
        self.stage.marks.append(&mut marks);
        Ok(any || seen == rows_max)
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
            self.stage_free(queue, place, entry, Take::Unpark);
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
