//! What all parts of the simulation share: the seed's random numbers, the record of what happened, and the first thing that was wrong.
//!
//! Everything runs on one thread, in an order that only the seed decides. The lock is never held across an `await`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard};

use pelton_core::clock::WallMs;
use pelton_core::engine::EntryId;

use super::clock::SimClock;
use super::ledger::Ledger;
use super::plan::Features;
use crate::simulation::disk::SimDisk;
use crate::tuning::Tuning;

/// See the module's head.
pub(super) struct World {
    pub(super) features: Features,
    pub(super) tuning: Tuning,
    pub(super) clock: Arc<SimClock>,
    pub(super) disk: SimDisk,
    state: Mutex<State>,
}

/// What changes.
pub(super) struct State {
    pub(super) random: fastrand::Rng,
    pub(super) ledger: Ledger,
    trace: DefaultHasher,
    /// How often each thing happened: a simulation that never crashes proves nothing.
    pub(super) seen: BTreeMap<&'static str, u64>,
    pub(super) wrong: Option<String>,
    /// No more faults, and every outcome is done.
    pub(super) calm: bool,
    /// The variant of the plan that runs.
    pub(super) variant: u32,
    /// Consumers that fail whatever they get.
    pub(super) outages: BTreeSet<String>,
    /// Keys that are being handled: by queue and key.
    pub(super) running: BTreeMap<(String, String), EntryId>,
    /// The store was reopened in this process: leases of before it ended, and who has them does not know.
    pub(super) reopened: bool,
    pub(super) next_call: u64,
    pub(super) next_message: u64,
    /// The time of the first plan.
    pub(super) begun: Option<WallMs>,
}

fn small_tuning(random: &mut fastrand::Rng) -> Tuning {
    let ms = std::time::Duration::from_millis;
    Tuning {
        cache_bytes: 1 << 20,
        window_entries: random.usize(1..8),
        window_bytes: random.usize(300..3000),
        windows_bytes: random.usize(300..8000),
        refill_entries: random.usize(1..6),
        refill_below: random.usize(0..4),
        due_entries: random.usize(1..6),
        lease_entries: random.usize(1..10),
        lease_bytes: random.usize(200..4000),
        settled_remembered: random.usize(1..8),
        attempts_kept: random.u32(1..6),
        inline_bytes: 24,
        inline_bytes_shared: 8,
        chunk_bytes: random.usize(16..64),
        park_after: ms(random.u64(0..30)),
        stage_on_lease: random.usize(1..8),
        sweep_rows: random.usize(1..8),
        sweep_wait: ms(random.u64(20..2000)),
        order_rows: random.usize(1..6),
        dedup_delete_rows: random.usize(1..6),
        bulk_scan_rows: random.usize(1..8),
        page_bytes: random.usize(100..4000),
        batch_commands: random.usize(1..20),
        batch_messages: random.usize(1..30),
        batch_appends: random.usize(1..10),
        quick_repair_bytes: if random.bool() { 0 } else { u64::MAX },
        idle: ms(random.u64(1..1000)),
        reopen_min: ms(5),
        reopen_max: ms(80),
        ..Tuning::default()
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new(random.fork());
        let tuning = small_tuning(&mut random);
        let features = Features::random(&mut random);
        let state = State {
            random,
            ledger: Ledger::default(),
            trace: DefaultHasher::new(),
            seen: BTreeMap::new(),
            wrong: None,
            calm: false,
            variant: 0,
            outages: BTreeSet::new(),
            running: BTreeMap::new(),
            reopened: false,
            next_call: 0,
            next_message: 0,
            begun: None,
        };
        Arc::new(Self { features, tuning, clock: Arc::new(SimClock::new()), disk, state: Mutex::new(state) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A number below `end`.
    pub(super) fn below(&self, end: u64) -> u64 {
        self.state().random.u64(..end)
    }

    pub(super) fn chance(&self, probability: f64) -> bool {
        self.state().random.f64() < probability
    }

    /// Takes note of something that must not be; only the first counts.
    pub(super) fn wrong(&self, what: String) {
        self.state().wrong(what);
    }

    pub(super) fn check(&self, result: Result<(), String>) {
        if let Err(what) = result {
            self.wrong(what);
        }
    }

    pub(super) fn count(&self, what: &'static str) {
        self.state().count(what);
    }

    /// Adds to the trace, which is the same for the same seed.
    pub(super) fn trace(&self, what: impl Hash) {
        let now = self.clock.now();
        let mut state = self.state();
        (now.wall, now.monotonic, what).hash(&mut state.trace);
    }
}

impl State {
    pub(super) fn wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }

    pub(super) fn trace_number(&self) -> u64 {
        self.trace.finish()
    }
}
