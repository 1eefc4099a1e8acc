//! Pages of a queue, read from a snapshot on the caller's side: the writer only makes the snapshot.

use pelton_core::clock::WallMs;
use pelton_core::engine::{Attempt, Browse, DeadLetter, EntryId, Page, Position, RequestError, Stored};
use pelton_core::name::QueueName;
use redb::{ReadOnlyTable, ReadTransaction};

use crate::command::Content;
use crate::cursor::After;
use crate::failure::Failure;
use crate::history;
use crate::row::{Row, decode_message};
use crate::store::Reader;
use crate::tables::{ATTEMPTS, HELD, RANK};

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
    attempts: ReadOnlyTable<(u64, u32), &'static [u8]>,
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

    fn read(&self, what: &Browse, start: After, page_bytes: usize) -> Result<Page, Failure> {
        let (queue, max) = (what.queue.0, what.max.clamp(1, PAGE_MAX));
        let mut pages = Pages {
            reader: Reader::of(&self.txn)?,
            attempts: self.txn.open_table(ATTEMPTS)?,
            names: &self.names,
            items: Vec::new(),
            bytes: 0,
        };
        let mut after = start;
        if let After::Ready { position } = after {
            for row in pages.reader.ready.range((queue, RANK, position.saturating_add(1))..=(queue, RANK, u64::MAX))? {
                if pages.is_full(max, page_bytes) {
                    return Ok(Page { items: pages.items, next: Some(after.to_cursor()) });
                }
                let (key, value) = row?;
                let position = key.value().2;
                pages.push(position, None, value.value())?;
                after = After::Ready { position };
            }
            after = After::START_OF_DUE;
        }
        let After::Due { due, position } = after else { return Ok(Page::default()) };
        for row in pages.reader.due.range((queue, due, position.saturating_add(1))..=(queue, HELD, u64::MAX))? {
            if pages.is_full(max, page_bytes) {
                return Ok(Page { items: pages.items, next: Some(after.to_cursor()) });
            }
            let (key, value) = row?;
            let (_, due, position) = key.value();
            pages.push(position, Some(WallMs(due)), value.value())?;
            after = After::Due { due, position };
        }
        Ok(Page { items: pages.items, next: None })
    }
}

impl Pages<'_> {
    fn is_full(&self, max: usize, page_bytes: usize) -> bool {
        self.items.len() >= max || !self.items.is_empty() && self.bytes >= page_bytes
    }

    fn push(&mut self, position: u64, due: Option<WallMs>, bytes: &[u8]) -> Result<(), Failure> {
        let row = Row::parse(bytes)?;
        let entry = self.reader.entry(position, bytes)?;
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
            expires: None,
            priority: 4,
            leased: false,
            dead: dead.transpose()?,
            history: if row.history() > 0 { self.history(row.entry())? } else { Vec::new() },
        });
        Ok(())
    }

    fn history(&self, entry: u64) -> Result<Vec<Attempt>, Failure> {
        self.attempts.range((entry, 0)..=(entry, u32::MAX))?.map(|row| history::decode(row?.1.value())).collect()
    }
}
