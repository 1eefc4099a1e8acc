//! What an operator asks for, at random: changes to many messages, pauses, other settings; each alone in its batch.

use pelton_core::clock::WallMs;
use pelton_core::engine::{
    Bulk, BulkAction, Cursor, DeadCode, EntryId, Filter, Lost, Pausable, Position, QueueId, Select,
};
use pelton_core::name::ConsumerName;

use super::ask::attempt;
use super::model::{Change, Entry, Id, NEW, Place, kind_of};
use super::observe::Deed;
use super::plan::{GRAVEYARD, QUEUES, Settings, definitions};
use super::world::{Asked, World};
use crate::command::{Command, Request};
use crate::tables::HELD;

/// More steps than any search among the messages of a run can take.
const SEARCH_STEPS_MAX: usize = 10_000;

impl World {
    /// One command alone, in a batch of its own.
    fn alone(&mut self, asked: Asked, request: Request) -> Result<(), String> {
        let ticket = self.caller(asked);
        self.apply(vec![Command { ticket, request }])
    }

    /// What the action makes of a message; none where it passes over it.
    fn changed_by(&self, id: Id, discard: bool, target: Option<u32>) -> Option<Option<Entry>> {
        let entry = self.model.entries.get(&id).filter(|_| !self.leases.contains_key(&id))?;
        if discard {
            return Some(None);
        }
        let home = entry.dead.map(|(origin, _)| origin).filter(|origin| self.settings[*origin as usize].declared);
        let queue = target.or(home)?;
        let place = Place::Ready(self.settings[queue as usize].rank(self.facts[&id].priority));
        let anew = Entry { queue, place, position: NEW, attempts: 0, dead: None, ..entry.clone() };
        Some(Some(Entry { alone: false, chosen: false, ..anew }))
    }

    /// What becomes of messages that are discarded or redriven, and how many are passed over.
    fn changes(&self, ids: &[Id], discard: bool, target: Option<u32>) -> (Change, u64) {
        let change: Change = ids.iter().filter_map(|id| Some((*id, self.changed_by(*id, discard, target)?))).collect();
        let skipped = (ids.len() - change.len()) as u64;
        (change, skipped)
    }

    fn action(&mut self) -> (BulkAction, bool, Option<u32>) {
        let (discard, target) = (self.random.bool(), self.random.bool().then(|| self.queue()));
        let action = if discard { BulkAction::Discard } else { BulkAction::Redrive(target.map(QueueId)) };
        (action, discard, target)
    }

    fn ids_of(&self, queue: u32) -> Vec<Id> {
        self.model.of_queue(queue).map(|(id, _)| id).collect()
    }

    fn maybe_arm_faults(&mut self) {
        if self.random.f64() < 0.2 {
            self.arm_faults();
        }
    }

    /// All messages of a queue are discarded or redriven, in one step.
    pub(super) fn ask_bulk(&mut self) -> Result<(), String> {
        self.settle_down()?;
        let queue = self.queue();
        let (action, discard, target) = self.action();
        let (change, skipped) = self.changes(&self.ids_of(queue), discard, target);
        let job = job(queue, Select::All, action, None);
        self.count("bulk");
        self.maybe_arm_faults();
        self.alone(Asked::Bulk { change, skipped }, Request::Bulk(job))
    }

    /// Messages that wait for their time since they were accepted are discarded: such as were cancelled.
    pub(super) fn ask_cancel(&mut self) -> Result<(), String> {
        self.settle_down()?;
        let queue = self.queue();
        let waits = |entry: &Entry| match entry.place {
            Place::Due(due) if due != HELD => Some(due),
            _ => None,
        };
        let waiting = |(id, entry): (Id, &Entry)| Some((id, waits(entry)?, entry.position));
        let mut waiting: Vec<(Id, u64, u64)> = self.model.of_queue(queue).filter_map(waiting).collect();
        self.random.shuffle(&mut waiting);
        waiting.truncate(self.random.usize(..4));
        let wanted = |id: &Id| {
            self.model.entries[id].attempts == 0 && self.facts[id].entry == Some(self.model.entries[id].position)
        };
        let ids: Vec<Id> = waiting.iter().map(|(id, _, _)| *id).filter(wanted).collect();
        let (change, skipped) = self.changes(&ids, true, None);
        let mut places: Vec<(WallMs, Position)> =
            waiting.iter().map(|(_, due, position)| (WallMs(*due), Position(*position))).collect();
        places.extend(places.first().copied());
        places.push((self.now.wall, Position(1)));
        if !change.is_empty() {
            self.count("cancelled");
        }
        let job = job(queue, Select::Scheduled(places), BulkAction::Discard, None);
        self.alone(Asked::Bulk { change, skipped }, Request::Bulk(job))
    }

