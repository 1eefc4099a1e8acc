//! What the caller asks for, at random, and what should come of it.

use std::collections::BTreeSet;
use std::time::Duration;

use pelton_core::clock::WallMs;
use pelton_core::engine::{
    Attempt, Bulk, BulkAction, DeadCode, DeadReason, Filter, LeaseRequest, NewEntry, Position, QueueId, Select,
    Settlement, Verdict,
};

use super::model::{COPIES, Change, Entry, Id, Place, message, new_entry};
use super::world::{Asked, Caller, QUEUES, World, definitions, number_of};
use crate::command::{Command, Request};
use crate::prepare::{prepare_append, prepare_settlement};
use crate::tables::HELD;

/// More steps than any search among the messages of a run can take.
const SEARCH_STEPS_MAX: usize = 10_000;

impl World {
    pub(super) fn caller(&mut self, asked: Asked) -> Caller {
        self.next_caller += 1;
        self.asked.insert(self.next_caller, asked);
        Caller { number: self.next_caller, listens: self.random.f64() < 0.95 }
    }

    pub(super) fn queue(&mut self) -> u32 {
        self.random.u32(..QUEUES.len() as u32)
    }

    pub(super) fn command(&mut self, used: &mut BTreeSet<Id>) -> Command<Caller> {
        let free: Vec<Id> = self.leases.keys().copied().filter(|id| !used.contains(id)).collect();
        match self.random.usize(..10) {
            0..=2 => self.ask_append(),
            3..=5 => self.ask_lease(),
            6..=7 if !free.is_empty() => self.ask_settle(&free, used),
            8 if !free.is_empty() => {
                let id = self.random.choice(free).expect("there are some");
                used.insert(id);
                let token = self.leases[&id].token;
                if self.random.bool() {
                    let by = Duration::from_millis(self.random.u64(1..1000));
                    let ticket = self.caller(Asked::Extend(token, by));
                    return Command { ticket, request: Request::Extend(vec![(token, by)]) };
                }
                let ticket = self.caller(Asked::Release(vec![token]));
                Command { ticket, request: Request::Release(vec![token]) }
            }
            9 if !self.spent.is_empty() => {
                let token = self.random.choice(self.spent.clone()).expect("there are some");
                let settlement =
                    Settlement { lease: token, attempt: None, verdict: Verdict::Done { emits: Vec::new() } };
                let ticket = self.caller(Asked::Settle(vec![(token, None)]));
                let prepared = prepare_settlement(settlement, &self.tuning, &self.secret);
                Command { ticket, request: Request::Settle(vec![prepared]) }
            }
            _ => self.ask_lease(),
        }
    }

    /// New messages, some to several queues, some dead from the start; and what they will be.
    pub(super) fn new_messages(&mut self, most: usize) -> (Vec<NewEntry>, Change) {
        let (mut entries, mut change) = (Vec::new(), Change::new());
        for _ in 0..self.random.usize(..=most) {
            let first = self.next_message * COPIES;
            self.next_message += 1;
            let shared = message(first);
            for copy in 0..[1, 1, 2, 3][self.random.usize(..4)] {
                let (id, queue) = (first + copy, self.queue());
                let dead = self.random.f64() < 0.1;
                let reason = DeadReason { code: DeadCode::RouteFailed, detail: "it could not be routed".to_owned() };
                entries.push(new_entry(id, queue, &shared, dead.then_some(reason)));
                let entry = Entry::ready(queue);
                change.push((id, Some(if dead { self.died(&entry) } else { entry })));
            }
        }
        (entries, change)
    }

    /// Where an entry is after it died: in another queue its attempts start anew.
    pub(super) fn died(&self, entry: &Entry) -> Entry {
        let origin = Some(entry.origin.unwrap_or(entry.queue));
        match QUEUES[entry.queue as usize].1 {
            Some(dead_letter) => {
                let queue = number_of(dead_letter);
                Entry { queue, place: Place::Ready, attempts: 0, origin, ..entry.clone() }
            }
            None => Entry { place: Place::Due(HELD), origin, ..entry.clone() },
        }
    }

