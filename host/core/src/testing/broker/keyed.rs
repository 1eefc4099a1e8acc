//! Order by key: one delivery of a key at a time, in order, whatever the deliveries come to; keys beside each other.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Gate, ONE, Rig, extended};
use crate::broker::PublishOptions;
use crate::message::Message;
use crate::runtime::{Delivery, FaultKind, Invoked};
use crate::testing::conformance::eventually;
use crate::testing::{FakeRuntime, done, fault, reject, retry};

fn config(concurrency: usize) -> String {
    let queue = "[queues.work]\norder = \"key\"\n";
    format!("{}concurrency = {concurrency}\n", ONE.replace("[queues.work]\n", queue))
}

/// A message `id` whose key is what stands before its dash.
fn keyed(id: &str) -> Message {
    let key = id.split('-').next().expect("it is not empty");
    extended(id, &[("partitionkey", key)], b"{}")
}

async fn publish(rig: &Rig, ids: impl IntoIterator<Item = impl AsRef<str>>) {
    let messages = ids.into_iter().map(|id| keyed(id.as_ref())).collect();
    rig.publish_all("work.new", messages, PublishOptions::default()).await.expect("it is routed");
}

/// What a handler knows of the keys that it serves: what comes next of each, and whether one runs.
#[derive(Default)]
struct Keys(Mutex<BTreeMap<String, Key>>);

#[derive(Default)]
struct Key {
    next: usize,
    runs: bool,
    mistakes: Vec<String>,
}

impl Keys {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, delivery: &Delivery) {
        let (key, number) = delivery.message.id().split_once('-').expect("an id has both");
        let mut keys = self.lock();
        let key = keys.entry(key.to_owned()).or_default();
        if key.runs || key.next.to_string() != number {
            let what = if key.runs { "runs" } else { "waits" };
            key.mistakes.push(format!("{} while {} {what}", delivery.message.id(), key.next));
        }
        key.runs = true;
    }

    fn end(&self, delivery: &Delivery, is_over: bool) {
        let (key, _) = delivery.message.id().split_once('-').expect("an id has both");
        let mut keys = self.lock();
        let key = keys.entry(key.to_owned()).or_default();
        key.runs = false;
        key.next += usize::from(is_over);
    }
}

/// What becomes of a delivery follows from seed, message and attempt alone. Few fail, so that no breaker opens.
fn outcome(seed: u64, delivery: &Delivery) -> Invoked {
    let mut hasher = DefaultHasher::new();
    (seed, delivery.message.id(), delivery.attempt).hash(&mut hasher);
    match hasher.finish() % 100 {
        0..70 => done(),
        70..85 => retry("later"),
        85..90 => reject("never"),
        _ => fault(FaultKind::Trap, "unreachable"),
    }
}

async fn run(seed: u64) {
    const KEYS: usize = 7;
    const EACH: usize = 60;
    let keys = Arc::new(Keys::default());
    let handled = keys.clone();
    let runtime = FakeRuntime::new().handler_async("worker", move |delivery| {
        let keys = handled.clone();
        async move {
            keys.begin(&delivery);
            for _ in 0..delivery.attempt {
                tokio::task::yield_now().await;
            }
            let invoked = outcome(seed, &delivery);
            let is_over = matches!(invoked.outcome.word(), "done" | "reject") || delivery.attempt == 3;
            keys.end(&delivery, is_over);
            invoked
        }
    });
    let rig = Rig::start(&config(1 + usize::try_from(seed % 4).expect("it is small") * 5), runtime).await;
    let ids: Vec<String> = (0..EACH).flat_map(|number| (0..KEYS).map(move |key| format!("{key}-{number}"))).collect();
    for chunk in ids.chunks(50) {
        publish(&rig, chunk).await;
    }
    eventually(&format!("seed {seed}: all are handled or dead"), async || {
        let (ready, leased, scheduled) = rig.counts("work");
        if leased == 0 && scheduled > 0 {
            rig.clock.advance(Duration::from_secs(1));
        }
        (ready, leased, scheduled) == (0, 0, 0)
    })
    .await;
    for (key, state) in &*keys.lock() {
        assert_eq!(state.mistakes, [""; 0], "seed {seed}, key {key}");
        assert_eq!(state.next, EACH, "seed {seed}, key {key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_is_handled_in_order_one_at_a_time() {
    for seed in 0..8 {
        run(seed).await;
    }
}

#[tokio::test]
async fn behind_a_failed_message_its_key_goes_back_uncounted_and_others_go_on() {
    let runtime = FakeRuntime::new().handler("worker", |delivery| match (delivery.message.id(), delivery.attempt) {
        ("a-0", 1) => retry("not yet"),
        _ => done(),
    });
    let rig = Rig::start(&config(1), runtime).await;
    // The handler is known to be fast after these, so that one run takes all that follows.
    publish(&rig, (0..10).map(|number| format!("warm-{number}"))).await;
    rig.until("work", (0, 0, 0)).await;
    publish(&rig, ["a-0", "b-0", "a-1", "b-1", "a-2"]).await;
    rig.until("work", (2, 0, 1)).await;
    assert_eq!(rig.ids("work").await, ["a-1", "a-2", "a-0"], "ready, then what waits for its time");
    rig.clock.advance(Duration::from_secs(1));
    rig.until("work", (0, 0, 0)).await;
    let calls: Vec<String> = rig.runtime.invocations().into_iter().skip(10).map(|call| call.message_id).collect();
    assert_eq!(calls, ["a-0", "b-0", "b-1", "a-0", "a-1", "a-2"]);
    let attempts: Vec<u32> = rig.runtime.invocations().iter().skip(13).map(|call| call.attempt).collect();
    assert_eq!(attempts, [2, 1, 1]);
}

#[tokio::test]
async fn a_dead_message_does_not_hold_up_its_key() {
    let runtime = FakeRuntime::new().handler("worker", |delivery| match delivery.message.id() {
        "a-0" => reject("never"),
        _ => done(),
    });
    let rig = Rig::start(&config(1), runtime).await;
    publish(&rig, ["a-0", "a-1", "a-2"]).await;
    rig.until("work", (0, 0, 0)).await;
    assert_eq!(rig.ids("work.dead").await, ["a-0"]);
}

#[tokio::test]
async fn a_slow_message_holds_up_its_key_and_no_other() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let runtime = FakeRuntime::new().handler_async("worker", move |delivery| {
        let gate = waiting.clone();
        async move {
            if delivery.message.id() == "a-0" {
                gate.pass().await;
            }
            done()
        }
    });
    let rig = Rig::start(&config(4), runtime).await;
    publish(&rig, (0..10).map(|number| format!("warm-{number}"))).await;
    rig.until("work", (0, 0, 0)).await;
    let others = (0..100).map(|number| format!("{}-{number}", ["b", "c", "d"][number % 3]));
    publish(&rig, ["a-0", "a-1"].map(str::to_owned).into_iter().chain(others)).await;
    rig.until("work", (1, 1, 0)).await;
    assert_eq!(rig.ids("work").await, ["a-0", "a-1"]);
    gate.open(1);
    rig.until("work", (0, 0, 0)).await;
}
