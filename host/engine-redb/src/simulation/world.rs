//! A store on a bad disk, and a caller who knows what it should answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use pelton_core::clock::{Monotonic, WallMs};
use pelton_core::engine::{EntryId, Health, LeaseToken, OrderKey, Place as Told, Progress, QueueCounts, QueueId};

use super::disk::{Faults, SimDisk};
use super::model::{Change, Double, Entry, Facts, Id, IdentityKey, Model, Place};
use super::observe::{Deed, Span};
use super::plan::{Features, GRAVEYARD, QUEUES, SCHEDULES, Settings, small_tuning};
use crate::command::{Command, Now, Reply, Request, Ticket};
use crate::hash::Secret;
use crate::store::Store;
use crate::tuning::Tuning;

/// When a run begins: late enough for the clock to go back.
const START: WallMs = WallMs(1_000_000_000);
/// Room that is enough for everything.
const PLENTY_BYTES: u64 = 1 << 30;
const HOUR_MS: u64 = 60 * 60 * 1000;
/// Calls in a row after which a store that nobody asks anything has nothing left to do.
const QUIET_CALLS_MAX: usize = 1000;

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

/// One identity of a publish request.
#[derive(Debug, Clone)]
pub(super) struct AskedIdentity {
    pub(super) key: IdentityKey,
    pub(super) body: Vec<u8>,
    pub(super) ids: Vec<Id>,
    /// Where its entries begin in the request.
    pub(super) start: usize,
    /// Whether one with the same key was asked for earlier in the same batch, or the same request.
    pub(super) is_second: bool,
}

/// A publish request.
#[derive(Debug, Clone)]
pub(super) struct AskedAppend {
    /// What its entries become, in their order.
    pub(super) entries: Vec<(Id, Entry)>,
    pub(super) identities: Vec<AskedIdentity>,
    pub(super) tick: Option<(usize, u64)>,
    /// What it brings to each queue at most, and what those before it in the same batch do: messages and bytes.
    pub(super) brings: BTreeMap<u32, (u64, u64)>,
    pub(super) before: BTreeMap<u32, (u64, u64)>,
}

/// What was asked under a number.
#[derive(Debug)]
pub(super) enum Asked {
    Append(Box<AskedAppend>),
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
    /// A step of a change to messages that pass a filter: some of these change.
    Filtered,
    Define,
    Extend(LeaseToken, Duration),
    Release(Vec<LeaseToken>),
    Pause(u32, bool),
    PauseConsumer(bool),
    /// Which of all messages are leased.
    Held(Vec<bool>),
    Lost(Change),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) token: LeaseToken,
    pub(super) ends: Option<Monotonic>,
    pub(super) told: Told,
    /// Which lease request got it.
    pub(super) call: u64,
    /// Whether order was kept by key then.
    pub(super) keyed: bool,
}

/// What is known of one call of the store only.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// The second half: what was staged is being written.
    pub(super) committing: bool,
    /// Queues that may have dropped messages.
    pub(super) dropping: BTreeSet<u32>,
    /// What may become of a message instead.
    pub(super) alternatives: BTreeMap<Id, Vec<(Option<Entry>, Deed)>>,
    /// Messages that a change came to.
    pub(super) changed: Span,
    /// What the commands so far may bring to queues.
    pub(super) brings: BTreeMap<u32, (u64, u64)>,
    /// Identities asked for so far, with their bodies.
    pub(super) identities: Vec<(IdentityKey, Vec<u8>)>,
    /// Times of schedules asked for so far, none later than the one before.
    pub(super) ticks: BTreeMap<usize, Vec<u64>>,
    /// Leases that were given back just when they ran out.
    pub(super) released: BTreeSet<Id>,
    /// Messages that came to queues with bounds through appends.
    pub(super) admitted: BTreeMap<u32, BTreeSet<Id>>,
    /// The next position before.
    pub(super) position: u64,
    /// What lay in the queues before, and its bytes.
    pub(super) before: BTreeMap<Id, (u32, u64)>,
}

