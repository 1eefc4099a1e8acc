//! Consumers that overfill queues: they wait until these drained, but for a message now and then.

use std::time::Duration;

use super::Rig;
use crate::engine::{Filter, Select};
use crate::runtime::Delivery;
use crate::testing::conformance::eventually;
use crate::testing::{FakeRuntime, emit, emitting};

/// A worker that emits a message for each that it gets, to a queue of three that nobody consumes.
const FUNNEL: &str = r#"
[queues.work]
[queues.sink]
max-messages = 3
[queues.wide]

[[routes]]
from = "work"
to = ["queue:work"]
[[routes]]
from = "sink"
to = ["queue:sink"]
[[routes]]
from = "wide"
to = ["queue:wide"]

[consumers.worker]
queue = "work"
component = "worker.wasm"
concurrency = 1
"#;

fn to(topic: &'static str) -> impl Fn(&Delivery) -> crate::runtime::Invoked {
    move |delivery| emitting(vec![emit(&format!("{}'", delivery.message.id()), topic, b"")])
}

async fn drain(rig: &Rig, queue: &str) {
    rig.broker.discard(queue, Select::All, Filter::default(), None, 1000).await.expect("it exists");
}

fn throttled(rig: &Rig) -> bool {
    rig.metric("pelton_consumer_throttled", "worker") > 0.0
}

/// Lets what could happen happen; how many messages are in the queue then.
async fn settles(rig: &Rig, queue: &str) -> u64 {
    eventually("it is throttled and nothing runs", async || throttled(rig) && rig.runtime.running("worker") == 0).await;
    let mut before = None;
    loop {
        let counts = rig.counts(queue);
        if before == Some(counts) {
            return counts.0;
        }
        before = Some(counts);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::test]
async fn a_full_queue_holds_up_who_fills_it_until_it_drained() {
    let rig = Rig::start(FUNNEL, FakeRuntime::new().handler("worker", to("sink"))).await;
    rig.publish_numbered("work", 200).await;
    let filled = settles(&rig, "sink").await;
    assert!((3..100).contains(&filled), "what was leased before goes on, and no more: {filled}");
    assert_eq!(rig.metric("pelton_queue_full", "queue=\"sink\""), 1.0);
    rig.clock.advance(Duration::from_millis(9_999));
    assert_eq!(settles(&rig, "sink").await, filled);
    for passed in 1..=3 {
        rig.clock.advance(Duration::from_secs(10));
        eventually("one passes", async || rig.counts("sink").0 == filled + passed).await;
        assert_eq!(settles(&rig, "sink").await, filled + passed, "one, and no more");
    }
    drain(&rig, "sink").await;
    eventually("it goes on", async || rig.counts("sink").0 > 0).await;
    let again = settles(&rig, "sink").await;
    assert!((3..100).contains(&again), "until it is full again: {again}");
}

#[tokio::test]
async fn queues_without_bounds_hold_up_nobody() {
    let rig = Rig::start(FUNNEL, FakeRuntime::new().handler("worker", to("wide"))).await;
    rig.publish_numbered("sink", 3).await;
    rig.publish_numbered("work", 200).await;
    rig.until("wide", (200, 0, 0)).await;
    assert!(!throttled(&rig), "another queue is full, not the one that it fills");
}

#[tokio::test]
async fn consumers_that_feed_each_other_do_not_freeze() {
    const CIRCLE: &str = r#"
[broker]
max-hops = 12
[queues.a]
max-messages = 2
[queues.b]
max-messages = 2
[[routes]]
from = "a"
to = ["queue:a"]
[[routes]]
from = "b"
to = ["queue:b"]
[consumers.one]
queue = "a"
component = "one.wasm"
[consumers.other]
queue = "b"
component = "other.wasm"
"#;
    let runtime = FakeRuntime::new().handler("one", to("b")).handler("other", to("a"));
    let rig = Rig::start(CIRCLE, runtime).await;
    for (topic, ids) in [("a", ["1", "2"]), ("b", ["3", "4"])] {
        rig.publish(topic, &ids).await;
    }
    eventually("every message has gone round until it was too far", async || {
        if rig.runtime.running("one") + rig.runtime.running("other") == 0 {
            rig.clock.advance(Duration::from_secs(10));
        }
        rig.counts("a.dead").0 + rig.counts("b.dead").0 == 4
    })
    .await;
}
