//! One step of a change to many messages: which rows it selects; they are then staged like any others.
//!
//! Nothing else is staged meanwhile, so that what is read is all there is.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use pelton_core::clock::WallMs;
use pelton_core::engine::{Bulk, BulkAction, DeadLetter, Filter, Position, Progress, QueueId, Select};
use pelton_core::name::QueueName;

use super::effects::Whose;
use super::leases::Place;
use super::live::Live;
use super::queue::Queue;
use super::reader::Reader;
use super::stage::{Answer, Take};
use super::{Failed, Replies};
use crate::command::{Reply, Ticket};
use crate::cursor::{After, Step};
use crate::failure::Failure;
use crate::row::{Row, RowBuffer, decode_message};
use crate::tables::{HELD, rank_of};

/// Most messages in one step, whatever was asked for.
const STEP_MAX: usize = 1000;

/// A row that a step looks at.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) place: Place,
    pub(super) whose: Whose,
    origin: Option<u32>,
}

/// Tells which rows a step is about.
#[derive(Clone, Copy)]
struct Sieve<'a> {
    filter: &'a Filter,
    names: &'a [QueueName],
    /// Positions from this one on came later than the change.
    before: u64,
}

impl Sieve<'_> {
    /// The row as one that the step changes; none where it does not pass.
    fn select(&self, place: Place, row: Row<'_>) -> Result<Option<Selected>, Failure> {
        let selected = Selected { place, whose: Whose::of(row), origin: row.origin() };
        Ok((place.position() < self.before && self.passes(row)?).then_some(selected))
    }

    fn passes(&self, row: Row<'_>) -> Result<bool, Failure> {
        if self.filter.is_open() {
            return Ok(true);
        }
        let dead = row.death()?.and_then(|death| {
            let origin = self.names.get(death.origin as usize)?.clone();
            Some(DeadLetter { origin, at: death.at, reason: death.reason })
        });
        // The attributes are in the row, wherever the body is.
        let message = decode_message(&Bytes::copy_from_slice(row.as_bytes()), None)?;
        Ok(self.filter.passes(&row.topic()?, &message, dead.as_ref()))
    }
}

impl<T: Ticket> Live<T> {
    pub(super) fn bulk(&mut self, ticket: T, job: &Bulk, replies: &mut Replies<T>) -> Result<(), Failed> {
        let target = match &job.action {
            BulkAction::Redrive(Some(target)) => *target,
            _ => job.queue,
        };
        let queue = match self.check_queue(job.queue).and_then(|queue| self.check_queue(target).map(|_| queue)) {
            Ok(queue) => queue,
            Err(error) => {
                replies.push((ticket, Reply::Progress(Err(error))));
                return Ok(());
            }
        };
        let start = match job.after.as_ref().map(|cursor| Step::of(cursor, &job.select)).transpose() {
            Ok(start) => start,
            Err(error) => {
                replies.push((ticket, Reply::Progress(Err(error.into()))));
                return Ok(());
            }
        };
        match self.select(queue, job, start) {
            Ok((selected, next)) => {
                let mut progress = self.stage_selected(queue, selected, &job.action);
                progress.next = next.map(Step::to_cursor);
                self.stage.answers.push((ticket, Answer::Progress(progress)));
                Ok(())
            }
            Err(failure) => {
                replies.push((ticket, Reply::Progress(Err(failure.undone().into()))));
                Err(failure.into())
            }
        }
    }

    /// What a step selects that begins at `start`, or at the beginning.
    fn select(
        &mut self,
        queue: u32,
        job: &Bulk,
        start: Option<Step>,
    ) -> Result<(Vec<Selected>, Option<Step>), Failure> {
        let max = job.max.clamp(1, STEP_MAX);
        let scan_max = self.tuning.bulk_scan_rows.max(1);
        let before = self.global.next_position;
        let names: Vec<QueueName> = self.queues.iter().map(|queue| queue.name.clone()).collect();
        let reader = self.reader()?;
        let step = start.unwrap_or(match job.select {
            Select::All => Step::All { after: After::START, before },
            Select::Positions(_) | Select::Scheduled(_) => Step::Listed { index: 0 },
        });
        let sieve = Sieve { filter: &job.filter, names: &names, before: u64::MAX };
        match (step, &job.select) {
            (Step::All { after, before }, Select::All) => {
                let sieve = Sieve { before, ..sieve };
                // Without a filter nearly all that is looked at is selected.
                let scan_max = if job.filter.is_open() { scan_max.max(STEP_MAX) } else { scan_max };
                select_all(reader, queue, after, &sieve, max, scan_max)
            }
            (Step::Listed { index }, Select::Scheduled(places)) => {
                select_scheduled(reader, queue, places, index..index.saturating_add(max), &sieve)
            }
            (Step::Listed { index }, Select::Positions(positions)) => {
                let (listed, next) = of_step(positions, index, max);
                let (mut selected, missed) = select_listed(reader, queue, &listed, &sieve)?;
                if missed.is_empty() {
                    return Ok((selected, next));
                }
                let (found, ended) = search(reader, queue, &missed, After::START_OF_PARKED, &sieve, scan_max)?;
                selected.extend(found);
                Ok((selected, ended.map_or(next, |after| Some(Step::Search { index, after }))))
            }
            (Step::Search { index, after }, Select::Positions(positions)) => {
                let (listed, next) = of_step(positions, index, max);
                let (found, ended) = search(reader, queue, &listed, after, &sieve, scan_max)?;
                Ok((found, ended.map_or(next, |after| Some(Step::Search { index, after }))))
            }
            // `Step::of` refuses the cursor of another selection.
            _ => Ok((Vec::new(), None)),
        }
    }

