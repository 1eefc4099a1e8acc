//! A checked configuration: what the broker does, with every name resolved, every expression compiled and every default filled in.
//!
//! [`crate::config`] makes plans out of broker.toml; everybody else only reads them. A plan swaps whole or not at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Bounds, Expired, Guarantees, Order};
use crate::name::{ConsumerName, QueueName};
use crate::retry::{Backoff, RetryPolicy};
use crate::route::{Pattern, Router};
use crate::runtime::Limits;
pub use crate::schedule::SchedulePlan;

/// Everything that broker.toml says.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `[broker]`
    pub broker: BrokerPlan,
    /// `[http]`
    pub http: HttpPlan,
    /// `[sandbox]`
    pub sandbox: SandboxPlan,
    /// `[queues.*]` in the order of names, with the dead-letter queues that follow from them.
    pub queues: Vec<QueuePlan>,
    /// `[[routes]]`, compiled; its targets are indices into `queues`.
    pub router: Arc<Router>,
    /// `[consumers.*]` in the order of names.
    pub consumers: Vec<ConsumerPlan>,
    /// `[topics.*]`, in the order of the file.
    pub dedup: Vec<DedupPlan>,
    /// `[[schedules]]`, in the order of the file.
    pub schedules: Vec<SchedulePlan>,
    /// `[dev]`
    pub dev: DevPlan,
    /// What is allowed but probably not meant: a queue that nothing routes to, a route that can never match.
    pub warnings: Vec<String>,
}

/// An index into [`Plan::queues`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueIndex(pub usize);

/// `[broker]`: where data is, and the bounds of every message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerPlan {
    /// `data`: the folder of the store, relative to broker.toml. Default `data`.
    pub data: PathBuf,
    /// `max-message`: largest body of one message. Default 1 MiB; at most 64 MiB.
    pub message_bytes_max: u64,
    /// `min-free-disk`: below so many free bytes publishing is refused. Default 128 MiB.
    pub free_disk_min: u64,
    /// `max-hops`: most emits between a message and a producer outside. Default 16; 1 to 255.
    pub hops_max: u8,
}

/// `[http]`: the HTTP door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpPlan {
    /// `listen`: default 127.0.0.1:7656; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `token`: who may come in. Without one only loopback addresses may be bound (checked).
    pub token: Option<SecretSource>,
    /// `max-request`: largest request body; a batch may hold many messages. Default 16 MiB.
    pub request_bytes_max: u64,
}

/// Where a secret is read from when the broker starts. Secrets never stand in the file itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// `{ env = "NAME" }`
    Env(String),
    /// `{ file = "path" }`, relative to broker.toml; surrounding white space is cut.
    File(PathBuf),
}

/// `[sandbox]`: what all consumers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPlan {
    /// `slots`: deliveries that can run at once over all consumers. Default 256; 1 to 4096.
    pub slots: usize,
}

/// `[queues.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct QueuePlan {
    /// Its name.
    pub name: QueueName,
    /// `max-attempts` (default 5) and `backoff` (default 1s, factor 2.0, max 5m, jitter 0.2).
    pub retry: RetryPolicy,
    /// `dead-letter`: default `NAME.dead`; none on a queue that holds dead letters.
    pub dead_letter: Option<QueueIndex>,
    /// `order`: default arrival.
    pub order: Order,
    /// `key`: the attribute whose value messages are kept in order by, where the order is by key. Default `partitionkey`.
    pub key: Arc<str>,
    /// `priority`: whether messages are delivered by their attribute `priority`, 9 first. Default false.
    pub priority: bool,
    /// `ttl`: how long a message may wait for its delivery, from when it is available first. Default: for ever.
    pub ttl: Option<Duration>,
    /// `expired`: what becomes of those that waited too long. Default `dead-letter`.
    pub expired: Expired,
    /// `max-messages`, `max-bytes` and `overflow`: default without bounds, and `refuse`.
    pub bounds: Bounds,
}

/// The default of `[queues.NAME] key`: CloudEvents' partitioning extension.
pub const KEY_DEFAULT: &str = "partitionkey";

/// `[consumers.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerPlan {
    /// Its name.
    pub name: ConsumerName,
    /// `queue`: what it consumes.
    pub queue: QueueIndex,
    /// `component` or `source`.
    pub code: ConsumerCode,
    /// `concurrency`: deliveries at the same time. Default 16; 1 to the sandbox's slots.
    pub concurrency: usize,
    /// `memory` (default 64MiB), `timeout` (default 5s), `max-emits` (default 1000), `max-emit-bytes` (default 16MiB),
    /// `max-log` (default 16KiB).
    pub limits: Limits,
    /// `config`: what `wasi:config` answers, as text.
    pub config: BTreeMap<String, String>,
    /// `max-attempts`, `max-age` and `backoff` of its own; what it leaves out is its queue's.
    pub retry: RetryPolicy,
    /// `breaker`: none where it is switched off.
    pub breaker: Option<BreakerPlan>,
}

