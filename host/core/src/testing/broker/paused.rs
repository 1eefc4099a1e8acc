//! Paused consumers and what else holds them back.

use std::time::Duration;

use super::{ONE, Rig};
use crate::dispatch::BreakerState;
use crate::testing::conformance::eventually;
use crate::testing::{FakeRuntime, done, retry};

fn breaker(rig: &Rig) -> BreakerState {
    rig.broker.consumers()[0].breaker.as_ref().expect("it has one").state
}

#[tokio::test]
async fn a_pause_is_shown_while_it_lasts() {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done())).await;
    assert_eq!(rig.metric("pelton_consumer_paused", "worker"), 0.0);
    for (paused, shown) in [(true, 1.0), (false, 0.0)] {
        rig.broker.pause_consumer("worker", paused).await.expect("it exists");
        rig.broker.pause_queue("work", paused).await.expect("it exists");
        eventually("it is shown", async || rig.metric("pelton_consumer_paused", "worker") == shown).await;
        assert_eq!(rig.metric("pelton_queue_paused", "queue=\"work\""), shown);
    }
}

#[tokio::test]
async fn a_consumer_that_is_paused_is_not_probed_and_stays_held_back_when_resumed() {
    let runtime = FakeRuntime::new().handler("worker", |_| retry("down"));
    let rig = Rig::start(ONE, runtime).await;
    rig.publish_numbered("work.new", 30).await;
    rig.until("work", (10, 0, 20)).await;
    let before = rig.runtime.invocations().len();
    rig.broker.pause_consumer("worker", true).await.expect("it exists");
    eventually("it is paused", async || rig.metric("pelton_consumer_paused", "worker") == 1.0).await;
    rig.clock.advance(Duration::from_secs(3600));
    rig.until("work", (30, 0, 0)).await;
    assert_eq!(breaker(&rig), BreakerState::Open);
    assert_eq!(rig.runtime.invocations().len(), before);
    rig.broker.pause_consumer("worker", false).await.expect("it exists");
    rig.clock.advance(Duration::from_secs(1));
    rig.until_invoked(before + 1).await;
    eventually("the probe failed", async || breaker(&rig) == BreakerState::Open).await;
    rig.until("work", (30, 0, 0)).await;
}
