//! A store on a bad disk, and a caller who knows what it should answer.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use pelton_core::clock::{Monotonic, WallMs};
use pelton_core::engine::{
    Browse, Bulk, BulkAction, Cursor, Definitions, Health, LeaseRequest, LeaseToken, Position, Progress, QueueCounts,
    QueueDefinition, QueueId, Select, Settlement, Verdict,
};
use pelton_core::name::QueueName;
use pelton_core::retry::RetryPolicy;

use super::disk::{Faults, SimDisk};
use super::model::{Change, Entry, Id, Model, Place, identify, seen};
use crate::command::{Command, Now, Reply, Request, Ticket};
use crate::prepare::prepare_settlement;
use crate::store::Store;
use crate::tables::HELD;
use crate::tuning::Tuning;

/// Names, their dead-letter queues and most attempts.
pub(super) const QUEUES: [(&str, Option<&str>, u32); 4] =
    [("dead", None, 2), ("first", Some("dead"), 2), ("second", None, 3), ("third", Some("dead"), 1)];
/// Reopenings in a row after which the disk must be good again.
const REOPEN_TRIES: usize = 50;

/// The address of a reply: a number, and whether anybody listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) number: u64,
    pub(super) listens: bool,
}

impl Ticket for Caller {
    fn abandoned(&self) -> bool {
        !self.listens
    }
}

/// What was asked under a number.
#[derive(Debug)]
pub(super) enum Asked {
    Append(Change),
    Settle(Vec<(LeaseToken, Option<Change>)>),
    Lease {
        queue: u32,
        max: usize,
        ttl: Option<Duration>,
    },
    Bulk {
        change: Change,
        skipped: u64,
    },
    /// A step of a change to listed messages: these change, or none of them in this step.
    Listed {
        change: Change,
        skipped: u64,
    },
    Define,
    Extend(LeaseToken, Duration),
    Release(Vec<LeaseToken>),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) token: LeaseToken,
    pub(super) ends: Option<Monotonic>,
}

pub(super) struct World {
    pub(super) random: fastrand::Rng,
    pub(super) disk: SimDisk,
    pub(super) tuning: Tuning,
    pub(super) store: Option<Store<Caller>>,
    pub(super) now: Now,
    /// The latest that the wall clock ever showed.
    pub(super) latest: WallMs,
    pub(super) model: Model,
    pub(super) leases: BTreeMap<Id, Held>,
    /// Tokens that were once good.
    pub(super) spent: Vec<LeaseToken>,
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) give_back: Vec<LeaseToken>,
    pub(super) board: BTreeMap<u32, QueueCounts>,
    /// Which queues the last definitions had.
    pub(super) declared: [bool; QUEUES.len()],
    /// What the store goes by: a queue that is not declared keeps its retries until the store is opened again.
    pub(super) attempts_max: [u32; QUEUES.len()],
    /// Where each message lay when the queues were last browsed.
    pub(super) positions: BTreeMap<Id, Position>,
    /// What the last step of a change to listed messages came to: how many it changed and passed over, and the rest.
    pub(super) progress: Option<Progress>,
    pub(super) next_message: u64,
    pub(super) next_caller: u64,
    pub(super) trace: DefaultHasher,
    /// How often each thing happened: a simulation that never crashes proves nothing.
    pub(super) seen: BTreeMap<&'static str, u64>,
}

fn small_tuning(random: &mut fastrand::Rng) -> Tuning {
    Tuning {
        cache_bytes: 1 << 20,
        window_entries: random.usize(1..6),
        window_bytes: random.usize(200..2000),
        windows_bytes: random.usize(200..4000),
        refill_entries: random.usize(1..5),
        refill_below: random.usize(0..4),
        due_entries: random.usize(1..5),
        lease_entries: random.usize(1..8),
        lease_bytes: random.usize(100..2000),
        settled_remembered: random.usize(1..8),
        attempts_kept: random.u32(1..4),
        inline_bytes: 24,
        inline_bytes_shared: 8,
        chunk_bytes: random.usize(16..64),
        bulk_scan_rows: random.usize(1..6),
        page_bytes: random.usize(100..4000),
        quick_repair_bytes: if random.bool() { 0 } else { u64::MAX },
        idle: Duration::from_millis(random.u64(1..500)),
        reopen_min: Duration::from_millis(5),
        reopen_max: Duration::from_millis(40),
        ..Tuning::default()
    }
}

pub(super) fn number_of(name: &str) -> u32 {
    let at = QUEUES.iter().position(|(known, _, _)| *known == name);
    at.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX)
}

