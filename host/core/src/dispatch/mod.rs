//! The dispatch loop: brings messages of queues to their consumers.
//!
//! [`machine`] decides, purely, who leases how much and when a run starts; [`shell`] carries it out; [`worker`] takes one run of
//! messages through the sandbox and settles it. A permit comes before a lease, so a burst waits in its queue and never in
//! the sandbox. Consumers that fail whatever they get ([`breaker`]), or that overfill queues ([`throttle`]), are held back.

mod breaker;
mod breakers;
mod hand;
mod history;
mod machine;
mod shell;
mod tasks;
mod throttle;
mod worker;

use std::sync::Arc;
use std::time::Duration;

pub use self::breaker::{BreakerState, BreakerStatus};
pub use self::shell::Dispatch;
use crate::broker::Routing;
use crate::engine::{DeadReason, QueueId};
use crate::message::Message;
use crate::metrics::ConsumerMetrics;
use crate::name::{ConsumerName, QueueName, Topic};
use crate::plan::BreakerPlan;
use crate::retry::RetryPolicy;
use crate::runtime::{Handler, Outcome};

/// A consumer as it runs: its part of a plan, resolved. Immutable; a new plan, and pausing, bring new units.
#[derive(Clone)]
pub struct ConsumerUnit {
    /// Its name.
    pub name: ConsumerName,
    /// What it consumes.
    pub queue: QueueId,
    /// The same by name.
    pub queue_name: QueueName,
    /// What `context.source` answers: `queue:reviews`.
    pub source: Arc<str>,
    /// Permits: runs at the same time.
    pub concurrency: usize,
    /// Its own rule, or that of its queue.
    pub retry: RetryPolicy,
    /// Whether its queue keeps messages in order by key.
    pub ordered: bool,
    /// When it is held back because it fails; none: never.
    pub breaker: Option<BreakerPlan>,
    /// The queues of the plan that have bounds, in order: it is held back while one of them is full of what it emitted.
    pub bounded: Arc<[QueueId]>,
    /// Most emits between a message and a producer outside.
    pub hops_max: u8,
    /// Its component; none: it gets no deliveries.
    pub handler: Option<Arc<dyn Handler>>,
    /// Paused by an operator: it gets no deliveries until it is resumed.
    pub paused: bool,
    /// Routes what it emits.
    pub routing: Arc<Routing>,
    /// What counts its deliveries.
    pub metrics: ConsumerMetrics,
    /// The CloudEvents source of what it emits.
    pub event_source: Arc<str>,
}

/// Wants to see every delivery. Called on guest executors: must be quick and must not block.
pub trait Observer: Send + Sync + 'static {
    /// A delivery ended and `report.next` is about to be committed.
    fn delivered(&self, report: &DeliveryReport<'_>);
}

/// One delivery, for people.
#[derive(Debug)]
pub struct DeliveryReport<'a> {
    /// Who handled it.
    pub consumer: &'a ConsumerName,
    /// From which queue.
    pub queue: &'a QueueName,
    /// What it was published to.
    pub topic: &'a Topic,
    /// The message.
    pub message: &'a Message,
    /// 1 for the first.
    pub attempt: u32,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// Time in the sandbox.
    pub duration: Duration,
    /// What it logged and printed.
    pub log: &'a str,
    /// What becomes of the message.
    pub next: Next<'a>,
}

/// What becomes of a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// Gone, with so many messages emitted.
    Done {
        /// Entries that its emits came to.
        emitted: usize,
    },
    /// Tried again after this time.
    Again(Duration),
    /// Dead-lettered.
    Dead(&'a DeadReason),
    /// Given back uncounted: the host could not run it, or its consumer's breaker is open.
    Released,
}
