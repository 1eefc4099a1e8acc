//! The messages next in line of one priority: a window read ahead from disk, what was given back, and what is due again.

use std::collections::{BTreeMap, VecDeque};

use pelton_core::clock::WallMs;

use crate::command::Content;
use crate::row::Row;

/// What an entry in a window takes beside its content, in bytes, roughly.
const ENTRY_BYTES: usize = 192;

/// A message in memory.
#[derive(Debug)]
pub(crate) struct WindowEntry {
    pub(crate) position: u64,
    pub(crate) entry: u64,
    pub(crate) attempts: u32,
    pub(crate) hops: u8,
    pub(crate) priority: u8,
    pub(crate) alone: bool,
    pub(crate) accepted: WallMs,
    pub(crate) expires: Option<WallMs>,
    /// The hash of what it is kept in order by.
    pub(crate) key: Option<u64>,
    /// Bytes that it takes on disk.
    pub(crate) cost: u64,
    pub(crate) content: Content,
}

impl WindowEntry {
    pub(crate) fn of(position: u64, row: Row<'_>, content: Content) -> Self {
        Self {
            position,
            entry: row.entry(),
            attempts: row.attempts(),
            hops: row.hops(),
            priority: row.priority(),
            alone: row.is_alone(),
            accepted: row.accepted(),
            expires: row.expires(),
            key: row.key(),
            cost: row.cost(),
            content,
        }
    }

    /// Bytes that it takes in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.content.bytes() + ENTRY_BYTES
    }

    /// It was being handled when the process died: that counts, and it is handled alone.
    pub(crate) fn lose(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        self.alone = true;
    }

    pub(crate) fn is_expired(&self, now: WallMs) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
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

    /// Whether the message lies on disk behind the cursor, so that it will be read.
    pub(crate) fn is_ahead(&self, position: u64) -> bool {
        !self.live && position > self.cursor
    }

    /// Adds the message behind all others.
    pub(crate) fn push(&mut self, entry: WindowEntry) {
        debug_assert!(entry.position > self.cursor, "windows are filled in order");
        self.cursor = entry.position;
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    pub(crate) fn pop(&mut self) -> Option<WindowEntry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// The message at this position, if it was read.
    pub(crate) fn get_mut(&mut self, position: u64) -> Option<&mut WindowEntry> {
        let at = self.entries.binary_search_by_key(&position, |entry| entry.position).ok()?;
        self.entries.get_mut(at)
    }

    /// Forgets the message at this position.
    pub(crate) fn forget(&mut self, position: u64) {
        if let Ok(at) = self.entries.binary_search_by_key(&position, |entry| entry.position)
            && let Some(entry) = self.entries.remove(at)
        {
            self.bytes -= entry.bytes();
        }
    }

    /// Forgets the messages at these positions, which are sorted.
    pub(crate) fn forget_all(&mut self, positions: &[u64]) {
        if positions.len() < 4 {
            positions.iter().for_each(|position| self.forget(*position));
            return;
        }
        let bytes = &mut self.bytes;
        self.entries.retain(|entry| {
            let stays = positions.binary_search(&entry.position).is_err();
            if !stays {
                *bytes -= entry.bytes();
            }
            stays
        });
    }
}

/// A key of `due` within its queue: due time in ms, position.
pub(crate) type DueAt = (u64, u64);

/// The messages of one rank. A queue that does not keep priorities has one line.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) rank: u8,
    pub(crate) window: Window,
    /// Released, in order, with the time each was accepted; they come before the window and are read from disk again.
    pub(crate) returned: BTreeMap<u64, WallMs>,
    /// Their time has come, and nobody has leased them; with the time each was accepted.
    pub(crate) overdue: BTreeMap<DueAt, WallMs>,
    /// Whether an overdue message comes before the next ready one: the two take turns.
    pub(crate) due_turn: bool,
}

impl Line {
    /// A line with nothing in memory. `empty`: there is nothing on disk either.
    pub(crate) fn new(rank: u8, empty: bool) -> Self {
        let window = Window { live: empty, ..Window::default() };
        Self { rank, window, returned: BTreeMap::new(), overdue: BTreeMap::new(), due_turn: true }
    }

    /// Whether there may be a message that was not leased.
    pub(crate) fn has_available(&self) -> bool {
        self.has_ready() || !self.window.live || !self.overdue.is_empty()
    }

    /// Whether there is one in memory that waits for nothing.
    pub(crate) fn has_ready(&self) -> bool {
        self.window.len() > 0 || !self.returned.is_empty()
    }

    /// Whether the window has to be read from disk before more can be had.
    pub(crate) fn is_dry(&self) -> bool {
        !self.has_ready() && !self.window.live
    }

    /// When the first of each part was accepted; the earliest of them.
    pub(crate) fn oldest(&self) -> Option<WallMs> {
        let window = self.window.front().map(|entry| entry.accepted);
        let returned = self.returned.values().next().copied();
        let due = self.overdue.values().next().copied();
        [window, returned, due].into_iter().flatten().min()
    }
}
