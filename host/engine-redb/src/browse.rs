//! Pages of a queue, read from a snapshot on the caller's side: the writer only makes the snapshot.

use pelton_core::clock::WallMs;
use pelton_core::engine::{Browse, DeadLetter, EngineError, EntryId, Page, Position, QueueId, RequestError, Stored};
use pelton_core::name::QueueName;
use redb::{ReadOnlyTable, ReadTransaction};

use crate::command::Content;
use crate::cursor::After;
use crate::failure::Failure;
use crate::history;
use crate::row::{Row, decode_message};
use crate::seal::Sealed;
use crate::store::{Place, Reader, find, walk};
use crate::tables::ATTEMPTS;

/// Most messages on one page, whatever was asked for.
const PAGE_MAX: usize = 1000;

/// A view of what was committed when it was made. It pins pages: drop it before the call that wanted it returns.
#[derive(Debug)]
pub struct Snapshot {
    txn: ReadTransaction,
    /// Of queues, by id.
    names: Vec<QueueName>,
}

struct Pages<'a> {
    reader: Reader,
    attempts: ReadOnlyTable<(u64, u32), Sealed<&'static [u8]>>,
    names: &'a [QueueName],
    items: Vec<Stored>,
    bytes: usize,
}

impl Snapshot {
    pub(crate) fn new(txn: ReadTransaction, names: Vec<QueueName>) -> Self {
        Self { txn, names }
    }

    /// The page that `what` asks for; a page ends early at about `page_bytes`. Whether a message is leased is not
    /// known here: `leased` is false.
    ///
    /// # Errors
    /// [`RequestError::InvalidCursor`]; `Unavailable` when the disk fails, `Corrupt` when a row can't be read.
    pub fn page(&self, what: &Browse, page_bytes: usize) -> Result<Page, RequestError> {
        let start = After::of(what.after.as_ref())?;
        self.read(what, start, page_bytes).map_err(|failure| failure.undone().into())
    }

    /// The message at a position, if it is ready or held, as it is shown on a page.
    ///
    /// # Errors
    /// As of [`page`](Self::page).
    pub fn message(&self, queue: QueueId, position: Position) -> Result<Option<Stored>, EngineError> {
        self.read_one(queue.0, position.0).map_err(|failure| failure.undone())
    }

    /// The transaction itself, for who copies all of it.
    pub(crate) fn into_transaction(self) -> ReadTransaction {
        self.txn
    }

    fn read_one(&self, queue: u32, position: u64) -> Result<Option<Stored>, Failure> {
        let mut pages = self.pages()?;
        if let Some((place, row)) = find(&pages.reader, queue, position)? {
            pages.push(place, row.view())?;
            return Ok(pages.items.pop());
        }
        let reader = Reader::of(&self.txn)?;
        walk(&reader, queue, After::START_OF_PARKED, |place, _, row| {
            let parked = matches!(place, Place::Parked { .. });
            if parked && place.position() == position {
                pages.push(place, row)?;
            }
            Ok(parked && pages.items.is_empty())
        })?;
        Ok(pages.items.pop())
    }

    fn pages(&self) -> Result<Pages<'_>, Failure> {
        let (reader, attempts) = (Reader::of(&self.txn)?, self.txn.open_table(ATTEMPTS)?);
        Ok(Pages { reader, attempts, names: &self.names, items: Vec::new(), bytes: 0 })
    }

    fn read(&self, what: &Browse, start: After, page_bytes: usize) -> Result<Page, Failure> {
        let (queue, max) = (what.queue.0, what.max.clamp(1, PAGE_MAX));
        let mut pages = self.pages()?;
        let reader = Reader::of(&self.txn)?;
        let mut last = start;
        let ended = walk(&reader, queue, start, |place, after, row| {
            if pages.is_full(max, page_bytes) {
                return Ok(false);
            }
            pages.push(place, row)?;
            last = after;
            Ok(true)
        })?;
        Ok(Page { items: pages.items, next: (!ended).then(|| last.to_cursor()) })
    }
}

impl Pages<'_> {
    fn is_full(&self, max: usize, page_bytes: usize) -> bool {
        self.items.len() >= max || !self.items.is_empty() && self.bytes >= page_bytes
    }

    fn push(&mut self, place: Place, row: Row<'_>) -> Result<(), Failure> {
        let position = place.position();
        let due = if let Place::Due { due, .. } = place { Some(WallMs(due)) } else { None };
        let entry = self.reader.entry_of(position, row)?;
        self.bytes += entry.content.bytes();
        let Content::Stored { row: stored, body } = entry.content else { return Ok(()) };
        let dead = row.death()?.map(|death| -> Result<DeadLetter, Failure> {
            let unknown = || Failure::Damaged(format!("a dead letter comes from queue {}", death.origin));
            let origin = self.names.get(death.origin as usize).ok_or_else(unknown)?.clone();
            Ok(DeadLetter { origin, at: death.at, reason: death.reason })
        });
        self.items.push(Stored {
            position: Position(position),
            entry: EntryId(row.entry()),
            topic: row.topic()?,
            message: decode_message(&stored, body.as_ref())?,
            attempts: row.attempts(),
            accepted: row.accepted(),
            due,
            expires: row.expires(),
            priority: row.priority(),
            leased: false,
            dead: dead.transpose()?,
            history: history::read(&self.attempts, row.entry(), row.history())?,
        });
        Ok(())
    }
}