    /// Messages at some positions are discarded or redriven, among them positions twice and positions of nobody. Several
    /// where all are found in the first step; else one, looked for among those that wait, in as many steps as it takes.
    pub(super) fn ask_listed(&mut self) -> Result<(), String> {
        self.settle_down()?;
        let queue = self.queue();
        let (action, discard, target) = self.action();
        let waits = |id: &Id| match self.model.entries[id].place {
            Place::Ready(_) => false,
            Place::Parked => true,
            Place::Due(due) => due != HELD,
        };
        let (waiting, found): (Vec<Id>, Vec<Id>) = self.ids_of(queue).into_iter().partition(waits);
        let most = self.random.usize(..4);
        let mut picked = if self.random.bool() { found } else { waiting.into_iter().take(1).collect() };
        self.random.shuffle(&mut picked);
        picked.truncate(most);
        let position = |id: &Id| Position(self.model.entries[id].position);
        let mut positions: Vec<Position> = picked.iter().map(position).collect();
        positions.extend(picked.first().filter(|_| most > 1).map(position));
        positions.push(Position(u64::MAX - 1));
        self.maybe_arm_faults();
        let mut after = None;
        for _ in 0..SEARCH_STEPS_MAX {
            self.settle_down()?;
            let (change, skipped) = self.changes(&picked, discard, target);
            let job = job(queue, Select::Positions(positions.clone()), action.clone(), after);
            self.progress = None;
            self.alone(Asked::Listed { change, skipped }, Request::Bulk(job))?;
            // Without progress the disk failed, and all is as it was.
            let Some(progress) = self.progress.take() else { return Ok(()) };
            if progress.changed + progress.skipped > 0 {
                picked.clear();
                self.count("bulk by positions");
            }
            match progress.next {
                Some(next) => after = Some(next),
                None if picked.is_empty() => return Ok(()),
                None => return Err(format!("{picked:?} were listed, and not found")),
            }
        }
        Err("a search among those that wait does not end".to_owned())
    }

    fn filter(&mut self) -> Filter {
        let random = &mut self.random;
        let reasons =
            [DeadCode::Rejected, DeadCode::RouteFailed, DeadCode::MaxAttempts, DeadCode::MaxAge, DeadCode::Expired];
        let reason = random.bool().then(|| reasons[random.usize(..reasons.len())]);
        let kind = ["even", "odd"][random.usize(..2)].to_owned();
        let attributes = if random.bool() { vec![("type".to_owned(), kind)] } else { Vec::new() };
        Filter { reason, attributes, ..Filter::default() }
    }

    fn passes(&self, filter: &Filter, id: Id) -> bool {
        let dead = self.model.entries[&id].dead.map(|(_, code)| code);
        filter.reason.is_none_or(|reason| dead == Some(reason))
            && filter.attributes.iter().all(|(_, kind)| kind_of(id) == kind)
    }

