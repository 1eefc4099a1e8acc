//! The seam to storage: where messages live, and what an engine owes to everyone above it.
//!
//! The contract, for all methods:
//! 1. Results stand in the order of the input; commands of one submitter apply in the order in which they were answered. One
//!    that was not waited for may be overtaken, an append by a later settlement, so that producers can't starve consumers.
//! 2. After [`EngineError::Unknown`] repeating is safe where the engine claims dedup (append) or fenced leases (settle);
//!    elsewhere it may do the thing twice.
//! 3. A lease shows in [`Engine::counts`] before it is returned.
//! 4. No call holds a snapshot of the store after it returns.
//! 5. [`EngineError::Corrupt`] is never retried: the caller stops and says so.
//! 6. The engine drives time: due retries and leases that ran out come back without anybody asking.
//!
//! `core::testing::conformance` turns these clauses into tests; every engine passes it.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::WallMs;
use crate::message::Message;
use crate::name::{QueueName, Topic};
use crate::retry::RetryPolicy;

/// A boxed future, so that the seams stay object-safe.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A queue's number within one store. Never reused, also not after the queue's name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueId(pub u32);

/// A place in the order of acceptance, unique in one store and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

/// A message in a queue: the first position it had there. Survives retries, dead-lettering and redrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryId(pub u64);

/// A random number that tells this store from every other. Part of idempotency keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub u64);

/// Proof of a lease. Only the engine that gave it can read anything into it.
///
/// As text, `QUEUE-ENTRY-EPOCH-ATTEMPT-NONCE` in hexadecimal: what the HTTP API hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseToken {
    /// The queue that the lease is on.
    pub queue: QueueId,
    /// The message leased.
    pub entry: EntryId,
    /// Which opening of the store gave it; a restart ends all leases.
    pub epoch: u64,
    /// The number of the delivery that it stands for, so that deciding needs no look-up.
    pub attempt: u32,
    /// Random, so that a token can't be guessed or confused with a later lease of the same message.
    pub nonce: u64,
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, entry, epoch, attempt, nonce } = self;
        write!(f, "{:x}-{:x}-{epoch:x}-{attempt:x}-{nonce:016x}", queue.0, entry.0)
    }
}

/// The text is not a lease token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a lease token; use the text that `lease` returned, unchanged")]
pub struct InvalidToken(pub String);

impl std::str::FromStr for LeaseToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let error = || InvalidToken(text.chars().take(80).collect());
        let mut parts = text.split('-').map(|part| u64::from_str_radix(part, 16).map_err(|_| error()));
        let mut next = || parts.next().unwrap_or_else(|| Err(error()));
        let narrow = |wide: u64| u32::try_from(wide).map_err(|_| error());
        let token = Self {
            queue: QueueId(narrow(next()?)?),
            entry: EntryId(next()?),
            epoch: next()?,
            attempt: narrow(next()?)?,
            nonce: next()?,
        };
        // One spelling per token: no signs, no leading zeros, nothing behind it.
        if token.to_string() == text { Ok(token) } else { Err(error()) }
    }
}

/// Why the engine could not answer. It says whether anything was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Nothing was done; repeat it later.
    #[error("storage is not available right now; nothing was done, repeat it")]
    Unavailable,
    /// It may have been done or not: the disk did not say.
    #[error(
        "storage failed while committing; whether it was done is unknown. Repeat it with the same ids: the broker does not \
         look for doubles yet, but consumers can recognise them by source and id"
    )]
    Unknown,
    /// The data is damaged; nobody should go on.
    #[error("the data is damaged: {0}")]
    Corrupt(String),
}

/// What an engine promises beyond the contract of every engine. The conformance suite asserts what is claimed here.
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
}

/// What there is to be: the queues of a plan.
#[derive(Debug, Clone, Default)]
pub struct Definitions {
    /// Every queue, dead-letter queues among them, in any order; names are unique.
    pub queues: Vec<QueueDefinition>,
}

