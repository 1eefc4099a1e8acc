//! A store that fails for a while: producers are told, deliveries are repeated, and the loop goes on by itself.

use super::{Gate, ONE, Rig};
use crate::broker::{PublishError, PullError};
use crate::engine::{EngineError, Health};
use crate::testing::{FakeRuntime, done};

#[tokio::test]
async fn a_producer_is_told_whether_it_may_have_been_done() {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done())).await;
    for error in [EngineError::Unavailable, EngineError::Unknown] {
        rig.engine.fail(error.clone());
        assert_eq!(rig.try_publish("work.new", &["1"]).await, Err(PublishError::Engine(error.clone())));
        assert_eq!(rig.broker.browse("work", None, 1).await.err(), Some(PullError::Engine(error)));
        assert_eq!(*rig.broker.health().borrow(), Health::Recovering);
        rig.engine.recover();
        assert_eq!(*rig.broker.health().borrow(), Health::Ready);
    }
    assert_eq!(rig.metric("pelton_accepted_total", ""), 0.0);
    rig.publish("work.new", &["2"]).await;
    rig.until("work", (0, 0, 0)).await;
    assert_eq!(rig.until_invoked(1).await[0].message_id, "2", "the loop leases again");
}

#[tokio::test]
async fn a_delivery_that_could_not_be_settled_is_repeated_uncounted() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let runtime = FakeRuntime::new().handler_async("worker", move |_| {
        let gate = waiting.clone();
        async move {
            gate.pass().await;
            done()
        }
    });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["1"]).await;
    rig.until_invoked(1).await;
    rig.engine.fail(EngineError::Unknown);
    gate.open(2);
    crate::testing::conformance::eventually("the delivery ended", async || rig.runtime.running("worker") == 0).await;
    rig.engine.recover();
    let calls = rig.until_invoked(2).await;
    assert_eq!(
        (calls[1].attempt, &calls[1].idempotency_key),
        (1, &calls[0].idempotency_key),
        "the same for all attempts"
    );
    rig.until("work", (0, 0, 0)).await;
}

#[tokio::test]
async fn a_plan_that_storage_refuses_changes_nothing() {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done()).handler("v2", |_| done())).await;
    rig.engine.fail(EngineError::Unavailable);
    rig.deploy(&ONE.replace("worker.wasm", "v2.wasm")).await.expect_err("its queues can't be defined");
    rig.engine.recover();
    rig.publish("work.new", &["1"]).await;
    assert_eq!(rig.until_invoked(1).await[0].handler, "worker");
    rig.until("work", (0, 0, 0)).await;
}
