//! What the broker counts. Handles are looked up when a plan is loaded, never per message.
//!
//! Invariants: label values come only from the plan (queues, consumers) and from fixed sets (outcomes), so that a client
//! can't grow them; times are seconds, as Prometheus wants them.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::engine::{Counts, QueueCounts};
use crate::name::{ConsumerName, QueueName, ScheduleName};
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
    /// Messages recognised as doubles, answered and not stored again.
    pub duplicates: Counter,
    /// Deliveries that ended with the process that ran them.
    pub lost: Counter,
    /// What the engine counts.
    pub engine: EngineMetrics,
    delivered: Family<DeliveredLabels, Counter>,
    retried: Family<ReasonLabels, Counter>,
    released: Family<ReasonLabels, Counter>,
    invoke_seconds: Family<ConsumerLabels, Histogram>,
    consumer_paused: Family<ConsumerLabels, Gauge>,
    consumer_throttled: Family<ConsumerLabels, Gauge>,
    breaker_open: Family<ConsumerLabels, Gauge>,
    schedule_ticks: Family<ScheduleLabels, Counter>,
    schedule_ticks_missed: Family<ScheduleLabels, Counter>,
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
    retried: Vec<(&'static str, Counter)>,
    /// Deliveries given back uncounted because the host could not run them.
    pub released_by_host: Counter,
    /// Failed deliveries given back uncounted because the breaker was open.
    pub released_by_breaker: Counter,
    /// Time in the sandbox per delivery.
    pub invoke_seconds: Histogram,
    /// 1 while it is paused.
    pub paused: Gauge,
    /// 1 while it waits for a queue that it overfilled to drain.
    pub throttled: Gauge,
    /// 1 while its breaker is open.
    pub breaker_open: Gauge,
}

impl ConsumerMetrics {
    /// Counts one delivery that ended with `outcome`.
    pub fn delivered(&self, outcome: &Outcome) {
        count(&self.outcomes, outcome);
    }

    /// Counts one delivery that ended with `outcome` and after which its message is tried again.
    pub fn retried(&self, outcome: &Outcome) {
        count(&self.retried, outcome);
    }
}

