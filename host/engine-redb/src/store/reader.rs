//! Reading rows back: refilling a window, and single messages that came back to their place.
//!
//! Invariant: a reader sees what is committed and is dropped before the next commit begins, so that no snapshot pins
//! pages.

use bytes::{Bytes, BytesMut};
use redb::{Database, ReadOnlyTable, ReadableDatabase};

use super::leases::Place;
use super::live::Live;
use super::queue::Queue;
use super::window::WindowEntry;
use crate::command::{Content, Ticket};
use crate::failure::Failure;
use crate::row::{BodyRef, Row};
use crate::seal::Sealed;
use crate::tables::{BODIES, DEDUP, DUE, DedupKey, DedupValue, DueKey, PARKED, ParkedKey, READY, RETRYING, ReadyKey};

/// The tables that messages are read from, as of one moment.
pub(crate) struct Reader {
    pub(crate) ready: ReadOnlyTable<ReadyKey, &'static [u8]>,
    pub(crate) due: ReadOnlyTable<DueKey, &'static [u8]>,
    pub(crate) parked: ReadOnlyTable<ParkedKey, &'static [u8]>,
    pub(crate) retrying: ReadOnlyTable<ParkedKey, Sealed<u64>>,
    pub(crate) dedup: ReadOnlyTable<DedupKey, Sealed<DedupValue>>,
    bodies: ReadOnlyTable<(u64, u32), &'static [u8]>,
}

impl Reader {
    pub(crate) fn new(database: &Database) -> Result<Self, Failure> {
        let txn = database.begin_read()?;
        Self::of(&txn)
    }

    pub(crate) fn of(txn: &redb::ReadTransaction) -> Result<Self, Failure> {
        Ok(Self {
            ready: txn.open_table(READY)?,
            due: txn.open_table(DUE)?,
            parked: txn.open_table(PARKED)?,
            retrying: txn.open_table(RETRYING)?,
            dedup: txn.open_table(DEDUP)?,
            bodies: txn.open_table(BODIES)?,
        })
    }

    /// The message at a place.
    pub(crate) fn at(&self, queue: u32, place: Place) -> Result<WindowEntry, Failure> {
        match place {
            Place::Ready { rank, position } => self.ready_at(queue, rank, position),
            Place::Due { due, position } => self.due_at(queue, due, position),
            Place::Parked { key, position } => match self.parked.get((queue, key, position))? {
                Some(row) => self.entry(queue, place, row.value()),
                None => Err(missing(queue, position)),
            },
        }
    }

    /// The message at a key of `ready`.
    pub(crate) fn ready_at(&self, queue: u32, rank: u8, position: u64) -> Result<WindowEntry, Failure> {
        match self.ready.get((queue, rank, position))? {
            Some(row) => self.entry(queue, Place::Ready { rank, position }, row.value()),
            None => Err(missing(queue, position)),
        }
    }

    /// The message at a key of `due`.
    pub(crate) fn due_at(&self, queue: u32, due: u64, position: u64) -> Result<WindowEntry, Failure> {
        match self.due.get((queue, due, position))? {
            Some(row) => self.entry(queue, Place::Due { due, position }, row.value()),
            None => Err(missing(queue, position)),
        }
    }

    /// The row at a place as an entry of a window, with its body wherever that lies.
    pub(crate) fn entry(&self, queue: u32, place: Place, bytes: &[u8]) -> Result<WindowEntry, Failure> {
        self.entry_of(place.position(), Row::at(queue, place, bytes)?)
    }

    /// As [`entry`](Self::entry), of a row that was checked.
    pub(crate) fn entry_of(&self, position: u64, row: Row<'_>) -> Result<WindowEntry, Failure> {
        let body = row.body().map(|body| self.body(body)).transpose()?;
        let content = Content::Stored { row: Bytes::copy_from_slice(row.as_bytes()), body };
        Ok(WindowEntry::of(position, row, content))
    }

    pub(crate) fn body(&self, body: BodyRef) -> Result<Bytes, Failure> {
        let mut whole = BytesMut::with_capacity(body.bytes as usize);
        for chunk in self.bodies.range((body.id, 0)..=(body.id, u32::MAX))? {
            whole.extend_from_slice(chunk?.1.value());
        }
        if whole.len() != body.bytes as usize {
            let error = format!("body {} has {} bytes instead of {}", body.id, whole.len(), body.bytes);
            return Err(Failure::Damaged(error));
        }
        if crc32fast::hash(&whole) != body.checksum {
            return Err(Failure::Damaged(format!("the checksum of body {} is wrong", body.id)));
        }
        Ok(whole.freeze())
    }
}

pub(crate) fn missing(queue: u32, position: u64) -> Failure {
    Failure::Damaged(format!("message {position} of queue {queue} is not where it should be"))
}

impl<T: Ticket> Live<T> {
    /// A view of what is committed, made once per call.
    pub(super) fn reader(&mut self) -> Result<&Reader, Failure> {
        if self.reader.is_none() {
            self.reader = Some(Reader::new(&self.database)?);
        }
        Ok(self.reader.as_ref().expect("it was made just now"))
    }

    /// Reads up to `entries_max` messages behind the window's cursor into it, as far as it has room. The window turns
    /// live when there are no more.
    pub(super) fn refill(&mut self, queue: u32, line: usize, entries_max: usize) -> Result<(), Failure> {
        if self.queues[queue as usize].lines[line].window.live {
            return Ok(());
        }
        if self.queues[queue as usize].keyed {
            self.load_keys(queue)?;
        }
        // The age of its oldest message shows only now, if the window was empty.
        self.uncounted.mark(queue);
        self.reader()?;
        let bytes_max = self.tuning.window_bytes_of(self.queues.len()) / self.queues[queue as usize].lines.len();
        let reader = self.reader.as_ref().expect("it was made just now");
        let Queue { lines, keys, came_to_an_end, .. } = &mut self.queues[queue as usize];
        let (rank, window) = (lines[line].rank, &mut lines[line].window);
        let mut rows = reader.ready.range((queue, rank, window.cursor + 1)..=(queue, rank, u64::MAX))?;
        for _ in 0..entries_max {
            if !window.has_room(self.tuning.window_entries, bytes_max) {
                return Ok(());
            }
            let Some(row) = rows.next() else {
                window.live = true;
                *came_to_an_end = true;
                return Ok(());
            };
            let (key, value) = row?;
            let (queue, rank, position) = key.value();
            if position <= window.cursor {
                return Err(Failure::Damaged(format!("the messages of queue {queue} are out of order at {position}")));
            }
            if keys.is_aside(position) {
                window.cursor = position;
            } else {
                window.push(reader.entry(queue, Place::Ready { rank, position }, value.value())?);
            }
        }
        Ok(())
    }

    /// Reads ahead in queues whose window runs low, and drops the view of what is committed. Afterwards no window is empty
    /// whose queue has ready messages that nobody holds: a queue without consumers shows the age of its oldest too.
    pub(super) fn read_ahead(&mut self) -> Result<(), super::Failed> {
        for queue in self.changed.drain() {
            for line in 0..self.queues[queue as usize].lines.len() {
                let window = &self.queues[queue as usize].lines[line].window;
                if !window.live && window.len() < self.tuning.refill_below.max(1) {
                    self.refill(queue, line, self.tuning.refill_entries)?;
                }
            }
            if self.stage.is_empty() {
                self.queues[queue as usize].check_whole()?;
            }
        }
        self.reader = None;
        Ok(())
    }
}
