//! What the broker counts. Handles are looked up when a plan is loaded, never per message.
//!
//! Invariants: label values come only from the plan (queues, consumers) and from fixed sets (outcomes), so that a client
//! can't grow them; times are seconds, as Prometheus wants them.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::engine::Counts;
use crate::name::{ConsumerName, QueueName};
use crate::runtime::Outcome;

/// Every counter and histogram, shared by whoever counts.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Messages accepted from producers, durable.
    pub accepted: Counter,
    /// Publishes refused because no route matches their topic.
    pub unroutable: Counter,
    /// Entries written to queues: one per message and target.
    pub routed: Counter,
    /// What the engine counts.
    pub engine: EngineMetrics,
    delivered: Family<DeliveredLabels, Counter>,
    invoke_seconds: Family<ConsumerLabels, Histogram>,
}

/// What an engine counts; it gets these when it is opened.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    /// Transactions committed and synced.
    pub commits: Counter,
    /// From the first write of a transaction to its answer.
    pub commit_seconds: Histogram,
    /// Messages written or settled by a transaction.
    pub batch_messages: Histogram,
    /// Settlements committed.
    pub settled: Counter,
    /// Messages moved to dead letters.
    pub dead: Counter,
}

/// The counters of one consumer.
#[derive(Debug, Clone)]
pub struct ConsumerMetrics {
    outcomes: Vec<(&'static str, Counter)>,
    /// Time in the sandbox per delivery.
    pub invoke_seconds: Histogram,
}

impl ConsumerMetrics {
    /// Counts one delivery that ended with `outcome`.
    pub fn delivered(&self, outcome: &Outcome) {
        if let Some((_, counter)) = self.outcomes.iter().find(|(word, _)| *word == outcome.word()) {
            counter.inc();
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveredLabels {
    consumer: String,
    queue: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConsumerLabels {
    consumer: String,
}

/// 1 us to about 30 s, each bucket twice the one before.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-6, 2.0, 26))
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let engine = EngineMetrics {
            commits: Counter::default(),
            commit_seconds: seconds(),
            batch_messages: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            settled: Counter::default(),
            dead: Counter::default(),
        };
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("pelton"))),
            accepted: Counter::default(),
            unroutable: Counter::default(),
            routed: Counter::default(),
            engine,
            delivered: Family::default(),
            invoke_seconds: Family::new_with_constructor(seconds),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let Self { accepted, unroutable, routed, engine, delivered, invoke_seconds, .. } = self;
        registry.register("accepted", "Messages accepted from producers, durable", accepted.clone());
        registry.register("unroutable", "Messages refused because no route matches their topic", unroutable.clone());
        registry.register("routed", "Entries written to queues, one per message and target", routed.clone());
        registry.register("delivered", "Deliveries ended, by outcome", delivered.clone());
        registry.register("settled", "Settlements committed", engine.settled.clone());
        registry.register("dead_lettered", "Messages moved to dead letters", engine.dead.clone());
        registry.register("commits", "Transactions committed and synced", engine.commits.clone());
        registry.register("commit_batch_messages", "Messages per transaction", engine.batch_messages.clone());
        let invoke = "Time in the sandbox per delivery";
        registry.register_with_unit("invoke", invoke, Unit::Seconds, invoke_seconds.clone());
        let commit = "Time to apply and sync a transaction";
        registry.register_with_unit("commit", commit, Unit::Seconds, engine.commit_seconds.clone());
    }

    /// The counters of `consumer` on `queue`.
    #[must_use]
    pub fn consumer(&self, consumer: &ConsumerName, queue: &QueueName) -> ConsumerMetrics {
        let labels = |outcome| DeliveredLabels { consumer: consumer.to_string(), queue: queue.to_string(), outcome };
        let counter = |word| (word, self.delivered.get_or_create(&labels(word)).clone());
        let outcomes = Outcome::WORDS.into_iter().map(counter).collect();
        let invoke_seconds =
            self.invoke_seconds.get_or_create(&ConsumerLabels { consumer: consumer.to_string() }).clone();
        ConsumerMetrics { outcomes, invoke_seconds }
    }

    /// Everything in the Prometheus text format (OpenMetrics), with the gauges of `counts`: `pelton_queue_messages{queue,state}`,
    /// `pelton_queue_bytes{queue}` and `pelton_queue_oldest_seconds{queue}`, the age as of `now_ms`.
    #[must_use]
    pub fn encode(&self, counts: &Counts, now_ms: u64) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode_registry(&mut text, &registry)
            .expect("writing to a String can't fail");
        drop(registry);
        encode_gauges(&mut text, counts, now_ms);
        text.push_str("# EOF\n");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Queue names hold no character that the format would escape.
fn encode_gauges(text: &mut String, counts: &Counts, now_ms: u64) {
    use std::fmt::Write as _;
    let mut gauge = |name: &str, help: &str, rows: &mut dyn Iterator<Item = (String, f64)>| {
        let _ = writeln!(text, "# HELP pelton_{name} {help}.\n# TYPE pelton_{name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(text, "pelton_{name}{{{labels}}} {value}");
        }
    };
    let states = counts.queues.iter().flat_map(|queue| {
        let states = [("ready", queue.ready), ("leased", queue.leased), ("scheduled", queue.scheduled)];
        states.map(|(state, count)| (format!("queue=\"{}\",state=\"{state}\"", queue.name), count as f64))
    });
    gauge("queue_messages", "Messages in a queue by state", &mut { states });
    let bytes = counts.queues.iter().map(|queue| (format!("queue=\"{}\"", queue.name), queue.bytes as f64));
    gauge("queue_bytes", "Stored bytes of a queue", &mut { bytes });
    let ages = counts.queues.iter().map(|queue| {
        let age = queue.oldest.map_or(0, |oldest| now_ms.saturating_sub(oldest.0));
        (format!("queue=\"{}\"", queue.name), age as f64 / 1000.0)
    });
    gauge("queue_oldest_seconds", "Age of the oldest message that is ready or leased", &mut { ages });
}