/// `breaker = { failures = 20, probe = "1s", max = "1m" }`: when a consumer is paused that fails whatever it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerPlan {
    /// `failures`: after so many failed deliveries in a row, each of another message. Default 20.
    pub failures: u32,
    /// `probe`: the first pause before a single message is tried; it doubles with each that fails. Default 1s.
    pub probe: Duration,
    /// `max`: the longest such pause. Default 1m.
    pub max: Duration,
}

impl Default for BreakerPlan {
    fn default() -> Self {
        Self { failures: 20, probe: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

/// `[topics."PATTERN"]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupPlan {
    /// Which topics, as in a route's `from`. The first that matches counts, in the order of the file.
    pub topics: Pattern,
    /// `dedup`: for how long a message's double is recognised.
    pub window: Duration,
}

/// Where a consumer's component comes from. Paths are absolute or relative to the process, already joined with broker.toml's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsumerCode {
    /// `component`: a `.wasm` file.
    Component(PathBuf),
    /// `source`: the folder of a cargo package that `pelton build` and `pelton dev` compile.
    Source(PathBuf),
}

/// `[dev]`: what only `pelton dev` looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevPlan {
    /// `sample`: messages published at every start of `pelton dev`.
    pub sample: Option<SamplePlan>,
}

/// `[dev] sample = { file = "events.jsonl", topic = "github.{event}", body = "payload" }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SamplePlan {
    /// `file`: JSON lines, relative to broker.toml.
    pub file: PathBuf,
    /// `topic`: a topic with `{field}` for fields of a line.
    pub topic: String,
    /// `body`: the field of a line that is the body; default: the whole line.
    pub body: Option<String>,
}

/// Default for `[consumers.NAME] timeout`.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

impl Plan {
    /// The queue at `index`. Indices come from this plan, so it is there.
    #[must_use]
    pub fn queue(&self, index: QueueIndex) -> &QueuePlan {
        &self.queues[index.0]
    }

    /// The queues as an engine needs to know them.
    #[must_use]
    pub fn definitions(&self) -> crate::engine::Definitions {
        // An engine takes a longer wait than this for a mistake, and a consumer's own backoff may ask for one.
        let retry = |queue: &QueuePlan| {
            let own = self.consumers.iter().filter(|consumer| self.queue(consumer.queue).name == queue.name);
            let longest = own.map(|consumer| consumer.retry.backoff.max).fold(queue.retry.backoff.max, Duration::max);
            RetryPolicy { backoff: Backoff { max: longest, ..queue.retry.backoff.clone() }, ..queue.retry.clone() }
        };
        let define = |queue: &QueuePlan| crate::engine::QueueDefinition {
            name: queue.name.clone(),
            dead_letter: queue.dead_letter.map(|index| self.queue(index).name.clone()),
            retry: retry(queue),
            order: queue.order,
            priority: queue.priority,
            bounds: queue.bounds,
            expired: queue.expired,
        };
        crate::engine::Definitions {
            queues: self.queues.iter().map(define).collect(),
            schedules: self.schedules.iter().map(|schedule| schedule.name.clone()).collect(),
            free_bytes_min: self.broker.free_disk_min,
        }
    }

    /// What the plan needs and an engine with these guarantees does not promise: a sentence for each key, in the order of the plan.
    #[must_use]
    pub fn unmet(&self, guarantees: &Guarantees) -> Vec<String> {
        let mut unmet = Vec::new();
        let mut need = |needed: bool, promised: bool, key: String, what: &str| {
            if needed && !promised {
                unmet.push(format!("{key}: the engine {what}; leave it out, or use another engine"));
            }
        };
        for QueuePlan { name, order, priority, ttl, bounds, .. } in &self.queues {
            let key = |key: &str| format!("[queues.{name}] {key}");
            let Guarantees { key_order, priorities, expiry, exact_bounds, .. } = *guarantees;
            need(*order == Order::Key, key_order, key("order"), "keeps no order by key");
            need(*priority, priorities, key("priority"), "keeps no priorities");
            need(ttl.is_some(), expiry, key("ttl"), "lets no messages expire");
            need(bounds.messages_max.is_some(), exact_bounds, key("max-messages"), "keeps no exact bounds");
            need(bounds.bytes_max.is_some(), exact_bounds, key("max-bytes"), "keeps no exact bounds");
        }
        for DedupPlan { topics, .. } in &self.dedup {
            need(true, guarantees.dedup, format!("[topics.\"{topics}\"] dedup"), "recognises no doubles");
        }
        for SchedulePlan { name, .. } in &self.schedules {
            let key = format!("[[schedules]] {name}");
            need(true, guarantees.schedules, key, "can't publish exactly once per tick");
        }
        unmet
    }
}
