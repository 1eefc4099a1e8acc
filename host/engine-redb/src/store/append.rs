//! Taking a publish request, whole or not at all: doubles, bounds, the tick of a schedule.
//!
//! Everything that can refuse a request is looked at before anything of it is staged.

use std::collections::BTreeMap;

use pelton_core::engine::{Appended, DeadCode, DeadReason, Duplicate, Overflow, Position, QueueId, RequestError, Tick};

use super::Replies;
use super::dedup::Resolution;
use super::effects::Whose;
use super::leases::Place;
use super::live::Live;
use super::queue::Load;
use super::stage::{Answer, Ended, Fate, Take};
use super::window::WindowEntry;
use crate::command::{Now, Reply, Ticket};
use crate::failure::Failure;
use crate::prepare::{PreparedAppend, PreparedEntries};
use crate::row::Row;

/// What the bounds of the queues make of a request.
#[derive(Debug, Default)]
struct Admission {
    /// Entries that become dead letters, with the reason.
    overflowing: BTreeMap<usize, DeadReason>,
}

impl<T: Ticket> Live<T> {
    pub(super) fn append(
        &mut self,
        ticket: T,
        append: PreparedAppend,
        now: Now,
        replies: &mut Replies<T>,
    ) -> Result<(), Failure> {
        match self.stage_append(append, now) {
            Ok(Ok(appended)) => self.stage.answers.push((ticket, Answer::Appended(appended))),
            Ok(Err(refused)) => replies.push((ticket, Reply::Appended(Err(refused)))),
            Err(failure) => {
                replies.push((ticket, Reply::Appended(Err(failure.undone().into()))));
                return Err(failure);
            }
        }
        Ok(())
    }

    fn stage_append(&mut self, append: PreparedAppend, now: Now) -> Result<Result<Appended, RequestError>, Failure> {
        let PreparedAppend { entries, identities, tick } = append;
        if let Some(unknown) = self.unknown_queue(&entries) {
            return Ok(Err(RequestError::UnknownQueue(unknown)));
        }
        if self.disk_full && !entries.is_empty() {
            return Ok(Err(RequestError::DiskFull));
        }
        if let Some(Tick { schedule, at }) = &tick {
            // One that is not defined any more ticks no more either.
            let last = self.ticks.get(schedule).copied().unwrap_or(*at);
            if *at <= last {
                return Ok(Err(RequestError::Ticked(last)));
            }
        }
        let resolved = match self.resolve(&identities, now)? {
            Ok(resolved) => resolved,
            Err(reused) => return Ok(Err(RequestError::IdReused(reused))),
        };
        let mut known = vec![false; if resolved.is_empty() { 0 } else { entries.len() }];
        for (identity, resolution) in identities.iter().zip(&resolved) {
            if !matches!(resolution, Resolution::New) {
                known[identity.entries.clone()].fill(true);
            }
        }
        let is_known = |at: usize| known.get(at).copied().unwrap_or(false);
        let mut admission = match self.admit(&entries, is_known)? {
            Ok(admission) => admission,
            Err(full) => return Ok(Err(RequestError::QueueFull(full))),
        };
        if let Some(Tick { schedule, at }) = tick {
            self.stage.ticks.push((schedule.clone(), at.0));
            self.ticks.insert(schedule, at);
        }
        let positions = self.stage_entries(entries, now, |at| {
            if is_known(at) { Fate::Known } else { admission.overflowing.remove(&at).map_or(Fate::Stored, Fate::Dead) }
        });
        let duplicates = self.remember_identities(&identities, &resolved, &positions, now);
        Ok(Ok(answer(positions, duplicates, |identity| identities[identity].entries.start)))
    }

    /// Holds what a request brings against the bounds of the queues, and makes room where a queue drops its oldest. The full
    /// queue that refuses it, if one does: nothing was done then.
    fn admit(
        &mut self,
        entries: &PreparedEntries,
        is_known: impl Fn(usize) -> bool,
    ) -> Result<Result<Admission, QueueId>, Failure> {
        let mut admission = Admission::default();
        let mut brought: BTreeMap<u32, Load> = BTreeMap::new();
        for (at, entry) in entries.entries.iter().enumerate() {
            let queue = &self.queues[entry.queue as usize];
            if entry.dead || is_known(at) || !queue.bounds.are_set() {
                continue;
            }
            let mut with_it = brought.get(&entry.queue).copied().unwrap_or_default();
            with_it.add(entries.cost(entry));
            if !queue.has_room_for(with_it) {
                match queue.bounds.overflow {
                    Overflow::DropOldest if queue.could_have_room_for(with_it) => {}
                    Overflow::Refuse | Overflow::DropOldest => return Ok(Err(QueueId(entry.queue))),
                    Overflow::DeadLetter => {
                        admission.overflowing.insert(at, full(queue));
                        continue;
                    }
                }
            }
            brought.insert(entry.queue, with_it);
        }
        let mut victims = Vec::new();
        for (queue, load) in brought {
            if !self.find_room(queue, load, &mut victims)? {
                victims.into_iter().rev().for_each(|(queue, victim)| self.spare(queue, victim));
                return Ok(Err(QueueId(queue)));
            }
        }
        victims.into_iter().for_each(|(queue, victim)| self.drop_victim(queue, &victim));
        Ok(Ok(admission))
    }

