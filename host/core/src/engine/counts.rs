//! The figures of queues, as an engine keeps them in memory.

use crate::clock::WallMs;
use crate::engine::QueueId;
use crate::name::{ConsumerName, QueueName};

/// What lies where, from memory: a value, not a snapshot of the store.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// By queue, in the order of names. Undeclared queues too.
    pub queues: Vec<QueueCounts>,
    /// Consumers that are paused, in the order of names.
    pub paused_consumers: Vec<ConsumerName>,
}

/// One queue's figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCounts {
    /// Its id.
    pub id: QueueId,
    /// Its name.
    pub name: QueueName,
    /// Whether the plan names it.
    pub declared: bool,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether it is beyond its bounds, or at one of them, so that one more message would not fit.
    pub full: bool,
    /// Available now, but for those whose key is busy: they count too.
    pub ready: u64,
    /// Held under leases.
    pub leased: u64,
    /// Waiting for their time: retries and delays, and messages held.
    pub scheduled: u64,
    /// Stored bytes of all of these.
    pub bytes: u64,
    /// When the oldest message that is ready or leased was accepted.
    pub oldest: Option<WallMs>,
    /// Since the store was opened: deleted to make room for others.
    pub dropped: u64,
    /// Since the store was opened: expired, whatever became of them then.
    pub expired: u64,
}
