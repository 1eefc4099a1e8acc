//! The clock that interrupts guest code: one thread that moves an engine's epoch on every millisecond.
//!
//! Invariants: it ticks while anything runs and for [`LINGER_TICKS`] after; then it sleeps until something does, so that an
//! idle broker wakes nobody. It keeps no engine alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::EngineWeak;

/// The length of a tick, and so the longest time a guest runs without being looked at.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// For how long it ticks on when nothing runs: waking it costs more than a short delivery.
const LINGER_TICKS: u32 = 100;

/// The thread's handle. Dropping it ends the thread at its next tick.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
}

/// Says that something runs, for as long as it exists.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a Shared);

impl Ticker {
    /// Starts the thread for the engine behind `engine`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let handle = thread::Builder::new().name("pelton-ticker".into()).spawn(move || tick(&engine, &seen))?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// Ticks until what it returns is dropped.
    pub(crate) fn run(&self) -> Running<'_> {
        // The order of the two accesses here and in `park_when_idle`, both sequentially consistent, makes it impossible that
        // each side misses the other's store.
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(&self.shared)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(engine: &EngineWeak, shared: &Shared) {
    let mut idle_ticks = 0;
    while !shared.stopped.load(Ordering::SeqCst) {
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        drop(engine);
        thread::sleep(TICK);
        idle_ticks = if shared.running.load(Ordering::SeqCst) == 0 { idle_ticks + 1 } else { 0 };
        if idle_ticks >= LINGER_TICKS {
            park_when_idle(shared);
            idle_ticks = 0;
        }
    }
}

fn park_when_idle(shared: &Shared) {
    shared.parked.store(true, Ordering::SeqCst);
    while shared.running.load(Ordering::SeqCst) == 0 && !shared.stopped.load(Ordering::SeqCst) {
        thread::park();
    }
    shared.parked.store(false, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Waits until `done`, at most ten seconds.
    fn eventually(done: impl Fn() -> bool) -> bool {
        let started = Instant::now();
        while !done() {
            if started.elapsed() > Duration::from_secs(10) {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    #[test]
    fn it_parks_when_idle_wakes_for_work_and_ends_with_its_handle() {
        let engine = wasmtime::Engine::default();
        let ticker = Ticker::start(engine.weak()).expect("a thread");
        let shared = Arc::clone(&ticker.shared);
        assert!(eventually(|| shared.parked.load(Ordering::SeqCst)), "it parks");
        let running = ticker.run();
        assert!(eventually(|| !shared.parked.load(Ordering::SeqCst)), "work wakes it");
        drop(running);
        drop(ticker);
        assert!(eventually(|| Arc::strong_count(&shared) == 1), "the thread ends");
    }
}
