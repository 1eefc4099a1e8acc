//! Messages that wait for their time: loading their keys by time, and making them available when it has come.

use pelton_core::clock::WallMs;

use super::keys::Waiting;
use super::leases::Place;
use super::live::Live;
use super::queue::Queue;
use super::stage::Take;
use super::window::DueAt;
use crate::command::{Now, Ticket};
use crate::failure::Failure;
use crate::row::Row;
use crate::tables::{HELD, RANK};

impl<T: Ticket> Live<T> {
    /// Makes available what is due in every queue.
    pub(super) fn ripen_due(&mut self, now: Now) -> Result<(), Failure> {
        for queue in 0..self.queue_count() {
            // A change of order looks at all that waits for its time, and moves nothing of it.
            let state = &self.queues[queue as usize];
            if state.turn.is_none() && state.due.next().is_some_and(|due| due <= now.wall) {
                self.ripen(queue, now)?;
            }
        }
        Ok(())
    }

    fn ripen(&mut self, queue: u32, now: Now) -> Result<(), Failure> {
        let limit = self.tuning.due_entries.max(1);
        for _ in 0..limit {
            if self.queues[queue as usize].is_ripe(limit) {
                return Ok(());
            }
            // Each load moves the edge ahead, so that this ends with the keys on disk at the latest.
            while self.queues[queue as usize].due.is_starved() {
                self.load_due(queue, limit, Some(now))?;
            }
            let Some((key, accepted)) = self.queues[queue as usize].due.pop_ripe(now.wall) else { return Ok(()) };
            self.make_available(queue, key, accepted)?;
            self.touch(queue);
        }
        Ok(())
    }

    /// Puts a message whose time has come in line: in the line of its priority, or behind its key.
    fn make_available(&mut self, queue: u32, (due, position): DueAt, accepted: WallMs) -> Result<(), Failure> {
        let state = &self.queues[queue as usize];
        if !state.keyed && !state.record.settings.priority {
            let state = &mut self.queues[queue as usize];
            state.line(RANK).overdue.insert((due, position), accepted);
            state.overdue += 1;
            return Ok(());
        }
        self.load_keys(queue)?;
        let (priority, key, entry, retrying) = {
            let reader = self.reader()?;
            let row = reader.due.get((queue, due, position))?.ok_or_else(|| super::reader::missing(queue, position))?;
            let row = Row::at(queue, Place::Due { due, position }, row.value())?;
            let retrying = match row.key() {
                Some(key) => reader.retrying.get((queue, key, position))?.is_some(),
                None => false,
            };
            (row.priority(), row.key(), row.entry(), retrying)
        };
        let place = Place::Due { due, position };
        let state = &mut self.queues[queue as usize];
        match key.filter(|_| state.keyed) {
            None => {
                let rank = state.rank(priority);
                state.line(rank).overdue.insert((due, position), accepted);
                state.overdue += 1;
            }
            Some(key) if retrying => {
                state.keys.wait(key, Waiting { place, id: entry, accepted, entry: None });
                state.overdue += 1;
                state.keys.unretry(key, position);
            }
            // Its key may have gone on meanwhile, so that it joins at the end.
            Some(_) => {
                let position = self.next_position();
                self.stage_free(queue, place, entry, Take::Promote { position });
            }
        }
        Ok(())
    }

    /// Loads up to `keys_max` keys behind the edge of a queue's due window. A retry that backoff would never have put so far ahead of
    /// `now` is brought forward: the clock was wrong when it was stored.
    pub(super) fn load_due(&mut self, queue: u32, keys_max: usize, now: Option<Now>) -> Result<(), Failure> {
        let Some(edge) = self.queues[queue as usize].due.edge else { return Ok(()) };
        let latest = now.map(|now| now.wall.plus(self.queues[queue as usize].retry.backoff.max).0);
        let mut misplaced = Vec::new();
        self.reader()?;
        let reader = self.reader.as_ref().expect("it was made just now");
        let state = &mut self.queues[queue as usize];
        let mut rows = reader.due.range((queue, edge.0, edge.1)..(queue, HELD, 0))?;
        for _ in 0..=keys_max.max(1) {
            let Some(row) = rows.next() else {
                state.due.edge = None;
                state.came_to_an_end = true;
                self.changed.mark(queue);
                break;
            };
            let (key, value) = row?;
            let (queue, due, position) = key.value();
            // The edge itself is loaded already, and what is leased or available comes back by itself.
            let row = Row::at(queue, Place::Due { due, position }, value.value())?;
            let is_known = (due, position) == edge
                || state.keys.gone.contains(&position)
                || self.leases.holds(row.entry())
                || state.is_overdue((due, position), row.key(), row.priority());
            state.due.edge = Some((due, position));
            if is_known {
                continue;
            }
            match latest.filter(|latest| row.attempts() > 0 && !row.is_chosen() && due > *latest) {
                Some(latest) => misplaced.push((Place::Due { due, position }, row.entry(), latest)),
                None => state.due.load((due, position), row.accepted()),
            }
        }
        drop(rows);
        for (place, entry, due) in misplaced {
            self.stage_free(queue, place, entry, Take::Retime { due });
            if let Some(taken) = self.stage.taken.last_mut() {
                taken.waited = true;
            }
        }
        Ok(())
    }

    /// After the wall clock stepped back: what was loaded by time is looked at again, since retries may have to be brought forward.
    pub(super) fn reload_due(&mut self) {
        for queue in &mut self.queues {
            if queue.stored.due > 0 {
                queue.due = super::due_window::DueWindow::unread();
            }
        }
    }

    /// When the next message of any queue is due.
    pub(super) fn next_due(&self) -> Option<WallMs> {
        let limit = self.tuning.due_entries;
        let next = |queue: &Queue| queue.due.next().filter(|_| !queue.is_ripe(limit));
        self.queues.iter().filter_map(next).min()
    }
}

impl Queue {
    /// Whether the message is in line already.
    fn is_overdue(&self, at: DueAt, key: Option<u64>, priority: u8) -> bool {
        if self.overdue == 0 {
            return false;
        }
        let line = self.line_at(self.rank(priority));
        let in_line =
            self.lines[line].overdue.contains_key(&at) || self.lines.iter().any(|line| line.overdue.contains_key(&at));
        in_line || key.is_some_and(|key| self.keys.first_waiting(key, at.1) == Some(at.1))
    }
}
