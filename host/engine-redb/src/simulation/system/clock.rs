//! Time in the simulation: tokio's own, which stands still while anything can be done, and goes on from one process to the next.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use pelton_core::clock::{Clock, Monotonic, WallMs};
use tokio::time::Instant;

use crate::command::Now;

#[derive(Debug)]
struct Reading {
    wall: WallMs,
    monotonic: Monotonic,
    /// When the process that runs began; none between two.
    since: Option<Instant>,
    /// The latest that the wall clock ever showed, as far as anybody looked.
    latest: WallMs,
}

/// Both clocks. Reads tokio's time, so that it is to be asked inside the runtime of the process.
#[derive(Debug)]
pub(super) struct SimClock(Mutex<Reading>);

impl SimClock {
    /// 2026-01-01T00:00:00Z
    pub(super) fn new() -> Self {
        let wall = WallMs(1_767_225_600_000);
        Self(Mutex::new(Reading { wall, monotonic: Monotonic(1_000_000_000), since: None, latest: wall }))
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        let mut reading = self.0.lock().expect("nobody panics while holding the clock");
        if let Some(since) = reading.since {
            let now = Instant::now();
            let passed = now.saturating_duration_since(since);
            // Whole milliseconds only: what is left counts with the next look.
            let passed = Duration::from_millis(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
            reading.wall = reading.wall.plus(passed);
            reading.monotonic = reading.monotonic.plus(passed);
            reading.since = Some(since + passed);
        }
        reading.latest = reading.latest.max(reading.wall);
        reading
    }

    /// A process begins.
    pub(super) fn begin(&self) {
        self.reading().since = Some(Instant::now());
    }

    /// It ended; the next one begins after so long.
    pub(super) fn end(&self, pause: Duration) {
        let mut reading = self.reading();
        reading.since = None;
        reading.wall = reading.wall.plus(pause);
        reading.monotonic = reading.monotonic.plus(pause);
        reading.latest = reading.latest.max(reading.wall);
    }

    /// Sets the wall clock.
    pub(super) fn step_wall(&self, forward: bool, by: Duration) {
        let mut reading = self.reading();
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        reading.wall = WallMs(if forward { reading.wall.0 + by_ms } else { reading.wall.0.saturating_sub(by_ms) });
        reading.latest = reading.latest.max(reading.wall);
    }

    pub(super) fn now(&self) -> Now {
        let reading = self.reading();
        Now { wall: reading.wall, monotonic: reading.monotonic }
    }

    /// The latest that the wall clock ever showed.
    pub(super) fn latest(&self) -> WallMs {
        self.reading().latest
    }
}

impl Clock for SimClock {
    fn wall(&self) -> WallMs {
        self.reading().wall
    }

    fn monotonic(&self) -> Monotonic {
        self.reading().monotonic
    }
}
