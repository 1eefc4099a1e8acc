//! One queue in memory: its window of messages ahead of the consumers, its waiting messages by time, its figures.
//!
//! Invariants. Every message of the queue's `ready` rows is in exactly one place: in the window, among the returned, under
//! a lease, in the transaction being staged, or on disk only, and the last is so exactly for positions behind the
//! window's cursor. A window is *live* when nothing lies behind its cursor; then new messages are pushed as they are
//! committed. Likewise every `due` row that is not held is loaded or leased, or lies behind the due window's edge.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pelton_core::clock::WallMs;
use pelton_core::engine::{QueueCounts, QueueId};
use pelton_core::name::QueueName;
use pelton_core::retry::RetryPolicy;

use crate::command::Content;
use crate::records::Counters;

/// What an entry in a window takes beside its content, in bytes, roughly.
const ENTRY_BYTES: usize = 160;

/// A message in the window.
#[derive(Debug)]
pub(crate) struct WindowEntry {
    pub(crate) position: u64,
    pub(crate) entry: u64,
    pub(crate) attempts: u32,
    pub(crate) hops: u8,
    pub(crate) accepted: WallMs,
    pub(crate) content: Content,
}

/// The messages next in line, in order of position.
#[derive(Debug, Default)]
pub(crate) struct Window {
    entries: VecDeque<WindowEntry>,
    bytes: usize,
    /// The last position that was ever in it; what lies behind is on disk only.
    pub(crate) cursor: u64,
    /// Nothing lies behind the cursor.
    pub(crate) live: bool,
}

impl Window {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn front(&self) -> Option<&WindowEntry> {
        self.entries.front()
    }

    /// Whether one more message fits. An empty window takes a message of any size.
    pub(crate) fn has_room(&self, entries_max: usize, bytes_max: usize) -> bool {
        self.entries.is_empty() || self.entries.len() < entries_max && self.bytes < bytes_max
    }

    /// Adds the message behind all others.
    pub(crate) fn push(&mut self, entry: WindowEntry) {
        debug_assert!(entry.position > self.cursor, "windows are filled in order");
        self.cursor = entry.position;
        self.bytes += entry.content.bytes() + ENTRY_BYTES;
        self.entries.push_back(entry);
    }

    pub(crate) fn pop(&mut self) -> Option<WindowEntry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.content.bytes() + ENTRY_BYTES;
        Some(entry)
    }

    /// Forgets the messages at these positions, which are sorted.
    pub(crate) fn forget(&mut self, positions: &[u64]) {
        let gone = |entry: &WindowEntry| positions.binary_search(&entry.position).is_ok();
        let bytes: usize =
            self.entries.iter().filter(|entry| gone(entry)).map(|entry| entry.content.bytes() + ENTRY_BYTES).sum();
        self.bytes -= bytes;
        self.entries.retain(|entry| !gone(entry));
    }
}

/// A key of `due` within its queue: due time in ms, position.
pub(crate) type DueAt = (u64, u64);

/// The waiting messages that come next, by time: keys, and when each was accepted.
#[derive(Debug, Default)]
pub(crate) struct DueWindow {
    /// Their time lies ahead.
    future: BTreeMap<DueAt, WallMs>,
    /// Their time has come, and nobody has leased them.
    pub(crate) overdue: BTreeMap<DueAt, WallMs>,
    /// Keys behind this are on disk only; none: all are loaded.
    pub(crate) edge: Option<DueAt>,
}

impl DueWindow {
    /// Takes up a key that was committed, if it belongs to what is loaded.
    pub(crate) fn insert(&mut self, key: DueAt, accepted: WallMs, entries_max: usize) {
        if self.edge.is_some_and(|edge| key > edge) {
            return;
        }
        self.future.insert(key, accepted);
        while self.future.len() > entries_max.max(1) {
            self.future.pop_last();
            self.edge = self.future.last_key_value().map(|(last, _)| *last);
        }
    }

    /// Takes up a key that was read from disk behind the edge.
    pub(crate) fn load(&mut self, key: DueAt, accepted: WallMs) {
        if !self.overdue.contains_key(&key) {
            self.future.insert(key, accepted);
        }
    }

    /// When there is something to do again: the next one is due, or keys are to be loaded, and there is room for it.
    pub(crate) fn next(&self, entries_max: usize) -> Option<WallMs> {
        if self.is_starved(entries_max) {
            return Some(WallMs(0));
        }
        let first = self.future.first_key_value().map(|((due, _), _)| WallMs(*due));
        first.filter(|_| !self.is_full(entries_max))
    }

    /// Whether keys are to be loaded from disk.
    pub(crate) fn is_starved(&self, entries_max: usize) -> bool {
        self.future.is_empty() && self.edge.is_some() && !self.is_full(entries_max)
    }

    /// Makes those overdue whose time has come; at most `entries_max` are overdue at once. Whether there were any.
    pub(crate) fn ripen(&mut self, now: WallMs, entries_max: usize) -> bool {
        let before = self.overdue.len();
        while self.overdue.len() < entries_max.max(1)
            && let Some(first) = self.future.first_entry()
            && first.key().0 <= now.0
        {
            let (key, accepted) = first.remove_entry();
            self.overdue.insert(key, accepted);
        }
        self.overdue.len() > before
    }

