//! What the caller asks for in a batch, at random, and what should come of it.

use std::collections::BTreeSet;
use std::time::Duration;

use pelton_core::clock::WallMs;
use pelton_core::engine::{
    Append, Attempt, DeadCode, DeadReason, EntryOptions, Identity, LeaseRequest, NewEntry, OrderKey, Overflow,
    PRIORITY_DEFAULT, QueueId, Settlement, Tick, Verdict,
};
use pelton_core::message::Message;
use pelton_core::name::{ScheduleName, Topic};

use super::model::{COPIES, Change, Double, Entry, Facts, Id, NEW, Place, message_of, new_entry};
use super::observe::Deed;
use super::plan::{QUEUES, SCHEDULES};
use super::world::{Asked, AskedAppend, AskedIdentity, Caller, World, order_key};
use crate::command::{Command, Request};
use crate::prepare::{PreparedEntries, prepare_append, prepare_settlement};

/// How many keys there are: few, so that they meet.
const KEYS: u8 = 4;
/// The windows in which doubles are told, in seconds.
const WINDOWS_S: [u64; 2] = [2, 5];

/// A new message with its entries.
pub(super) struct NewMessage {
    entries: Vec<NewEntry>,
    becomes: Vec<(Id, Entry)>,
    shared: Message,
    original: u64,
}

impl World {
    /// Somebody who asks, and leaves before the answer at times.
    pub(super) fn caller(&mut self, asked: Asked) -> Caller {
        let listens = self.random.f64() < 0.95;
        Caller { listens, ..self.listener(asked) }
    }

