//! What is not done: retries by the clock, rejects, faults, and the host's own failures.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{ONE, Rig};
use crate::engine::DeadCode;
use crate::runtime::{FaultKind, Invoked, Outcome};
use crate::testing::{FakeRuntime, done, ended, fault, reject, retry};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test]
async fn retries_wait_longer_each_time() {
    let runtime = FakeRuntime::new().handler("worker", |delivery| match delivery.attempt {
        3 => done(),
        _ => retry("not yet"),
    });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["1"]).await;
    rig.until("work", (0, 0, 1)).await;
    rig.clock.advance(ms(999));
    assert_eq!(rig.counts("work"), (0, 0, 1), "a millisecond to go");
    rig.clock.advance(ms(1));
    rig.until_invoked(2).await;
    rig.until("work", (0, 0, 1)).await;
    rig.clock.advance(ms(1999));
    assert_eq!(rig.counts("work"), (0, 0, 1), "the second wait is twice the first");
    rig.clock.advance(ms(1));
    let calls = rig.until_invoked(3).await;
    rig.until("work", (0, 0, 0)).await;
    assert!(calls.iter().all(|call| call.idempotency_key == calls[0].idempotency_key), "{calls:#?}");
    assert_eq!(
        rig.seen(),
        [
            "worker/1#1 retry -> again in 1000 ms",
            "worker/1#2 retry -> again in 2000 ms",
            "worker/1#3 done -> done, 0 emitted"
        ]
    );
    assert_eq!(rig.ids("work.dead").await, [""; 0]);
}

#[tokio::test]
async fn a_handler_may_say_when() {
    let runtime = FakeRuntime::new().handler("worker", |delivery| match delivery.attempt {
        1 => ended(Outcome::Retry { reason: "at noon".into(), after: Some(ms(70_000)) }),
        _ => done(),
    });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["1"]).await;
    rig.until("work", (0, 0, 1)).await;
    rig.clock.advance(ms(69_999));
    assert_eq!(rig.counts("work"), (0, 0, 1));
    rig.clock.advance(ms(1));
    rig.until("work", (0, 0, 0)).await;
}

#[tokio::test]
async fn what_is_rejected_is_dead_at_once() {
    let runtime = FakeRuntime::new()
        .handler("worker", |_| Invoked { log: "ERROR worker: what is this?\n".into(), ..reject("not an order") });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["1"]).await;
    rig.until("work.dead", (1, 0, 0)).await;
    let dead = rig.browse("work.dead").await.remove(0);
    let letter = dead.dead.expect("it is a dead letter");
    assert_eq!((letter.origin.as_str(), letter.reason.code), ("work", DeadCode::Rejected));
    assert_eq!((letter.reason.detail.as_str(), letter.at), ("not an order", rig.clock.now().wall));
    let attempt = &dead.history[0];
    assert_eq!((dead.history.len(), attempt.number, attempt.outcome.as_str()), (1, 1, "reject"));
    assert_eq!((attempt.reason.as_str(), attempt.log_tail.as_str()), ("not an order", "ERROR worker: what is this?\n"));
    assert_eq!((attempt.duration_us, attempt.digest.as_ref().map(String::len)), (10, Some(64)));
    assert_eq!(rig.runtime.invocations().len(), 1);
}

#[tokio::test]
async fn what_always_traps_dies_of_it() {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| fault(FaultKind::Trap, "unreachable"))).await;
    rig.publish("work.new", &["1"]).await;
    for attempt in 1..=2 {
        rig.until("work", (0, 0, 1)).await;
        rig.until_invoked(attempt).await;
        rig.clock.advance(ms(60_000));
    }
    rig.until("work.dead", (1, 0, 0)).await;
    rig.until("work", (0, 0, 0)).await;
    let dead = rig.browse("work.dead").await.remove(0);
    let letter = dead.dead.expect("it is a dead letter");
    assert_eq!(letter.reason.code, DeadCode::MaxAttempts);
    assert_eq!(letter.reason.detail, "attempt 3 of 3 ended with trap: unreachable");
    let history: Vec<_> = dead.history.iter().map(|attempt| (attempt.number, attempt.outcome.as_str())).collect();
    assert_eq!(history, [(1, "trap"), (2, "trap"), (3, "trap")]);
    assert_eq!(rig.metric("pelton_delivered_total", "outcome=\"trap\""), 3.0);
}

#[tokio::test]
async fn a_failing_message_holds_up_nobody() {
    let runtime = FakeRuntime::new().handler("worker", |delivery| match delivery.message.id() {
        "bad" => retry("never"),
        _ => done(),
    });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["1", "bad", "2", "3"]).await;
    rig.until("work", (0, 0, 1)).await;
    assert_eq!(rig.ids("work").await, ["bad"]);
}

#[tokio::test]
async fn a_failure_of_the_host_is_uncounted() {
    let failures = AtomicUsize::new(2);
    let runtime = FakeRuntime::new().handler("worker", move |delivery| {
        assert_eq!(delivery.attempt, 1, "it never counts");
        let left = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_or_else(|_| done(), |_| fault(FaultKind::Host, "no memory left for sandboxes"))
    });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["1"]).await;
    rig.until_invoked(3).await;
    rig.until("work", (0, 0, 0)).await;
    assert_eq!(
        rig.seen(),
        ["worker/1#1 host -> released", "worker/1#1 host -> released", "worker/1#1 done -> done, 0 emitted"]
    );
    assert_eq!(rig.ids("work.dead").await, [""; 0]);
}

#[tokio::test]
async fn a_panic_of_the_host_loses_nothing() {
    let failures = AtomicUsize::new(1);
    let runtime = FakeRuntime::new().handler("worker", move |delivery| {
        let left = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err() || delivery.message.id() != "1", "this panic is part of the test");
        done()
    });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["1", "2", "3"]).await;
    rig.until("work", (0, 0, 0)).await;
    let done: std::collections::BTreeSet<_> = rig.seen().into_iter().collect();
    let expected = ["1", "2", "3"].map(|id| format!("worker/{id}#1 done -> done, 0 emitted"));
    assert_eq!(done, expected.into_iter().collect(), "each first attempt, whatever happened before");
}