    /// Stages what the action does to each; what is leased or has nowhere to go is passed over.
    fn stage_selected(&mut self, queue: u32, selected: Vec<Selected>, action: &BulkAction) -> Progress {
        let mut progress = Progress::default();
        let mut changed = Vec::with_capacity(selected.len());
        for Selected { place, whose, origin } in selected {
            let take = match action {
                _ if self.leases.holds(whose.entry) => None,
                BulkAction::Discard => Some(Take::Remove),
                BulkAction::Redrive(target) => self.revival(*target, origin),
            };
            match take {
                Some(take) => changed.push((place, whose, take)),
                None => progress.skipped += 1,
            }
        }
        progress.changed = changed.len() as u64;
        self.stage_changed(queue, changed);
        progress
    }

    /// Stages what becomes of messages that nobody holds; memory lets them go.
    pub(super) fn stage_changed(&mut self, queue: u32, changed: Vec<(Place, Whose, Take)>) {
        let state = &mut self.queues[queue as usize];
        let waited = state.forget(changed.iter().map(|(place, whose, _)| (*place, *whose)));
        for ((place, whose, take), waited) in changed.into_iter().zip(waited) {
            let stays = matches!(take, Take::Lose { .. });
            self.stage_free(queue, place, whose.entry, take);
            if let Some(taken) = self.stage.taken.last_mut() {
                taken.waited = waited;
                let keys = &mut self.queues[queue as usize].keys;
                taken.marked = !stays && whose.key.is_some_and(|key| keys.leave(key, place.position()));
                whose.key.into_iter().for_each(|key| keys.retire(key));
            }
        }
        self.touch(queue);
    }

    fn revival(&mut self, target: Option<QueueId>, origin: Option<u32>) -> Option<Take> {
        let home =
            || origin.filter(|origin| self.queues.get(*origin as usize).is_some_and(|queue| queue.record.declared));
        let queue = target.map_or_else(home, |target| Some(target.0))?;
        Some(Take::Revive { queue, position: self.next_position() })
    }
}

impl Queue {
    /// Lets go of messages that nobody holds, wherever in memory they are. Of each, whether it waits for its time.
    fn forget(&mut self, messages: impl Iterator<Item = (Place, Whose)>) -> Vec<bool> {
        let mut from_windows: Vec<Vec<u64>> = vec![Vec::new(); self.lines.len()];
        let mut waited = Vec::new();
        for (place, Whose { key, priority, .. }) in messages {
            let key = key.filter(|_| self.keyed);
            waited.push(match place {
                Place::Ready { rank, position } => {
                    let line = self.line_at(rank);
                    self.lines[line].returned.remove(&position);
                    from_windows[line].push(position);
                    if let Some(key) = key {
                        self.keys.forget(key, position);
                    }
                    false
                }
                Place::Parked { .. } => false,
                Place::Due { due, position } => {
                    self.due.forget((due, position));
                    let rank = self.rank(priority);
                    let in_line = self.line(rank).overdue.remove(&(due, position)).is_some()
                        || self.lines.iter_mut().any(|line| line.overdue.remove(&(due, position)).is_some())
                        || key.is_some_and(|key| self.keys.forget(key, position));
                    self.overdue -= u64::from(in_line);
                    !in_line
                }
            });
        }
        for (line, mut positions) in self.lines.iter_mut().zip(from_windows) {
            positions.sort_unstable();
            line.window.forget_all(&positions);
        }
        waited
    }
}

/// The listed positions that a step is about, each once however often the caller names it, and where the next one begins.
fn of_step(positions: &[Position], index: usize, max: usize) -> (Vec<u64>, Option<Step>) {
    let end = index.saturating_add(max).min(positions.len());
    let mut known = BTreeSet::new();
    let listed = positions.get(index..end).unwrap_or_default().iter().map(|position| position.0);
    let listed = listed.filter(|position| known.insert(*position)).collect();
    (listed, (end < positions.len()).then_some(Step::Listed { index: end }))
}

/// Messages, and where to go on, if before the end.
type Found<Next> = (Vec<Selected>, Option<Next>);

/// The next messages of the queue in its order that pass.
fn select_all(
    reader: &Reader,
    queue: u32,
    start: After,
    sieve: &Sieve<'_>,
    max: usize,
    scan_max: usize,
) -> Result<Found<Step>, Failure> {
    let mut selected = Vec::new();
    let mut last = start;
    let mut seen = 0;
    let ended = walk(reader, queue, start, |place, after, row| {
        if selected.len() == max || seen == scan_max {
            return Ok(false);
        }
        seen += 1;
        last = after;
        selected.extend(sieve.select(place, row)?);
        Ok(true)
    })?;
    let next = (!ended).then_some(Step::All { after: last, before: sieve.before });
    Ok((selected, next))
}

