//! What a store should hold, by message; and what it may hold instead when the disk did not say.

use std::collections::BTreeMap;

use pelton_core::clock::WallMs;
use pelton_core::engine::{DeadCode, DeadReason, EntryOptions, NewEntry, QueueId, Stored};
use pelton_core::message::{Attributes, Message};
use pelton_core::name::Topic;

/// An entry: a message in a queue.
pub(super) type Id = u64;

/// Where a message lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// With this rank.
    Ready(u8),
    /// Behind others of its key.
    Parked,
    /// Until this time; `u64::MAX`: held.
    Due(u64),
}

/// The position of a message that gets a new one, whichever that is: behind all that there were.
pub(super) const NEW: u64 = 0;

/// What can be seen of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) queue: u32,
    pub(super) place: Place,
    pub(super) position: u64,
    pub(super) attempts: u32,
    pub(super) history: u32,
    /// Where and why it died.
    pub(super) dead: Option<(u32, DeadCode)>,
    pub(super) expires: Option<u64>,
    pub(super) alone: bool,
    pub(super) chosen: bool,
}

/// What stays the same of a message as long as it lives.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) key: Option<u8>,
    pub(super) priority: u8,
    /// Its first position, once that is known.
    pub(super) entry: Option<u64>,
    /// Bytes on disk when it was last seen.
    pub(super) cost: u64,
    /// When it was accepted, once that is known.
    pub(super) accepted: Option<WallMs>,
}

/// Messages that change together, or not at all: each becomes this, or goes.
pub(super) type Change = Vec<(Id, Option<Entry>)>;

/// Which message a double is told by: the window in seconds, and the number of the first with its identity.
pub(super) type IdentityKey = (u64, u64);

/// What is known of an identity.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) accepted: WallMs,
    pub(super) first: u64,
    pub(super) targets: u32,
    pub(super) body: Vec<u8>,
    /// Its window was over once, by a clock that was set back since.
    pub(super) forgettable: bool,
}

/// Something of which nobody knows whether it happened.
#[derive(Debug, Clone, Default)]
pub(super) struct Doubt {
    pub(super) change: Change,
    /// A schedule and its time.
    pub(super) tick: Option<(usize, u64)>,
    /// Identities with their first entry.
    pub(super) identities: Vec<(IdentityKey, Id, Known)>,
}

/// All messages.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) entries: BTreeMap<Id, Entry>,
    /// Nobody knows whether these happened.
    pub(super) doubts: Vec<Doubt>,
    /// The last tick of each schedule that is declared.
    pub(super) ticks: BTreeMap<usize, u64>,
    pub(super) identities: BTreeMap<IdentityKey, Known>,
}

impl Model {
    pub(super) fn apply(&mut self, change: Change) {
        for (id, to) in change {
            match to {
                Some(entry) => self.entries.insert(id, entry),
                None => self.entries.remove(&id),
            };
        }
    }

    pub(super) fn doubt(&mut self, change: Change) {
        self.doubts.push(Doubt { change, ..Doubt::default() });
    }

    pub(super) fn of_queue(&self, queue: u32) -> impl Iterator<Item = (Id, &Entry)> {
        self.entries.iter().filter(move |(_, entry)| entry.queue == queue).map(|(id, entry)| (*id, entry))
    }
}

/// A message to several queues is one message and several entries: this many numbers belong to each message.
pub(super) const COPIES: u64 = 4;

/// Any length up to about four chunks.
fn body(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let bytes = [0, random.usize(..12), random.usize(..40), random.usize(..130)][random.usize(..4)];
    (0..bytes).map(|_| random.u8(..)).collect()
}

/// By which number a message calls itself, and which one's body it has, where neither is its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Double {
    pub(super) original: u64,
    pub(super) body: u64,
}

/// The message that the first entry `id` and its copies carry.
pub(super) fn message(id: Id) -> Message {
    let number = id / COPIES;
    message_of(number, Double { original: number, body: number })
}

/// The subject tells a message from the one that it is a double of.
pub(super) fn message_of(number: u64, double: Double) -> Message {
    let (id, subject) = (double.original.to_string(), number.to_string());
    let kind = kind_of(number * COPIES);
    let attributes =
        Attributes { id: &id, source: "/simulation", kind, subject: Some(&subject), ..Attributes::default() };
    Message::new(&attributes, &body(double.body)).expect("valid attributes")
}

/// The `type` of a message, for filters.
pub(super) fn kind_of(id: Id) -> &'static str {
    if (id / COPIES).is_multiple_of(2) { "even" } else { "odd" }
}

/// The topic tells the copies of a message apart.
pub(super) fn new_entry(id: Id, queue: u32, message: &Message, dead: Option<DeadReason>) -> NewEntry {
    let topic = Topic::new(&format!("copy.{}", id % COPIES)).expect("a valid topic");
    NewEntry { queue: QueueId(queue), topic, message: message.clone(), hops: 1, options: EntryOptions::default(), dead }
}

/// Which entry this is; its content is checked to be what was sent.
pub(super) fn identify(seen: &Message, topic: &Topic, doubles: &BTreeMap<u64, Double>) -> Result<Id, String> {
    let number: Option<u64> = seen.subject().and_then(|subject| subject.parse().ok());
    let copy: Option<u64> = topic.as_str().strip_prefix("copy.").and_then(|copy| copy.parse().ok());
    let (Some(number), Some(copy)) = (number, copy) else {
        return Err(format!("a message with id '{}' on topic '{topic}'", seen.id()));
    };
    let double = doubles.get(&number).copied().unwrap_or(Double { original: number, body: number });
    if message_of(number, double) == *seen {
        Ok(number * COPIES + copy)
    } else {
        Err(format!("message {number} has changed: {seen:?}"))
    }
}

/// Whether a message is shown on a page as what it is.
pub(super) fn is_shown(entry: &Entry, priority: u8, stored: &Stored, queue_of: impl Fn(&str) -> u32) -> bool {
    let due = if let Place::Due(due) = entry.place { Some(WallMs(due)) } else { None };
    let dead = stored.dead.as_ref().map(|dead| (queue_of(dead.origin.as_str()), dead.reason.code));
    (stored.position.0, stored.due, stored.attempts) == (entry.position, due, entry.attempts)
        && stored.history.len() as u64 == u64::from(entry.history)
        && (dead, stored.expires, stored.priority) == (entry.dead, entry.expires.map(WallMs), priority)
}