    /// Messages that pass a filter are discarded or redriven, in as many steps as it takes. Each is changed once, and none twice.
    pub(super) fn ask_filtered(&mut self) -> Result<(), String> {
        self.settle_down()?;
        let (queue, filter) = (self.queue(), self.filter());
        let (action, discard, target) = self.action();
        let ids: Vec<Id> = self.ids_of(queue).into_iter().filter(|id| self.passes(&filter, *id)).collect();
        // What the store moves by itself between two steps may be passed over.
        let places: Vec<(Place, u64)> = ids.iter().map(|id| self.place_of(*id)).collect();
        self.maybe_arm_faults();
        let mut after: Option<Cursor> = None;
        for _ in 0..SEARCH_STEPS_MAX {
            self.settle_down()?;
            for (id, place) in ids.iter().zip(&places) {
                let unchanged = self.model.entries.contains_key(id) && self.place_of(*id).1 == place.1;
                if let Some(change) = self.changed_by(*id, discard, target).filter(|_| unchanged) {
                    self.turn.alternatives.insert(*id, vec![(change, Deed::Changed)]);
                }
            }
            let recoveries = self.recoveries;
            self.progress = None;
            let max = self.random.usize(1..4);
            let job = Bulk { filter: filter.clone(), max, ..job(queue, Select::All, action.clone(), after) };
            self.alone(Asked::Filtered, Request::Bulk(job))?;
            let Some(progress) = self.progress.take().filter(|_| recoveries == self.recoveries) else { return Ok(()) };
            if !self.turn.changed.holds(progress.changed) {
                return Err(format!("{progress:?}, and {:?} messages changed", self.turn.changed));
            }
            match progress.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        self.count("bulk by filter");
        let left = ids.iter().zip(&places).find(|(id, place)| {
            let unchanged = self.model.entries.contains_key(id) && self.place_of(**id) == **place;
            unchanged && self.changed_by(**id, discard, target).is_some()
        });
        left.map_or(Ok(()), |left| Err(format!("{left:?} passes {filter:?}, and did not change")))
    }

    fn place_of(&self, id: Id) -> (Place, u64) {
        let entry = &self.model.entries[&id];
        (entry.place, entry.position)
    }

    /// Other settings are declared, and other queues; what the others hold stays.
    pub(super) fn ask_define(&mut self) -> Result<(), String> {
        self.settle_down()?;
        let mut settings = self.settings.clone();
        for (queue, settings) in (0..).zip(&mut settings) {
            let declared = self.random.f64() < 0.7;
            if declared && self.features.changes && self.random.f64() < 0.6 {
                let other = Settings::random(queue, &self.features, &mut self.random);
                let dead_letter = if queue == GRAVEYARD { None } else { other.dead_letter };
                *settings = Settings { dead_letter, ..other };
            }
            settings.declared = declared;
        }
        let holds_dead = settings.iter().any(|settings| settings.declared && settings.dead_letter.is_some());
        settings[GRAVEYARD as usize].declared |= holds_dead;
        for (queue, (old, new)) in self.settings.iter().zip(&settings).enumerate() {
            self.turned[queue] |= old.keyed != new.keyed;
        }
        if self.features.ticks {
            self.schedules = self.schedules.map(|_| self.random.f64() < 0.7);
        }
        self.maybe_arm_faults();
        self.count("defined");
        self.settings_before = Some(std::mem::replace(&mut self.settings, settings));
        let request = Request::Define(definitions(&self.settings, &self.schedules, self.free_bytes_min));
        self.alone(Asked::Define, request)
    }

    pub(super) fn ask_pause(&mut self) -> Result<(), String> {
        self.settle_down()?;
        let (queue, paused) = (self.queue(), self.random.f64() < 0.4);
        self.maybe_arm_faults();
        self.count("paused");
        if self.random.f64() < 0.3 {
            let consumer = Pausable::Consumer(ConsumerName::new("c").expect("a valid name"));
            return self.alone(Asked::PauseConsumer(paused), Request::Pause(consumer, paused));
        }
        self.alone(Asked::Pause(queue, paused), Request::Pause(Pausable::Queue(QueueId(queue)), paused))
    }

    /// Deliveries are told to be lost that were when the store failed; some are not, or are told twice, or were settled since.
    pub(super) fn ask_lost(&mut self) -> Result<(), String> {
        self.settle_down()?;
        let mut told = std::mem::take(&mut self.lost);
        told.extend(told.first().copied().filter(|_| self.random.bool()));
        told.extend(self.leases.iter().take(1).map(|(id, held)| (*id, held.token.queue, held.token.entry, held.told)));
        let mut change = Change::new();
        let mut lost = Vec::new();
        for (id, queue, entry, place) in told {
            let attempt = attempt(1, self.now.wall, "lost");
            lost.push(Lost { queue, entry, place, attempt });
            let is_there = self.is_at(id, queue, entry, place) && !self.leases.contains_key(&id);
            if is_there && !change.iter().any(|(known, _)| *known == id) {
                let entry = &self.model.entries[&id];
                let history = (entry.history + 1).min(self.tuning.attempts_kept);
                let counted = Entry { attempts: entry.attempts + 1, history, alone: true, ..entry.clone() };
                let last = self.settings[queue.0 as usize].exhausted(counted.attempts, self.age_of(id));
                let to = last.map_or_else(|| counted.clone(), |code| self.dies(id, &counted, code));
                change.push((id, Some(to)));
            }
        }
        if !change.is_empty() {
            self.count("lost");
        }
        self.maybe_arm_faults();
        self.alone(Asked::Lost(change), Request::Lost(lost))
    }

    /// Whether the message lies where it was told to be.
    pub(super) fn is_at(&self, id: Id, queue: QueueId, entry: EntryId, told: pelton_core::engine::Place) -> bool {
        let Some(there) = self.model.entries.get(&id) else { return false };
        let (kind, detail) = match there.place {
            Place::Ready(rank) => (0, Some(u64::from(rank))),
            Place::Due(due) => (1, Some(due)),
            Place::Parked => (2, self.facts[&id].key.map(|key| self.secret.of_key(&super::world::order_key(key)))),
        };
        (there.queue, self.facts[&id].entry, there.position) == (queue.0, Some(entry.0), told.position.0)
            && (kind, detail) == (told.kind, Some(told.detail))
    }

    /// Everything is resumed and declared, so that nothing stands in the way of the last messages.
    pub(super) fn resume_all(&mut self) -> Result<(), String> {
        for queue in 0..QUEUES.len() as u32 {
            self.settle_down()?;
            self.alone(Asked::Pause(queue, false), Request::Pause(Pausable::Queue(QueueId(queue)), false))?;
        }
        self.settle_down()
    }
}

fn job(queue: u32, select: Select, action: BulkAction, after: Option<Cursor>) -> Bulk {
    Bulk { queue: QueueId(queue), select, filter: Filter::default(), action, after, max: 1000 }
}
