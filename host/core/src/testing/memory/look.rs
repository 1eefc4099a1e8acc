//! Looking at the store in memory, and changing many of its messages: browse, read, bulk, counts.
//!
//! The order of a look is (due, rank, position), with 0 as the due time of what was never delayed: what is ready in order of
//! priority and acceptance, then what is scheduled by due time. A cursor is a place in that order; messages that move behind
//! a bulk job's back, by that job even, are not met twice: a job passes over positions given after it began.

use super::store::{Entry, Queue, Store, Wait};
use crate::clock::WallMs;
use crate::engine::{
    Browse, Bulk, BulkAction, Counts, Cursor, InvalidCursor, Page, Position, Progress, QueueCounts, QueueId,
    RequestError, Select, Stored,
};
use crate::testing::Moment;

/// Most messages of one page or step.
const STEP_MAX: usize = 1000;

/// Due time, rank among what is ready, position.
type Spot = (WallMs, u8, Position);

fn spot(queue: &Queue, position: Position, entry: &Entry) -> Spot {
    match entry.wait.due() {
        None => (WallMs(0), queue.rank(entry), position),
        Some(due) => (due, 0, position),
    }
}

/// Where a look goes on, and the position that ends what it is about.
struct Extent {
    after: Option<Spot>,
    below: u64,
}

impl Extent {
    fn of(after: Option<&Cursor>, next_position: u64) -> Result<Self, InvalidCursor> {
        let parse = |cursor: &Cursor| {
            let mut parts = cursor.0.split('-').map(|part| part.parse::<u64>().ok());
            let mut part = || parts.next().flatten();
            Some(((WallMs(part()?), u8::try_from(part()?).ok()?, Position(part()?)), part()?))
        };
        let Some(cursor) = after else { return Ok(Self { after: None, below: next_position }) };
        let (spot, below) = parse(cursor).ok_or_else(|| InvalidCursor::new(cursor))?;
        Ok(Self { after: Some(spot), below })
    }

    fn cursor(&self, (due, rank, position): Spot) -> Cursor {
        Cursor(format!("{}-{rank}-{}-{}", due.0, position.0, self.below))
    }
}

impl Store {
    pub(super) fn browse(&self, what: &Browse, now: Moment) -> Result<Page, RequestError> {
        let extent = Extent::of(what.after.as_ref(), u64::MAX)?;
        let queue = self.known(what.queue)?;
        let all = |_: Position, _: &Entry| true;
        let (spots, more) = spots(queue, &extent, what.max, all);
        let next = spots.last().filter(|_| more).map(|last| extent.cursor(*last));
        let items = spots.iter().map(|(.., position)| self.stored(*position, &queue.entries[position], now)).collect();
        Ok(Page { items, next })
    }

    pub(super) fn read(&self, queue: QueueId, position: Position, now: Moment) -> Result<Option<Stored>, RequestError> {
        let entry = self.known(queue)?.entries.get(&position);
        let entry = entry.filter(|entry| matches!(entry.wait, Wait::Nothing | Wait::Held));
        Ok(entry.map(|entry| self.stored(position, entry, now)))
    }

    fn stored(&self, position: Position, entry: &Entry, now: Moment) -> Stored {
        Stored {
            position,
            entry: entry.entry,
            topic: entry.topic.clone(),
            message: entry.message.clone(),
            attempts: entry.attempts,
            accepted: entry.accepted,
            due: entry.wait.due().filter(|due| *due > now.wall),
            expires: entry.expires,
            priority: entry.priority,
            leased: self.leases.contains_key(&entry.entry),
            dead: entry.dead.clone(),
            history: entry.history.clone(),
        }
    }

    pub(super) fn bulk(&mut self, job: &Bulk, now: Moment) -> Result<Progress, RequestError> {
        if let BulkAction::Redrive(Some(to)) = job.action {
            self.known(to)?;
        }
        let extent = Extent::of(job.after.as_ref(), self.next_position)?;
        let wanted = |position: Position, entry: &Entry| {
            let selected = match &job.select {
                Select::All => position.0 < extent.below,
                Select::Positions(positions) => positions.contains(&position),
                Select::Scheduled(places) => waits_in(places, position, entry, now),
            };
            selected && job.filter.passes(&entry.topic, &entry.message, entry.dead.as_ref())
        };
        let (spots, more) = spots(self.known(job.queue)?, &extent, job.max, wanted);
        let mut progress =
            Progress { next: spots.last().filter(|_| more).map(|last| extent.cursor(*last)), ..Progress::default() };
        for (.., position) in spots {
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
                self.put(to, place, Entry { attempts: 0, wait: Wait::Nothing, alone: false, dead: None, ..entry });
            }
        }
        true
    }

    pub(super) fn counts(&self, now: Moment) -> Counts {
        let shown = self.queues.iter().filter(|(_, queue)| queue.declared || !queue.entries.is_empty());
        let mut queues: Vec<QueueCounts> = shown.map(|(id, queue)| self.count(*id, queue, now)).collect();
        queues.sort_by(|one, other| one.name.cmp(&other.name));
        Counts { queues, paused_consumers: self.paused_consumers.iter().cloned().collect() }
    }

    fn count(&self, id: QueueId, queue: &Queue, now: Moment) -> QueueCounts {
        let name = queue.definition.name.clone();
        let mut counts = QueueCounts {
            id,
            name,
            declared: queue.declared,
            paused: queue.paused,
            full: false,
            dropped: queue.dropped,
            expired: queue.expired,
            ready: 0,
            leased: 0,
            scheduled: 0,
            bytes: 0,
            oldest: None,
        };
        for entry in queue.entries.values() {
            counts.bytes += entry.bytes();
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
        let one_more = queue.entries.len() as u64 + 1;
        counts.full = !queue.definition.bounds.hold(one_more, counts.bytes + 1);
        counts
    }
}

/// Whether the message waits since it was accepted, and is among these.
fn waits_in(places: &[(WallMs, Position)], position: Position, entry: &Entry, now: Moment) -> bool {
    matches!(entry.wait, Wait::Delay(at) if at > now.wall && places.contains(&(at, position)))
}

/// Up to `max` wanted spots of `queue` in order, and whether there are more.
fn spots(queue: &Queue, extent: &Extent, max: usize, wanted: impl Fn(Position, &Entry) -> bool) -> (Vec<Spot>, bool) {
    let mut spots: Vec<Spot> = queue
        .entries
        .iter()
        .filter(|(position, entry)| wanted(**position, entry))
        .map(|(position, entry)| spot(queue, *position, entry))
        .filter(|spot| extent.after.is_none_or(|after| *spot > after))
        .collect();
    spots.sort_unstable();
    let max = max.clamp(1, STEP_MAX);
    let more = spots.len() > max;
    spots.truncate(max);
    (spots, more)
}
