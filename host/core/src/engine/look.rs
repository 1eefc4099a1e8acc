//! Looking at messages without leasing them, and changing many of them at once.

use crate::clock::WallMs;
use crate::engine::{Attempt, DeadCode, DeadReason, EntryId, Position, QueueId};
use crate::message::Message;
use crate::name::{QueueName, Topic};

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
    /// When it may be delivered (again); none: now. `WallMs(u64::MAX)`: held until somebody acts.
    pub due: Option<WallMs>,
    /// When it expires: from then on it is not leased.
    pub expires: Option<WallMs>,
    /// 0 to 9.
    pub priority: u8,
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
    /// Of these, only those that pass.
    pub filter: Filter,
    /// What to do with them.
    pub action: BulkAction,
    /// Go on where an earlier step ended.
    pub after: Option<Cursor>,
    /// At most this many in this step, up to 1,000; a step is one transaction.
    pub max: usize,
}

/// Which messages pass; the default lets all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Dead for this reason.
    pub reason: Option<DeadCode>,
    /// Died in this queue.
    pub origin: Option<QueueName>,
    /// Dead since this time or later.
    pub died_from: Option<WallMs>,
    /// Dead before this time.
    pub died_before: Option<WallMs>,
    /// Attributes by the names that CloudEvents gives them, `topic` among them, each with this very value.
    pub attributes: Vec<(String, String)>,
}

impl Filter {
    /// Whether the message passes.
    #[must_use]
    pub fn passes(&self, topic: &Topic, message: &Message, dead: Option<&DeadLetter>) -> bool {
        let attribute = |name: &str| match name {
            "topic" => Some(topic.as_str()),
            _ => message.attribute(name),
        };
        self.reason.is_none_or(|reason| dead.is_some_and(|dead| dead.reason.code == reason))
            && self.origin.as_ref().is_none_or(|origin| dead.is_some_and(|dead| dead.origin == *origin))
            && self.died_from.is_none_or(|from| dead.is_some_and(|dead| dead.at >= from))
            && self.died_before.is_none_or(|before| dead.is_some_and(|dead| dead.at < before))
            && self.attributes.iter().all(|(name, value)| attribute(name) == Some(value.as_str()))
    }

    /// Whether it lets all messages pass.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

/// Which messages.
#[derive(Debug, Clone)]
pub enum Select {
    /// All.
    All,
    /// Those at these positions; unknown ones are passed over.
    Positions(Vec<Position>),
    /// Those that wait for this very time since they were accepted: not tried yet, not promoted, not moved.
    Scheduled(Vec<(WallMs, Position)>),
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
    /// Messages selected, and let pass by the filter, but passed over: leased, or without an origin.
    pub skipped: u64,
    /// Where to go on; none when all is done.
    pub next: Option<Cursor>,
}
