//! What a caller does on its own thread before it sends a command: rows in their final form, attempts as bytes.
//!
//! A body that is too large for its row is stored once and shared by all rows of the same append that carry the very
//! same buffer, which is how the router passes a message to several queues.

use std::collections::BTreeMap;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use pelton_core::clock::WallMs;
use pelton_core::engine::{
    Append, DeadReason, Identity, LeaseToken, NewEntry, PRIORITY_MAX, Settlement, Tick, Verdict,
};
use pelton_core::message::Message;
use pelton_core::name::Topic;

use crate::hash::Secret;
use crate::history;
use crate::row::{External, Facts, RowBuffer};
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

    /// Bytes that one of them takes in its queue.
    pub(crate) fn cost(&self, entry: &PreparedEntry) -> u64 {
        let body = entry.body.map_or(0, |body| self.bodies[body].bytes.len());
        (entry.row.as_bytes().len() + body) as u64
    }

    /// Bytes of all rows and bodies.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let rows: usize = self.entries.iter().map(|entry| entry.row.as_bytes().len()).sum();
        rows + self.bodies.iter().map(|body| body.bytes.len()).sum::<usize>()
    }
}

/// A publish request, ready to be written.
#[derive(Debug, Clone, Default)]
pub struct PreparedAppend {
    pub(crate) entries: PreparedEntries,
    pub(crate) identities: Vec<PreparedIdentity>,
    pub(crate) tick: Option<Tick>,
}

impl PreparedAppend {
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
        self.entries.bytes()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct PreparedIdentity {
    pub(crate) entries: Range<usize>,
    pub(crate) window: Duration,
    pub(crate) hash: u128,
    pub(crate) body: u64,
    /// Of its entries, in their order: when each is due, if that is later, and where. Nothing where none is.
    pub(crate) waiting: Vec<(Option<WallMs>, u32)>,
}

#[derive(Debug, Clone)]
pub(crate) struct PreparedEntry {
    pub(crate) queue: u32,
    pub(crate) topic: Topic,
    pub(crate) message: Message,
    pub(crate) row: RowBuffer,
    /// Which of the bodies is its own; none where it lies in the row.
    pub(crate) body: Option<usize>,
    /// Not before.
    pub(crate) due: Option<WallMs>,
    pub(crate) dead: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct PreparedBody {
    pub(crate) bytes: Bytes,
    /// How many entries of the request have it; fewer where some are doubles that are not stored.
    pub(crate) users: u32,
    /// Whether `body_refs` counts them.
    pub(crate) shared: bool,
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
    Again { at: u64, chosen: bool },
    Dead(DeadReason),
}

/// The publish request with its entries as rows and its identities as hashes.
#[must_use]
pub fn prepare_append(append: Append, tuning: &Tuning, secret: &Secret) -> PreparedAppend {
    let Append { entries, identities, tick } = append;
    let waiting = |range: Range<usize>| {
        let of = entries.get(range).unwrap_or_default();
        let waits = of.iter().any(|entry| entry.options.due.is_some());
        let of = of.iter().filter(|_| waits);
        of.map(|entry| (entry.options.due, entry.queue.0)).collect()
    };
    let identity = |Identity { entries, topic, message, window }| PreparedIdentity {
        waiting: waiting(entries.clone()),
        entries,
        window,
        hash: secret.of_identity(&topic, &message),
        body: secret.of_body(&message),
    };
    let identities = identities.into_iter().map(identity).collect();
    PreparedAppend { entries: prepare(entries, tuning, secret), identities, tick }
}

/// The rows and bodies of `entries`, in their order.
#[must_use]
pub fn prepare(entries: Vec<NewEntry>, tuning: &Tuning, secret: &Secret) -> PreparedEntries {
    let users = count_users(&entries, tuning);
    let mut prepared = PreparedEntries { entries: Vec::with_capacity(entries.len()), bodies: Vec::new() };
    let mut placed = BTreeMap::new();
    for entry in entries {
        let NewEntry { queue, topic, message, hops, options, dead } = entry;
        let shared_by = users.get(&buffer_of(&message)).copied().unwrap_or(1);
        let limit = if shared_by > 1 { tuning.inline_bytes_shared } else { tuning.inline_bytes };
        let external = (message.data().len() > limit).then(|| {
            let bytes = u32::try_from(message.data().len()).expect("doors bound a message far below 4 GiB");
            External { bytes, checksum: crc32fast::hash(message.data()), shared: shared_by > 1 }
        });
        let body = external.map(|_| {
            *placed.entry(buffer_of(&message)).or_insert_with(|| {
                prepared.bodies.push(PreparedBody {
                    bytes: message.data_bytes(),
                    users: shared_by,
                    shared: shared_by > 1,
                });
                prepared.bodies.len() - 1
            })
        });
        let facts = Facts {
            hops,
            priority: options.priority.min(PRIORITY_MAX),
            expires: options.expires,
            key: options.key.as_ref().map(|key| secret.of_key(key)),
            dead: dead.as_ref(),
            external,
        };
        let row = RowBuffer::new(&topic, &message, &facts);
        let (queue, due, dead) = (queue.0, options.due, dead.is_some());
        prepared.entries.push(PreparedEntry { queue, topic, message, row, body, due, dead });
    }
    prepared
}

/// The settlement with its emits as rows and its attempt as bytes.
#[must_use]
pub fn prepare_settlement(settlement: Settlement, tuning: &Tuning, secret: &Secret) -> PreparedSettlement {
    let verdict = match settlement.verdict {
        Verdict::Done { emits } => PreparedVerdict::Done(prepare(emits, tuning, secret)),
        Verdict::Again { at, chosen } => PreparedVerdict::Again { at: at.0, chosen },
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
        let prepared = prepare(entries, &tuning, &Secret { first: 1, second: 2 });
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