    /// Takes messages next in line out of memory until so much more fits without them. Whether it does.
    fn find_room(&mut self, queue: u32, load: Load, victims: &mut Vec<(u32, Victim)>) -> Result<bool, Failure> {
        while !self.queues[queue as usize].has_room_for(load) {
            let Some(victim) = self.next_victim(queue)? else { return Ok(false) };
            let state = &mut self.queues[queue as usize];
            state.outgoing.add(victim.cost);
            state.keys.gone.insert(victim.place.position());
            victims.push((queue, victim));
        }
        Ok(true)
    }

    /// Puts a message back that was to make room for what is refused after all.
    fn spare(&mut self, queue: u32, victim: Victim) {
        let Victim { place, whose, cost, waited, .. } = victim;
        let entries_max = self.tuning.due_entries;
        let state = &mut self.queues[queue as usize];
        state.outgoing.messages -= 1;
        state.outgoing.bytes -= cost;
        match place {
            Place::Parked { position, .. } => {
                state.keys.gone.remove(&position);
            }
            Place::Due { due, position } if waited => {
                state.keys.gone.remove(&position);
                state.due.insert((due, position), whose.accepted, entries_max);
            }
            _ => {
                state.keys.gone.remove(&place.position());
                self.put_back(queue, place, whose);
            }
        }
    }

    fn drop_victim(&mut self, queue: u32, victim: &Victim) {
        self.stage.ended.push((queue, Ended::Dropped));
        self.stage_free(queue, victim.place, victim.whose.entry, Take::Remove);
        let state = &mut self.queues[queue as usize];
        if let (Some(taken), Some(key)) = (self.stage.taken.last_mut(), victim.key) {
            taken.waited = victim.waited;
            taken.marked = state.keys.leave(key, victim.place.position());
            state.keys.retire(key);
        }
    }

    /// Takes the message that is dropped first out of memory: what waits for its key, then of the lowest priority the next in line,
    /// then what waits for its time.
    fn next_victim(&mut self, queue: u32) -> Result<Option<Victim>, Failure> {
        if self.queues[queue as usize].keyed
            && let Some(victim) = self.next_victim_of_keys(queue)?
        {
            return Ok(Some(victim));
        }
        for line in (0..self.queues[queue as usize].lines.len()).rev() {
            if let Some((place, entry)) = self.next_in_line(queue, line)? {
                return Ok(Some(Victim { place, whose: whose(&entry), cost: entry.cost, key: None, waited: false }));
            }
        }
        while self.queues[queue as usize].due.is_starved() {
            self.load_due(queue, self.tuning.due_entries, None)?;
        }
        let Some(((due, position), _)) = self.queues[queue as usize].due.pop_first() else { return Ok(None) };
        let entry = self.reader()?.due_at(queue, due, position)?;
        let (place, key) = (Place::Due { due, position }, entry.key.filter(|_| self.queues[queue as usize].keyed));
        Ok(Some(Victim { place, whose: whose(&entry), cost: entry.cost, key, waited: true }))
    }

    fn next_victim_of_keys(&mut self, queue: u32) -> Result<Option<Victim>, Failure> {
        self.load_keys(queue)?;
        self.reader()?;
        let reader = self.reader.as_ref().expect("it was made just now");
        let state = &mut self.queues[queue as usize];
        if state.stored.parked > 0 {
            for row in reader.parked.range((queue, 0, 0)..=(queue, u64::MAX, u64::MAX))? {
                let (parked, row) = row?;
                let (queue, key, position) = parked.value();
                let place = Place::Parked { key, position };
                let row = Row::at(queue, place, row.value())?;
                if !self.leases.holds(row.entry()) && state.keys.gone.insert(position) {
                    let whose = Whose::of(row);
                    return Ok(Some(Victim { place, whose, cost: row.cost(), key: None, waited: false }));
                }
            }
        }
        let Some((key, waiting)) = state.keys.take_oldest() else { return Ok(None) };
        if matches!(waiting.place, Place::Due { .. }) {
            state.overdue -= 1;
        }
        let place = waiting.place;
        let entry = match waiting.entry {
            Some(entry) => entry,
            None => reader.at(queue, place)?,
        };
        Ok(Some(Victim { place, whose: whose(&entry), cost: entry.cost, key: Some(key), waited: false }))
    }
}

/// A message that makes room for others.
struct Victim {
    place: Place,
    whose: Whose,
    cost: u64,
    /// Set when it waited for its key, or its key for it.
    key: Option<u64>,
    /// It waited for its time.
    waited: bool,
}

fn whose(entry: &WindowEntry) -> Whose {
    Whose { entry: entry.entry, accepted: entry.accepted, key: entry.key, priority: entry.priority }
}

fn full(queue: &super::queue::Queue) -> DeadReason {
    let bounds = queue.bounds;
    let messages = bounds.messages_max.map(|max| format!("max-messages = {max}"));
    let bytes = bounds.bytes_max.map(|max| format!("max-bytes = {max}"));
    let bounds = messages.into_iter().chain(bytes).collect::<Vec<_>>().join(", ");
    DeadReason { code: DeadCode::QueueFull, detail: format!("the queue '{}' was full ({bounds})", queue.name) }
}

/// One position per entry: of a double, the first of the message that was stored.
fn answer(positions: Vec<Option<Position>>, duplicates: Vec<Duplicate>, start: impl Fn(usize) -> usize) -> Appended {
    let mut firsts = duplicates.iter().map(|duplicate| (start(duplicate.identity), duplicate.first)).peekable();
    let mut first = Position(0);
    let position = |(at, position): (usize, Option<Position>)| {
        if let Some((_, known)) = firsts.next_if(|(start, _)| *start == at) {
            first = known;
        }
        position.unwrap_or(first)
    };
    Appended { positions: positions.into_iter().enumerate().map(position).collect(), duplicates }
}