/// One queue, as the engine needs to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueDefinition {
    /// Its name.
    pub name: QueueName,
    /// Where its dead letters go; none for a queue that holds dead letters itself: there an exhausted message stays, held.
    pub dead_letter: Option<QueueName>,
    /// For leases that run out, which the engine settles by itself.
    pub retry: RetryPolicy,
}

/// What [`Engine::define`] made of the definitions.
#[derive(Debug, Clone, Default)]
pub struct Defined {
    /// The id of every queue defined.
    pub queues: BTreeMap<QueueName, QueueId>,
    /// Queues that exist with messages in them but are no longer defined; they keep what they have.
    pub undeclared: Vec<QueueName>,
}

/// One publish request: all of its entries are stored, in this order, or none is.
#[derive(Debug, Clone, Default)]
pub struct Append {
    /// One per message and queue.
    pub entries: Vec<NewEntry>,
}

/// A message on its way into a queue.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// The queue that it belongs to.
    pub queue: QueueId,
    /// What it was published to.
    pub topic: Topic,
    /// The message.
    pub message: Message,
    /// How many emits lie between it and a producer outside; 0 from a door.
    pub hops: u8,
    /// Set when it can't be handled at all (its transform failed, say): it goes to `queue`'s dead letters at once, with
    /// this reason and `queue` as its origin. Where `queue` has no dead-letter queue, it is held in `queue` itself.
    pub dead: Option<DeadReason>,
}

/// Why a message is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadReason {
    /// Stable, kebab-case: for filters and metrics.
    pub code: DeadCode,
    /// For people; names the place (route, consumer) and what happened.
    pub detail: String,
}

/// The kinds of death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadCode {
    /// Its attempts are used up.
    MaxAttempts,
    /// Its handler rejected it.
    Rejected,
    /// A transform or filter of a route failed on it.
    RouteFailed,
    /// Its handling would have emitted past the hop limit.
    TooManyHops,
}

impl DeadCode {
    /// The code as text, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxAttempts => "max-attempts",
            Self::Rejected => "rejected",
            Self::RouteFailed => "route-failed",
            Self::TooManyHops => "too-many-hops",
        }
    }
}

/// Where an append's entries went: one position per entry, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Appended {
    /// Positions, in the order of the entries.
    pub positions: Vec<Position>,
}

/// Why an append, a lease, a look or a bulk change did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No queue has this id; nothing was done.
    #[error("the queue with id {} does not exist", .0.0)]
    UnknownQueue(QueueId),
    /// The text is none of the cursors that this engine gives out for such a call; nothing was done. Only
    /// [`Engine::browse`] and [`Engine::bulk`] answer so.
    #[error(transparent)]
    InvalidCursor(#[from] InvalidCursor),
    /// The engine itself could not.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What is asked of [`Engine::lease`].
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// From which queue.
    pub queue: QueueId,
    /// At most this many; at least 1.
    pub max: usize,
    /// How long to wait for the first one when there is none.
    pub wait: Duration,
    /// How long the leases last; none: until settled or released, for the broker's own runtime, whose timeout ends them.
    /// One that runs out counts as an attempt, `lease-expired` in the history: the message is available again at once, at its
    /// old place, or dead when its attempts are used up.
    pub ttl: Option<Duration>,
}

/// A message that its holder, and nobody else, may handle now.
#[derive(Debug, Clone)]
pub struct Leased {
    /// What settles it.
    pub token: LeaseToken,
    /// What it was published to.
    pub topic: Topic,
    /// The message.
    pub message: Message,
    /// How many emits lie between it and a producer outside.
    pub hops: u8,
    /// When it was accepted.
    pub accepted: WallMs,
}

impl Leased {
    /// The number of this delivery: 1 for the first.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.token.attempt
    }
}

/// What one delivery came to, kept with its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When it started, in milliseconds since 1970.
    pub at_ms: u64,
    /// `retry`, `reject`, `trap`, `timeout`, ...: the stable word for the outcome.
    pub outcome: String,
    /// What the handler or the host said.
    pub reason: String,
    /// Time in the handler.
    pub duration_us: u64,
    /// SHA-256 of the component, in hexadecimal; none for pull consumers.
    pub digest: Option<String>,
    /// The last of what it logged and printed.
    pub log_tail: String,
}