fn count(counters: &[(&'static str, Counter)], outcome: &Outcome) {
    if let Some((_, counter)) = counters.iter().find(|(word, _)| *word == outcome.word()) {
        counter.inc();
    }
}

/// The outcomes after which a message may be tried again.
const RETRIED_WORDS: [&str; 7] = ["retry", "trap", "timeout", "memory", "stack", "emits", "malformed"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveredLabels {
    consumer: String,
    queue: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    consumer: String,
    queue: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConsumerLabels {
    consumer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScheduleLabels {
    schedule: String,
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
            duplicates: Counter::default(),
            lost: Counter::default(),
            engine,
            delivered: Family::default(),
            retried: Family::default(),
            released: Family::default(),
            invoke_seconds: Family::new_with_constructor(seconds),
            consumer_paused: Family::default(),
            consumer_throttled: Family::default(),
            breaker_open: Family::default(),
            schedule_ticks: Family::default(),
            schedule_ticks_missed: Family::default(),
        };
        metrics.register();
        metrics.register_consumers();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let Self {
            accepted, unroutable, routed, duplicates, lost, engine, schedule_ticks, schedule_ticks_missed, ..
        } = self;
        registry.register("accepted", "Messages accepted from producers, durable", accepted.clone());
        registry.register("unroutable", "Messages refused because no route matches their topic", unroutable.clone());
        registry.register("routed", "Entries written to queues, one per message and target", routed.clone());
        let help = "Messages recognised as doubles, answered and not stored again";
        registry.register("duplicates", help, duplicates.clone());
        registry.register("lost", "Deliveries that ended with the process that ran them", lost.clone());
        registry.register("schedule_ticks", "Times that a schedule has published", schedule_ticks.clone());
        let help = "Times that a schedule missed and that were passed over";
        registry.register("schedule_ticks_missed", help, schedule_ticks_missed.clone());
        registry.register("settled", "Settlements committed", engine.settled.clone());
        registry.register("dead_lettered", "Messages moved to dead letters", engine.dead.clone());
        registry.register("commits", "Transactions committed and synced", engine.commits.clone());
        registry.register("commit_batch_messages", "Messages per transaction", engine.batch_messages.clone());
        let commit = "Time to apply and sync a transaction";
        registry.register_with_unit("commit", commit, Unit::Seconds, engine.commit_seconds.clone());
    }

    fn register_consumers(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let Self { delivered, retried, released, invoke_seconds, .. } = self;
        let Self { consumer_paused, consumer_throttled, breaker_open, .. } = self;
        registry.register("delivered", "Deliveries ended, by outcome", delivered.clone());
        let help = "Deliveries after which their message is tried again, by outcome";
        registry.register("retried", help, retried.clone());
        let help =
            "Deliveries after which their message was given back uncounted: the host failed, or the breaker was open";
        registry.register("released", help, released.clone());
        let help = "Time in the sandbox per delivery";
        registry.register_with_unit("invoke", help, Unit::Seconds, invoke_seconds.clone());
        registry.register("consumer_paused", "Whether a consumer is paused", consumer_paused.clone());
        let help = "Whether a consumer waits for a queue that it overfilled to drain";
        registry.register("consumer_throttled", help, consumer_throttled.clone());
        registry.register("breaker_open", "Whether the breaker of a consumer is open", breaker_open.clone());
    }

    /// The counters of `consumer` on `queue`.
    #[must_use]
    pub fn consumer(&self, consumer: &ConsumerName, queue: &QueueName) -> ConsumerMetrics {
        let labels = |outcome| DeliveredLabels { consumer: consumer.to_string(), queue: queue.to_string(), outcome };
        let counter = |word| (word, self.delivered.get_or_create(&labels(word)).clone());
        let because = |family: &Family<ReasonLabels, Counter>, reason| {
            let labels = ReasonLabels { consumer: consumer.to_string(), queue: queue.to_string(), reason };
            family.get_or_create(&labels).clone()
        };
        let by_consumer = ConsumerLabels { consumer: consumer.to_string() };
        ConsumerMetrics {
            outcomes: Outcome::WORDS.into_iter().map(counter).collect(),
            retried: RETRIED_WORDS.into_iter().map(|word| (word, because(&self.retried, word))).collect(),
            released_by_host: because(&self.released, "host"),
            released_by_breaker: because(&self.released, "breaker"),
            invoke_seconds: self.invoke_seconds.get_or_create(&by_consumer).clone(),
            paused: self.consumer_paused.get_or_create(&by_consumer).clone(),
            throttled: self.consumer_throttled.get_or_create(&by_consumer).clone(),
            breaker_open: self.breaker_open.get_or_create(&by_consumer).clone(),
        }
    }

    /// What counts the ticks of `schedule`.
    #[must_use]
    pub fn schedule_ticks(&self, schedule: &ScheduleName) -> Counter {
        self.schedule_ticks.get_or_create(&ScheduleLabels { schedule: schedule.to_string() }).clone()
    }

    /// What counts the ticks that `schedule` missed and that were passed over.
    #[must_use]
    pub fn schedule_ticks_missed(&self, schedule: &ScheduleName) -> Counter {
        self.schedule_ticks_missed.get_or_create(&ScheduleLabels { schedule: schedule.to_string() }).clone()
    }

    /// Everything in the Prometheus text format (OpenMetrics), with the figures of `counts` by queue: `pelton_queue_messages{state}`,
    /// `pelton_queue_bytes`, `pelton_queue_oldest_seconds` (the age as of `now_ms`), `pelton_queue_paused`, `pelton_queue_full`,
    /// `pelton_queue_dropped_total` and `pelton_queue_expired_total`.
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
    let states = counts.queues.iter().flat_map(|queue| {
        let states = [("ready", queue.ready), ("leased", queue.leased), ("scheduled", queue.scheduled)];
        states.map(|(state, count)| (format!("queue=\"{}\",state=\"{state}\"", queue.name), count as f64))
    });
    encode_family(text, "queue_messages", "gauge", "Messages in a queue by state", states);
    let mut by_queue = |name: &str, kind: &str, help: &str, value: &dyn Fn(&QueueCounts) -> f64| {
        let rows = counts.queues.iter().map(|queue| (format!("queue=\"{}\"", queue.name), value(queue)));
        encode_family(text, name, kind, help, rows);
    };
    by_queue("queue_bytes", "gauge", "Stored bytes of a queue", &|queue| queue.bytes as f64);
    let age = |queue: &QueueCounts| {
        let age = queue.oldest.map_or(0, |oldest| now_ms.saturating_sub(oldest.0));
        age as f64 / 1000.0
    };
    by_queue("queue_oldest_seconds", "gauge", "Age of the oldest message that is ready or leased", &age);
    let flag = |set: bool| f64::from(u8::from(set));
    by_queue("queue_paused", "gauge", "Whether a queue is paused", &|queue| flag(queue.paused));
    let help = "Whether a queue is at its bounds or beyond";
    by_queue("queue_full", "gauge", help, &|queue| flag(queue.full));
    let help = "Messages deleted to make room for others";
    by_queue("queue_dropped", "counter", help, &|queue| queue.dropped as f64);
    by_queue("queue_expired", "counter", "Messages that expired", &|queue| queue.expired as f64);
}

/// One family with a row for each of these labels; the samples of a counter end in `_total`.
fn encode_family(text: &mut String, name: &str, kind: &str, help: &str, rows: impl Iterator<Item = (String, f64)>) {
    use std::fmt::Write as _;
    let suffix = if kind == "counter" { "_total" } else { "" };
    let _ = writeln!(text, "# HELP pelton_{name} {help}.\n# TYPE pelton_{name} {kind}");
    for (labels, value) in rows {
        let _ = writeln!(text, "pelton_{name}{suffix}{{{labels}}} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMs;
    use crate::engine::QueueId;

    #[test]
    fn all_outcomes_but_three_may_be_tried_again() {
        let others = ["done", "reject", "host"];
        let retried: Vec<_> = Outcome::WORDS.into_iter().filter(|word| !others.contains(word)).collect();
        assert_eq!(retried, RETRIED_WORDS);
    }

    #[test]
    fn figures_of_queues() {
        let queue = QueueCounts {
            id: QueueId(1),
            name: QueueName::new("work").expect("a name"),
            declared: true,
            paused: false,
            full: true,
            ready: 3,
            leased: 2,
            scheduled: 1,
            bytes: 600,
            oldest: Some(WallMs(1500)),
            dropped: 7,
            expired: 8,
        };
        let mut text = String::new();
        encode_gauges(&mut text, &Counts { queues: vec![queue], paused_consumers: Vec::new() }, 3000);
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "pelton_queue_messages{queue=\"work\",state=\"ready\"} 3",
                "pelton_queue_messages{queue=\"work\",state=\"leased\"} 2",
                "pelton_queue_messages{queue=\"work\",state=\"scheduled\"} 1",
                "pelton_queue_bytes{queue=\"work\"} 600",
                "pelton_queue_oldest_seconds{queue=\"work\"} 1.5",
                "pelton_queue_paused{queue=\"work\"} 0",
                "pelton_queue_full{queue=\"work\"} 1",
                "pelton_queue_dropped_total{queue=\"work\"} 7",
                "pelton_queue_expired_total{queue=\"work\"} 8",
            ]
        );
        assert!(text.contains("# TYPE pelton_queue_dropped counter\n"), "{text}");
    }
}
