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

mod append;
mod counts;
mod define;
mod look;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::append::{
    Append, Appended, DeadCode, DeadReason, Duplicate, EntryOptions, Identity, NewEntry, OrderKey, PRIORITY_DEFAULT,
    PRIORITY_MAX, Scheduled, Tick, UnknownDeadCode,
};
pub use self::counts::{Counts, QueueCounts};
pub use self::define::{
    Bounds, DELAY_MAX, Defined, Definitions, Expired, Guarantees, Order, Overflow, Pausable, QueueDefinition,
};
pub use self::look::{
    Browse, Bulk, BulkAction, Cursor, DeadLetter, Filter, InvalidCursor, Page, Progress, Select, Stored,
};
use crate::clock::WallMs;
use crate::message::Message;
use crate::name::Topic;

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
/// As text, `QUEUE-ENTRY-EPOCH-ATTEMPT-ACCEPTED-NONCE` in hexadecimal: what the HTTP API hands out.
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
    /// When the message was accepted, for the same reason.
    pub accepted: WallMs,
    /// Random, so that a token can't be guessed or confused with a later lease of the same message.
    pub nonce: u64,
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, entry, epoch, attempt, accepted, nonce } = self;
        write!(f, "{:x}-{:x}-{epoch:x}-{attempt:x}-{:x}-{nonce:016x}", queue.0, entry.0, accepted.0)
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
            accepted: WallMs(next()?),
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
        "storage failed while committing; whether it was done is unknown. Repeat it with the same ids: where the topic has a \
         dedup window, a double is recognised; elsewhere consumers can recognise it by source and id"
    )]
    Unknown,
    /// The data is damaged; nobody should go on.
    #[error("the data is damaged: {0}")]
    Corrupt(String),
}

/// Why an append, a lease, a look or a bulk change did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No queue has this id; nothing was done.
    #[error("the queue with id {} does not exist", .0.0)]
    UnknownQueue(QueueId),
    /// A queue whose overflow is [`Overflow::Refuse`], or that has nothing to drop, is full; nothing was done.
    #[error("the queue with id {} is full", .0.0)]
    QueueFull(QueueId),
    /// A message's identity is known with another body; nothing was done. The index is one of [`Append::identities`].
    #[error("message {0} of those with an identity is known with another body")]
    IdReused(usize),
    /// The schedule has ticked then or later, or is not defined any more; nothing was done.
    #[error("the schedule has ticked at {} already, or is gone", .0.0)]
    Ticked(WallMs),
    /// The disk is too full to take more; nothing was done. Leasing and settling go on.
    #[error("the disk is too full to take more messages; nothing was done")]
    DiskFull,
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
    /// Where it lies: what [`Engine::lost`] finds it by.
    pub place: Place,
    /// What it is kept in order by, as a number; none where it has no order.
    pub key: Option<u64>,
    /// A delivery of it was lost with its process: it is handled while nothing else is.
    pub alone: bool,
}

/// Where a message lies in its queue: made by an engine, of use only to the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its position.
    pub position: Position,
    /// More that tells where it is.
    pub detail: u64,
    /// Even more.
    pub kind: u8,
}

/// A delivery that ended with the process that ran it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// In which queue.
    pub queue: QueueId,
    /// Which message.
    pub entry: EntryId,
    /// Where it lay when it was leased.
    pub place: Place,
    /// What goes into its history.
    pub attempt: Attempt,
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
        /// Its handler chose the time. One that backoff chose is brought forward when, after a restart, it lies farther ahead than
        /// the longest backoff: the clock was wrong then.
        chosen: bool,
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

/// How the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Ready,
    /// The disk is too full for new messages ([`RequestError::DiskFull`]); everything else goes on.
    Full,
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
    /// [`EngineError::Unknown`]: maybe done. Every other error: nothing done.
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

    /// The message at `position` of a queue, as [`browse`](Self::browse) shows it; none where it is not, or not any more. Messages that wait
    /// for their time are not found, but for held ones.
    fn read(&self, queue: QueueId, position: Position) -> Fut<'_, Result<Option<Stored>, RequestError>>;

    /// Pauses or resumes a queue or a consumer; durable. Leases in force stay so.
    ///
    /// # Errors
    /// [`RequestError::UnknownQueue`].
    fn pause(&self, what: Pausable, paused: bool) -> Fut<'_, Result<(), RequestError>>;

    /// Counts an attempt for each of these, if it is still there and nobody holds it, and marks it to be handled alone; dead when it was the
    /// last. How many there were. To be called after a start, before anything is leased.
    fn lost(&self, lost: Vec<Lost>) -> Fut<'_, Result<u64, EngineError>>;

    /// The figures of all queues, from memory; a little behind under load.
    fn counts(&self) -> Arc<Counts>;

    /// How the engine is, to watch.
    fn health(&self) -> watch::Receiver<Health>;

    /// Finishes what was submitted, within a bound, and closes the store. Later calls answer `Unavailable`.
    fn close(&self, within: Duration) -> Fut<'_, ()>;
}
