//! Pausing and resuming queues and consumers.

use super::{Gate, ONE, Rig, deployment};
use crate::broker::{ConsumerState, PauseError, PullError};
use crate::engine::EngineError;
use crate::testing::{FakeRuntime, done};

fn worker() -> FakeRuntime {
    FakeRuntime::new().handler("worker", |_| done())
}

/// Lets everything that could happen happen, and looks that `queue` still has these.
async fn stays(rig: &Rig, queue: &str, expected: (u64, u64, u64)) {
    rig.until(queue, expected).await;
    for _ in 0..200 {
        tokio::task::yield_now().await;
        assert_eq!(rig.counts(queue), expected);
    }
}

#[tokio::test]
async fn a_paused_queue_takes_messages_and_gives_none() {
    let rig = Rig::start(ONE, worker()).await;
    rig.broker.pause_queue("work", true).await.expect("it exists");
    rig.publish("work.new", &["1", "2"]).await;
    stays(&rig, "work", (2, 0, 0)).await;
    assert!(rig.broker.queue("work").expect("it exists").counts.paused);
    assert!(rig.lease("work", 1).await.is_empty());
    rig.broker.pause_queue("work", true).await.expect("once more is no mistake");
    rig.broker.pause_queue("work", false).await.expect("it exists");
    rig.until("work", (0, 0, 0)).await;
    assert!(!rig.broker.queue("work").expect("it exists").counts.paused);
    rig.until_invoked(2).await;
}

#[tokio::test]
async fn a_paused_consumer_ends_what_it_has_and_gets_no_more() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let runtime = FakeRuntime::new().handler_async("worker", move |_| {
        let gate = waiting.clone();
        async move {
            gate.pass().await;
            done()
        }
    });
    let rig = Rig::start(&format!("{ONE}concurrency = 1\n"), runtime).await;
    rig.publish("work.new", &["1", "2"]).await;
    rig.until_invoked(1).await;
    rig.broker.pause_consumer("worker", true).await.expect("it exists");
    let status = rig.broker.consumers().remove(0);
    assert!(status.paused && matches!(status.state, ConsumerState::Ready(_)), "{status:?}");
    gate.open(10);
    stays(&rig, "work", (1, 0, 0)).await;
    assert_eq!(rig.lease("work", 1).await.len(), 1, "others may have it");
    rig.publish("work.new", &["3"]).await;
    stays(&rig, "work", (1, 1, 0)).await;
    rig.broker.pause_consumer("worker", false).await.expect("it exists");
    let calls = rig.until_invoked(2).await;
    assert_eq!(calls[1].message_id, "3");
    assert!(!rig.broker.consumers()[0].paused);
}

#[tokio::test]
async fn pauses_hold_over_new_plans_and_restarts() {
    let rig = Rig::start(ONE, worker()).await;
    rig.broker.pause_consumer("worker", true).await.expect("it exists");
    rig.deploy("").await.expect("a plan without it");
    rig.deploy(ONE).await.expect("it is right");
    assert!(rig.broker.consumers()[0].paused, "it was gone for a while");
    rig.broker.pause_queue("work", true).await.expect("it exists");
    rig.publish("work.new", &["1"]).await;
    let rig = Rig::start_on(rig.engine.crash(), rig.clock.clone(), ONE, worker()).await;
    assert!(rig.broker.consumers()[0].paused && rig.broker.queue("work").expect("it exists").counts.paused);
    rig.broker.pause_queue("work", false).await.expect("it exists");
    stays(&rig, "work", (1, 0, 0)).await;
    rig.broker.pause_consumer("worker", false).await.expect("it exists");
    rig.until("work", (0, 0, 0)).await;
    let rig = Rig::start_on(rig.engine.crash(), rig.clock.clone(), ONE, worker()).await;
    assert!(!rig.broker.consumers()[0].paused, "resuming holds as well");
}

#[tokio::test]
async fn a_deployment_changes_what_a_paused_consumer_is_resumed_with() {
    let rig = Rig::start(ONE, worker().handler("v2", |_| done())).await;
    rig.broker.pause_consumer("worker", true).await.expect("it exists");
    rig.publish("work.new", &["1"]).await;
    rig.broker.deploy(deployment(&ONE.replace("worker.wasm", "v2.wasm"))).await.expect("it is right");
    stays(&rig, "work", (1, 0, 0)).await;
    rig.broker.pause_consumer("worker", false).await.expect("it exists");
    assert_eq!(rig.until_invoked(1).await[0].handler, "v2");
}

#[tokio::test]
async fn who_is_unknown_can_not_be_paused() {
    let rig = Rig::start(ONE, worker()).await;
    let error = rig.broker.pause_consumer("woker", true).await.expect_err("it is misspelt");
    assert_eq!(error.to_string(), "there is no consumer 'woker'; did you mean 'worker'?");
    assert!(matches!(rig.broker.pause_queue("wrok", true).await, Err(PullError::UnknownQueue(_))));
}

#[tokio::test]
async fn what_could_not_be_stored_is_not_paused() {
    let rig = Rig::start(ONE, worker()).await;
    rig.engine.fail(EngineError::Unavailable);
    let error = rig.broker.pause_consumer("worker", true).await;
    assert_eq!(error, Err(PauseError::Engine(EngineError::Unavailable)));
    rig.engine.recover();
    assert!(!rig.broker.consumers()[0].paused);
    rig.publish("work.new", &["1"]).await;
    rig.until("work", (0, 0, 0)).await;
}
