//! Deploying a new plan into a running broker: whole or not at all, without losing or repeating anything.

use super::{Gate, ONE, Rig, deployment, distinct};
use crate::broker::{ConsumerState, DeployError};
use crate::testing::conformance::eventually;
use crate::testing::{FakeRuntime, done};

#[tokio::test]
async fn running_deliveries_end_as_they_began_and_new_ones_run_anew() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let stuck = move |_| {
        let gate = waiting.clone();
        async move {
            gate.pass().await;
            done()
        }
    };
    let runtime = FakeRuntime::new().handler_async("worker.wasm", stuck).handler("v2.wasm", |_| done());
    let rig = Rig::start(ONE, runtime).await;
    let before = rig.broker.consumers();
    rig.publish("work.new", &["1", "2"]).await;
    rig.until_invoked(2).await;
    rig.deploy(&ONE.replace("worker.wasm", "v2.wasm")).await.expect("the new version is right");
    let after = rig.broker.consumers();
    assert_ne!(before[0].state, after[0].state, "another digest");
    rig.publish("work.new", &["3", "4"]).await;
    rig.until("work", (0, 2, 0)).await;
    assert_eq!(rig.ids("work").await, ["1", "2"], "the old version has not ended yet");
    gate.open(2);
    rig.until("work", (0, 0, 0)).await;
    let calls = rig.until_invoked(4).await;
    let by: Vec<_> = calls.iter().map(|call| (call.message_id.as_str(), call.handler.as_str())).collect();
    assert_eq!(by, [("1", "worker.wasm"), ("2", "worker.wasm"), ("3", "v2.wasm"), ("4", "v2.wasm")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_under_load_loses_and_repeats_nothing() {
    const BATCHES: usize = 100;
    const EACH: usize = 20;
    let runtime = FakeRuntime::new().handler("worker.wasm", |_| done()).handler("v2.wasm", |_| done());
    let rig = Rig::start(ONE, runtime).await;
    let v2 = ONE.replace("worker.wasm", "v2.wasm");
    for batch in 0..BATCHES {
        rig.deploy(if batch % 2 == 0 { &v2 } else { ONE }).await.expect("both versions are right");
        let ids: Vec<String> = (0..EACH).map(|at| (batch * EACH + at).to_string()).collect();
        rig.publish("work.new", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        // Now and then one of them empties the queue, so that both have their share.
        if batch % 11 == 0 {
            rig.until("work", (0, 0, 0)).await;
        }
    }
    rig.until("work", (0, 0, 0)).await;
    let calls = rig.until_invoked(BATCHES * EACH).await;
    assert_eq!(distinct(&calls).len(), BATCHES * EACH, "each once");
    assert!(calls.iter().all(|call| call.attempt == 1));
    assert_eq!(distinct_handlers(&calls), ["v2.wasm", "worker.wasm"]);
}

fn distinct_handlers(calls: &[crate::testing::Invocation]) -> Vec<&str> {
    let handlers: std::collections::BTreeSet<_> = calls.iter().map(|call| call.handler.as_str()).collect();
    handlers.into_iter().collect()
}

#[tokio::test]
async fn a_plan_that_can_not_be_loaded_changes_nothing() {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done())).await;
    let broken = "[consumers.other]\nqueue = \"work\"\ncomponent = \"none.wasm\"\n\
                  [consumers.third]\nqueue = \"work\"\ncomponent = \"nor.wasm\"\n";
    let error = rig.deploy(&format!("{ONE}{broken}")).await.expect_err("two components are missing");
    let DeployError::Load(errors) = &error else { panic!("not a load error: {error}") };
    let consumers: Vec<_> = errors.iter().map(|error| error.consumer.as_str()).collect();
    assert_eq!(consumers, ["other", "third"], "all that is wrong is told");
    assert_eq!(rig.broker.consumers().len(), 1);
    rig.publish("work.new", &["1"]).await;
    rig.until_invoked(1).await;
    rig.until("work", (0, 0, 0)).await;
}

#[tokio::test]
async fn a_consumer_without_a_component_leaves_its_messages_waiting() {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done())).await;
    let mut without = deployment(ONE);
    without.components.clear();
    rig.broker.deploy(without).await.expect("a component may be missing");
    assert_eq!(rig.broker.consumers()[0].state, ConsumerState::NoComponent);
    rig.publish("work.new", &["1", "2"]).await;
    rig.until("work", (2, 0, 0)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert_eq!(rig.counts("work"), (2, 0, 0), "they are not even leased");
    }
    assert_eq!(rig.runtime.invocations(), []);
    rig.deploy(ONE).await.expect("now it has one");
    assert!(matches!(rig.broker.consumers()[0].state, ConsumerState::Ready(_)));
    rig.until_invoked(2).await;
    rig.until("work", (0, 0, 0)).await;
}

#[tokio::test]
async fn a_queue_that_is_gone_from_the_plan_keeps_its_messages() {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done())).await;
    let mut without = deployment(ONE);
    without.components.clear();
    rig.broker.deploy(without).await.expect("a component may be missing");
    rig.publish("work.new", &["1", "2"]).await;
    let other = ONE.replace("work", "play");
    let runtime_knows_play = rig.runtime.clone().handler("player", |_| done());
    rig.deploy(&other.replace("component = \"player.wasm\"", "component = \"worker.wasm\""))
        .await
        .expect("it is right");
    drop(runtime_knows_play);
    let status = rig.broker.queue("work").expect("it is still known");
    assert!(!status.counts.declared);
    assert_eq!(rig.ids("work").await, ["1", "2"]);
    rig.try_publish("work.new", &["3"]).await.expect_err("nothing is routed to it any more");
    rig.deploy(ONE).await.expect("it comes back");
    rig.until_invoked(2).await;
    rig.until("work", (0, 0, 0)).await;
}

#[tokio::test]
async fn more_permits_take_effect_at_once() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let stuck = move |_| {
        let gate = waiting.clone();
        async move {
            gate.pass().await;
            done()
        }
    };
    let rig = Rig::start(&format!("{ONE}concurrency = 1\n"), FakeRuntime::new().handler_async("worker", stuck)).await;
    rig.publish("work.new", &["1", "2", "3"]).await;
    rig.until("work", (2, 1, 0)).await;
    rig.deploy(&format!("{ONE}concurrency = 2\n")).await.expect("it is right");
    eventually("two run", async || rig.runtime.running("worker") == 2).await;
    rig.until("work", (1, 2, 0)).await;
    gate.open(3);
    rig.until("work", (0, 0, 0)).await;
}