    pub(super) fn ask_append(&mut self) -> Command<Caller> {
        let (entries, change) = self.new_messages(4);
        let prepared = prepare_append(entries.into(), &self.tuning, &self.secret);
        Command { ticket: self.caller(Asked::Append(change)), request: Request::Append(prepared) }
    }

    pub(super) fn ask_lease(&mut self) -> Command<Caller> {
        let (queue, max) = (self.queue(), self.random.usize(1..6));
        let wait = Duration::from_millis([0, self.random.u64(..500)][self.random.usize(..2)]);
        let ttl = self.random.bool().then(|| Duration::from_millis(self.random.u64(1..800)));
        let request = Request::Lease(LeaseRequest { queue: QueueId(queue), max, wait, ttl });
        Command { ticket: self.caller(Asked::Lease { queue, max, ttl }), request }
    }

    pub(super) fn ask_settle(&mut self, free: &[Id], used: &mut BTreeSet<Id>) -> Command<Caller> {
        let (mut batch, mut asked) = (Vec::new(), Vec::new());
        for id in free.iter().take(self.random.usize(1..4)).copied() {
            used.insert(id);
            let (settlement, change) = self.settlement(id);
            asked.push((settlement.lease, Some(change)));
            let twice = self.random.f64() < 0.05;
            batch.push(prepare_settlement(settlement.clone(), &self.tuning, &self.secret));
            if twice {
                asked.push((settlement.lease, None));
                batch.push(prepare_settlement(settlement, &self.tuning, &self.secret));
            }
        }
        Command { ticket: self.caller(Asked::Settle(asked)), request: Request::Settle(batch) }
    }

    pub(super) fn settlement(&mut self, id: Id) -> (Settlement, Change) {
        let lease = self.leases[&id].token;
        let entry = self.model.entries[&id].clone();
        let attempt = self.random.bool().then(|| Attempt {
            number: lease.attempt,
            at_ms: self.now.wall.0,
            outcome: "retry".to_owned(),
            reason: "so".to_owned(),
            duration_us: 1,
            digest: None,
            log_tail: String::new(),
        });
        let history = (entry.history + u32::from(attempt.is_some())).min(self.tuning.attempts_kept);
        let counted = Entry { attempts: entry.attempts + 1, history, ..entry };
        match self.random.usize(..4) {
            0 => {
                let ms = self.random.u64(..2000);
                let at = WallMs(self.now.wall.0 + ms - 200);
                let moved = Entry { place: Place::Due(at.0), ..counted };
                (Settlement { lease, attempt, verdict: Verdict::Again { at, chosen: false } }, vec![(id, Some(moved))])
            }
            1 => {
                let reason = DeadReason { code: DeadCode::Rejected, detail: "no".to_owned() };
                let dead = self.died(&counted);
                (Settlement { lease, attempt, verdict: Verdict::Dead { reason } }, vec![(id, Some(dead))])
            }
            _ => {
                let (emits, mut change) = self.new_messages(2);
                change.push((id, None));
                (Settlement { lease, attempt: None, verdict: Verdict::Done { emits } }, change)
            }
        }
    }

    /// What the action makes of a message; none where it passes over it.
    fn changed_by(&self, discard: bool, target: Option<u32>, entry: &Entry) -> Option<Option<Entry>> {
        if discard {
            return Some(None);
        }
        let home = entry.origin.filter(|origin| self.declared[*origin as usize]);
        let to = |queue| Entry { queue, place: Place::Ready, attempts: 0, history: entry.history, origin: None };
        target.or(home).map(|queue| Some(to(queue)))
    }

    /// What becomes of messages that are discarded or redriven, and how many are passed over.
    fn changes(&self, ids: &[Id], discard: bool, target: Option<u32>) -> (Change, u64) {
        let to = |id: &Id| {
            let free = !self.leases.contains_key(id);
            self.model.entries.get(id).filter(|_| free).and_then(|entry| self.changed_by(discard, target, entry))
        };
        let change: Change = ids.iter().filter_map(|id| Some((*id, to(id)?))).collect();
        let skipped = (ids.len() - change.len()) as u64;
        (change, skipped)
    }