pub(super) struct World {
    pub(super) random: fastrand::Rng,
    pub(super) features: Features,
    pub(super) disk: SimDisk,
    pub(super) tuning: Tuning,
    pub(super) store: Option<Store<Caller>>,
    pub(super) secret: Secret,
    pub(super) now: Now,
    pub(super) model: Model,
    pub(super) facts: BTreeMap<Id, Facts>,
    pub(super) by_entry: HashMap<u64, Id>,
    pub(super) doubles: BTreeMap<u64, Double>,
    /// Messages whose time came; they stay available when the clock is set back.
    pub(super) ripe: BTreeSet<Id>,
    pub(super) leases: BTreeMap<Id, Held>,
    /// Tokens that were once good.
    pub(super) spent: Vec<LeaseToken>,
    /// What was leased when the store failed.
    pub(super) lost: Vec<(Id, QueueId, EntryId, Told)>,
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) give_back: Vec<LeaseToken>,
    pub(super) board: BTreeMap<u32, QueueCounts>,
    /// How the queues were declared last.
    pub(super) settings: Vec<Settings>,
    /// And before, while nobody knows which of them are in force.
    pub(super) settings_before: Option<Vec<Settings>>,
    /// Which queues ever changed their order.
    pub(super) turned: [bool; QUEUES.len()],
    pub(super) schedules: [bool; SCHEDULES.len()],
    pub(super) paused: [Option<bool>; QUEUES.len()],
    pub(super) consumer_paused: Option<bool>,
    /// As the store tells it.
    pub(super) consumer_told: bool,
    pub(super) turn: Turn,
    /// Messages that were passed by others that come after them: they must be gone when all is written.
    pub(super) passed: BTreeMap<Id, (Entry, String)>,
    /// Expired and dropped messages, as counted when they were last explained.
    pub(super) ended: [(u64, u64); QUEUES.len()],
    pub(super) next_position: u64,
    pub(super) commit_seen: u64,
    /// The model changed since the last look.
    pub(super) changed: bool,
    pub(super) shared_bodies: BTreeSet<u64>,
    pub(super) behind: usize,
    /// Keys that were leased, with their queue.
    pub(super) keys_leased: BTreeSet<(u32, u8)>,
    /// What the last step of a change to listed messages came to: how many it changed and passed over, and the rest.
    pub(super) progress: Option<Progress>,
    pub(super) next_message: u64,
    pub(super) next_caller: u64,
    pub(super) trace: DefaultHasher,
    /// How often the store was opened again.
    pub(super) recoveries: u64,
    tells: bool,
    /// What each opening of the store draws its nonces from, where that is the same every time: then only the epoch tells leases apart.
    pub(super) store_seed: Option<u64>,
    /// Below so much room on the disk no messages are taken.
    pub(super) free_bytes_min: u64,
    /// How often each thing happened: a simulation that never crashes proves nothing.
    pub(super) seen: BTreeMap<&'static str, u64>,
}

pub(super) fn order_key(key: u8) -> OrderKey {
    OrderKey(format!("key-{key}").into())
}

