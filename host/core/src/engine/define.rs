//! What there is to be: queues and schedules as an engine needs to know them, and what an engine promises.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::WallMs;
use crate::engine::QueueId;
use crate::name::{ConsumerName, QueueName, ScheduleName};
use crate::retry::RetryPolicy;

/// What an engine promises beyond the contract of every engine. The conformance suite asserts what is claimed here, and a
/// plan that needs what is not claimed is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarantees {
    /// Effects (emits) and the acknowledgement are one transaction.
    pub effects_with_settlement: bool,
    /// An old token can never settle a newer lease of the same message.
    pub leases_fenced: bool,
    /// An append is all or nothing across its queues.
    pub append_atomic: bool,
    /// The attempts of a message are kept with time, outcome, reason and log tail.
    pub history: bool,
    /// A message may wait for its time for this long at most; zero: not at all.
    pub longest_delay: Duration,
    /// Messages may expire.
    pub expiry: bool,
    /// [`QueueDefinition::priority`] is kept.
    pub priorities: bool,
    /// [`Order::Key`] is kept.
    pub key_order: bool,
    /// Identities are recognised for as long as their window says.
    pub dedup: bool,
    /// Bounds are never exceeded by what comes through [`super::Engine::append`].
    pub exact_bounds: bool,
    /// A schedule's tick and its messages are one transaction.
    pub schedules: bool,
}

impl Guarantees {
    /// All that the contract knows, with delays of up to [`DELAY_MAX`].
    pub const ALL: Self = Self {
        effects_with_settlement: true,
        leases_fenced: true,
        append_atomic: true,
        history: true,
        longest_delay: DELAY_MAX,
        expiry: true,
        priorities: true,
        key_order: true,
        dedup: true,
        exact_bounds: true,
        schedules: true,
    };
}

/// The longest that a message may wait for its time: a leap year.
pub const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// What there is to be: the queues and schedules of a plan.
#[derive(Debug, Clone, Default)]
pub struct Definitions {
    /// Every queue, dead-letter queues among them, in any order; names are unique.
    pub queues: Vec<QueueDefinition>,
    /// Every schedule. A new one counts as having ticked just now; what is known of one left out is forgotten.
    pub schedules: Vec<ScheduleName>,
    /// Below so many free bytes for the store appends are refused with [`super::RequestError::DiskFull`], and the health says
    /// [`super::Health::Full`]; everything else goes on. An engine may notice within a second that there is more room, or less. No store
    /// has [`u64::MAX`] of them.
    pub free_bytes_min: u64,
}

/// One queue, as the engine needs to know it. It stays so when the queue is no longer declared, over restarts too.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueDefinition {
    /// Its name.
    pub name: QueueName,
    /// Where its dead letters go; none for a queue that holds dead letters itself: there an exhausted message stays, held.
    pub dead_letter: Option<QueueName>,
    /// For leases that run out and deliveries that are lost, which the engine settles by itself.
    pub retry: RetryPolicy,
    /// In which order messages are leased. Another one is in force once nothing is leased in the old one; until then nothing more is
    /// leased.
    pub order: Order,
    /// Whether messages are leased by priority, 9 first, and in `order` within one. Never with [`Order::Key`]. Another setting is for what
    /// is stored from then on.
    pub priority: bool,
    /// How much it holds.
    pub bounds: Bounds,
    /// What becomes of messages that expired.
    pub expired: Expired,
}

impl QueueDefinition {
    /// A queue with every default and no dead-letter queue.
    #[must_use]
    pub fn new(name: QueueName) -> Self {
        Self {
            name,
            dead_letter: None,
            retry: RetryPolicy::default(),
            order: Order::Arrival,
            priority: false,
            bounds: Bounds::default(),
            expired: Expired::DeadLetter,
        }
    }
}

/// In which order the messages of a queue are leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As they were accepted, as far as retries and concurrency allow.
    #[default]
    Arrival,
    /// Messages with the same [`super::OrderKey`] strictly one after another: the next is leased when the one before is settled for
    /// good, or together with it by one lease call without an end ([`super::LeaseRequest::ttl`]), whose holder
    /// handles them in turn. A message without a key has no order. One that waits to be tried again stands in the way of
    /// those behind it; one that is delayed joins at the end when it is due; a dead letter that is held in place has left.
    Key,
}

/// How much a queue holds, leased and scheduled messages among it. Bounds hold for [`super::Engine::append`] only: emits, dead letters
/// and retries always fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// At most this many messages; none: no bound.
    pub messages_max: Option<u64>,
    /// At most this many stored bytes; none: no bound. A queue that holds nothing takes a message of any size.
    pub bytes_max: Option<u64>,
    /// What is done about a message that does not fit.
    pub overflow: Overflow,
}

impl Bounds {
    /// Whether a queue with so many messages and bytes is within them.
    #[must_use]
    pub fn hold(&self, messages: u64, bytes: u64) -> bool {
        self.messages_max.is_none_or(|max| messages <= max)
            && (self.bytes_max.is_none_or(|max| bytes <= max) || messages <= 1)
    }

    /// Whether there are any.
    #[must_use]
    pub fn are_set(&self) -> bool {
        self.messages_max.is_some() || self.bytes_max.is_some()
    }
}

/// What is done about a message that does not fit into its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The whole append is refused with [`super::RequestError::QueueFull`].
    #[default]
    Refuse,
    /// The messages next in line are deleted to make room: of the lowest priority first, then those that wait for their time, soonest first.
    /// Leased ones stay, and those of the same append; where nothing is left to delete, the append is refused.
    DropOldest,
    /// The new message goes to the queue's dead letters, [`super::DeadCode::QueueFull`]; held in place where it has none.
    DeadLetter,
}

/// What becomes of messages that expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expired {
    /// They become dead letters, [`super::DeadCode::Expired`]; where the queue has no dead-letter queue they are deleted.
    #[default]
    DeadLetter,
    /// They are deleted.
    Drop,
}

/// What [`super::Engine::define`] made of the definitions.
#[derive(Debug, Clone, Default)]
pub struct Defined {
    /// The id of every queue defined.
    pub queues: BTreeMap<QueueName, QueueId>,
    /// Queues that exist with messages in them but are no longer defined; they keep what they have.
    pub undeclared: Vec<QueueName>,
    /// The policy of every queue that exists but is no longer defined, as it was defined last.
    pub kept_retries: BTreeMap<QueueId, RetryPolicy>,
    /// The last tick of every schedule defined.
    pub ticks: BTreeMap<ScheduleName, WallMs>,
}

/// What can be paused; it stays so over restarts and new plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pausable {
    /// Nothing is leased from it; it takes messages as ever.
    Queue(QueueId),
    /// The engine only remembers it.
    Consumer(ConsumerName),
}
