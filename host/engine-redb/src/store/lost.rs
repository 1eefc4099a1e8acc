//! Deliveries that ended with the process that ran them: each counts as an attempt, and the next one is made alone.

use pelton_core::engine::Lost;

use super::effects::Whose;
use super::leases::Place;
use super::live::Live;
use super::stage::{Answer, Grave, Take};
use super::{Failed, Replies};
use crate::command::{Now, Reply, Ticket};
use crate::failure::Failure;
use crate::history;
use crate::row::{Death, Row};

impl<T: Ticket> Live<T> {
    /// Counts deliveries of messages that are still where they were and that nobody holds. Nothing else is staged meanwhile.
    pub(super) fn lost(&mut self, ticket: T, lost: &[Lost], now: Now, replies: &mut Replies<T>) -> Result<(), Failed> {
        match self.stage_lost(lost, now) {
            Ok(count) => {
                self.stage.answers.push((ticket, Answer::Lost(count)));
                Ok(())
            }
            Err(failure) => {
                replies.push((ticket, Reply::Lost(Err(failure.undone()))));
                Err(failure.into())
            }
        }
    }

    fn stage_lost(&mut self, lost: &[Lost], now: Now) -> Result<u64, Failure> {
        let mut count = 0;
        for one in lost {
            let Some((queue, place, whose, attempts)) = self.find_lost(one)? else { continue };
            if self.leases.holds(whose.entry) || self.stage.taken.iter().any(|taken| taken.entry == whose.entry) {
                continue;
            }
            count += 1;
            let attempt = history::encode(&one.attempt);
            let ended = format!("{}: {}", one.attempt.outcome, one.attempt.reason);
            let age = now.wall.since(whose.accepted);
            let exhausted = self.queues[queue as usize].retry.exhausted(attempts.saturating_add(1), age, &ended);
            let take = match exhausted {
                None => Take::Lose { attempt },
                Some(reason) => {
                    self.stage.dead += 1;
                    let grave = self.grave(queue).unwrap_or(Grave::Held);
                    Take::Die { death: Death { origin: queue, at: now.wall, reason }, grave, attempt: Some(attempt) }
                }
            };
            if matches!(take, Take::Lose { .. }) {
                // It stays in its place in line: others of its key may come before it.
                self.note_lost(queue, place, whose.key);
                self.stage_free(queue, place, whose.entry, take);
            } else {
                self.stage_changed(queue, vec![(place, whose, take)]);
            }
        }
        Ok(count)
    }

    /// What a window read ahead knows of it, or who waits for its key; everything else is read when it is leased.
    fn note_lost(&mut self, queue: u32, place: Place, key: Option<u64>) {
        let Place::Ready { rank, position } = place else { return };
        let state = &mut self.queues[queue as usize];
        let waiting = key.and_then(|key| state.keys.waiting_entry(key, position));
        if let Some(entry) = waiting {
            entry.lose();
        } else if let Some(entry) = state.line(rank).window.get_mut(position) {
            entry.lose();
        }
    }

    fn find_lost(&mut self, one: &Lost) -> Result<Option<(u32, Place, Whose, u32)>, Failure> {
        let (Ok(queue), Some(place)) = (self.check_queue(one.queue), Place::of_told(one.place)) else {
            return Ok(None);
        };
        let reader = self.reader()?;
        let row = match place {
            Place::Ready { rank, position } => reader.ready.get((queue, rank, position))?,
            Place::Due { due, position } => reader.due.get((queue, due, position))?,
            Place::Parked { key, position } => reader.parked.get((queue, key, position))?,
        };
        let Some(row) = row else { return Ok(None) };
        let row = Row::at(queue, place, row.value())?;
        Ok((row.entry() == one.entry.0).then(|| (queue, place, Whose::of(row), row.attempts())))
    }
}