pub(super) fn definitions(declared: &[bool]) -> Definitions {
    let name = |text: &str| QueueName::new(text).expect("a valid name");
    let declared = QUEUES.iter().zip(declared).filter(|(_, declared)| **declared).map(|(queue, _)| queue);
    let queues = declared.map(|(text, dead_letter, max_attempts)| QueueDefinition {
        name: name(text),
        dead_letter: dead_letter.map(name),
        retry: RetryPolicy { max_attempts: *max_attempts, ..RetryPolicy::default() },
    });
    Definitions { queues: queues.collect() }
}

impl World {
    pub(super) fn new(seed: u64, lies: bool) -> Result<Self, String> {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new(random.fork());
        let tuning = small_tuning(&mut random);
        let now = Now { wall: WallMs(1_000_000), monotonic: Monotonic(0) };
        let mut world = Self {
            random,
            disk,
            tuning,
            store: None,
            now,
            latest: now.wall,
            model: Model::default(),
            leases: BTreeMap::new(),
            spent: Vec::new(),
            asked: BTreeMap::new(),
            give_back: Vec::new(),
            board: BTreeMap::new(),
            declared: [true; QUEUES.len()],
            attempts_max: QUEUES.map(|(_, _, attempts_max)| attempts_max),
            positions: BTreeMap::new(),
            progress: None,
            next_message: 1,
            next_caller: 0,
            trace: DefaultHasher::new(),
            seen: BTreeMap::new(),
        };
        world.restart()?;
        // The file is whole before the faults begin: it is created under another name and renamed.
        world.disk.set_lies(lies);
        Ok(world)
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }

    /// All that was answered, as one number.
    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// One turn: time passes, something may break, something is asked.
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.pass_time();
        if self.random.f64() < 0.08 {
            self.arm_faults();
        }
        match self.random.usize(..20) {
            0 => self.apply(Vec::new()).and_then(|()| self.ask_bulk()),
            1 => self.compare(),
            2 if self.random.bool() => {
                self.disk.cut_power();
                self.recover()
            }
            3 => self.apply(Vec::new()).and_then(|()| self.ask_listed()),
            4 if self.random.bool() => self.apply(Vec::new()).and_then(|()| self.ask_define()),
            _ => {
                let count = self.random.usize(..5);
                let mut used = BTreeSet::new();
                let commands = (0..count).map(|_| self.command(&mut used)).collect();
                self.apply(commands)
            }
        }
    }

    fn pass_time(&mut self) {
        let ms = [0, self.random.u64(..20), self.random.u64(..400), self.random.u64(..3000)][self.random.usize(..4)];
        self.now.monotonic = self.now.monotonic.plus(Duration::from_millis(ms));
        self.now.wall = self.now.wall.plus(Duration::from_millis(ms));
        self.latest = self.latest.max(self.now.wall);
        if self.random.f64() < 0.02 {
            self.now.wall = WallMs(self.now.wall.0 - self.random.u64(..5000));
        }
    }

    pub(super) fn arm_faults(&mut self) {
        let random = &mut self.random;
        let some = |random: &mut fastrand::Rng, most| Some(random.u64(..most));
        let faults = match random.usize(..5) {
            0 => Faults { sync_in: some(random, 3), ..Faults::default() },
            1 => Faults { write_in: some(random, 40), ..Faults::default() },
            2 => Faults { read_in: some(random, 20), ..Faults::default() },
            3 => Faults { full_for: random.u64(1..30), ..Faults::default() },
            _ => Faults { crash_in: some(random, 60), ..Faults::default() },
        };
        self.disk.set_faults(faults);
    }

    pub(super) fn now(&self) -> Now {
        self.now
    }

    /// Feeds the store one batch and checks everything that it answers.
    pub(super) fn apply(&mut self, mut commands: Vec<Command<Caller>>) -> Result<(), String> {
        if !self.give_back.is_empty() {
            let tokens = std::mem::take(&mut self.give_back);
            let ticket = self.caller(Asked::Release(tokens.clone()));
            commands.insert(0, Command { ticket, request: Request::Release(tokens) });
        }
        let now = self.now();
        let was_up = self.store().health() == Health::Ready;
        let expiring = if was_up { self.expiring() } else { Vec::new() };
        let mut replies = Vec::new();
        self.store().accept(commands, now, &mut replies);
        self.read_board();
        for (caller, reply) in std::mem::take(&mut replies) {
            self.check_reply(caller, reply)?;
        }
        self.store().commit(now, &mut replies);
        self.read_board();
        let committed = was_up && self.store().health() == Health::Ready;
        for change in expiring {
            if committed { self.model.apply(change) } else { self.model.doubt(change) }
        }
        for (caller, reply) in std::mem::take(&mut replies) {
            self.check_reply(caller, reply)?;
        }
        self.store().read_ahead(&mut replies);
        for (caller, reply) in replies {
            self.check_reply(caller, reply)?;
        }
        self.read_board();
        match self.store().health() {
            Health::Ready if was_up => self.check_counts(),
            Health::Failed(reason) => Err(format!("the store stopped: {reason}")),
            _ => self.recover(),
        }
    }

    /// What the writer's thread publishes at the same moments.
    fn read_board(&mut self) {
        for counts in self.store().take_changed_counts() {
            self.board.insert(counts.id.0, counts);
        }
    }

    pub(super) fn store(&mut self) -> &mut Store<Caller> {
        self.store.as_mut().expect("the store is open between steps")
    }

    /// Ends the leases whose time is up; what becomes of their messages when the next commit succeeds.
    fn expiring(&mut self) -> Vec<Change> {
        let now = self.now.monotonic;
        let ended: Vec<Id> = self
            .leases
            .iter()
            .filter(|(_, held)| held.ends.is_some_and(|ends| ends <= now))
            .map(|(id, _)| *id)
            .collect();
        let mut changes = Vec::new();
        for id in ended {
            if let Some(held) = self.leases.remove(&id) {
                self.spent.push(held.token);
            }
            let entry = self.model.entries[&id].clone();
            let history = (entry.history + 1).min(self.tuning.attempts_kept);
            let counted = Entry { attempts: entry.attempts + 1, history, ..entry };
            let last = counted.attempts >= self.attempts_max[counted.queue as usize];
            changes.push(vec![(id, Some(if last { self.died(&counted) } else { counted }))]);
            self.count("lease expired");
        }
        changes
    }

    /// After a failure: the store comes back by itself, or with the power; then nothing may be missing.
    fn recover(&mut self) -> Result<(), String> {
        for _ in 0..REOPEN_TRIES {
            if self.disk.is_off() {
                self.count("power cut");
                self.store = None;
                self.asked.clear_unanswered(&mut self.model);
                self.disk.restore_power();
                if self.random.f64() < 0.2 {
                    let crash_in = Some(self.random.u64(..40));
                    self.disk.set_faults(Faults { crash_in, ..Faults::default() });
                }
                if self.restart().is_err() && !self.disk.is_off() {
                    return self.restart();
                }
            } else {
                self.count("reopened");
                if self.disk.is_full() {
                    self.count("reopened while full");
                }
                self.now.monotonic = self.now.monotonic.plus(self.tuning.reopen_max);
                let mut replies = Vec::new();
                let now = self.now();
                self.store().accept(Vec::new(), now, &mut replies);
                for (caller, reply) in replies {
                    self.check_reply(caller, reply)?;
                }
            }
            if let Some(store) = &self.store {
                match store.health() {
                    Health::Ready => return self.check_recovered(),
                    Health::Failed(reason) => return Err(format!("the store could not be reopened: {reason}")),
                    Health::Recovering => {}
                }
            }
        }
        Err("the store never came back".to_owned())
    }

    fn restart(&mut self) -> Result<(), String> {
        self.store = None;
        let seed = self.random.u64(..);
        let store =
            Store::open(Box::new(self.disk.clone()), self.tuning.clone(), seed).map_err(|error| error.to_string())?;
        self.store = Some(store);
        let (now, mut replies) = (self.now(), Vec::new());
        let ticket = Caller { number: 0, listens: true };
        let command = Command { ticket, request: Request::Define(definitions(&self.declared)) };
        self.store().accept(vec![command], now, &mut replies);
        match replies.pop() {
            Some((_, Reply::Defined(Ok(defined)))) => self.check_defined(&defined, false),
            // Only what comes after a failure that the disk was told to have.
            other => Err(format!("defining the queues gave {other:?}")),
        }
    }

    fn check_recovered(&mut self) -> Result<(), String> {
        for (attempts_max, declared) in self.attempts_max.iter_mut().zip(self.declared) {
            if !declared {
                *attempts_max = RetryPolicy::default().max_attempts;
            }
        }
        self.spent.extend(std::mem::take(&mut self.leases).into_values().map(|held| held.token));
        self.give_back.clear();
        if self.spent.len() > 100 {
            self.spent.drain(..50);
        }
        self.read_board();
        self.compare()?;
        self.check_counts()
    }

    /// Compares everything on disk with what should be there.
    pub(super) fn compare(&mut self) -> Result<(), String> {
        self.disk.set_faults(Faults::default());
        let summary = self.store().verify().map_err(|wrong| wrong.join("; "))?;
        let actual = self.browse()?;
        let rows: usize = summary.queues.values().map(|(ready, due)| ready.len() + due.len()).sum();
        if rows != actual.len() {
            return Err(format!("{rows} rows, and browsing shows {}", actual.len()));
        }
        self.count("compared");
        self.model.compare(&actual)
    }

    fn browse(&mut self) -> Result<BTreeMap<Id, Entry>, String> {
        let mut actual = BTreeMap::new();
        self.positions.clear();
        for queue in 0..QUEUES.len() as u32 {
            let mut after: Option<Cursor> = None;
            loop {
                let (now, mut replies) = (self.now(), Vec::new());
                let ticket = Caller { number: 0, listens: true };
                let command = Command { ticket, request: Request::Snapshot(QueueId(queue)) };
                self.store().accept(vec![command], now, &mut replies);
                let mut snapshot = None;
                for (caller, reply) in replies {
                    match reply {
                        Reply::Snapshot(made) => snapshot = made.ok(),
                        // Time passed meanwhile, so that somebody who waited may be served.
                        reply => self.check_reply(caller, reply)?,
                    }
                }
                let snapshot = snapshot.ok_or("there was no snapshot")?;
                let what = Browse { queue: QueueId(queue), after, max: self.random.usize(1..10) };
                let page = snapshot.page(&what, self.tuning.page_bytes).map_err(|error| error.to_string())?;
                for item in page.items {
                    let id = identify(&item.message, &item.topic)?;
                    self.positions.insert(id, item.position);
                    if actual.insert(id, seen(queue, &item, number_of)).is_some() {
                        return Err(format!("message {id} is there twice"));
                    }
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(actual)
    }

    /// No more faults: everything that is not held must be delivered within bounded time, and leave nothing behind.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.compare()?;
        for _ in 0..2000 {
            self.now.monotonic = self.now.monotonic.plus(Duration::from_secs(10));
            self.now.wall = self.now.wall.plus(Duration::from_secs(10));
            self.latest = self.latest.max(self.now.wall);
            let waiting = self.model.entries.values().filter(|entry| entry.place != Place::Due(HELD)).count();
            if waiting == 0 {
                return self.check_empty();
            }
            let mut commands: Vec<Command<Caller>> = Vec::new();
            let done: Vec<Id> = self.leases.iter().filter(|(_, held)| held.ends.is_none()).map(|(id, _)| *id).collect();
            for id in done {
                let lease = self.leases[&id].token;
                let settlement = Settlement { lease, attempt: None, verdict: Verdict::Done { emits: Vec::new() } };
                let ticket = self.caller(Asked::Settle(vec![(lease, Some(vec![(id, None)]))]));
                commands.push(Command {
                    ticket,
                    request: Request::Settle(vec![prepare_settlement(settlement, &self.tuning)]),
                });
            }
            for queue in 0..QUEUES.len() as u32 {
                let want = LeaseRequest { queue: QueueId(queue), max: 5, wait: Duration::ZERO, ttl: None };
                let ticket = self.caller(Asked::Lease { queue, max: 5, ttl: None });
                commands.push(Command { ticket, request: Request::Lease(want) });
            }
            self.apply(commands)?;
        }
        Err(format!("messages are stuck: {:?}", self.model.entries))
    }

    fn check_empty(&mut self) -> Result<(), String> {
        for queue in 0..QUEUES.len() as u32 {
            let in_queue = |entry: &&Entry| entry.queue == queue;
            let listed = self.model.entries.values().filter(in_queue).count();
            let change = self.model.entries.iter().filter(|(_, entry)| entry.queue == queue).map(|(id, _)| (*id, None));
            let ticket_change: Change = change.collect();
            debug_assert_eq!(listed, ticket_change.len());
            let ticket = self.caller(Asked::Bulk { change: ticket_change, skipped: 0 });
            let job = Bulk {
                queue: QueueId(queue),
                select: Select::All,
                action: BulkAction::Discard,
                after: None,
                max: 1000,
            };
            self.apply(vec![Command { ticket, request: Request::Bulk(job) }])?;
        }
        self.compare()?;
        let summary = self.store().verify().map_err(|wrong| wrong.join("; "))?;
        if summary.bodies + summary.attempts > 0 { Err(format!("something is left over: {summary:?}")) } else { Ok(()) }
    }
}

/// Requests without an answer when the power went.
trait Unanswered {
    fn clear_unanswered(&mut self, model: &mut Model);
}

impl Unanswered for BTreeMap<u64, Asked> {
    fn clear_unanswered(&mut self, model: &mut Model) {
        for asked in std::mem::take(self).into_values() {
            match asked {
                Asked::Append(change) | Asked::Bulk { change, .. } | Asked::Listed { change, .. } => {
                    model.doubt(change)
                }
                Asked::Settle(batch) => {
                    batch.into_iter().filter_map(|(_, change)| change).for_each(|change| model.doubt(change))
                }
                Asked::Lease { .. } | Asked::Extend(..) | Asked::Release(_) | Asked::Define => {}
            }
        }
    }
}
