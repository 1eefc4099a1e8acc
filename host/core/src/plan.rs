//! A checked configuration: what the broker does, with every name resolved, every expression compiled and every default filled in.
//!
//! [`crate::config`] makes plans out of broker.toml; everybody else only reads them. A plan swaps whole or not at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::name::{ConsumerName, QueueName};
use crate::retry::RetryPolicy;
use crate::route::Router;
use crate::runtime::Limits;

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
}

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
        let define = |queue: &QueuePlan| crate::engine::QueueDefinition {
            name: queue.name.clone(),
            dead_letter: queue.dead_letter.map(|index| self.queue(index).name.clone()),
            retry: queue.retry.clone(),
        };
        crate::engine::Definitions { queues: self.queues.iter().map(define).collect() }
    }
}
