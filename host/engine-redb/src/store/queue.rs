//! One queue in memory: its lines of messages ahead of the consumers, its waiting messages by time, its figures.
//!
//! Invariants. Every message of the queue's `ready` rows is in exactly one place: in the window of its rank's line, among the
//! returned, waiting for its key, under a lease, in the transaction being staged, or on disk only, and the last is so exactly for
//! positions behind the window's cursor. A window is *live* when nothing lies behind its cursor; then new messages are
//! pushed as they are committed. Likewise every `due` row that is not held is loaded or leased, or lies behind the due window's
//! edge.

use std::collections::BTreeSet;

use pelton_core::clock::WallMs;
use pelton_core::engine::{Bounds, QueueCounts, QueueId};
use pelton_core::name::QueueName;
use pelton_core::retry::RetryPolicy;

use super::due_window::DueWindow;
use super::keys::Keys;
use super::order::Turn;
use super::window::Line;
use crate::records::{Counters, NameRecord};
use crate::tables::{RANK, rank_of};

/// What a staged transaction changes in a queue's counters.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delta {
    pub(crate) ready: i64,
    pub(crate) due: i64,
    pub(crate) parked: i64,
    pub(crate) retrying: i64,
    pub(crate) expiring: i64,
    pub(crate) held: i64,
    pub(crate) bytes: i64,
}

impl Delta {
    pub(crate) fn apply(self, to: Counters) -> Option<Counters> {
        Some(Counters {
            ready: to.ready.checked_add_signed(self.ready)?,
            due: to.due.checked_add_signed(self.due)?,
            parked: to.parked.checked_add_signed(self.parked)?,
            retrying: to.retrying.checked_add_signed(self.retrying)?,
            expiring: to.expiring.checked_add_signed(self.expiring)?,
            held: to.held.checked_add_signed(self.held)?,
            bytes: to.bytes.checked_add_signed(self.bytes)?,
        })
    }
}

/// Messages and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Load {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes += bytes;
    }
}

impl std::ops::Add for Load {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    pub(crate) record: NameRecord,
    /// The settings of `record`, as they are used.
    pub(crate) retry: RetryPolicy,
    pub(crate) bounds: Bounds,
    /// Whether messages are kept in order by key now; it follows the settings once nothing is leased. Not while that goes on.
    pub(crate) keyed: bool,
    /// A change of order has begun and is not complete.
    pub(crate) turn: Option<Turn>,
    /// As committed.
    pub(crate) stored: Counters,
    /// On its way in, and out to make room, but not committed yet; kept where there are bounds.
    pub(crate) incoming: Load,
    pub(crate) outgoing: Load,
    /// Bytes of the leased, and of the staged that were leased.
    pub(crate) held_bytes: u64,
    pub(crate) staged_bytes: u64,
    /// By rank, the first to be served first.
    pub(crate) lines: Vec<Line>,
    pub(crate) due: DueWindow,
    pub(crate) keys: Keys,
    /// Messages in `due` whose time has come and that nobody has leased, wherever in memory they are.
    pub(crate) overdue: u64,
    /// The leased: when accepted, entry. Oldest first.
    pub(crate) leased: BTreeSet<(WallMs, u64)>,
    /// How many of the leased lie in `due`.
    pub(crate) leased_due: u64,
    /// Messages in the transaction being staged that were leased; they count as leased until it is committed.
    pub(crate) staged: u64,
    /// How many of the staged lie in `due`.
    pub(crate) staged_due: u64,
    /// Something of it was read to its end, and the numbers were not compared since.
    pub(crate) came_to_an_end: bool,
    /// Since the store was opened.
    pub(crate) dropped: u64,
    pub(crate) expired: u64,
}

impl Queue {
    /// A queue with nothing in memory.
    pub(crate) fn new(name: QueueName, record: NameRecord, stored: Counters) -> Self {
        let by_key = record.settings.order_by_key;
        let turning = record.turning || !by_key && (stored.parked > 0 || stored.retrying > 0);
        let mut queue = Self {
            name,
            retry: record.settings.retry(),
            bounds: record.settings.bounds(),
            record,
            keyed: by_key && !turning,
            turn: turning.then_some(Turn::Clearing),
            stored,
            incoming: Load::default(),
            outgoing: Load::default(),
            held_bytes: 0,
            staged_bytes: 0,
            lines: Vec::new(),
            due: DueWindow::default(),
            keys: Keys::default(),
            overdue: 0,
            leased: BTreeSet::new(),
            leased_due: 0,
            staged: 0,
            staged_due: 0,
            came_to_an_end: false,
            dropped: 0,
            expired: 0,
        };
        queue.forget_all();
        queue
    }

