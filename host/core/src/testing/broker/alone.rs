//! Messages that may have brought the process down: their attempt counts, and they are tried again while nothing else runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Gate, ONE, Rig};
use crate::engine::DeadCode;
use crate::in_flight::InFlight;
use crate::runtime::Delivery;
use crate::testing::{FakeRuntime, MemoryEngine, TestClock, done, reject};

const SLOTS: usize = 8;
const BOOT: u64 = 5;

fn config() -> String {
    format!(
        "{ONE}concurrency = 3\n[queues.play]\n[[routes]]\nfrom = \"play\"\nto = [\"queue:play\"]\n\
         [consumers.player]\nqueue = \"play\"\ncomponent = \"player.wasm\"\nconcurrency = 1\n"
    )
}

/// Memory that a process leaves behind.
fn memory() -> Arc<[AtomicU64]> {
    (0..InFlight::words(SLOTS)).map(|_| AtomicU64::new(0)).collect()
}

/// What is in it now: what runs on in the process that had it does not change the copy.
fn left(memory: &[AtomicU64]) -> Arc<[AtomicU64]> {
    memory.iter().map(|word| AtomicU64::new(word.load(Ordering::SeqCst))).collect()
}

async fn start(
    engine: MemoryEngine,
    clock: TestClock,
    config: &str,
    runtime: FakeRuntime,
    memory: &Arc<[AtomicU64]>,
) -> Rig {
    let record = Arc::new(InFlight::new(memory.clone(), BOOT));
    Rig::start_with(engine, clock, config, runtime.slots(SLOTS), |parts| parts.in_flight = Some(record)).await
}

async fn first(config: &str, runtime: FakeRuntime, memory: &Arc<[AtomicU64]>) -> Rig {
    let clock = TestClock::new();
    start(MemoryEngine::on_test_clock(&clock), clock, config, runtime, memory).await
}

fn stuck() -> FakeRuntime {
    let stuck = |_| async {
        Gate::closed().pass().await;
        done()
    };
    FakeRuntime::new().handler_async("worker", stuck).handler_async("player", stuck)
}

/// A runtime that rejects what it gets, so that dead letters tell of it, and the most calls at once during those of second attempts.
fn watching() -> (FakeRuntime, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let running = Arc::new(AtomicUsize::new(0));
    let (beside, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (most_beside, most) = (beside.clone(), peak.clone());
    let handle = move |delivery: Delivery| {
        let (running, beside, peak) = (running.clone(), most_beside.clone(), most.clone());
        async move {
            running.fetch_add(1, Ordering::SeqCst);
            for _ in 0..20 {
                tokio::task::yield_now().await;
                let now = running.load(Ordering::SeqCst);
                peak.fetch_max(now, Ordering::SeqCst);
                if delivery.attempt == 2 {
                    beside.fetch_max(now, Ordering::SeqCst);
                }
            }
            running.fetch_sub(1, Ordering::SeqCst);
            reject("never")
        }
    };
    let runtime = FakeRuntime::new().handler_async("worker", handle.clone()).handler_async("player", handle);
    (runtime, beside, peak)
}

#[tokio::test]
async fn what_ran_when_the_process_died_counts_and_is_tried_alone() {
    let memory = memory();
    let rig = first(&config(), stuck(), &memory).await;
    rig.publish("work.new", &["1", "2", "3", "4", "5", "6"]).await;
    rig.publish("play", &["7", "8"]).await;
    rig.until("work", (3, 3, 0)).await;
    rig.until("play", (1, 1, 0)).await;
    rig.until_invoked(4).await;
    let (runtime, beside, peak) = watching();
    let rig = start(rig.engine.crash(), rig.clock.clone(), &config(), runtime, &left(&memory)).await;
    assert_eq!(rig.metric("pelton_lost_total", ""), 4.0);
    rig.until("work", (0, 0, 0)).await;
    rig.until("play", (0, 0, 0)).await;
    assert_eq!(beside.load(Ordering::SeqCst), 1, "nothing ran beside them");
    assert!(peak.load(Ordering::SeqCst) > 1, "the others ran beside each other");
    let mut dead = rig.browse("work.dead").await;
    dead.extend(rig.browse("play.dead").await);
    let lost: BTreeSet<&str> =
        dead.iter().filter(|dead| dead.history.len() == 2).map(|dead| dead.message.id()).collect();
    assert_eq!(lost, BTreeSet::from(["1", "2", "3", "7"]));
    let first = dead.iter().find(|dead| dead.message.id() == "7").expect("it is there").history[0].clone();
    assert_eq!((first.number, first.outcome.as_str()), (1, "lost"));
    assert_eq!(first.at_ms, rig.clock.now().wall.0);
    assert_eq!(
        first.reason,
        "the broker's process ended while consumer 'player' was handling it: it was killed, or this message brought it down"
    );
    assert_eq!(first.digest.map(|digest| digest.len()), Some(64));
}

#[tokio::test]
async fn a_message_that_kills_every_process_dies_of_it() {
    let mut memory = memory();
    let mut rig = first(ONE, stuck(), &memory).await;
    rig.publish("work.new", &["killer"]).await;
    for attempt in 1..=3 {
        let calls = rig.until_invoked(1).await;
        assert_eq!(calls[0].attempt, attempt);
        memory = left(&memory);
        rig = start(rig.engine.crash(), rig.clock.clone(), ONE, stuck(), &memory).await;
    }
    rig.until("work.dead", (1, 0, 0)).await;
    let dead = rig.browse("work.dead").await.remove(0);
    assert_eq!(dead.dead.map(|dead| dead.reason.code), Some(DeadCode::MaxAttempts));
    assert_eq!(dead.history.len(), 3);
    rig.until("work", (0, 0, 0)).await;
    assert_eq!(rig.runtime.invocations(), []);
}

#[tokio::test]
async fn an_orderly_end_loses_nothing() {
    let memory = memory();
    let rig = first(ONE, stuck(), &memory).await;
    rig.publish("work.new", &["1"]).await;
    rig.until_invoked(1).await;
    assert!(!rig.broker.stop(Duration::from_millis(20)).await, "it runs on");
    let runtime = FakeRuntime::new().handler("worker", |_| done());
    let rig = start(rig.engine.crash(), rig.clock.clone(), ONE, runtime, &left(&memory)).await;
    assert_eq!(rig.metric("pelton_lost_total", ""), 0.0);
    assert_eq!(rig.until_invoked(1).await[0].attempt, 1, "uncounted");
    rig.until("work", (0, 0, 0)).await;
}

#[tokio::test]
async fn what_had_ended_when_the_process_died_is_not_lost() {
    let memory = memory();
    let rig = first(ONE, FakeRuntime::new().handler("worker", |_| done()), &memory).await;
    rig.publish_numbered("work.new", 100).await;
    rig.until("work", (0, 0, 0)).await;
    let rig = start(rig.engine.crash(), rig.clock.clone(), ONE, stuck(), &left(&memory)).await;
    assert_eq!(rig.metric("pelton_lost_total", ""), 0.0);
}
