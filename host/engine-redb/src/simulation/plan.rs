//! What a run is about: which features it has, and how its queues are declared.

use std::time::Duration;

use pelton_core::engine::{Bounds, DeadCode, Definitions, Expired, Order, Overflow, QueueDefinition};
use pelton_core::name::{QueueName, ScheduleName};
use pelton_core::retry::{Backoff, RetryPolicy};

use crate::tables::{RANK, rank_of};
use crate::tuning::Tuning;

/// Names of queues; their place here is their id.
pub(super) const QUEUES: [&str; 4] = ["dead", "first", "second", "third"];
/// The queue that holds the dead letters of others.
pub(super) const GRAVEYARD: u32 = 0;
pub(super) const SCHEDULES: [&str; 2] = ["daily", "hourly"];

/// What a run has beside plain messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Features {
    pub(super) delays: bool,
    pub(super) expiry: bool,
    pub(super) priority: bool,
    pub(super) keys: bool,
    pub(super) dedup: bool,
    pub(super) bounds: bool,
    pub(super) ticks: bool,
    pub(super) pauses: bool,
    pub(super) lost: bool,
    /// Both clocks step by hours.
    pub(super) clock: bool,
    /// Settings change while messages lie in the queues.
    pub(super) changes: bool,
    /// Others use the disk too, so that its room comes and goes.
    pub(super) small_disk: bool,
}

impl Features {
    pub(super) fn random(random: &mut fastrand::Rng) -> Self {
        if random.f64() < 0.1 {
            return Self::default();
        }
        let mut some = |often| random.f64() < often;
        Self {
            delays: some(0.5),
            expiry: some(0.4),
            priority: some(0.4),
            keys: some(0.5),
            dedup: some(0.4),
            bounds: some(0.4),
            ticks: some(0.3),
            pauses: some(0.3),
            lost: some(0.4),
            clock: some(0.2),
            changes: some(0.5),
            small_disk: some(0.2),
        }
    }
}

/// How a queue was declared last.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) declared: bool,
    pub(super) dead_letter: Option<u32>,
    pub(super) attempts_max: u32,
    pub(super) age_max_ms: Option<u64>,
    pub(super) backoff_max_ms: u64,
    pub(super) keyed: bool,
    pub(super) priority: bool,
    pub(super) bounds: Bounds,
    pub(super) drops_expired: bool,
}

impl Settings {
    pub(super) fn random(queue: u32, features: &Features, random: &mut fastrand::Rng) -> Self {
        let keyed = features.keys && random.f64() < 0.7;
        let bounded = features.bounds && random.f64() < 0.6;
        let overflow = [Overflow::Refuse, Overflow::DropOldest, Overflow::DeadLetter][random.usize(..3)];
        let messages_max = (bounded && random.f64() < 0.7).then(|| random.u64(1..12));
        let bytes_max = (bounded && random.f64() < 0.4).then(|| random.u64(100..4000));
        let target = [Some(GRAVEYARD), Some(GRAVEYARD), None][random.usize(..3)];
        Self {
            declared: true,
            dead_letter: target.filter(|target| *target != queue),
            attempts_max: random.u32(1..4),
            age_max_ms: if random.f64() < 0.2 { Some(random.u64(1..20_000)) } else { None },
            backoff_max_ms: random.u64(2000..6000),
            keyed,
            priority: !keyed && features.priority && random.f64() < 0.7,
            bounds: if bounded { Bounds { messages_max, bytes_max, overflow } } else { Bounds::default() },
            drops_expired: random.bool(),
        }
    }

    /// Why a message died whose delivery failed, if it did.
    pub(super) fn exhausted(&self, attempts: u32, age: Duration) -> Option<DeadCode> {
        let is_old = self.age_max_ms.is_some_and(|max| age > Duration::from_millis(max));
        let too_old = is_old.then_some(DeadCode::MaxAge);
        if attempts >= self.attempts_max { Some(DeadCode::MaxAttempts) } else { too_old }
    }

    /// Where in `ready` a message of this priority is stored.
    pub(super) fn rank(&self, priority: u8) -> u8 {
        if self.priority { rank_of(priority) } else { RANK }
    }
}

pub(super) fn number_of(name: &str) -> u32 {
    QUEUES.iter().position(|known| *known == name).and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX)
}

/// The declared queues and schedules.
pub(super) fn definitions(
    settings: &[Settings],
    schedules: &[bool; SCHEDULES.len()],
    free_bytes_min: u64,
) -> Definitions {
    let name = |queue: u32| QueueName::new(QUEUES[queue as usize]).expect("a valid name");
    let definition = |(queue, settings): (u32, &Settings)| QueueDefinition {
        dead_letter: settings.dead_letter.map(name),
        retry: RetryPolicy {
            max_attempts: settings.attempts_max,
            max_age: settings.age_max_ms.map(Duration::from_millis),
            backoff: Backoff { max: Duration::from_millis(settings.backoff_max_ms), ..Backoff::default() },
        },
        order: if settings.keyed { Order::Key } else { Order::Arrival },
        priority: settings.priority,
        bounds: settings.bounds,
        expired: if settings.drops_expired { Expired::Drop } else { Expired::DeadLetter },
        ..QueueDefinition::new(name(queue))
    };
    let queues = (0..).zip(settings).filter(|(_, settings)| settings.declared).map(definition).collect();
    let scheduled = SCHEDULES.iter().zip(schedules).filter(|(_, declared)| **declared);
    let schedules = scheduled.map(|(name, _)| ScheduleName::new(name).expect("a valid name")).collect();
    Definitions { queues, schedules, free_bytes_min }
}

pub(super) fn small_tuning(random: &mut fastrand::Rng) -> Tuning {
    Tuning {
        cache_bytes: [1 << 20, 1 << 14][random.usize(..2)],
        window_entries: random.usize(1..6),
        window_bytes: random.usize(200..2000),
        windows_bytes: random.usize(200..4000),
        refill_entries: random.usize(1..5),
        refill_below: random.usize(0..4),
        due_entries: random.usize(1..5),
        leases: [random.usize(1..8), 1000][random.usize(..2)],
        lease_entries: random.usize(1..8),
        lease_bytes: random.usize(100..2000),
        settled_remembered: random.usize(1..8),
        attempts_kept: random.u32(1..4),
        inline_bytes: 24,
        inline_bytes_shared: 8,
        chunk_bytes: random.usize(16..64),
        park_after: Duration::from_millis(random.u64(0..30)),
        stage_on_lease: random.usize(0..4),
        sweep_rows: random.usize(1..6),
        sweep_wait: Duration::from_millis(random.u64(1..2000)),
        order_rows: random.usize(1..4),
        dedup_delete_rows: random.usize(1..4),
        bulk_scan_rows: random.usize(1..6),
        page_bytes: random.usize(100..4000),
        quick_repair_bytes: if random.bool() { 0 } else { u64::MAX },
        idle: Duration::from_millis(random.u64(1..500)),
        reserve_bytes: random.u64(1..60) * 4096,
        space_wait: Duration::from_millis(random.u64(1..1000)),
        reopen_min: Duration::from_millis(5),
        reopen_max: Duration::from_millis(40),
        ..Tuning::default()
    }
}