    /// Forgets what is in memory of messages that nobody holds: all is read from disk again.
    pub(super) fn forget_all(&mut self) {
        let empty = self.stored.ready == 0;
        let ranks = if self.record.ranked { 0..=rank_of(0) } else { RANK..=RANK };
        self.lines = ranks.map(|rank| Line::new(rank, empty)).collect();
        self.due = if self.stored.due > 0 { DueWindow::unread() } else { DueWindow::default() };
        let parked_oldest = self.keys.parked_oldest.filter(|_| self.stored.parked > 0);
        self.keys = Keys::unread(self.stored.parked, self.stored.retrying);
        self.keys.parked_oldest = parked_oldest;
        self.overdue = 0;
    }

    /// Takes over a record. Lines of other ranks are added as empty: so far nothing had another rank.
    pub(crate) fn take_up(&mut self, record: NameRecord) {
        self.retry = record.settings.retry();
        self.bounds = record.settings.bounds();
        if record.ranked && !self.record.ranked {
            let known = std::mem::take(&mut self.lines);
            self.lines = (0..=rank_of(0)).map(|rank| Line::new(rank, true)).collect();
            for line in known {
                let rank = usize::from(line.rank);
                self.lines[rank] = line;
            }
        }
        self.record = record;
    }

    /// Whether as many messages whose time has come wait in its lines as may.
    pub(crate) fn is_ripe(&self, limit: usize) -> bool {
        self.lines.iter().map(|line| line.overdue.len()).sum::<usize>() >= limit.max(1)
    }

    /// The rank of a message with this priority.
    pub(crate) fn rank(&self, priority: u8) -> u8 {
        if self.record.settings.priority { rank_of(priority) } else { RANK }
    }

    /// Where among the lines the one of this rank is.
    pub(crate) fn line_at(&self, rank: u8) -> usize {
        if self.lines.len() > 1 { usize::from(rank).min(self.lines.len() - 1) } else { 0 }
    }

    /// The line of messages with this rank.
    pub(crate) fn line(&mut self, rank: u8) -> &mut Line {
        let at = self.line_at(rank);
        &mut self.lines[at]
    }

    /// Messages that a lease request could get right now, as far as memory knows.
    pub(crate) fn has_available(&self) -> bool {
        !self.record.paused && !self.is_changing_order() && (self.has_more_in_lines() || self.keys.has_eligible())
    }

    /// Whether there may be messages that nobody has looked at yet.
    pub(crate) fn has_more_in_lines(&self) -> bool {
        self.lines.iter().any(Line::has_available)
    }

    /// Whether it would be within its bounds with so much more than is stored or on its way.
    pub(crate) fn has_room_for(&self, more: Load) -> bool {
        let stored = Load { messages: self.stored.messages(), bytes: self.stored.bytes };
        let Load { messages, bytes } = stored + self.incoming + more;
        let (messages, bytes) =
            (messages.saturating_sub(self.outgoing.messages), bytes.saturating_sub(self.outgoing.bytes));
        self.bounds.hold(messages, bytes)
    }

    /// Whether it would be so if all were dropped that nobody holds.
    pub(crate) fn could_have_room_for(&self, more: Load) -> bool {
        let held = Load { messages: self.held(), bytes: self.held_bytes + self.staged_bytes };
        let Load { messages, bytes } = held + self.incoming + more;
        self.bounds.hold(messages, bytes)
    }

    /// Messages that somebody holds, or that are being settled.
    pub(crate) fn held(&self) -> u64 {
        self.leased.len() as u64 + self.staged
    }

    /// The figures. `oldest` looks at all leases and at the first of each line, which is the oldest of its line but for
    /// messages that died or were redriven into it: those keep the time at which they were first accepted.
    ///
    /// Whatever is on disk only has somebody before it in the window: see [`super::live::Live::read_ahead`].
    pub(crate) fn counts(&self, id: u32) -> QueueCounts {
        let in_due = self.leased_due + self.staged_due;
        let leased = self.held();
        let oldest_leased = self.leased.first().map(|(accepted, _)| *accepted);
        let oldest = self.lines.iter().filter_map(Line::oldest).chain(self.keys.oldest()).chain(oldest_leased).min();
        QueueCounts {
            id: QueueId(id),
            name: self.name.clone(),
            declared: self.record.declared,
            paused: self.record.paused,
            full: !self.has_room_for(Load { messages: 1, bytes: 1 }),
            ready: (self.stored.ready + self.stored.parked + self.overdue).saturating_sub(leased - in_due),
            leased,
            scheduled: self.stored.due.saturating_sub(in_due + self.overdue),
            bytes: self.stored.bytes,
            oldest,
            dropped: self.dropped,
            expired: self.expired,
        }
    }
}
