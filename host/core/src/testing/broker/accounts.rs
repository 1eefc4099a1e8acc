//! Seeded runs in which everything goes wrong now and then, a crash included, and every message is accounted for.
//!
//! A message that was handled has its one emit in the sink; one that was not is in the dead letters. Emits and settlement
//! are one transaction, so after any crash it is exactly one of the two, once.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use super::{ONE, Rig};
use crate::runtime::{Delivery, FaultKind, Invoked};
use crate::testing::{FakeRuntime, emit, emitting, fault, reject, retry};

const MESSAGES: usize = 100;
/// Time that must be enough for all attempts: three with waits of 1 s and 2 s, the host's failures and the restart.
const ROUNDS_MAX: usize = 2000;

/// What the handler does follows from seed, message and attempt alone.
fn handle(seed: u64, delivery: &Delivery) -> Invoked {
    let mut hasher = DefaultHasher::new();
    (seed, delivery.message.id(), delivery.attempt).hash(&mut hasher);
    match hasher.finish() % 100 {
        0..50 => emitting(vec![emit(delivery.message.id(), "sink", b"")]),
        50..75 => retry("later"),
        75..80 => reject("never"),
        80..95 => fault(FaultKind::Trap, "unreachable"),
        _ => fault(FaultKind::Timeout, "too slow"),
    }
}

fn runtime(seed: u64) -> FakeRuntime {
    FakeRuntime::new().handler_async("worker", move |delivery| async move {
        // Other tasks run meanwhile, a crash perhaps.
        for _ in 0..delivery.attempt {
            tokio::task::yield_now().await;
        }
        handle(seed, &delivery)
    })
}

fn config() -> String {
    format!("{ONE}[queues.sink]\n[[routes]]\nfrom = \"sink\"\nto = [\"queue:sink\"]\n")
}

async fn run(seed: u64, crash_at: Option<usize>) {
    let mut rig = Rig::start(&config(), runtime(seed)).await;
    let ids: Vec<String> = (0..MESSAGES).map(|number| format!("{number:04}")).collect();
    rig.publish("work.new", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut crash_at = crash_at;
    for round in 0..ROUNDS_MAX {
        tokio::task::yield_now().await;
        if crash_at.is_some_and(|calls| rig.runtime.invocations().len() >= calls) {
            crash_at = None;
            let engine = rig.engine.crash();
            rig = Rig::start_on(engine, rig.clock.clone(), &config(), runtime(seed)).await;
        }
        if rig.counts("work") == (0, 0, 0) {
            break;
        }
        assert!(round + 1 < ROUNDS_MAX, "seed {seed}: it does not end: {:?}", rig.counts("work"));
        // Only when nothing else is to do does time pass: retries come in their turn, not in between.
        if rig.counts("work").0 + rig.counts("work").1 == 0 {
            rig.clock.advance(Duration::from_millis(500));
        }
    }
    assert_eq!(crash_at, None, "seed {seed}: it ended before the crash");
    let handled = rig.ids("sink").await;
    let dead = rig.ids("work.dead").await;
    let all: BTreeSet<_> = handled.iter().chain(&dead).cloned().collect();
    assert_eq!(handled.len() + dead.len(), MESSAGES, "seed {seed}: {} handled, {} dead", handled.len(), dead.len());
    assert_eq!(all.into_iter().collect::<Vec<_>>(), ids, "seed {seed}");
    assert!(!handled.is_empty() && !dead.is_empty(), "seed {seed}: the run shows nothing");
    let dead = rig.browse("work.dead").await;
    let numbered =
        |dead: &crate::engine::Stored| dead.history.iter().zip(1..).all(|(attempt, number)| attempt.number == number);
    assert!(dead.iter().all(|dead| !dead.history.is_empty() && numbered(dead)), "seed {seed}: {dead:?}");
}

#[tokio::test]
async fn every_message_is_handled_or_dead() {
    for seed in 0..10 {
        run(seed, None).await;
    }
}

#[tokio::test]
async fn every_message_is_handled_or_dead_once_whenever_the_store_crashes() {
    for seed in 0..10 {
        run(seed, Some(usize::try_from(seed).expect("it is small") * 15 + 1)).await;
    }
}