    fn action(&mut self) -> (BulkAction, bool, Option<u32>) {
        let (discard, target) = (self.random.bool(), self.random.bool().then(|| self.queue()));
        let action = if discard { BulkAction::Discard } else { BulkAction::Redrive(target.map(QueueId)) };
        (action, discard, target)
    }

    fn ids_of(&self, queue: u32) -> Vec<Id> {
        self.model.entries.iter().filter(|(_, entry)| entry.queue == queue).map(|(id, _)| *id).collect()
    }

    /// All messages of a queue are discarded or redriven, in one step; a batch of its own.
    pub(super) fn ask_bulk(&mut self) -> Result<(), String> {
        let queue = self.queue();
        let (action, discard, target) = self.action();
        let (change, skipped) = self.changes(&self.ids_of(queue), discard, target);
        let job = Bulk {
            queue: QueueId(queue),
            select: Select::All,
            filter: Filter::default(),
            action,
            after: None,
            max: 1000,
        };
        let ticket = self.caller(Asked::Bulk { change, skipped });
        self.count("bulk");
        self.apply(vec![Command { ticket, request: Request::Bulk(job) }])
    }

    /// Messages at some positions are discarded or redriven, among them positions twice and positions of nobody. Several
    /// where all are found in the first step; else one, looked for among those that wait, in as many steps as it takes.
    pub(super) fn ask_listed(&mut self) -> Result<(), String> {
        self.compare()?;
        let queue = self.queue();
        let (action, discard, target) = self.action();
        let waits = |id: &Id| matches!(self.model.entries[id].place, Place::Due(due) if due != HELD);
        let (waiting, found): (Vec<Id>, Vec<Id>) = self.ids_of(queue).into_iter().partition(waits);
        let most = self.random.usize(..4);
        let mut picked = if self.random.bool() { found } else { waiting.into_iter().take(1).collect() };
        self.random.shuffle(&mut picked);
        picked.truncate(most);
        let mut positions: Vec<Position> = picked.iter().map(|id| self.positions[id]).collect();
        positions.extend(picked.first().filter(|_| most > 1).map(|id| self.positions[id]));
        positions.push(Position(u64::MAX - 1));
        if self.random.f64() < 0.2 {
            self.arm_faults();
        }
        let mut after = None;
        for _ in 0..SEARCH_STEPS_MAX {
            let (change, skipped) = self.changes(&picked, discard, target);
            let select = Select::Positions(positions.clone());
            let job = Bulk {
                queue: QueueId(queue),
                select,
                filter: Filter::default(),
                action: action.clone(),
                after,
                max: 1000,
            };
            let ticket = self.caller(Asked::Listed { change, skipped });
            self.progress = None;
            self.apply(vec![Command { ticket, request: Request::Bulk(job) }])?;
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

    /// Other queues are declared; what the others hold stays.
    pub(super) fn ask_define(&mut self) -> Result<(), String> {
        self.compare()?;
        let mut declared = [(); QUEUES.len()].map(|()| self.random.f64() < 0.7);
        for (number, (_, dead_letter, _)) in QUEUES.iter().enumerate() {
            if let Some(dead_letter) = dead_letter.filter(|_| declared[number]) {
                declared[number_of(dead_letter) as usize] = true;
            }
        }
        for (number, (_, _, attempts_max)) in QUEUES.iter().enumerate().filter(|(number, _)| declared[*number]) {
            self.attempts_max[number] = *attempts_max;
        }
        if self.random.f64() < 0.2 {
            self.arm_faults();
        }
        self.count("defined");
        let request = Request::Define(definitions(&declared));
        self.declared = declared;
        let ticket = self.caller(Asked::Define);
        self.apply(vec![Command { ticket, request }])
    }
}