impl World {
    pub(super) fn new(seed: u64, lies: bool) -> Result<Self, String> {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new(random.fork());
        let tuning = small_tuning(&mut random);
        let features = Features::random(&mut random);
        let mut settings: Vec<Settings> =
            (0..QUEUES.len() as u32).map(|queue| Settings::random(queue, &features, &mut random)).collect();
        settings[GRAVEYARD as usize].dead_letter = None;
        let now = Now { wall: START, monotonic: Monotonic(0) };
        let free_bytes_min = [0, random.u64(..200_000)][random.usize(..2)];
        let store_seed = if random.f64() < 0.3 { Some(random.u64(..)) } else { None };
        let mut world = Self {
            random,
            features,
            disk,
            tuning,
            store: None,
            secret: Secret { first: 0, second: 0 },
            now,
            model: Model::default(),
            facts: BTreeMap::new(),
            by_entry: HashMap::new(),
            doubles: BTreeMap::new(),
            ripe: BTreeSet::new(),
            leases: BTreeMap::new(),
            spent: Vec::new(),
            lost: Vec::new(),
            asked: BTreeMap::new(),
            give_back: Vec::new(),
            board: BTreeMap::new(),
            settings,
            settings_before: None,
            turned: [false; QUEUES.len()],
            schedules: [features.ticks; SCHEDULES.len()],
            paused: [Some(false); QUEUES.len()],
            consumer_paused: Some(false),
            consumer_told: false,
            turn: Turn::default(),
            passed: BTreeMap::new(),
            ended: [(0, 0); QUEUES.len()],
            next_position: 0,
            commit_seen: 0,
            changed: true,
            shared_bodies: BTreeSet::new(),
            behind: 0,
            keys_leased: BTreeSet::new(),
            progress: None,
            next_message: 1,
            next_caller: 0,
            trace: DefaultHasher::new(),
            recoveries: 0,
            store_seed,
            free_bytes_min,
            tells: std::env::var_os("PELTON_SIM_TRACE").is_some(),
            seen: BTreeMap::new(),
        };
        world.model.ticks = world.new_ticks();
        if !world.restart()? {
            return Err("a good disk could not be opened".to_owned());
        }
        // The file is whole before the faults begin: it is created under another name and renamed.
        world.disk.set_lies(lies);
        world.recovered()?;
        Ok(world)
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }

    /// Tells what goes on, where somebody wants to know: set `PELTON_SIM_TRACE`.
    #[expect(clippy::print_stderr, reason = "it is for who looks into a failing seed")]
    pub(super) fn tell(&self, what: impl Fn() -> String) {
        if self.tells {
            eprintln!("{} {}: {}", self.now.wall.0, self.now.monotonic.0 / 1_000_000, what());
        }
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
        if self.features.small_disk && self.random.f64() < 0.1 {
            self.change_room();
        }
        match self.random.usize(..22) {
            0 => self.ask_bulk(),
            1 => self.compare(),
            2 if self.random.bool() => {
                self.disk.cut_power();
                self.recover()
            }
            2 => self.stop(),
            3 => self.ask_listed(),
            4 if self.random.bool() => self.ask_define(),
            5 if self.features.pauses => self.ask_pause(),
            6 if self.features.lost => self.ask_lost(),
            7 => self.ask_filtered(),
            8 if self.features.delays => self.ask_cancel(),
            _ => {
                let count = self.random.usize(..5);
                let mut used = BTreeSet::new();
                self.turn = Turn::default();
                let commands = (0..count).map(|_| self.command(&mut used)).collect();
                self.apply(commands)
            }
        }
    }

    fn pass_time(&mut self) {
        let ms = [0, self.random.u64(..20), self.random.u64(..400), self.random.u64(..3000)][self.random.usize(..4)];
        self.advance(ms, ms);
        if self.random.f64() < 0.02 {
            let by = self.random.u64(..5000);
            self.set_wall(WallMs(self.now.wall.0 - by));
        }
        if self.features.clock && self.random.f64() < 0.03 {
            let by = self.random.u64(..3 * HOUR_MS);
            let back = self.now.wall.0 > START.0 / 2;
            match self.random.usize(..3) {
                0 => self.advance(by, 0),
                1 if back => self.set_wall(WallMs(self.now.wall.0 - by)),
                _ => self.set_wall(WallMs(self.now.wall.0 + by)),
            }
            self.count("clock stepped by hours");
        }
    }

    pub(super) fn advance(&mut self, monotonic_ms: u64, wall_ms: u64) {
        self.now.monotonic = self.now.monotonic.plus(Duration::from_millis(monotonic_ms));
        self.set_wall(WallMs(self.now.wall.0 + wall_ms));
    }

