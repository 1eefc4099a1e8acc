//! The dispatch loop: brings messages of queues to their consumers.
//!
//! [`machine`] decides, purely, who leases how much and when a run starts; [`shell`] carries it out; [`worker`] takes one run of
//! messages through the sandbox and settles it. A permit comes before a lease, so a burst waits in its queue and never in
//! the sandbox.

mod machine;
mod shell;
mod worker;

use std::sync::Arc;
use std::time::Duration;

pub use self::shell::Dispatch;
use crate::engine::{DeadReason, QueueId};
use crate::message::Message;
use crate::metrics::ConsumerMetrics;
use crate::name::{ConsumerName, QueueName, Topic};
use crate::retry::RetryPolicy;
use crate::route::Router;
use crate::runtime::{Handler, Outcome};

/// A consumer as it runs: its part of a plan, resolved. Immutable; a new plan brings new units.
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
    /// The rule of its queue.
    pub retry: RetryPolicy,
    /// Most emits between a message and a producer outside.
    pub hops_max: u8,
    /// Its component; none: it gets no deliveries.
    pub handler: Option<Arc<dyn Handler>>,
    /// Routes what it emits.
    pub router: Arc<Router>,
    /// The engine's id of each queue of the plan, by queue index.
    pub queue_ids: Arc<[QueueId]>,
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
    /// Given back uncounted: the host could not run it.
    Released,
}
