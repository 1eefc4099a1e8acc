//! A store on a bad disk, and a caller who knows what it should answer.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use pelton_core::clock::{Monotonic, WallMs};
use pelton_core::engine::{
    Browse, Cursor, Definitions, Health, LeaseToken, Position, Progress, QueueCounts, QueueDefinition, QueueId,
};
use pelton_core::name::QueueName;
use pelton_core::retry::RetryPolicy;

use super::disk::{Faults, SimDisk};
use super::model::{Change, Entry, Id, Model, identify, seen};
use crate::command::{Command, Now, Reply, Request, Ticket};
use crate::hash::Secret;
use crate::store::Store;
use crate::tuning::Tuning;

/// Names, their dead-letter queues and most attempts.
pub(super) const QUEUES: [(&str, Option<&str>, u32); 4] =
    [("dead", None, 2), ("first", Some("dead"), 2), ("second", None, 3), ("third", Some("dead"), 1)];
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
    pub(super) secret: Secret,
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
        dead_letter: dead_letter.map(name),
        retry: RetryPolicy { max_attempts: *max_attempts, ..RetryPolicy::default() },
        ..QueueDefinition::new(name(text))
    });
    Definitions { queues: queues.collect(), ..Definitions::default() }
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
            secret: Secret { first: 0, second: 0 },
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
    pub(super) fn read_board(&mut self) {
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
                let command = Command { ticket, request: Request::Snapshot(Some(QueueId(queue))) };
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
}
