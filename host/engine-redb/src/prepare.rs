//! What a caller does on its own thread before it sends a command: rows in their final form, attempts as bytes.
//!
//! A body that is too large for its row is stored once and shared by all rows of the same append that carry the very
//! same buffer, which is how the router passes a message to several queues.

use std::collections::BTreeMap;

use bytes::Bytes;
use pelton_core::engine::{DeadReason, LeaseToken, NewEntry, Settlement, Verdict};
use pelton_core::message::Message;
use pelton_core::name::Topic;

use crate::history;
use crate::row::RowBuffer;
use crate::tuning::Tuning;

/// New messages, ready to be written but for what only the writer knows.
#[derive(Debug, Clone, Default)]
pub struct PreparedEntries {
    pub(crate) entries: Vec<PreparedEntry>,
    pub(crate) bodies: Vec<PreparedBody>,
}

impl PreparedEntries {
    /// How many messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all rows and bodies.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let rows: usize = self.entries.iter().map(|entry| entry.row.as_bytes().len()).sum();
        rows + self.bodies.iter().map(|body| body.bytes.len()).sum::<usize>()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct PreparedEntry {
    pub(crate) queue: u32,
    pub(crate) topic: Topic,
    pub(crate) message: Message,
    pub(crate) row: RowBuffer,
    /// Which of the bodies is its own; none where it lies in the row.
    pub(crate) body: Option<usize>,
    pub(crate) dead: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct PreparedBody {
    pub(crate) bytes: Bytes,
    pub(crate) users: u32,
}

/// A settlement, ready to be written.
#[derive(Debug, Clone)]
pub struct PreparedSettlement {
    pub(crate) lease: LeaseToken,
    /// In stored form.
    pub(crate) attempt: Option<Vec<u8>>,
    pub(crate) verdict: PreparedVerdict,
}

#[derive(Debug, Clone)]
pub(crate) enum PreparedVerdict {
    Done(PreparedEntries),
    Again(u64),
    Dead(DeadReason),
}

/// The rows and bodies of `entries`, in their order.
#[must_use]
pub fn prepare(entries: Vec<NewEntry>, tuning: &Tuning) -> PreparedEntries {
    let users = count_users(&entries, tuning);
    let mut prepared = PreparedEntries { entries: Vec::with_capacity(entries.len()), bodies: Vec::new() };
    let mut placed = BTreeMap::new();
    for entry in entries {
        let NewEntry { queue, topic, message, hops, options: _, dead } = entry;
        let shared_by = users.get(&buffer_of(&message)).copied().unwrap_or(1);
        let limit = if shared_by > 1 { tuning.inline_bytes_shared } else { tuning.inline_bytes };
        let external = (message.data().len() > limit).then(|| {
            let bytes = u32::try_from(message.data().len()).expect("doors bound a message far below 4 GiB");
            (bytes, shared_by > 1)
        });
        let body = external.map(|_| {
            *placed.entry(buffer_of(&message)).or_insert_with(|| {
                prepared.bodies.push(PreparedBody { bytes: message.data_bytes(), users: shared_by });
                prepared.bodies.len() - 1
            })
        });
        let row = RowBuffer::new(&topic, &message, hops, dead.as_ref(), external);
        prepared.entries.push(PreparedEntry { queue: queue.0, topic, message, row, body, dead: dead.is_some() });
    }
    prepared
}

/// The settlement with its emits as rows and its attempt as bytes.
#[must_use]
pub fn prepare_settlement(settlement: Settlement, tuning: &Tuning) -> PreparedSettlement {
    let verdict = match settlement.verdict {
        Verdict::Done { emits } => PreparedVerdict::Done(prepare(emits, tuning)),
        Verdict::Again { at, .. } => PreparedVerdict::Again(at.0),
        Verdict::Dead { reason } => PreparedVerdict::Dead(reason),
    };
    let attempt = settlement.attempt.as_ref().map(history::encode);
    PreparedSettlement { lease: settlement.lease, attempt, verdict }
}

fn buffer_of(message: &Message) -> (usize, usize) {
    (message.as_bytes().as_ptr() as usize, message.as_bytes().len())
}

/// How many entries carry each buffer whose body may have to be shared.
fn count_users(entries: &[NewEntry], tuning: &Tuning) -> BTreeMap<(usize, usize), u32> {
    let mut users = BTreeMap::new();
    if entries.len() < 2 {
        return users;
    }
    for entry in entries.iter().filter(|entry| entry.message.data().len() > tuning.inline_bytes_shared) {
        *users.entry(buffer_of(&entry.message)).or_insert(0) += 1;
    }
    users
}

#[cfg(test)]
mod tests {
    use pelton_core::engine::QueueId;
    use pelton_core::message::Attributes;

    use super::*;

    fn entry(queue: u32, message: &Message) -> NewEntry {
        let topic = Topic::new("t").expect("valid");
        NewEntry::new(QueueId(queue), topic, message.clone())
    }

    fn message(bytes: usize) -> Message {
        let attributes = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
        Message::new(&attributes, &vec![7; bytes]).expect("valid")
    }

    /// The users of each body, and which body each entry has.
    fn check(entries: Vec<NewEntry>, bodies: &[u32], of_entries: &[Option<usize>]) {
        let tuning = Tuning { inline_bytes: 100, inline_bytes_shared: 10, ..Tuning::default() };
        let prepared = prepare(entries, &tuning);
        assert_eq!(prepared.bodies.iter().map(|body| body.users).collect::<Vec<_>>(), bodies);
        assert_eq!(prepared.entries.iter().map(|entry| entry.body).collect::<Vec<_>>(), of_entries);
    }

    #[test]
    fn bodies_leave_their_row_when_they_are_large_for_it() {
        let (small, medium, large) = (message(10), message(50), message(101));
        check(vec![entry(1, &small), entry(2, &small)], &[], &[None, None]);
        check(vec![entry(1, &medium)], &[], &[None]);
        check(vec![entry(1, &medium), entry(2, &medium)], &[2], &[Some(0), Some(0)]);
        check(vec![entry(1, &large)], &[1], &[Some(0)]);
        check(vec![entry(1, &large), entry(2, &medium), entry(3, &large)], &[2], &[Some(0), None, Some(0)]);
        let twin = message(101);
        check(vec![entry(1, &large), entry(1, &twin)], &[1, 1], &[Some(0), Some(1)]);
    }
}