/// Shows the queue's rows behind `start` in the order of [`After`] until `look` has seen enough. Whether it came to the end.
pub(crate) fn walk(
    reader: &Reader,
    queue: u32,
    start: After,
    mut look: impl FnMut(Place, After, Row<'_>) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    if let After::Ready { rank, position } = start {
        let from = (queue, rank, position.saturating_add(1));
        for row in reader.ready.range(from..=(queue, rank_of(0), u64::MAX))? {
            let (key, value) = row?;
            let (queue, rank, position) = key.value();
            let place = Place::Ready { rank, position };
            if !look(place, After::Ready { rank, position }, Row::at(queue, place, value.value())?)? {
                return Ok(false);
            }
        }
    }
    if !matches!(start, After::Due { .. }) {
        let (key, position) = match start {
            After::Parked { key, position } => (key, position.saturating_add(1)),
            _ => (0, 0),
        };
        for row in reader.parked.range((queue, key, position)..=(queue, u64::MAX, u64::MAX))? {
            let (parked, value) = row?;
            let (queue, key, position) = parked.value();
            let place = Place::Parked { key, position };
            if !look(place, After::Parked { key, position }, Row::at(queue, place, value.value())?)? {
                return Ok(false);
            }
        }
    }
    let (due, position) = match start {
        After::Due { due, position } => (due, position.saturating_add(1)),
        _ => (0, 0),
    };
    for row in reader.due.range((queue, due, position)..=(queue, HELD, u64::MAX))? {
        let (key, value) = row?;
        let (queue, due, position) = key.value();
        let place = Place::Due { due, position };
        if !look(place, After::Due { due, position }, Row::at(queue, place, value.value())?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The listed messages that wait for this very time and were never tried.
fn select_scheduled(
    reader: &Reader,
    queue: u32,
    places: &[(WallMs, Position)],
    step: Range<usize>,
    sieve: &Sieve<'_>,
) -> Result<Found<Step>, Failure> {
    let end = step.end.min(places.len());
    let mut selected = Vec::new();
    let mut known = BTreeSet::new();
    for (due, position) in places.get(step.start..end).unwrap_or_default() {
        let Some(row) = reader.due.get((queue, due.0, position.0))?.filter(|_| known.insert(*position)) else {
            continue;
        };
        let place = Place::Due { due: due.0, position: position.0 };
        let row = Row::at(queue, place, row.value())?;
        if due.0 != HELD && row.attempts() == 0 && row.entry() == position.0 {
            selected.extend(sieve.select(place, row)?);
        }
    }
    Ok((selected, (end < places.len()).then_some(Step::Listed { index: end })))
}

/// The listed messages that are ready or held, and the positions that are neither.
fn select_listed(
    reader: &Reader,
    queue: u32,
    listed: &[u64],
    sieve: &Sieve<'_>,
) -> Result<(Vec<Selected>, Vec<u64>), Failure> {
    let mut selected = Vec::new();
    let mut missed = Vec::new();
    for position in listed.iter().copied() {
        match find(reader, queue, position)? {
            Some((place, row)) => selected.extend(sieve.select(place, row.view())?),
            None => missed.push(position),
        }
    }
    Ok((selected, missed))
}

/// The message at a position, if it is ready or held.
pub(crate) fn find(reader: &Reader, queue: u32, position: u64) -> Result<Option<(Place, RowBuffer)>, Failure> {
    for rank in 0..=rank_of(0) {
        if let Some(row) = reader.ready.get((queue, rank, position))? {
            let place = Place::Ready { rank, position };
            return Ok(Some((place, Row::at(queue, place, row.value())?.to_buffer())));
        }
    }
    let Some(held) = reader.due.get((queue, HELD, position))? else { return Ok(None) };
    let place = Place::Due { due: HELD, position };
    Ok(Some((place, Row::at(queue, place, held.value())?.to_buffer())))
}

/// Looks for listed messages among those that wait for their key or for their time: in another order, so that all have to be looked
/// at.
fn search(
    reader: &Reader,
    queue: u32,
    listed: &[u64],
    start: After,
    sieve: &Sieve<'_>,
    scan_max: usize,
) -> Result<Found<After>, Failure> {
    let mut wanted = listed.to_vec();
    wanted.sort_unstable();
    let mut found = Vec::new();
    let mut last = start;
    let mut seen = 0;
    let ended = walk(reader, queue, start, |place, after, row| {
        if seen == scan_max {
            return Ok(false);
        }
        seen += 1;
        last = after;
        let is_held = matches!(place, Place::Due { due: HELD, .. });
        if !is_held && wanted.binary_search(&place.position()).is_ok() {
            found.extend(sieve.select(place, row)?);
        }
        Ok(true)
    })?;
    Ok((found, (!ended).then_some(last)))
}
