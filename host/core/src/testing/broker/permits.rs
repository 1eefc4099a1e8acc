//! Permits: never more deliveries at once than allowed, as many as allowed, and a slow one holds up nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Gate, ONE, Rig, deployment, distinct};
use crate::runtime::Invoked;
use crate::testing::conformance::eventually;
use crate::testing::{FakeRuntime, done};

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

async fn publish_all(rig: &Rig, topic: &str, ids: &[String]) {
    rig.publish(topic, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn a_consumer_never_has_more_than_its_concurrency() {
    const MESSAGES: usize = 60;
    let gate = Gate::closed();
    let waiting = gate.clone();
    let runtime = FakeRuntime::new().handler_async("worker", move |_| {
        let gate = waiting.clone();
        async move {
            gate.pass().await;
            done()
        }
    });
    let rig = Rig::start(&format!("{ONE}concurrency = 3\n"), runtime).await;
    publish_all(&rig, "work.new", &ids(MESSAGES)).await;
    for handled in 0..MESSAGES {
        let expected = (MESSAGES - handled).min(3);
        eventually("all permits are used", async || rig.runtime.running("worker") == expected).await;
        gate.open(1);
        eventually("one ended", async || rig.runtime.invocations().len() - rig.runtime.running("worker") > handled)
            .await;
    }
    rig.until("work", (0, 0, 0)).await;
    assert_eq!(rig.runtime.peak("worker"), 3);
    assert_eq!(distinct(&rig.until_invoked(MESSAGES).await).len(), MESSAGES);
}

#[tokio::test]
async fn what_waits_for_a_permit_waits_in_its_queue() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let runtime = FakeRuntime::new().handler_async("worker", move |_| {
        let gate = waiting.clone();
        async move {
            gate.pass().await;
            done()
        }
    });
    let rig = Rig::start(&format!("{ONE}concurrency = 2\n"), runtime).await;
    publish_all(&rig, "work.new", &ids(10)).await;
    rig.until("work", (8, 2, 0)).await;
    gate.open(10);
    rig.until("work", (0, 0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_consumers_share_the_slots() {
    let config = format!(
        "{ONE}concurrency = 4\n[queues.play]\n[[routes]]\nfrom = \"play\"\nto = [\"queue:play\"]\n\
         [consumers.player]\nqueue = \"play\"\ncomponent = \"player.wasm\"\nconcurrency = 4\n"
    );
    let running = Arc::new(AtomicUsize::new(0));
    let peak = Arc::new(AtomicUsize::new(0));
    let (now, most) = (running.clone(), peak.clone());
    let handle = move |_| {
        let (now, most) = (now.clone(), most.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
            done()
        }
    };
    let runtime = FakeRuntime::new().handler_async("worker", handle.clone()).handler_async("player", handle).slots(5);
    let rig = Rig::start(&config, runtime).await;
    publish_all(&rig, "work.new", &ids(100)).await;
    publish_all(&rig, "play", &ids(100)).await;
    rig.until("work", (0, 0, 0)).await;
    rig.until("play", (0, 0, 0)).await;
    rig.until_invoked(200).await;
    assert!(peak.load(Ordering::SeqCst) <= 5, "{} ran at once in 5 slots", peak.load(Ordering::SeqCst));
}

/// A rig whose handler knows how fast it is, so that runs are long, and which waits at the gate for the message `slow`.
async fn warm(concurrency: usize, gate: &Gate) -> Rig {
    let gate = gate.clone();
    let runtime = FakeRuntime::new().handler_async("worker", move |delivery| {
        let gate = gate.clone();
        async move {
            if delivery.message.id() == "slow" {
                gate.pass().await;
            }
            done()
        }
    });
    let rig = Rig::start(&format!("{ONE}concurrency = {concurrency}\n"), runtime).await;
    publish_all(&rig, "work.new", &ids(10)).await;
    rig.until("work", (0, 0, 0)).await;
    rig
}

#[tokio::test]
async fn messages_behind_a_slow_one_go_to_others() {
    let gate = Gate::closed();
    let rig = warm(2, &gate).await;
    rig.publish("work.new", &["slow", "a", "b", "c", "d", "e"]).await;
    rig.until("work", (0, 1, 0)).await;
    assert_eq!(rig.ids("work").await, ["slow"], "everything else is done");
    gate.open(1);
    rig.until("work", (0, 0, 0)).await;
    let calls = rig.runtime.invocations();
    assert!(calls.iter().all(|call| call.attempt == 1), "what was given back was not counted: {calls:#?}");
    assert_eq!(calls.len(), 16, "and not begun twice");
}

#[tokio::test]
async fn messages_before_a_slow_one_are_settled() {
    let gate = Gate::closed();
    let rig = warm(1, &gate).await;
    rig.publish("work.new", &["a", "b", "c", "slow", "d", "e"]).await;
    rig.until("work", (2, 1, 0)).await;
    assert_eq!(rig.ids("work").await, ["slow", "d", "e"]);
    gate.open(1);
    rig.until("work", (0, 0, 0)).await;
    assert_eq!(rig.runtime.invocations().len(), 16);
}

#[tokio::test]
async fn a_slow_consumer_holds_up_no_other() {
    let config = format!(
        "{ONE}[queues.play]\n[[routes]]\nfrom = \"play\"\nto = [\"queue:play\"]\n\
         [consumers.player]\nqueue = \"play\"\ncomponent = \"player.wasm\"\n"
    );
    let gate = Gate::closed();
    let waiting = gate.clone();
    let stuck = move |_| {
        let gate = waiting.clone();
        async move {
            gate.pass().await;
            done()
        }
    };
    let runtime = FakeRuntime::new().handler_async("worker", stuck).handler("player", |_| done());
    let rig = Rig::start(&config, runtime).await;
    publish_all(&rig, "work.new", &ids(100)).await;
    publish_all(&rig, "play", &ids(500)).await;
    rig.until("play", (0, 0, 0)).await;
    assert_eq!(rig.runtime.running("worker"), 16, "its default concurrency, all stuck");
    gate.open(100);
    rig.until("work", (0, 0, 0)).await;
}

/// A lease call that was made when handlers were fast brings more than fits when they have turned slow meanwhile.
#[tokio::test]
async fn what_was_leased_for_fast_handlers_waits_in_hand_for_slow_ones() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let runtime = FakeRuntime::new().handler_async("worker", move |delivery| {
        let gate = waiting.clone();
        async move {
            if delivery.message.id() == "fast" {
                return done();
            }
            gate.pass().await;
            Invoked { duration: Duration::from_secs(1), ..done() }
        }
    });
    let config = format!("{ONE}concurrency = 2\n");
    let rig = Rig::start(&config, runtime).await;
    rig.publish("work.new", &["fast", "slow"]).await;
    rig.until("work", (0, 1, 0)).await;
    gate.open(1);
    rig.until("work", (0, 0, 0)).await;
    publish_all(&rig, "work.new", &ids(10)).await;
    eventually("both permits are used", async || rig.runtime.running("worker") == 2).await;
    rig.until("work", (0, 10, 0)).await;
    assert_eq!(rig.runtime.peak("worker"), 2, "eight wait in hand");
    let mut without = deployment(&config);
    without.components.clear();
    rig.broker.deploy(without).await.expect("a component may be missing");
    rig.until("work", (8, 2, 0)).await;
    gate.open(2);
    rig.until("work", (8, 0, 0)).await;
    assert!(rig.browse("work").await.iter().all(|stored| stored.attempts == 0), "given back uncounted");
}
