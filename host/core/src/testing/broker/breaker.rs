//! Breakers: a consumer that fails whatever it gets is held back, and its messages lose nothing by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Gate, ONE, Rig};
use crate::dispatch::{BreakerState, BreakerStatus};
use crate::runtime::{FaultKind, Outcome};
use crate::testing::conformance::eventually;
use crate::testing::{FakeRuntime, done, ended, fault, retry};

/// Something outside that consumers need; clones are the same.
#[derive(Clone, Default)]
struct Outage(Arc<AtomicBool>);

impl Outage {
    fn begins() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    fn ends(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn lasts(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// A runtime whose worker asks for another try while it lasts.
    fn runtime(&self) -> FakeRuntime {
        let outage = self.clone();
        FakeRuntime::new()
            .handler("worker", move |_| if outage.lasts() { retry("no route to host") } else { done() })
            .handler("v2", |_| done())
    }
}

fn status(rig: &Rig) -> BreakerStatus {
    rig.broker.consumers()[0].breaker.clone().expect("it has one")
}

/// Lets the pause before the next probe pass, and waits until a delivery came of it.
async fn probe(rig: &Rig) {
    let calls = rig.runtime.invocations().len();
    let next = status(rig).next_probe.expect("it is open");
    rig.clock.advance(next.since(rig.clock.now().wall));
    eventually("one message is tried", async || {
        rig.runtime.invocations().len() > calls && status(rig).state != BreakerState::Probing
    })
    .await;
}

#[tokio::test]
async fn an_outage_empties_no_queue_into_its_dead_letters() {
    let outage = Outage::begins();
    let rig = Rig::start(ONE, outage.runtime()).await;
    rig.publish_numbered("work.new", 60).await;
    rig.until("work", (40, 0, 20)).await;
    assert_eq!(rig.metric("pelton_breaker_open", "worker"), 1.0);
    assert_eq!(status(&rig).last_reason.as_deref(), Some("retry: no route to host"));
    for _ in 0..20 {
        probe(&rig).await;
    }
    rig.until("work", (60, 0, 0)).await;
    let stored = rig.browse("work").await;
    assert_eq!(stored.iter().map(|stored| stored.attempts).sum::<u32>(), 20, "those that opened it");
    assert_eq!(stored.iter().map(|stored| stored.history.len()).sum::<usize>(), 20);
    assert_eq!(rig.ids("work.dead").await, [""; 0]);
    let released = rig.metric("pelton_released_total", "reason=\"breaker\"");
    assert!((20.0..=36.0).contains(&released), "the probes, and what ran when it opened: {released}");
    outage.ends();
    probe(&rig).await;
    rig.until("work", (0, 0, 0)).await;
    assert_eq!(rig.ids("work.dead").await, [""; 0]);
    assert_eq!(status(&rig).state, BreakerState::Closed);
    assert_eq!(rig.metric("pelton_breaker_open", "worker"), 0.0);
    assert_eq!(rig.metric("pelton_retried_total", "reason=\"retry\""), 20.0);
}

#[tokio::test]
async fn what_runs_when_it_opens_is_given_back_uncounted() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let runtime = FakeRuntime::new().handler_async("worker", move |_| {
        let gate = waiting.clone();
        async move {
            gate.pass().await;
            fault(FaultKind::Trap, "unreachable")
        }
    });
    let rig = Rig::start(&format!("{ONE}concurrency = 25\n"), runtime).await;
    rig.publish_numbered("work.new", 25).await;
    rig.until_invoked(25).await;
    gate.open(25);
    rig.until("work", (5, 0, 20)).await;
    let attempts: Vec<u32> = rig.browse("work").await.iter().map(|stored| stored.attempts).collect();
    assert_eq!(attempts.iter().sum::<u32>(), 20, "{attempts:?}");
    assert_eq!(rig.seen().iter().filter(|line| line.ends_with("trap -> released")).count(), 5);
}

#[tokio::test]
async fn the_pauses_between_probes_grow() {
    let rig = Rig::start(ONE, Outage::begins().runtime()).await;
    rig.publish_numbered("work.new", 30).await;
    rig.until("work", (10, 0, 20)).await;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let open = status(&rig);
        assert_eq!(open.state, BreakerState::Open);
        pauses.push(open.next_probe.expect("it is open").since(rig.clock.now().wall).as_secs());
        probe(&rig).await;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(rig.runtime.invocations().len() - probes_and_first(&rig), 0);
}

/// The deliveries that opened it or were running then, and one for each of the eight probes.
fn probes_and_first(rig: &Rig) -> usize {
    let released = rig.metric("pelton_released_total", "reason=\"breaker\"");
    20 + released as usize
}

#[tokio::test]
async fn a_message_that_always_fails_does_not_keep_it_open() {
    let outage = Outage::begins();
    let lasting = outage.clone();
    let runtime = FakeRuntime::new().handler("worker", move |delivery| match delivery.message.id() {
        "0" => fault(FaultKind::Trap, "unreachable"),
        _ if lasting.lasts() => retry("no route to host"),
        _ => done(),
    });
    let rig = Rig::start(&format!("{ONE}concurrency = 1\n"), runtime).await;
    rig.publish_numbered("work.new", 25).await;
    rig.until("work", (5, 0, 20)).await;
    outage.ends();
    probe(&rig).await;
    let last = rig.runtime.invocations().pop().expect("there was a probe");
    assert_eq!((last.message_id.as_str(), last.attempt), ("0", 2), "the oldest");
    assert_eq!(status(&rig).state, BreakerState::Open);
    probe(&rig).await;
    rig.until("work", (0, 0, 1)).await;
    assert_eq!(rig.ids("work").await, ["0"]);
    assert_eq!(status(&rig).state, BreakerState::Closed, "the next message was well");
}

#[tokio::test]
async fn a_probe_that_the_host_failed_is_repeated() {
    let outage = Outage::begins();
    let lasting = outage.clone();
    let failures = AtomicUsize::new(1);
    let runtime = FakeRuntime::new().handler("worker", move |_| {
        if lasting.lasts() {
            return retry("no route to host");
        }
        let left = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_or_else(|_| done(), |_| fault(FaultKind::Host, "no memory left for sandboxes"))
    });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish_numbered("work.new", 30).await;
    rig.until("work", (10, 0, 20)).await;
    outage.ends();
    probe(&rig).await;
    let open = status(&rig);
    assert_eq!(open.next_probe.map(|next| next.since(rig.clock.now().wall).as_secs()), Some(1), "the same pause");
    probe(&rig).await;
    rig.until("work", (0, 0, 0)).await;
    assert_eq!(status(&rig).state, BreakerState::Closed);
}

#[tokio::test]
async fn an_empty_queue_is_waited_for() {
    let outage = Outage::begins();
    let rig = Rig::start(&format!("{ONE}concurrency = 1\n"), outage.runtime()).await;
    rig.publish_numbered("work.new", 20).await;
    rig.until("work", (0, 0, 20)).await;
    outage.ends();
    rig.clock.advance(Duration::from_millis(999));
    rig.broker.pause_queue("work", true).await.expect("it exists");
    rig.clock.advance(Duration::from_millis(1));
    eventually("it waits for a message", async || status(&rig).state == BreakerState::Probing).await;
    assert_eq!(rig.until_invoked(20).await.len(), 20);
    rig.broker.pause_queue("work", false).await.expect("it exists");
    rig.until("work", (0, 0, 0)).await;
    assert_eq!(status(&rig).state, BreakerState::Closed);
}

#[tokio::test]
async fn a_new_component_starts_with_it_closed() {
    let rig = Rig::start(ONE, Outage::begins().runtime()).await;
    rig.publish_numbered("work.new", 30).await;
    rig.until("work", (10, 0, 20)).await;
    let before = status(&rig);
    rig.deploy(&format!("{ONE}concurrency = 4\n")).await.expect("it is right");
    assert_eq!(status(&rig).since, before.since, "the same component, whatever else is new");
    rig.until("work", (10, 0, 20)).await;
    rig.deploy(&ONE.replace("worker.wasm", "v2.wasm")).await.expect("it is right");
    assert_eq!(status(&rig).state, BreakerState::Closed);
    rig.until("work", (0, 0, 20)).await;
    assert_eq!(rig.metric("pelton_breaker_open", "worker"), 0.0);
    rig.clock.advance(Duration::from_secs(1));
    rig.until("work", (0, 0, 0)).await;
}

#[tokio::test]
async fn an_operator_can_close_it() {
    let outage = Outage::begins();
    let rig = Rig::start(ONE, outage.runtime()).await;
    rig.publish_numbered("work.new", 30).await;
    rig.until("work", (10, 0, 20)).await;
    outage.ends();
    assert_eq!(rig.broker.reset_breaker("worker"), Ok(true));
    rig.until("work", (0, 0, 20)).await;
    assert_eq!(status(&rig).state, BreakerState::Closed);
}

#[tokio::test]
async fn a_consumer_that_works_now_and_then_is_not_held_back() {
    let runtime = FakeRuntime::new().handler("worker", |delivery| match delivery.message.id().parse::<u32>() {
        Ok(number) if number % 10 == 9 => done(),
        _ => retry("busy"),
    });
    let rig = Rig::start(&format!("{ONE}concurrency = 1\n"), runtime).await;
    rig.publish_numbered("work.new", 100).await;
    rig.until("work", (0, 0, 90)).await;
    assert_eq!(status(&rig).state, BreakerState::Closed);
}

#[tokio::test]
async fn a_handler_that_says_when_does_not_fail() {
    let after = Some(Duration::from_secs(5));
    let runtime =
        FakeRuntime::new().handler("worker", move |_| ended(Outcome::Retry { reason: "at noon".into(), after }));
    let rig = Rig::start(ONE, runtime).await;
    rig.publish_numbered("work.new", 100).await;
    rig.until("work", (0, 0, 100)).await;
    assert_eq!(status(&rig).state, BreakerState::Closed);
}

#[tokio::test]
async fn it_can_be_set_and_switched_off() {
    let rig = Rig::start(ONE, Outage::begins().runtime()).await;
    let settings = "breaker = { failures = 3, probe = \"5s\", max = \"8s\" }\n";
    rig.deploy(&format!("{ONE}{settings}concurrency = 1\n")).await.expect("it is right");
    rig.publish_numbered("work.new", 10).await;
    rig.until("work", (7, 0, 3)).await;
    let pause = |rig: &Rig| status(rig).next_probe.map(|next| next.since(rig.clock.now().wall).as_secs());
    assert_eq!(pause(&rig), Some(5));
    probe(&rig).await;
    assert_eq!(pause(&rig), Some(8));
    rig.deploy(&format!("{ONE}breaker = false\n")).await.expect("it is right");
    assert_eq!(rig.broker.consumers()[0].breaker, None);
    assert_eq!(rig.broker.reset_breaker("worker"), Ok(false));
    rig.until("work", (0, 0, 10)).await;
    rig.clock.advance(Duration::from_secs(60));
    rig.until("work", (0, 0, 7)).await;
    rig.clock.advance(Duration::from_secs(60));
    rig.until("work.dead", (10, 0, 0)).await;
}
