//! Storing messages: what a publish request is to an engine.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::WallMs;
use crate::engine::{Position, QueueId};
use crate::message::Message;
use crate::name::{ScheduleName, Topic};

/// One publish request: all of its entries are stored, in this order, or none is.
#[derive(Debug, Clone, Default)]
pub struct Append {
    /// One per message and queue.
    pub entries: Vec<NewEntry>,
    /// Who of them is told from a double. One that is known already is not stored again.
    pub identities: Vec<Identity>,
    /// Set by a schedule: stored with the entries, or nothing is where the schedule has ticked then or later, or is not defined.
    pub tick: Option<Tick>,
}

impl From<Vec<NewEntry>> for Append {
    fn from(entries: Vec<NewEntry>) -> Self {
        Self { entries, ..Self::default() }
    }
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
    /// When and in which order it is delivered.
    pub options: EntryOptions,
    /// Set when it can't be handled at all (its transform failed, say): it goes to `queue`'s dead letters at once, with
    /// this reason and `queue` as its origin. Where `queue` has no dead-letter queue, it is held in `queue` itself.
    pub dead: Option<DeadReason>,
}

impl NewEntry {
    /// An entry from a producer outside, with every default.
    #[must_use]
    pub fn new(queue: QueueId, topic: Topic, message: Message) -> Self {
        Self { queue, topic, message, hops: 0, options: EntryOptions::default(), dead: None }
    }
}

/// When and in which order a message is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryOptions {
    /// Not before; none, or a time that has come: at once. At most [`super::DELAY_MAX`] ahead.
    pub due: Option<WallMs>,
    /// Neither at this moment nor after it, unless it is leased by then. A dead letter loses it. An engine may collect what expired later.
    pub expires: Option<WallMs>,
    /// 0 to 9, the highest first, in queues that keep priorities. It stays with the message wherever it goes, as the key does.
    pub priority: u8,
    /// What it is kept in order by, in queues of [`super::Order::Key`].
    pub key: Option<OrderKey>,
}

/// The priority of a message that says nothing about it, as in JMS.
pub const PRIORITY_DEFAULT: u8 = 4;
/// The highest priority.
pub const PRIORITY_MAX: u8 = 9;

impl Default for EntryOptions {
    fn default() -> Self {
        Self { due: None, expires: None, priority: PRIORITY_DEFAULT, key: None }
    }
}

/// What messages are kept in order by: an account, a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey(pub Box<str>);

/// A message whose doubles are recognised: same topic, same `source` and `id`, as CloudEvents defines identity.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The entries that it came to, as indices into [`Append::entries`]; not empty. Those that are due later are due at the same time.
    pub entries: Range<usize>,
    /// What it was published to.
    pub topic: Topic,
    /// The message as its producer sent it: its `source` and `id` are the identity; its body must be the same in a double.
    pub message: Message,
    /// For how long after it was accepted.
    pub window: Duration,
}

/// A schedule's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// Whose.
    pub schedule: ScheduleName,
    /// The time of the tick, which is not when it is carried out.
    pub at: WallMs,
}

/// Where an append's entries went: one position per entry, in their order. Those of one message are consecutive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Appended {
    /// Positions, in the order of the entries. Of a double, the first position of the message that was stored.
    pub positions: Vec<Position>,
    /// The identities, as indices in rising order, that were known already.
    pub duplicates: Vec<Duplicate>,
}

/// A message that was stored before, with the same identity and the same body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// Which of [`Append::identities`].
    pub identity: usize,
    /// The first of the positions that it got when it was stored.
    pub first: Position,
    /// To how many queues it went then.
    pub targets: u32,
    /// Until when and where it was put off then, if it was: who never got that answer can cancel it still.
    pub scheduled: Option<Scheduled>,
}

/// Where a message waited for its time when it was stored: what [`super::Select::Scheduled`] finds it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    /// Its time.
    pub due: WallMs,
    /// Not empty.
    pub places: Vec<(QueueId, Position)>,
}

impl Scheduled {
    /// That of a message which came to these entries: each with when it is due, if that is later. None where none is.
    #[must_use]
    pub fn of(entries: impl IntoIterator<Item = (Option<WallMs>, QueueId, Position)>) -> Option<Self> {
        let mut waiting =
            entries.into_iter().filter_map(|(due, queue, position)| Some((due?, (queue, position)))).peekable();
        let due = waiting.peek()?.0;
        Some(Self { due, places: waiting.map(|(_, place)| place).collect() })
    }
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// An attempt failed when it was older than its queue tries messages.
    MaxAge,
    /// Its time to live was over before it was delivered.
    Expired,
    /// Its queue was full.
    QueueFull,
}

impl DeadCode {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::MaxAttempts,
        Self::Rejected,
        Self::RouteFailed,
        Self::TooManyHops,
        Self::MaxAge,
        Self::Expired,
        Self::QueueFull,
    ];

    /// The code as text, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxAttempts => "max-attempts",
            Self::Rejected => "rejected",
            Self::RouteFailed => "route-failed",
            Self::TooManyHops => "too-many-hops",
            Self::MaxAge => "max-age",
            Self::Expired => "expired",
            Self::QueueFull => "queue-full",
        }
    }
}

impl std::str::FromStr for DeadCode {
    type Err = UnknownDeadCode;

    fn from_str(text: &str) -> Result<Self, UnknownDeadCode> {
        Self::ALL.into_iter().find(|code| code.as_str() == text).ok_or_else(|| UnknownDeadCode(text.to_owned()))
    }
}

/// The text names no kind of death.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no reason of dead letters; there are max-attempts, rejected, route-failed, too-many-hops, max-age, expired and queue-full"
)]
pub struct UnknownDeadCode(pub String);