    /// Whether overdue messages wait for room among the overdue rather than for their time.
    fn is_full(&self, entries_max: usize) -> bool {
        self.overdue.len() >= entries_max.max(1)
    }

    pub(crate) fn forget(&mut self, key: DueAt) {
        self.future.remove(&key);
        self.overdue.remove(&key);
    }
}

/// What a staged transaction changes in a queue's counters.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delta {
    pub(crate) ready: i64,
    pub(crate) due: i64,
    pub(crate) bytes: i64,
}

impl Delta {
    pub(crate) fn apply(self, to: Counters) -> Option<Counters> {
        Some(Counters {
            ready: to.ready.checked_add_signed(self.ready)?,
            due: to.due.checked_add_signed(self.due)?,
            bytes: to.bytes.checked_add_signed(self.bytes)?,
        })
    }
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    pub(crate) declared: bool,
    pub(crate) dead_letter: Option<u32>,
    pub(crate) retry: RetryPolicy,
    /// As committed.
    pub(crate) stored: Counters,
    pub(crate) window: Window,
    /// Released, in order, with the time each was accepted; they come before the window and are read from disk again.
    pub(crate) returned: BTreeMap<u64, WallMs>,
    pub(crate) due: DueWindow,
    /// Whether an overdue message comes before the next ready one: the two take turns.
    pub(crate) due_turn: bool,
    /// The leased: when accepted, entry. Oldest first.
    pub(crate) leased: BTreeSet<(WallMs, u64)>,
    /// How many of the leased lie in `due`.
    pub(crate) leased_due: u64,
    /// Messages in the transaction being staged; they count as leased until it is committed.
    pub(crate) staged: u64,
    /// How many of the staged lie in `due`.
    pub(crate) staged_due: u64,
}

impl Queue {
    /// A queue with nothing in memory.
    pub(crate) fn new(name: QueueName, declared: bool, dead_letter: Option<u32>, stored: Counters) -> Self {
        let mut queue = Self {
            name,
            declared,
            dead_letter,
            retry: RetryPolicy::default(),
            stored,
            window: Window::default(),
            returned: BTreeMap::new(),
            due: DueWindow::default(),
            due_turn: true,
            leased: BTreeSet::new(),
            leased_due: 0,
            staged: 0,
            staged_due: 0,
        };
        queue.window.live = stored.ready == 0;
        queue.due.edge = (stored.due > 0).then_some((0, 0));
        queue
    }

    /// Messages that a lease request could get right now, as far as memory knows.
    pub(crate) fn has_available(&self) -> bool {
        self.window.len() > 0 || !self.window.live || !self.returned.is_empty() || !self.due.overdue.is_empty()
    }

    /// The figures. `oldest` looks at all leases and at the first of each line, which is the oldest of its line but for
    /// messages that died or were redriven into it: those keep the time at which they were first accepted.
    ///
    /// Whatever is on disk only has somebody before it in the window: see [`super::live::Live::read_ahead`].
    pub(crate) fn counts(&self, id: u32) -> QueueCounts {
        let overdue = self.due.overdue.len() as u64;
        let in_due = self.leased_due + self.staged_due;
        let leased = self.leased.len() as u64 + self.staged;
        let window = self.window.front().map(|entry| entry.accepted);
        let returned = self.returned.values().next().copied();
        let due = self.due.overdue.values().next().copied();
        let oldest_leased = self.leased.first().map(|(accepted, _)| *accepted);
        QueueCounts {
            id: QueueId(id),
            name: self.name.clone(),
            declared: self.declared,
            paused: false,
            full: false,
            dropped: 0,
            expired: 0,
            ready: (self.stored.ready + overdue).saturating_sub(leased - in_due),
            leased,
            scheduled: self.stored.due.saturating_sub(in_due + overdue),
            bytes: self.stored.bytes,
            oldest: [window, returned, due, oldest_leased].into_iter().flatten().min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_keys_beyond_the_edge_stay_on_disk() {
        let mut due = DueWindow::default();
        for key in [(30, 3), (10, 1), (20, 2)] {
            due.insert(key, WallMs(0), 2);
        }
        assert_eq!((due.future.len(), due.edge), (2, Some((20, 2))));
        due.insert((25, 4), WallMs(0), 2);
        assert_eq!(due.future.len(), 2, "it lies behind the edge");
        due.insert((5, 5), WallMs(0), 2);
        assert_eq!((due.next(8), due.edge), (Some(WallMs(5)), Some((10, 1))));
    }

    #[test]
    fn time_makes_keys_overdue_up_to_the_limit() {
        let mut due = DueWindow::default();
        for key in [(10, 1), (20, 2), (30, 3)] {
            due.insert(key, WallMs(0), 8);
        }
        assert!(!due.ripen(WallMs(9), 8));
        assert!(due.ripen(WallMs(30), 2));
        assert_eq!(due.overdue.len(), 2);
        assert!(due.is_full(2));
        assert_eq!((due.next(2), due.next(3)), (None, Some(WallMs(30))), "there must be room");
    }
}
