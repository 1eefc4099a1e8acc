//! One step of a change to many messages: which rows it selects; they are then staged like any others.
//!
//! Nothing else is staged meanwhile, so that what is read is all there is.

use std::collections::BTreeSet;

use pelton_core::clock::WallMs;
use pelton_core::engine::{Bulk, BulkAction, Position, Progress, QueueId, Select};

use super::leases::Place;
use super::live::Live;
use super::reader::Reader;
use super::stage::{Answer, Take, Taken};
use super::{Failed, Replies};
use crate::command::{Reply, Ticket};
use crate::cursor::{After, Step};
use crate::failure::Failure;
use crate::row::Row;
use crate::tables::{HELD, RANK};

/// Most messages in one step, whatever was asked for.
const STEP_MAX: usize = 1000;

/// A row that a step looks at.
struct Selected {
    place: Place,
    entry: u64,
    accepted: WallMs,
    origin: Option<u32>,
}

impl Selected {
    fn new(place: Place, bytes: &[u8]) -> Result<Self, Failure> {
        let row = Row::parse(bytes)?;
        Ok(Self { place, entry: row.entry(), accepted: row.accepted(), origin: row.origin() })
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
        let reader = self.reader()?;
        let step = start.unwrap_or(match job.select {
            Select::All => Step::All { after: After::START, before },
            Select::Positions(_) | Select::Scheduled(_) => Step::Listed { index: 0 },
        });
        match (step, &job.select) {
            (Step::All { after, before }, Select::All) => select_all(reader, queue, after, before, max),
            (Step::Listed { index }, Select::Positions(positions)) => {
                let (listed, next) = of_step(positions, index, max);
                let (mut selected, missed) = select_listed(reader, queue, &listed)?;
                if missed.is_empty() {
                    return Ok((selected, next));
                }
                let (found, ended) = search(reader, queue, &missed, (0, 0), scan_max)?;
                selected.extend(found);
                Ok((selected, ended.map_or(next, |(due, position)| Some(Step::Search { index, due, position }))))
            }
            (Step::Search { index, due, position }, Select::Positions(positions)) => {
                let (listed, next) = of_step(positions, index, max);
                let (found, ended) = search(reader, queue, &listed, (due, position), scan_max)?;
                Ok((found, ended.map_or(next, |(due, position)| Some(Step::Search { index, due, position }))))
            }
            // `Step::of` refuses the cursor of another selection.
            _ => Ok((Vec::new(), None)),
        }
    }

    /// Stages what the action does to each; what is leased or has nowhere to go is passed over.
    fn stage_selected(&mut self, queue: u32, selected: Vec<Selected>, action: &BulkAction) -> Progress {
        let mut progress = Progress::default();
        let mut from_ready = Vec::new();
        for Selected { place, entry, accepted, origin } in selected {
            let take = match action {
                _ if self.leases.holds(entry) => None,
                BulkAction::Discard => Some(Take::Remove),
                BulkAction::Redrive(target) => self.revival(*target, origin),
            };
            let Some(take) = take else {
                progress.skipped += 1;
                continue;
            };
            progress.changed += 1;
            let state = &mut self.queues[queue as usize];
            match place {
                Place::Ready { position } => {
                    state.returned.remove(&position);
                    from_ready.push(position);
                }
                Place::Due { due, position } => state.due.forget((due, position)),
            }
            self.stage.taken.push(Taken { queue, place, entry, accepted, take });
        }
        from_ready.sort_unstable();
        self.queues[queue as usize].window.forget(&from_ready);
        self.touch(queue);
        progress
    }

    fn revival(&mut self, target: Option<QueueId>, origin: Option<u32>) -> Option<Take> {
        let home = || origin.filter(|origin| self.queues.get(*origin as usize).is_some_and(|queue| queue.declared));
        let queue = target.map_or_else(home, |target| Some(target.0))?;
        Some(Take::Revive { queue, position: self.next_position() })
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

/// The next messages of the queue in its order, but for those that came after the change began.
fn select_all(
    reader: &Reader,
    queue: u32,
    after: After,
    before: u64,
    max: usize,
) -> Result<(Vec<Selected>, Option<Step>), Failure> {
    let mut selected = Vec::new();
    let mut after = after;
    if let After::Ready { position } = after {
        let from = position.saturating_add(1);
        for row in reader.ready.range((queue, RANK, from)..(queue, RANK, before.max(from)))? {
            if selected.len() == max {
                return Ok((selected, Some(Step::All { after, before })));
            }
            let (key, value) = row?;
            let position = key.value().2;
            selected.push(Selected::new(Place::Ready { position }, value.value())?);
            after = After::Ready { position };
        }
        after = After::START_OF_DUE;
    }
    let After::Due { due, position } = after else { return Ok((selected, None)) };
    let rows = reader.due.range((queue, due, position.saturating_add(1))..=(queue, HELD, u64::MAX))?;
    for (seen, row) in rows.enumerate() {
        if selected.len() == max || seen == STEP_MAX {
            return Ok((selected, Some(Step::All { after, before })));
        }
        let (key, value) = row?;
        let (_, due, position) = key.value();
        after = After::Due { due, position };
        if position < before {
            selected.push(Selected::new(Place::Due { due, position }, value.value())?);
        }
    }
    Ok((selected, None))
}

/// The listed messages that are ready or held, and the positions that are neither.
fn select_listed(reader: &Reader, queue: u32, listed: &[u64]) -> Result<(Vec<Selected>, Vec<u64>), Failure> {
    let mut selected = Vec::new();
    let mut missed = Vec::new();
    for position in listed.iter().copied() {
        if let Some(row) = reader.ready.get((queue, RANK, position))? {
            selected.push(Selected::new(Place::Ready { position }, row.value())?);
        } else if let Some(row) = reader.due.get((queue, HELD, position))? {
            selected.push(Selected::new(Place::Due { due: HELD, position }, row.value())?);
        } else {
            missed.push(position);
        }
    }
    Ok((selected, missed))
}

/// Messages and where looking for them ended, if before the end.
type Found = (Vec<Selected>, Option<(u64, u64)>);

/// Looks for listed messages among those that wait for their time: by time, so that all have to be looked at.
fn search(reader: &Reader, queue: u32, listed: &[u64], after: (u64, u64), scan_max: usize) -> Result<Found, Failure> {
    let mut wanted = listed.to_vec();
    wanted.sort_unstable();
    let mut found = Vec::new();
    let mut last = after;
    for (seen, row) in reader.due.range((queue, after.0, after.1.saturating_add(1))..(queue, HELD, 0))?.enumerate() {
        if seen == scan_max {
            return Ok((found, Some(last)));
        }
        let (key, value) = row?;
        let (_, due, position) = key.value();
        last = (due, position);
        if wanted.binary_search(&position).is_ok() {
            found.push(Selected::new(Place::Due { due, position }, value.value())?);
        }
    }
    Ok((found, None))
}
