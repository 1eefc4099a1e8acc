//! What cases are made of: messages that wait, expire, have a priority or a key, and many of them.

use std::time::Duration;

use super::harness::{Harness, entry};
use crate::clock::{Clock as _, WallMs};
use crate::engine::{EntryOptions, NewEntry, OrderKey, QueueId, Stored};

/// The shortest time that due times can tell.
pub(super) const MS: Duration = Duration::from_millis(1);

impl Harness {
    /// The wall clock's time after `wait`.
    pub(super) fn after(&self, wait: Duration) -> WallMs {
        self.clock.wall().plus(wait)
    }

    /// A message that is not delivered before `wait` is over.
    pub(super) fn delayed(&self, queue: QueueId, id: &str, wait: Duration) -> NewEntry {
        with(queue, id, EntryOptions { due: Some(self.after(wait)), ..EntryOptions::default() })
    }

    /// A message that expires after `ttl`.
    pub(super) fn mortal(&self, queue: QueueId, id: &str, ttl: Duration) -> NewEntry {
        with(queue, id, EntryOptions { expires: Some(self.after(ttl)), ..EntryOptions::default() })
    }
}

pub(super) fn with(queue: QueueId, id: &str, options: EntryOptions) -> NewEntry {
    NewEntry { options, ..entry(queue, id) }
}

pub(super) fn prior(queue: QueueId, id: &str, priority: u8) -> NewEntry {
    with(queue, id, EntryOptions { priority, ..EntryOptions::default() })
}

pub(super) fn key(text: &str) -> Option<OrderKey> {
    Some(OrderKey(text.into()))
}

/// A message of the key that its id starts with: `k/1` is of `k`.
pub(super) fn keyed(queue: QueueId, id: &str) -> NewEntry {
    let text = id.split('/').next().unwrap_or_default();
    with(queue, id, EntryOptions { key: key(text), ..EntryOptions::default() })
}

/// One [`keyed`] message per id.
pub(super) fn all_keyed(queue: QueueId, ids: &[&str]) -> Vec<NewEntry> {
    ids.iter().map(|id| keyed(queue, id)).collect()
}

/// `count` names that begin so, and sort as they are numbered.
pub(super) fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number:05}")).collect()
}

/// The ids of what a look found, in the order of names.
pub(super) fn sorted_ids(stored: &[Stored]) -> Vec<&str> {
    let mut ids = super::harness::stored_ids(stored);
    ids.sort_unstable();
    ids
}