    /// Somebody who asks and waits for the answer.
    pub(super) fn listener(&mut self, asked: Asked) -> Caller {
        self.next_caller += 1;
        self.asked.insert(self.next_caller, asked);
        Caller { number: self.next_caller, listens: true }
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

    /// When and in which order a new message is delivered, as far as this run cares.
    fn options(&mut self) -> EntryOptions {
        let (features, now) = (self.features, self.now.wall.0);
        let some = |random: &mut fastrand::Rng, has: bool, often| has && random.f64() < often;
        let random = &mut self.random;
        let due = some(random, features.delays, 0.3).then(|| {
            let far = if random.f64() < 0.05 { 3_600_000 } else { 4000 };
            now.saturating_sub(300) + random.u64(..far)
        });
        let expires = some(random, features.expiry, 0.4).then(|| now.saturating_sub(100) + random.u64(..6000));
        let priority = if some(random, features.priority, 0.7) { random.u8(..10) } else { PRIORITY_DEFAULT };
        let key: Option<OrderKey> = some(random, features.keys, 0.8).then(|| order_key(random.u8(..KEYS)));
        EntryOptions { due: due.map(WallMs), expires: expires.map(WallMs), priority, key }
    }

    /// A new message, to several queues at times, dead from the start at times; and what it will be.
    fn new_message(&mut self, double: Option<Double>) -> NewMessage {
        let number = self.next_message;
        self.next_message += 1;
        if let Some(double) = double {
            self.doubles.insert(number, double);
        }
        let double = double.unwrap_or(Double { original: number, body: number });
        let shared = message_of(number, double);
        let (mut entries, mut becomes) = (Vec::new(), Vec::new());
        for copy in 0..[1, 1, 2, 3][self.random.usize(..4)] {
            let (id, queue, options) = (number * COPIES + copy, self.queue(), self.options());
            let dead = self.random.f64() < 0.1;
            let reason = DeadReason { code: DeadCode::RouteFailed, detail: "it could not be routed".to_owned() };
            let key = options.key.as_ref().and_then(|key| (0..KEYS).find(|number| order_key(*number) == *key));
            let facts = Facts { key, priority: options.priority, ..Facts::default() };
            self.facts.insert(id, facts);
            let settings = &self.settings[queue as usize];
            let waits = options.due.filter(|due| *due > self.now.wall);
            let entry = Entry {
                queue,
                place: waits.map_or(Place::Ready(settings.rank(options.priority)), |due| Place::Due(due.0)),
                position: NEW,
                attempts: 0,
                history: 0,
                dead: None,
                expires: options.expires.map(|expires| expires.0),
                alone: false,
                chosen: false,
            };
            let becoming = if dead { self.dies(id, &entry, DeadCode::RouteFailed) } else { entry };
            becomes.push((id, becoming));
            entries.push(NewEntry { options, ..new_entry(id, queue, &shared, dead.then_some(reason)) });
        }
        NewMessage { entries, becomes, shared, original: double.original }
    }

    /// What a message becomes that dies by the settings in force.
    pub(super) fn dies(&self, id: Id, entry: &Entry, code: DeadCode) -> Entry {
        let settings = &self.settings[entry.queue as usize];
        self.died(id, entry, code, settings).into_iter().next().expect("it is somewhere")
    }

    /// New messages, and what they will be.
    fn emits(&mut self, most: usize) -> (Vec<NewEntry>, Change) {
        let (mut entries, mut change) = (Vec::new(), Change::new());
        for _ in 0..self.random.usize(..=most) {
            let new = self.new_message(None);
            entries.extend(new.entries);
            change.extend(new.becomes.into_iter().map(|(id, entry)| (id, Some(entry))));
        }
        (entries, change)
    }

    /// Notes what may come to queues: bounds go by what is on its way too.
    fn bring(&mut self, prepared: &PreparedEntries, becomes: &[(Id, Entry)]) {
        for (entry, (_, becoming)) in prepared.entries.iter().zip(becomes) {
            let cost = prepared.cost(entry);
            // A dead letter has its reason beside the message.
            let cost = cost + 200;
            let settings = &self.settings[entry.queue as usize];
            let overflow = settings.dead_letter.filter(|_| settings.bounds.overflow == Overflow::DeadLetter);
            for queue in
                [Some(entry.queue), Some(becoming.queue), overflow].into_iter().flatten().collect::<BTreeSet<_>>()
            {
                let brought = self.turn.brings.entry(queue).or_default();
                *brought = (brought.0 + 1, brought.1 + cost);
            }
        }
    }

    /// A message that may be a double of another.
    fn maybe_double(&mut self) -> NewMessage {
        let known: Vec<u64> = self.model.identities.keys().map(|(_, number)| *number).collect();
        let known = self.turn.identities.iter().map(|((_, number), _)| *number).chain(known).collect::<Vec<_>>();
        let original = if self.random.f64() < 0.4 { self.random.choice(known) } else { None };
        let double = original.map(|original| {
            let body = if self.random.f64() < 0.15 { self.next_message } else { original };
            Double { original, body }
        });
        self.new_message(double)
    }

    fn ask_append(&mut self) -> Command<Caller> {
        let (mut entries, mut becomes) = (Vec::new(), Vec::new());
        let (mut identities, mut asked) = (Vec::new(), Vec::new());
        let before = self.turn.brings.clone();
        for _ in 0..self.random.usize(..=4) {
            let has_identity = self.features.dedup && self.random.f64() < 0.7;
            let new = if has_identity { self.maybe_double() } else { self.new_message(None) };
            if has_identity {
                let window = WINDOWS_S[self.random.usize(..WINDOWS_S.len())];
                let range = entries.len()..entries.len() + new.entries.len();
                let (key, body) = ((window, new.original), new.shared.data().to_vec());
                let ids = new.becomes.iter().map(|(id, _)| *id).collect();
                let is_second = self.turn.identities.iter().any(|(known, _)| *known == key);
                asked.push(AskedIdentity { key, body: body.clone(), ids, start: range.start, is_second });
                self.turn.identities.push((key, body));
                let topic = Topic::new("t").expect("a valid topic");
                let window = Duration::from_secs(window);
                identities.push(Identity { entries: range, topic, message: new.shared, window });
            }
            entries.extend(new.entries);
            becomes.extend(new.becomes);
        }
        self.offer_overflow(&becomes);
        let tick = self.tick();
        let named = tick.map(|(schedule, at)| Tick {
            schedule: ScheduleName::new(SCHEDULES[schedule]).expect("a valid name"),
            at: WallMs(at),
        });
        let append = Append { entries, identities, tick: named };
        let prepared = prepare_append(append, &self.tuning, &self.secret);
        self.turn.brings.clear();
        self.bring(&prepared.entries, &becomes);
        let brings = std::mem::replace(&mut self.turn.brings, before.clone());
        for (queue, (messages, bytes)) in &brings {
            let all = self.turn.brings.entry(*queue).or_default();
            *all = (all.0 + messages, all.1 + bytes);
        }
        let asked = AskedAppend { entries: becomes, identities: asked, tick, brings, before };
        Command { ticket: self.caller(Asked::Append(Box::new(asked))), request: Request::Append(prepared) }
    }

    /// Messages that do not fit become dead letters where the queue was declared so.
    fn offer_overflow(&mut self, becomes: &[(Id, Entry)]) {
        for (id, entry) in becomes.iter().filter(|(_, entry)| entry.dead.is_none()) {
            let bounds = self.settings[entry.queue as usize].bounds;
            if bounds.are_set() && bounds.overflow == Overflow::DeadLetter {
                let dead = self.dies(*id, entry, DeadCode::QueueFull);
                self.turn.alternatives.insert(*id, vec![(Some(dead), Deed::Overflowed)]);
            }
        }
    }

    /// A schedule's time, at times one that has come before.
    fn tick(&mut self) -> Option<(usize, u64)> {
        if !self.features.ticks || self.random.f64() < 0.7 {
            return None;
        }
        let schedule = self.random.usize(..SCHEDULES.len());
        let last = self.model.ticks.get(&schedule).copied().unwrap_or(self.now.wall.0);
        let asked = self.turn.ticks.entry(schedule).or_default();
        let at = match asked.last() {
            // Two that happen in one batch can't be told apart when nobody knows what became of it: one at most does.
            Some(before) => before - self.random.u64(..100),
            None => last - 100 + self.random.u64(..1000),
        };
        asked.push(at);
        Some((schedule, at))
    }

    fn ask_lease(&mut self) -> Command<Caller> {
        let (queue, max) = (self.queue(), self.random.usize(1..6));
        let wait = Duration::from_millis([0, self.random.u64(..500)][self.random.usize(..2)]);
        let ttl = self.random.bool().then(|| Duration::from_millis(self.random.u64(1..800)));
        let request = Request::Lease(LeaseRequest { queue: QueueId(queue), max, wait, ttl });
        Command { ticket: self.caller(Asked::Lease { queue, max, ttl }), request }
    }

    fn ask_settle(&mut self, free: &[Id], used: &mut BTreeSet<Id>) -> Command<Caller> {
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

    fn settlement(&mut self, id: Id) -> (Settlement, Change) {
        let lease = self.leases[&id].token;
        let entry = self.model.entries[&id].clone();
        let attempt = self.random.bool().then(|| attempt(lease.attempt, self.now.wall, "retry"));
        let history = (entry.history + u32::from(attempt.is_some())).min(self.tuning.attempts_kept);
        let counted = Entry { attempts: entry.attempts + 1, history, ..entry };
        match self.random.usize(..4) {
            0 => {
                let at = WallMs(self.now.wall.0 + self.random.u64(..2000) - 200);
                let chosen = self.random.f64() < 0.3;
                let moved = Entry { place: Place::Due(at.0), chosen, alone: false, ..counted };
                (Settlement { lease, attempt, verdict: Verdict::Again { at, chosen } }, vec![(id, Some(moved))])
            }
            1 => {
                let reason = DeadReason { code: DeadCode::Rejected, detail: "no".to_owned() };
                let dead = self.dies(id, &counted, DeadCode::Rejected);
                (Settlement { lease, attempt, verdict: Verdict::Dead { reason } }, vec![(id, Some(dead))])
            }
            _ => {
                let (emits, mut change) = self.emits(2);
                let prepared = crate::prepare::prepare(emits.clone(), &self.tuning, &self.secret);
                let becomes: Vec<(Id, Entry)> =
                    change.iter().filter_map(|(id, entry)| Some((*id, entry.clone()?))).collect();
                self.bring(&prepared, &becomes);
                change.push((id, None));
                (Settlement { lease, attempt: None, verdict: Verdict::Done { emits } }, change)
            }
        }
    }
}

pub(super) fn attempt(number: u32, at: WallMs, outcome: &str) -> Attempt {
    Attempt {
        number,
        at_ms: at.0,
        outcome: outcome.to_owned(),
        reason: "so".to_owned(),
        duration_us: 1,
        digest: None,
        log_tail: String::new(),
    }
}
