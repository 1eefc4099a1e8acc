//! The seam to the sandbox: components are loaded once and invoked once per delivery.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::WallMs;
use crate::engine::Fut;
use crate::message::Message;
use crate::name::{ConsumerName, Topic};

/// What a component may use. Every field bounds something; nothing is unlimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory in all, in bytes.
    pub memory_bytes: u64,
    /// Wall time of one delivery, instantiation included.
    pub timeout: Duration,
    /// Messages emitted by one delivery.
    pub emits_max: u32,
    /// Bytes of all messages emitted by one delivery.
    pub emit_bytes_max: u64,
    /// Bytes of stdout, stderr and logs kept of one delivery: the head and the tail; what lies between is dropped.
    pub log_bytes_max: u32,
}

/// A component to load.
#[derive(Debug, Clone)]
pub struct ComponentSpec {
    /// For whom: messages and errors name it.
    pub consumer: ConsumerName,
    /// The `.wasm` file.
    pub path: PathBuf,
    /// What each delivery may use.
    pub limits: Limits,
    /// What `wasi:config` answers.
    pub config: Vec<(String, String)>,
}

/// SHA-256 of a component's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a component can't be used. The message names the file, what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("consumer '{consumer}': {}: {problem}", .path.display())]
pub struct LoadError {
    /// Whose component.
    pub consumer: ConsumerName,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and the remedy.
    pub problem: String,
}

/// What a handler emitted: a message without the attributes that the broker adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emit {
    /// The id that the handler was told.
    pub id: String,
    /// Where it is published to.
    pub topic: Topic,
    /// Not delivered before; none, or a time that has come: at once. At most [`crate::engine::DELAY_MAX`] ahead.
    pub due: Option<WallMs>,
    /// Default: the topic.
    pub kind: Option<String>,
    /// What the event is about.
    pub subject: Option<String>,
    /// The media type of `data`.
    pub content_type: Option<String>,
    /// A URI.
    pub data_schema: Option<String>,
    /// Name and value of each extension.
    pub extensions: Vec<(String, String)>,
    /// The body.
    pub data: Bytes,
}

/// Answers, at the call, whether an emit has anywhere to go. Implemented by the router.
pub trait EmitGate: Send + Sync {
    /// Whether the pattern of any route matches `topic`.
    fn routes(&self, topic: &Topic) -> bool;
}

/// One message for one handler.
#[derive(Clone)]
pub struct Delivery {
    /// The consumer that handles it.
    pub consumer: ConsumerName,
    /// Where it comes from, as in broker.toml: `queue:reviews`.
    pub source: Arc<str>,
    /// What it was published to.
    pub topic: Topic,
    /// The message.
    pub message: Message,
    /// 1 for the first.
    pub attempt: u32,
    /// The same for all attempts at this message; also the namespace of the ids of what it emits.
    pub idempotency_key: Arc<str>,
    /// Who knows which topics are routed.
    pub gate: Arc<dyn EmitGate>,
}

/// What a delivery came to, and what it left behind.
#[derive(Debug, Clone)]
pub struct Invoked {
    /// How it ended.
    pub outcome: Outcome,
    /// What it emitted, in order; of use only where the outcome is [`Outcome::Done`].
    pub emits: Vec<Emit>,
    /// The kept part of stdout, stderr and logs, as lines `LEVEL context: text`; empty when it said nothing.
    pub log: String,
    /// From before instantiation to after the call.
    pub duration: Duration,
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Handled.
    Done,
    /// The handler asks to be called again.
    Retry {
        /// Why, in its words.
        reason: String,
        /// Not before; none: the queue's backoff.
        after: Option<Duration>,
    },
    /// The handler says that it will never be able to handle this message.
    Reject {
        /// Why, in its words.
        reason: String,
    },
    /// It did not end by itself, or not as it should have.
    Fault {
        /// What kind of end.
        kind: FaultKind,
        /// What the host saw, for people.
        reason: String,
    },
}

impl Outcome {
    /// The stable word for it: metrics, history and JSON use it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry { .. } => "retry",
            Self::Reject { .. } => "reject",
            Self::Fault { kind, .. } => kind.word(),
        }
    }

    /// Every word that [`word`](Self::word) returns.
    pub const WORDS: [&'static str; 10] =
        ["done", "retry", "reject", "trap", "timeout", "memory", "stack", "emits", "malformed", "host"];
}

/// The kinds of faulty end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A panic, an unreachable instruction, an exit, a division by zero, an access out of bounds.
    Trap,
    /// Its time was up.
    Timeout,
    /// It needed more memory than it may have.
    Memory,
    /// It called too deep.
    Stack,
    /// It emitted more than it may.
    Emits,
    /// It returned what the interface does not allow.
    Malformed,
    /// The host could not run it: its own fault; the attempt is not the message's.
    Host,
}

impl FaultKind {
    /// The stable word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Emits => "emits",
            Self::Malformed => "malformed",
            Self::Host => "host",
        }
    }
}

/// Makes handlers out of components.
pub trait Runtime: Send + Sync + 'static {
    /// Reads, checks and compiles a component. Takes milliseconds to seconds; never blocks a caller's executor.
    ///
    /// # Errors
    /// [`LoadError`] when the file is missing, no component, one for another world, or can't work within its limits.
    fn load(&self, spec: ComponentSpec) -> Fut<'_, Result<Arc<dyn Handler>, LoadError>>;

    /// How many deliveries can run at the same time over all handlers.
    fn slots(&self) -> usize;
}

/// A loaded component.
pub trait Handler: Send + Sync + 'static {
    /// Which bytes it was made of.
    fn digest(&self) -> Digest;

    /// Runs one delivery in one fresh sandbox.
    ///
    /// Never fails: whatever the guest does is an [`Outcome`]. Yields to the executor at least every few milliseconds,
    /// however busy the guest. Dropping the future ends the delivery at once and leaves nothing behind. Must be polled
    /// on a tokio runtime with time enabled.
    fn invoke(&self, delivery: Delivery) -> Fut<'_, Invoked>;
}