    fn set_wall(&mut self, wall: WallMs) {
        self.now.wall = wall;
        for ((window, _), known) in &mut self.model.identities {
            known.forgettable |= wall.since(known.accepted) >= Duration::from_secs(*window);
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

    /// Others take room on the disk, or leave it.
    pub(super) fn change_room(&mut self) {
        let free = [self.random.u64(..40_000), self.random.u64(..400_000), 4_000_000][self.random.usize(..3)];
        self.disk.set_room(Some(free), self.tuning.reserve_bytes);
    }

    /// Somebody makes room on the disk.
    pub(super) fn make_room(&mut self) {
        self.disk.set_room(Some(PLENTY_BYTES), self.tuning.reserve_bytes);
    }

    /// Whether the store is open.
    pub(super) fn is_up(&mut self) -> bool {
        matches!(self.store().health(), Health::Ready | Health::Full)
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
        let was_up = self.is_up();
        self.turn.committing = false;
        self.turn.position = self.next_position;
        self.turn.before =
            self.model.entries.iter().map(|(id, entry)| (*id, (entry.queue, self.facts[id].cost))).collect();
        for (id, entry) in &self.model.entries {
            if matches!(entry.place, Place::Due(due) if due <= now.wall.0) {
                self.ripe.insert(*id);
            } else if !matches!(entry.place, Place::Due(_)) {
                self.ripe.remove(id);
            }
        }
        let mut replies = Vec::new();
        self.store().accept(commands, now, &mut replies);
        self.check_replies(std::mem::take(&mut replies))?;
        self.turn.committing = true;
        self.store().commit(now, &mut replies);
        self.check_replies(std::mem::take(&mut replies))?;
        self.store().read_ahead(&mut replies);
        self.check_replies(replies)?;
        let behind = self.store().behind();
        if behind != std::mem::replace(&mut self.behind, behind) {
            self.count("live/behind switch");
        }
        match self.store().health() {
            Health::Ready | Health::Full if was_up => {
                self.check_bounds()?;
                self.check_passed()?;
                self.check_counts()
            }
            Health::Failed(reason) => Err(format!("the store stopped: {reason}")),
            _ => self.recover(),
        }
    }

    /// Replies of one half of a call: first what was done, then what is there, then what else was answered.
    fn check_replies(&mut self, replies: Vec<(Caller, Reply)>) -> Result<(), String> {
        self.read_board();
        // What a commit answers is committed. What memory answers is so at once, and in this order.
        let committing = self.turn.committing;
        let of_commit = |reply: &Reply| match reply {
            Reply::Progress(_) | Reply::Defined(_) | Reply::Paused(_) | Reply::Lost(_) => true,
            Reply::Appended(_) | Reply::Settled(_) => committing,
            _ => false,
        };
        let (others, at_once): (Vec<_>, Vec<_>) = replies.into_iter().partition(|(_, reply)| of_commit(reply));
        for (caller, reply) in others {
            self.check_reply(caller, reply)?;
        }
        let is_up = self.is_up();
        if is_up && self.model.doubts.is_empty() {
            self.look(false)?;
            if self.turn.committing {
                for id in std::mem::take(&mut self.turn.released) {
                    self.leases.remove(&id);
                }
            }
        }
        for (caller, reply) in at_once {
            self.check_reply(caller, reply)?;
        }
        Ok(())
    }

    /// Lets the store do what it does by itself until nothing is left, so that what comes then can be foretold.
    pub(super) fn settle_down(&mut self) -> Result<(), String> {
        for _ in 0..QUIET_CALLS_MAX {
            self.turn = Turn::default();
            self.apply(Vec::new())?;
            let now = self.now();
            let is_quiet = self.store().next_deadline(now).is_none_or(|wait| !wait.is_zero());
            if is_quiet && self.give_back.is_empty() {
                self.turn = Turn::default();
                return Ok(());
            }
        }
        Err(format!("the store is always busy: {:?}, {:?}", self.board, self.leases))
    }

    /// What the writer's thread publishes at the same moments.
    pub(super) fn read_board(&mut self) {
        for counts in self.store().take_changed_counts() {
            self.board.insert(counts.id.0, counts);
        }
        if let Some(paused) = self.store().take_paused() {
            self.consumer_told = !paused.is_empty();
        }
    }

    pub(super) fn store(&mut self) -> &mut Store<Caller> {
        self.store.as_mut().expect("the store is open between steps")
    }
}
