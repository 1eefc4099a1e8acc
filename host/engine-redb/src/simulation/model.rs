//! What a store should hold, by message; and what it may hold instead when the disk did not say.

use std::collections::BTreeMap;

use pelton_core::engine::{DeadReason, NewEntry, QueueId, Stored};
use pelton_core::message::{Attributes, Message};
use pelton_core::name::Topic;

/// An entry: a message in a queue.
pub(super) type Id = u64;

/// Where a message lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Ready,
    /// Until this time; `u64::MAX`: held.
    Due(u64),
}

/// What can be seen of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) queue: u32,
    pub(super) place: Place,
    pub(super) attempts: u32,
    pub(super) history: u32,
    pub(super) origin: Option<u32>,
}

impl Entry {
    pub(super) fn ready(queue: u32) -> Self {
        Self { queue, place: Place::Ready, attempts: 0, history: 0, origin: None }
    }
}

/// Messages that change together, or not at all: each becomes this, or goes.
pub(super) type Change = Vec<(Id, Option<Entry>)>;

/// All messages.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) entries: BTreeMap<Id, Entry>,
    /// Nobody knows whether these happened.
    uncertain: Vec<Change>,
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
        self.uncertain.push(change);
    }

    /// Compares with what a store really holds: doubtful changes must have happened wholly or not at all, and everything
    /// else must be as expected.
    pub(super) fn compare(&mut self, actual: &BTreeMap<Id, Entry>) -> Result<(), String> {
        for change in std::mem::take(&mut self.uncertain) {
            if change.iter().all(|(id, to)| actual.get(id) == to.as_ref()) {
                self.apply(change);
            } else if !change.iter().all(|(id, _)| actual.get(id) == self.entries.get(id)) {
                let seen: Vec<_> = change.iter().map(|(id, _)| (id, actual.get(id))).collect();
                return Err(format!("a change happened in part: {change:?}, and there is {seen:?}"));
            }
        }
        for (id, expected) in &self.entries {
            match actual.get(id) {
                Some(entry) if entry == expected => {}
                other => return Err(format!("message {id} should be {expected:?}, and is {other:?}")),
            }
        }
        match actual.iter().find(|(id, _)| !self.entries.contains_key(id)) {
            Some((id, entry)) => Err(format!("message {id} should not be there, and is {entry:?}")),
            None => Ok(()),
        }
    }
}

/// A message to several queues is one message and several entries: this many numbers belong to each message.
pub(super) const COPIES: u64 = 4;

/// The body of a message: any length up to about four chunks.
fn body(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let bytes = [0, random.usize(..12), random.usize(..40), random.usize(..130)][random.usize(..4)];
    (0..bytes).map(|_| random.u8(..)).collect()
}

/// The message that the first entry `id` and its copies carry.
pub(super) fn message(id: Id) -> Message {
    let number = id / COPIES;
    let text = number.to_string();
    let attributes = Attributes { id: &text, source: "/simulation", kind: "t", ..Attributes::default() };
    Message::new(&attributes, &body(number)).expect("valid attributes")
}

/// The topic tells the copies of a message apart.
pub(super) fn new_entry(id: Id, queue: u32, message: &Message, dead: Option<DeadReason>) -> NewEntry {
    let topic = Topic::new(&format!("copy.{}", id % COPIES)).expect("a valid topic");
    NewEntry { hops: 1, dead, ..NewEntry::new(QueueId(queue), topic, message.clone()) }
}

/// Which entry this is; its content is checked to be what was sent.
pub(super) fn identify(seen: &Message, topic: &Topic) -> Result<Id, String> {
    let number: Option<u64> = seen.id().parse().ok();
    let copy: Option<u64> = topic.as_str().strip_prefix("copy.").and_then(|copy| copy.parse().ok());
    let (Some(number), Some(copy)) = (number, copy) else {
        return Err(format!("a message with id '{}' on topic '{topic}'", seen.id()));
    };
    let id = number * COPIES + copy;
    if message(id) == *seen { Ok(id) } else { Err(format!("message {number} has changed: {seen:?}")) }
}

/// A stored message as the model sees it.
pub(super) fn seen(queue: u32, stored: &Stored, queue_of: impl Fn(&str) -> u32) -> Entry {
    Entry {
        queue,
        place: stored.due.map_or(Place::Ready, |due| Place::Due(due.0)),
        attempts: stored.attempts,
        history: u32::try_from(stored.history.len()).unwrap_or(u32::MAX),
        origin: stored.dead.as_ref().map(|dead| queue_of(dead.origin.as_str())),
    }
}
