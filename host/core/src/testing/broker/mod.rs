//! Tests of the whole broker but for storage and sandbox: `Broker` and the dispatch loop over the engine in memory and the
//! fake runtime. Here is what they start with; the cases lie by subject beside it.
//!
//! Time is the test clock's, but for the pauses that the dispatch loop takes by tokio's timer, which are short.

mod accounts;
mod alone;
mod bounds;
mod breaker;
mod cancel;
mod dedup;
mod deliver;
mod emits;
mod hands;
mod keyed;
mod operate;
mod options;
mod outage;
mod paused;
mod pausing;
mod permits;
mod reload;
mod retries;
mod schedules;
mod stop;
mod throttle;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::conformance::eventually;
use super::{FakeRuntime, Invocation, MemoryEngine, TestClock};
use crate::broker::{
    Broker, DeployError, Deployment, LeaseWant, Parts, Publish, PublishError, PublishOptions, Published, Refusal,
};
use crate::clock::WallMs;
use crate::config;
use crate::dispatch::{DeliveryReport, Next, Observer};
use crate::engine::{Leased, Stored};
use crate::message::{Attributes, Message};
use crate::metrics::Metrics;
use crate::name::{ConsumerName, Topic};
use crate::plan::{ConsumerCode, Plan};

/// A broker that runs, and what it stands on.
struct Rig {
    broker: Broker,
    engine: MemoryEngine,
    runtime: FakeRuntime,
    clock: TestClock,
    seen: Arc<Seen>,
}

