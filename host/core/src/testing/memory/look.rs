//! Looking at the store in memory, and changing many of its messages: browse, bulk, counts.
//!
//! The order of a look is (due, position), with 0 as the due time of what was never delayed: what is ready in order of
//! acceptance, then what is scheduled by due time. A cursor is a place in that order; messages that move behind
//! a bulk job's back, by that job even, are not met twice: a job passes over positions given after it began.

use super::store::{Entry, Queue, Store};
use crate::clock::WallMs;
use crate::engine::{
    Browse, Bulk, BulkAction, Counts, Cursor, InvalidCursor, PRIORITY_DEFAULT, Page, Position, Progress, QueueCounts,
    QueueId, RequestError, Select, Stored,
};
use crate::testing::Moment;

/// Most messages of one page or step.
const STEP_MAX: usize = 1000;

type Place = (WallMs, Position);

fn place(position: Position, entry: &Entry) -> Place {
    (entry.due.unwrap_or(WallMs(0)), position)
}

/// Where a look goes on, and the position that ends what it is about.
struct Bounds {
    after: Option<Place>,
    below: u64,
}

impl Bounds {
    fn of(after: Option<&Cursor>, next_position: u64) -> Result<Self, InvalidCursor> {
        let parse = |cursor: &Cursor| {
            let mut parts = cursor.0.split('-').map(|part| part.parse::<u64>().ok());
            let mut part = || parts.next().flatten();
            Some((WallMs(part()?), Position(part()?), part()?))
        };
        let Some(cursor) = after else { return Ok(Self { after: None, below: next_position }) };
        let (due, position, below) = parse(cursor).ok_or_else(|| InvalidCursor::new(cursor))?;
        Ok(Self { after: Some((due, position)), below })
    }

    fn cursor(&self, (due, position): Place) -> Cursor {
        Cursor(format!("{}-{}-{}", due.0, position.0, self.below))
    }
}

impl Store {
    pub(super) fn browse(&self, what: &Browse, now: Moment) -> Result<Page, RequestError> {
        let bounds = Bounds::of(what.after.as_ref(), u64::MAX)?;
        let (places, more) = self.places(what.queue, &bounds, &Select::All, what.max)?;
        let next = places.last().filter(|_| more).map(|last| bounds.cursor(*last));
        let queue = &self.queues[&what.queue];
        let items = places.iter().map(|(_, position)| self.stored(*position, &queue.entries[position], now)).collect();
        Ok(Page { items, next })
    }

    fn stored(&self, position: Position, entry: &Entry, now: Moment) -> Stored {
        Stored {
            position,
            entry: entry.entry,
            topic: entry.topic.clone(),
            message: entry.message.clone(),
            attempts: entry.attempts,
            accepted: entry.accepted,
            due: entry.due.filter(|due| *due > now.wall),
            expires: None,
            priority: PRIORITY_DEFAULT,
            leased: self.leases.contains_key(&entry.entry),
            dead: entry.dead.clone(),
            history: entry.history.clone(),
        }
    }

    pub(super) fn bulk(&mut self, job: &Bulk, _now: Moment) -> Result<Progress, RequestError> {
        if let BulkAction::Redrive(Some(to)) = job.action {
            self.known(to)?;
        }
        let bounds = Bounds::of(job.after.as_ref(), self.next_position)?;
        let (places, more) = self.places(job.queue, &bounds, &job.select, job.max)?;
        let mut progress =
            Progress { next: places.last().filter(|_| more).map(|last| bounds.cursor(*last)), ..Progress::default() };
        for (_, position) in places {
            if self.change(job.queue, position, &job.action) {
                progress.changed += 1;
            } else {
                progress.skipped += 1;
            }
        }
        Ok(progress)
    }

    /// Whether the message at `position` could be changed.
    fn change(&mut self, queue: QueueId, position: Position, action: &BulkAction) -> bool {
        let entry = &self.queues[&queue].entries[&position];
        if self.leases.contains_key(&entry.entry) {
            return false;
        }
        let origin = entry.dead.as_ref().and_then(|dead| self.declared(&dead.origin));
        match action {
            BulkAction::Discard => drop(self.take(queue, position)),
            BulkAction::Redrive(to) => {
                let Some(to) = to.or(origin) else { return false };
                let entry = self.take(queue, position);
                let place = self.next_place();
                self.put(to, place, Entry { attempts: 0, due: None, dead: None, ..entry });
            }
        }
        true
    }

    /// Up to `max` selected places of `queue` in order, and whether there are more.
    fn places(
        &self,
        queue: QueueId,
        bounds: &Bounds,
        select: &Select,
        max: usize,
    ) -> Result<(Vec<Place>, bool), RequestError> {
        let queue = self.queues.get(&queue).ok_or(RequestError::UnknownQueue(queue))?;
        let selected = |position: Position| match select {
            Select::All => position.0 < bounds.below,
            Select::Positions(positions) => positions.contains(&position),
            Select::Scheduled(_) => false,
        };
        let mut places: Vec<Place> = queue
            .entries
            .iter()
            .filter(|(position, _)| selected(**position))
            .map(|(position, entry)| place(*position, entry))
            .filter(|place| bounds.after.is_none_or(|after| *place > after))
            .collect();
        places.sort_unstable();
        let max = max.clamp(1, STEP_MAX);
        let more = places.len() > max;
        places.truncate(max);
        Ok((places, more))
    }

    pub(super) fn counts(&self, now: Moment) -> Counts {
        let shown = self.queues.iter().filter(|(_, queue)| queue.declared || !queue.entries.is_empty());
        let mut queues: Vec<QueueCounts> = shown.map(|(id, queue)| self.count(*id, queue, now)).collect();
        queues.sort_by(|one, other| one.name.cmp(&other.name));
        Counts { queues, paused_consumers: Vec::new() }
    }

    fn count(&self, id: QueueId, queue: &Queue, now: Moment) -> QueueCounts {
        let name = queue.definition.name.clone();
        let mut counts = QueueCounts {
            id,
            name,
            declared: queue.declared,
            paused: false,
            full: false,
            dropped: 0,
            expired: 0,
            ready: 0,
            leased: 0,
            scheduled: 0,
            bytes: 0,
            oldest: None,
        };
        for entry in queue.entries.values() {
            counts.bytes += entry.message.as_bytes().len() as u64;
            let state = if self.leases.contains_key(&entry.entry) {
                &mut counts.leased
            } else if entry.is_due(now) {
                &mut counts.ready
            } else {
                counts.scheduled += 1;
                continue;
            };
            *state += 1;
            counts.oldest = Some(counts.oldest.map_or(entry.accepted, |oldest| oldest.min(entry.accepted)));
        }
        counts
    }
}