/// What to commit for one lease.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which lease it ends.
    pub lease: LeaseToken,
    /// What is added to the message's history; none where nothing worth keeping happened (done, or released).
    pub attempt: Option<Attempt>,
    /// What becomes of the message.
    pub verdict: Verdict,
}

/// What becomes of a message.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is handled: it leaves its queue, and these entries come into being, in one transaction.
    Done {
        /// Routed emits.
        emits: Vec<NewEntry>,
    },
    /// It is tried again, not before `at`; the delivery counts as an attempt.
    Again {
        /// Not before.
        at: WallMs,
    },
    /// It goes to its queue's dead letters, where its attempts start anew and its history stays, so that whoever consumes
    /// them has all attempts; held in place, attempts and all, where the queue has none.
    Dead {
        /// Why.
        reason: DeadReason,
    },
}

/// Why a settlement or an extension did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The lease ran out or the store was reopened: the message is, or will be, somebody else's.
    #[error("the lease ran out, so the message is available to others again; nothing was settled")]
    LeaseLost,
    /// This very lease was settled before.
    #[error("the lease was settled before; nothing was changed")]
    AlreadySettled,
    /// The engine itself could not.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What to look at with [`Engine::browse`].
#[derive(Debug, Clone)]
pub struct Browse {
    /// In which queue.
    pub queue: QueueId,
    /// Go on behind this cursor of an earlier page; none: from the oldest.
    pub after: Option<Cursor>,
    /// At most this many, up to 1,000.
    pub max: usize,
}

/// Where a page of [`Engine::browse`] or a step of [`Engine::bulk`] ended. Opaque to everyone but the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// The text is no cursor of the call that it was given to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a cursor of this call; use the text that its last answer returned, unchanged, or start without one"
)]
pub struct InvalidCursor(String);

impl InvalidCursor {
    /// The error about `cursor`; of a long text, the beginning.
    #[must_use]
    pub fn new(cursor: &Cursor) -> Self {
        Self(cursor.0.chars().take(80).collect())
    }
}

/// Part of a queue: what is ready in order, then what is scheduled by due time.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The messages.
    pub items: Vec<Stored>,
    /// Where to go on; none at the end.
    pub next: Option<Cursor>,
}

/// A message as it lies in a queue.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its place now: what commands name it by.
    pub position: Position,
    /// Its identity across moves.
    pub entry: EntryId,
    /// What it was published to.
    pub topic: Topic,
    /// The message.
    pub message: Message,
    /// Attempts so far in the queue where it lies: they start anew when it becomes a dead letter in another queue, and when
    /// it is redriven. [`history`](Self::history) has those before.
    pub attempts: u32,
    /// When it was accepted.
    pub accepted: WallMs,
    /// When it may be tried again; none: now. `WallMs(u64::MAX)`: held until somebody acts.
    pub due: Option<WallMs>,
    /// Somebody holds a lease on it.
    pub leased: bool,
    /// Set on a dead letter.
    pub dead: Option<DeadLetter>,
    /// Its attempts, oldest first, where the engine keeps them.
    pub history: Vec<Attempt>,
}

/// What a dead letter carries beside its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The queue that it died in, by the name it had then.
    pub origin: QueueName,
    /// When.
    pub at: WallMs,
    /// Why.
    pub reason: DeadReason,
}

/// A change to many messages of a queue, done in bounded steps. Leased messages are passed over.
#[derive(Debug, Clone)]
pub struct Bulk {
    /// Of which queue.
    pub queue: QueueId,
    /// Which of its messages.
    pub select: Select,
    /// What to do with them.
    pub action: BulkAction,
    /// Go on where an earlier step ended.
    pub after: Option<Cursor>,
    /// At most this many in this step, up to 1,000; a step is one transaction.
    pub max: usize,
}

/// Which messages.
#[derive(Debug, Clone)]
pub enum Select {
    /// All.
    All,
    /// Those at these positions; unknown ones are passed over.
    Positions(Vec<Position>),
}

