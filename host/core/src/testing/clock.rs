//! A clock that stands still until a test moves it.
//!
//! Invariants: the monotonic time never steps back; whoever watches [`TestClock::moved`] sees every move.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Monotonic, WallMs};

/// What both clocks show at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The calendar time.
    pub wall: WallMs,
    /// The time that only moves forward.
    pub monotonic: Monotonic,
}

/// A clock under control; clones are the same clock. It starts at 2026-01-01T00:00:00Z.
#[derive(Debug, Clone)]
pub struct TestClock {
    now: Arc<watch::Sender<Moment>>,
}

/// 2026-01-01T00:00:00Z
const START: Moment = Moment { wall: WallMs(1_767_225_600_000), monotonic: Monotonic(1_000_000_000) };

impl TestClock {
    /// A clock that stands at its start.
    #[must_use]
    pub fn new() -> Self {
        Self { now: Arc::new(watch::Sender::new(START)) }
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Moment {
        *self.now.borrow()
    }

    /// Lets `duration` pass on both clocks; the wall clock moves by whole milliseconds, a started one counts.
    pub fn advance(&self, duration: Duration) {
        self.now.send_modify(|now| {
            now.wall = now.wall.plus(duration);
            now.monotonic = now.monotonic.plus(duration);
        });
    }

    /// Sets the wall clock forward, as an operator or a time server does; no time passes.
    pub fn step_wall_forward(&self, by: Duration) {
        self.now.send_modify(|now| now.wall = now.wall.plus(by));
    }

    /// Sets the wall clock back, no further than to 1970; no time passes.
    pub fn step_wall_back(&self, by: Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.now.send_modify(|now| now.wall = WallMs(now.wall.0.saturating_sub(by_ms)));
    }

    /// Changes whenever the clock moves, so that waiters look again.
    #[must_use]
    pub fn moved(&self) -> watch::Receiver<Moment> {
        self.now.subscribe()
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn wall(&self) -> WallMs {
        self.now().wall
    }

    fn monotonic(&self) -> Monotonic {
        self.now().monotonic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_the_wall_clock_let_no_time_pass() {
        let clock = TestClock::new();
        clock.advance(Duration::from_micros(1500));
        assert_eq!(clock.wall(), WallMs(START.wall.0 + 2), "a started millisecond counts");
        assert_eq!(clock.monotonic().since(START.monotonic), Duration::from_micros(1500));
        clock.step_wall_back(Duration::from_secs(3));
        clock.step_wall_forward(Duration::from_secs(1));
        assert_eq!(clock.wall(), WallMs(START.wall.0 + 2 - 2000));
        assert_eq!(clock.monotonic().since(START.monotonic), Duration::from_micros(1500));
    }

    #[test]
    fn a_watcher_sees_that_it_moved() {
        let clock = TestClock::new();
        let mut moved = clock.moved();
        assert!(!moved.has_changed().expect("the clock lives"));
        clock.advance(Duration::from_millis(1));
        assert_eq!(*moved.borrow_and_update(), clock.now());
    }
}
