//! Stopping: what runs ends, what has not begun goes back, and nothing is handled twice because of it.

use std::time::Duration;

use super::{GRACE, Gate, ONE, Rig};
use crate::engine::{Browse, Engine as _, QueueId};
use crate::testing::conformance::eventually;
use crate::testing::{FakeRuntime, done, emit, emitting};

/// The ids in the first queue of the plan as a restart would find them.
async fn after_restart(rig: &Rig, queue: QueueId) -> Vec<String> {
    let engine = rig.engine.crash();
    let page = engine.browse(Browse { queue, after: None, max: 1000 }).await.expect("it was reopened");
    page.items.iter().map(|stored| stored.message.id().to_owned()).collect()
}

fn stuck(gate: &Gate) -> FakeRuntime {
    let gate = gate.clone();
    FakeRuntime::new().handler_async("worker", move |delivery| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            emitting(vec![emit(&format!("from {}", delivery.message.id()), "work.emitted", b"")])
        }
    })
}

#[tokio::test]
async fn running_deliveries_end_and_are_settled() {
    let gate = Gate::closed();
    let rig = Rig::start(&format!("{ONE}concurrency = 2\n"), stuck(&gate)).await;
    let work = rig.broker.queue("work").expect("it exists").counts.id;
    rig.publish("work.new", &["1", "2", "3", "4"]).await;
    rig.until_invoked(2).await;
    let broker = rig.broker.clone();
    let stopping = tokio::spawn(async move { broker.stop(GRACE).await });
    // The loop takes no more from the queue once it has heard of it; opening for all shows that it does not.
    tokio::task::yield_now().await;
    gate.open(100);
    assert!(stopping.await.expect("it did not panic"), "all ended in time");
    let mut left = after_restart(&rig, work).await;
    left.sort_unstable();
    assert_eq!(left.len(), 4, "{left:?}");
    assert_eq!(left, ["3", "4", "from 1", "from 2"], "two were handled, with their emits; two were not begun");
    rig.until_invoked(2).await;
}

#[tokio::test]
async fn an_idle_broker_stops_at_once() {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done())).await;
    rig.publish("work.new", &["1"]).await;
    rig.until("work", (0, 0, 0)).await;
    assert!(rig.broker.stop(GRACE).await);
    rig.try_publish("work.new", &["2"]).await.expect_err("the store is closed");
}

#[tokio::test]
async fn the_grace_bounds_the_wait() {
    let gate = Gate::closed();
    let rig = Rig::start(ONE, stuck(&gate)).await;
    let work = rig.broker.queue("work").expect("it exists").counts.id;
    rig.publish("work.new", &["1"]).await;
    rig.until_invoked(1).await;
    assert!(!rig.broker.stop(Duration::from_millis(20)).await, "it did not end in time");
    assert_eq!(after_restart(&rig, work).await, ["1"], "it will be delivered again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_under_load_accounts_for_every_message() {
    const MESSAGES: usize = 3000;
    let config = format!("{ONE}[queues.sink]\n[[routes]]\nfrom = \"sink\"\nto = [\"queue:sink\"]\n");
    let runtime = FakeRuntime::new().handler_async("worker", |delivery| async move {
        tokio::task::yield_now().await;
        emitting(vec![emit(delivery.message.id(), "sink", b"")])
    });
    let rig = Rig::start(&config, runtime).await;
    let id = |name| rig.broker.queue(name).expect("it exists").counts.id;
    let (work, sink) = (id("work"), id("sink"));
    let ids: Vec<String> = (0..MESSAGES).map(|number| format!("{number:04}")).collect();
    rig.publish("work.new", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    eventually("it is at work", async || rig.runtime.invocations().len() > 100).await;
    assert!(rig.broker.stop(GRACE).await);
    let engine = rig.engine.crash();
    let mut all = Vec::new();
    for queue in [work, sink] {
        let mut after = None;
        loop {
            let page = engine.browse(Browse { queue, after, max: 1000 }).await.expect("it was reopened");
            all.extend(page.items.iter().map(|stored| stored.message.id().to_owned()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    all.sort_unstable();
    assert_eq!(all, ids, "each is in its queue or its emit is in the sink, and never both");
}