/// What to do with messages in bulk.
#[derive(Debug, Clone)]
pub enum BulkAction {
    /// To this queue, or to the queue each died in; attempts start anew, the history stays. Messages without an origin,
    /// or whose origin is gone, are passed over.
    Redrive(Option<QueueId>),
    /// Delete for good.
    Discard,
}

/// How far [`Engine::bulk`] came in one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Messages changed.
    pub changed: u64,
    /// Messages selected but passed over: leased, or without an origin.
    pub skipped: u64,
    /// Where to go on; none when all is done.
    pub next: Option<Cursor>,
}

/// What lies where, from memory: a value, not a snapshot of the store.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// By queue, in the order of names. Undeclared queues too.
    pub queues: Vec<QueueCounts>,
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
    /// Available now.
    pub ready: u64,
    /// Held under leases.
    pub leased: u64,
    /// Waiting for their time: retries and delays, and messages held.
    pub scheduled: u64,
    /// Stored bytes of all of these.
    pub bytes: u64,
    /// When the oldest message that is ready or leased was accepted.
    pub oldest: Option<WallMs>,
}

/// How the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Ready,
    /// Reopening after a failure; calls answer `Unavailable`.
    Recovering,
    /// Stopped for good, with the reason.
    Failed(String),
}

/// Where messages live. The module's head has the contract for all methods.
pub trait Engine: Send + Sync + 'static {
    /// What this engine promises; constant.
    fn guarantees(&self) -> &Guarantees;

    /// Which store this is; constant while open.
    fn store_id(&self) -> StoreId;

    /// Makes the queues of a plan exist and changes the settings of those that do. Atomic, idempotent; never deletes a
    /// message: a queue left out keeps what it has and is reported as undeclared.
    fn define(&self, definitions: Definitions) -> Fut<'_, Result<Defined, EngineError>>;

    /// Stores all entries of a publish request or none. `Ok` means durable: it survives power loss from here on.
    ///
    /// Not cancel-safe: dropping the future before it is ready leaves it unknown whether the entries are stored.
    ///
    /// # Errors
    /// [`RequestError::UnknownQueue`]: nothing done. [`EngineError::Unknown`]: maybe done.
    fn append(&self, append: Append) -> Fut<'_, Result<Appended, RequestError>>;

    /// Leases up to `max` available messages, oldest first; returns early, possibly with none, after `wait`.
    ///
    /// Cancel-safe: leases that nobody received are released, or run out by themselves.
    fn lease(&self, want: LeaseRequest) -> Fut<'_, Result<Vec<Leased>, RequestError>>;

    /// Lets each lease last for another `Duration` from now. Leases without an end stay so.
    fn extend(&self, leases: Vec<(LeaseToken, Duration)>) -> Fut<'_, Vec<Result<(), SettleError>>>;

    /// Gives back what was not run, at its old place, without counting an attempt. Lost leases are passed over.
    fn release(&self, leases: Vec<LeaseToken>) -> Fut<'_, ()>;

    /// Commits what becomes of each leased message; each settlement is atomic with its effects. `Ok` means durable.
    ///
    /// Submitted when called and completed even if the future is dropped.
    fn settle(&self, batch: Vec<Settlement>) -> Fut<'static, Vec<Result<(), SettleError>>>;

    /// A page of a queue, without leasing anything; a short read of committed state.
    ///
    /// # Errors
    /// [`RequestError::InvalidCursor`] when `after` is no cursor of an earlier page.
    fn browse(&self, what: Browse) -> Fut<'_, Result<Page, RequestError>>;

    /// One bounded, atomic step of a change to many messages; call again with the cursor it returns.
    ///
    /// # Errors
    /// [`RequestError::InvalidCursor`] when `after` is no cursor of an earlier step: nothing changed.
    fn bulk(&self, job: Bulk) -> Fut<'_, Result<Progress, RequestError>>;

    /// The figures of all queues, from memory; a little behind under load.
    fn counts(&self) -> Arc<Counts>;

    /// How the engine is, to watch.
    fn health(&self) -> watch::Receiver<Health>;

    /// Finishes what was submitted, within a bound, and closes the store. Later calls answer `Unavailable`.
    fn close(&self, within: Duration) -> Fut<'_, ()>;
}