/// Every delivery as a line: `consumer/id#attempt outcome -> what next`.
#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Observer for Seen {
    fn delivered(&self, report: &DeliveryReport<'_>) {
        let next = match report.next {
            Next::Done { emitted } => format!("done, {emitted} emitted"),
            Next::Again(after) => format!("again in {} ms", after.as_millis()),
            Next::Dead(reason) => format!("dead, {}", reason.code.as_str()),
            Next::Released => "released".to_owned(),
        };
        let DeliveryReport { consumer, message, attempt, outcome, .. } = report;
        let line = format!("{consumer}/{}#{attempt} {} -> {next}", message.id(), outcome.word());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

/// One queue of three attempts without jitter, one route to it, one consumer of it.
const ONE: &str = r#"
[queues.work]
max-attempts = 3
backoff = { initial = "1s", factor = 2.0, max = "1m", jitter = 0.0 }

[[routes]]
from = "work.#"
to = ["queue:work"]

[consumers.worker]
queue = "work"
component = "worker.wasm"
"#;

impl Rig {
    /// Starts what `config` (a broker.toml) says with handlers of `runtime`.
    async fn start(config: &str, runtime: FakeRuntime) -> Self {
        let clock = TestClock::new();
        Self::start_on(MemoryEngine::on_test_clock(&clock), clock, config, runtime).await
    }

    /// The same on a store that there is already.
    async fn start_on(engine: MemoryEngine, clock: TestClock, config: &str, runtime: FakeRuntime) -> Self {
        Self::start_with(engine, clock, config, runtime, |_| {}).await
    }

    /// The same on an empty store, with other parts.
    async fn start_by(config: &str, runtime: FakeRuntime, change: impl FnOnce(&mut Parts)) -> Self {
        let clock = TestClock::new();
        Self::start_with(MemoryEngine::on_test_clock(&clock), clock, config, runtime, change).await
    }

    async fn start_with(
        engine: MemoryEngine,
        clock: TestClock,
        config: &str,
        runtime: FakeRuntime,
        change: impl FnOnce(&mut Parts),
    ) -> Self {
        let seen = Arc::new(Seen::default());
        let mut parts = Parts {
            engine: Arc::new(engine.clone()),
            runtime: Arc::new(runtime.clone()),
            clock: Arc::new(clock.clone()),
            metrics: Metrics::new(),
            guests: tokio::runtime::Handle::current(),
            observer: Some(seen.clone()),
            in_flight: None,
            reload: None,
            backup: None,
        };
        change(&mut parts);
        let broker =
            Broker::start(parts, deployment(config)).await.expect("the configuration and its handlers are right");
        Self { broker, engine, runtime, clock, seen }
    }

    async fn deploy(&self, config: &str) -> Result<(), DeployError> {
        self.broker.deploy(deployment(config)).await
    }

    /// Publishes a message per id in one request.
    async fn publish(&self, topic: &str, ids: &[&str]) -> Vec<Published> {
        self.try_publish(topic, ids).await.expect("it is routed")
    }

    async fn try_publish(&self, topic: &str, ids: &[&str]) -> Result<Vec<Published>, PublishError> {
        let topic = Topic::new(topic).expect("tests publish to valid topics");
        let publish = |id: &&str| Publish { topic: topic.clone(), message: message(id, b"{}") };
        self.broker.publish(ids.iter().map(publish).collect(), PublishOptions::default()).await
    }

    /// Publishes so many messages in one request; their ids are numbers from 0.
    async fn publish_numbered(&self, topic: &str, count: usize) {
        let ids: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        self.publish(topic, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    /// Publishes these to `topic` as one request.
    async fn publish_all(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: PublishOptions,
    ) -> Result<Vec<Published>, PublishError> {
        let topic = Topic::new(topic).expect("tests publish to valid topics");
        let publish = |message| Publish { topic: topic.clone(), message };
        self.broker.publish(messages.into_iter().map(publish).collect(), options).await
    }

    /// The wall time in `duration` from now.
    fn in_time(&self, duration: Duration) -> WallMs {
        self.clock.now().wall.plus(duration)
    }

    /// Leases up to `max` of what `queue` has, for 30 s.
    async fn lease(&self, queue: &str, max: usize) -> Vec<Leased> {
        let want = LeaseWant { max, wait: Duration::ZERO, ttl: Duration::from_secs(30) };
        self.broker.lease(queue, want).await.expect("tests lease from queues that exist")
    }

    /// Waits until `queue` has these: ready, leased, scheduled.
    async fn until(&self, queue: &str, expected: (u64, u64, u64)) {
        eventually(&format!("'{queue}' has (ready, leased, scheduled) = {expected:?}"), async || {
            self.counts(queue) == expected
        })
        .await;
    }

    /// Waits until `count` calls have begun.
    async fn until_invoked(&self, count: usize) -> Vec<Invocation> {
        eventually(&format!("{count} calls have begun"), async || self.runtime.invocations().len() >= count).await;
        let invocations = self.runtime.invocations();
        assert_eq!(invocations.len(), count, "more calls than expected: {invocations:#?}");
        invocations
    }

    fn counts(&self, queue: &str) -> (u64, u64, u64) {
        let counts = self.broker.queue(queue).expect("tests look at queues that exist").counts;
        (counts.ready, counts.leased, counts.scheduled)
    }

    async fn browse(&self, queue: &str) -> Vec<Stored> {
        self.broker.browse(queue, None, 1000).await.expect("tests look at queues that exist").items
    }

    async fn ids(&self, queue: &str) -> Vec<String> {
        self.browse(queue).await.iter().map(|stored| stored.message.id().to_owned()).collect()
    }

    fn seen(&self) -> Vec<String> {
        self.seen.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sum of a counter over all its labels, as `/metrics` shows it.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.broker.metrics().encode(&self.broker.counts(), self.clock.now().wall.0);
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

fn plan(config: &str) -> Plan {
    config::check(config, Path::new("broker.toml")).unwrap_or_else(|error| panic!("{error}"))
}

/// The configuration with the component file that it names for each consumer.
fn deployment(config: &str) -> Deployment {
    let plan = plan(config);
    let components = plan.consumers.iter().map(|consumer| match &consumer.code {
        ConsumerCode::Component(path) | ConsumerCode::Source(path) => (consumer.name.clone(), path.clone()),
    });
    let components: BTreeMap<ConsumerName, PathBuf> = components.collect();
    Deployment { plan: Arc::new(plan), components }
}

fn message(id: &str, data: &[u8]) -> Message {
    extended(id, &[], data)
}

/// A message with these extension attributes.
fn extended(id: &str, extensions: &[(&str, &str)], data: &[u8]) -> Message {
    let attributes = Attributes { id, source: "/tests", kind: "made", extensions, ..Attributes::default() };
    Message::new(&attributes, data).expect("the attributes are valid")
}

fn leased_ids(leased: &[Leased]) -> Vec<&str> {
    leased.iter().map(|leased| leased.message.id()).collect()
}

/// One queue, `work`, with these lines in its table, and a route to it. Nobody consumes it.
fn queue(settings: &str) -> String {
    format!("[queues.work]\nmax-attempts = 3\n{settings}\n[[routes]]\nfrom = \"work.#\"\nto = [\"queue:work\"]\n")
}

/// What a refused request was refused for.
fn refusals(result: Result<Vec<Published>, PublishError>) -> Vec<Refusal> {
    match result {
        Err(PublishError::Refused(refusals)) => refusals,
        other => panic!("it is not refused: {other:?}"),
    }
}

/// A gate that handlers wait at: for a test to say when they may go on.
#[derive(Clone)]
struct Gate {
    permits: Arc<tokio::sync::Semaphore>,
}

impl Gate {
    fn closed() -> Self {
        Self { permits: Arc::new(tokio::sync::Semaphore::new(0)) }
    }

    /// Lets one caller through for each call of [`open`](Self::open).
    async fn pass(&self) {
        self.permits.acquire().await.expect("it is never closed").forget();
    }

    fn open(&self, callers: usize) {
        self.permits.add_permits(callers);
    }
}

/// Longest that a test lets running deliveries finish.
const GRACE: Duration = Duration::from_secs(5);

fn distinct(invocations: &[Invocation]) -> BTreeSet<&str> {
    invocations.iter().map(|call| call.message_id.as_str()).collect()
}
