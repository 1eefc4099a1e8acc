//! From lines into a data file: rows written in bounded transactions, as the store itself would have them.
//!
//! Invariant: after each transaction all counters are right, so that an import that ends early leaves a store that is whole, with
//! the first lines in it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _};
use std::path::PathBuf;

use pelton_core::clock::WallMs;
use pelton_core::engine::OrderKey;
use pelton_core::name::QueueName;
use redb::{Builder, Database, ReadableDatabase as _, WriteTransaction};

use super::line::Record;
use crate::failure::Failure;
use crate::format::{Identity, check_format};
use crate::history;
use crate::open::{Disk as _, FileDisk, OpenError};
use crate::panics;
use crate::records::{Counters, Global, NameRecord};
use crate::report::{OnWork, Work, queue_names};
use crate::row::{External, Facts, RowBuffer};
use crate::seal::{seal, unseal};
use crate::store::Place;
use crate::tables::{
    ATTEMPTS, BODIES, COUNTERS, COUNTERS_GLOBAL, COUNTERS_QUEUE, DUE, HELD, IN_READY, NAMES, NAMES_QUEUE, RANK, READY,
    RETRYING, rank_of,
};
use crate::tuning::Tuning;

/// Lines of one transaction.
const BATCH_LINES: usize = 2000;
/// Bytes of lines after which a transaction is closed.
const BATCH_BYTES: usize = 8 << 20;
/// Lines of one key in a row that are known to come before a message of it which waits for its next attempt.
const HEADS_MAX: usize = 10_000;
/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 256 << 20;

/// Where messages go and what they get that is not on their lines.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The data folder; made if it is not there. Its broker is not running.
    pub dir: PathBuf,
    /// When messages count as accepted whose line does not say.
    pub now: WallMs,
    /// Where a new store's identity comes from: different each time.
    pub seed: u64,
}

/// What was taken in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imported {
    /// Lines that are in the store, each a message. Empty ones are passed over and don't count.
    pub messages: u64,
    /// By queue.
    pub queues: BTreeMap<QueueName, u64>,
    /// Queues that did not exist before; until a plan declares them they have every default, but for the order of keys.
    pub created: Vec<QueueName>,
}

/// Why an import ended early. What [`in_store`](Self::in_store) says is in the store for good.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The data folder can't be used; nothing was imported.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A line is no message.
    #[error("line {line}: {reason}; the lines before it are imported ({} messages), this one and the rest are not", .imported.messages)]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
        /// What is in the store.
        imported: Imported,
    },
    /// The lines can't be read any more.
    #[error("can't read line {line}: {error}; the lines before it are imported ({} messages)", .imported.messages)]
    Input {
        /// The number of the line that could not be read, from 1.
        line: u64,
        /// What the system says.
        error: io::Error,
        /// What is in the store.
        imported: Imported,
    },
    /// The store can't be written any more.
    #[error("can't write to '{}': {reason}; the lines before line {line} are imported ({} messages)", .file.display(), .imported.messages)]
    Storage {
        /// The data file.
        file: PathBuf,
        /// The number of the first line that is not in the store, from 1.
        line: u64,
        /// What went wrong.
        reason: String,
        /// What is in the store.
        imported: Imported,
    },
}

impl ImportError {
    /// What is in the store for good, though the import ended early.
    #[must_use]
    pub fn in_store(&self) -> Option<&Imported> {
        match self {
            Self::Open(_) => None,
            Self::Line { imported, .. } | Self::Input { imported, .. } | Self::Storage { imported, .. } => {
                Some(imported)
            }
        }
    }
}

/// Appends the messages on the lines of `input`, as [`export`](super::export()) writes them, to the queues that they name, behind what
/// is there. Attempts, deaths, history and times are kept; queues' bounds don't hold here.
///
/// # Errors
/// [`ImportError`], which says how much is in the store.
pub fn import(input: &mut dyn BufRead, options: &ImportOptions, on_work: OnWork<'_>) -> Result<Imported, ImportError> {
    let mut target = Target::open(options)?;
    let mut lines = Lines { input, number: 0, bytes: 0, line: Vec::new() };
    loop {
        let first_line = lines.number + 1;
        let (batch, end) = lines.batch();
        let written = panics::quietly(|| target.write(&batch));
        let written = written.unwrap_or_else(|panic| Err(Failure::Damaged(panics::told(&panic))));
        if let Err(failure) = written {
            let (file, reason) = (target.disk.path().to_owned(), failure.to_string());
            return Err(ImportError::Storage { file, line: first_line, reason, imported: target.imported });
        }
        on_work(Work::Lines { lines: lines.number, bytes: lines.bytes });
        match end {
            End::More => {}
            End::All => return Ok(target.imported),
            End::Wrong(reason) => {
                return Err(ImportError::Line { line: lines.number, reason, imported: target.imported });
            }
            End::Unreadable(error) => {
                return Err(ImportError::Input { line: lines.number, error, imported: target.imported });
            }
        }
    }
}

/// Why a batch has no more lines.
enum End {
    More,
    All,
    /// The current line is no message.
    Wrong(String),
    /// The current line can't be read.
    Unreadable(io::Error),
}

struct Lines<'a> {
    input: &'a mut dyn BufRead,
    /// Of the current line, from 1.
    number: u64,
    /// Read so far.
    bytes: u64,
    line: Vec<u8>,
}

impl Lines<'_> {
    fn batch(&mut self) -> (Vec<Record>, End) {
        let mut records = Vec::new();
        let mut bytes = 0;
        while records.len() < BATCH_LINES && bytes < BATCH_BYTES {
            self.number += 1;
            self.line.clear();
            match (&mut *self.input).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut self.line) {
                Ok(0) => {
                    self.number -= 1;
                    return (records, End::All);
                }
                Ok(count) if count > LINE_BYTES_MAX => {
                    return (records, End::Wrong(format!("it is longer than {LINE_BYTES_MAX} bytes")));
                }
                Ok(count) => {
                    bytes += count;
                    self.bytes += count as u64;
                }
                Err(error) => return (records, End::Unreadable(error)),
            }
            let Ok(text) = std::str::from_utf8(&self.line) else {
                return (records, End::Wrong("it is not UTF-8".to_owned()));
            };
            if text.trim().is_empty() {
                continue;
            }
            match Record::of_line(text) {
                Ok(record) => records.push(record),
                Err(reason) => return (records, End::Wrong(reason)),
            }
        }
        (records, End::More)
    }
}

/// The store that messages go to, with what it counts.
struct Target {
    database: Database,
    disk: FileDisk,
    identity: Identity,
    tuning: Tuning,
    now: WallMs,
    global: Global,
    queues: BTreeMap<QueueName, NameRecord>,
    counters: BTreeMap<u32, Counters>,
    heads: Heads,
    imported: Imported,
}

/// The lines just before, of one key of one queue, that are ready. If another one waits for its next attempt, they come before it,
/// and the store has to know.
#[derive(Debug, Default)]
struct Heads {
    of: Option<(u32, u64)>,
    positions: Vec<u64>,
}

impl Heads {
    /// Those of this key; what was known of another is forgotten.
    fn of(&mut self, key: Option<(u32, u64)>) -> &mut Vec<u64> {
        if self.of != key {
            (self.of, self.positions) = (key, Vec::new());
        }
        &mut self.positions
    }
}

impl Target {
    fn open(options: &ImportOptions) -> Result<Self, OpenError> {
        let tuning = Tuning::default();
        let new = Identity::draw(&mut fastrand::Rng::with_seed(options.seed));
        let mut disk = FileDisk::take(&options.dir, &new, tuning.reserve_bytes)?;
        let file = disk.path().to_owned();
        let mut builder = Builder::new();
        builder.set_cache_size(tuning.cache_bytes);
        let opened = panics::quietly(|| {
            let database = disk.open(&builder).map_err(|error| OpenError::from_redb(&file, error))?;
            let identity = check_format(&database, &file, &new)?;
            let known = read_known(&database).map_err(|failure| OpenError::from_failure(&file, failure))?;
            Ok((database, identity, known))
        });
        let damaged = |panic: String| OpenError::Damaged { file: file.clone(), reason: panics::told(&panic) };
        let (database, identity, (global, queues, counters)) = opened.map_err(damaged)??;
        let (heads, imported) = (Heads::default(), Imported::default());
        Ok(Self { database, disk, identity, tuning, now: options.now, global, queues, counters, heads, imported })
    }

    /// Writes all of these or none.
    fn write(&mut self, records: &[Record]) -> Result<(), Failure> {
        if records.is_empty() {
            return Ok(());
        }
        let txn = self.database.begin_write()?;
        // On paper first: what fails must not be counted.
        let mut batch = Batch {
            txn: &txn,
            identity: &self.identity,
            tuning: &self.tuning,
            now: self.now,
            global: self.global,
            queues: self.queues.clone(),
            counters: self.counters.clone(),
            // An import ends with the first that fails.
            heads: std::mem::take(&mut self.heads),
            imported: self.imported.clone(),
        };
        for record in records {
            batch.add(record)?;
        }
        let Batch { mut global, queues, counters, heads, imported, .. } = batch;
        global.commit += 1;
        {
            let mut table = txn.open_table(COUNTERS)?;
            for (id, counters) in &counters {
                let key = (COUNTERS_QUEUE, *id);
                table.insert(key, seal(COUNTERS, &key, &counters.encode()[..]))?;
            }
            table.insert(GLOBAL, seal(COUNTERS, &GLOBAL, &global.encode()[..]))?;
        }
        txn.commit()?;
        (self.global, self.queues, self.counters, self.imported) = (global, queues, counters, imported);
        self.heads = heads;
        Ok(())
    }
}

/// The key of what is global.
const GLOBAL: (u8, u32) = (COUNTERS_GLOBAL, 0);

type Known = (Global, BTreeMap<QueueName, NameRecord>, BTreeMap<u32, Counters>);

fn read_known(database: &Database) -> Result<Known, Failure> {
    let txn = database.begin_read()?;
    let table = txn.open_table(COUNTERS)?;
    let missing = || Failure::Damaged("the global counters are missing".to_owned());
    let global = unseal(COUNTERS, &GLOBAL, table.get(GLOBAL)?.ok_or_else(missing)?.value())?.to_vec();
    let global = Global::decode(&global)?;
    let mut counters = BTreeMap::new();
    for row in table.range((COUNTERS_QUEUE, 0)..=(COUNTERS_QUEUE, u32::MAX))? {
        let (key, value) = row?;
        counters.insert(key.value().1, Counters::decode(unseal(COUNTERS, &key.value(), value.value())?)?);
    }
    Ok((global, queue_names(&txn)?.into_iter().collect(), counters))
}

/// One transaction.
struct Batch<'a> {
    txn: &'a WriteTransaction,
    identity: &'a Identity,
    tuning: &'a Tuning,
    now: WallMs,
    global: Global,
    queues: BTreeMap<QueueName, NameRecord>,
    counters: BTreeMap<u32, Counters>,
    heads: Heads,
    imported: Imported,
}

impl Batch<'_> {
    fn add(&mut self, record: &Record) -> Result<(), Failure> {
        let mut queue = self.queue(&record.queue)?;
        let position = self.global.next_position;
        self.global.next_position += 1;
        let hash = record.key.as_ref().map(|key| self.identity.secret.of_key(&OrderKey(key.as_str().into())));
        if hash.is_some() {
            self.keep_keys(&record.queue, &mut queue)?;
        }
        let mut row = self.row(record, position, hash)?;
        let heads = self.heads.of(hash.filter(|_| queue.settings.order_by_key).map(|hash| (queue.id, hash)));
        let counters = self.counters.entry(queue.id).or_default();
        counters.bytes += row.view().cost();
        counters.expiring += u64::from(row.view().expires().is_some());
        let due = if record.held { Some(HELD) } else { record.due.map(|due| due.0.min(HELD - 1)) };
        match due {
            Some(due) => {
                counters.due += 1;
                counters.held += u64::from(due == HELD);
                row.lie_at(queue.id, Place::Due { due, position });
                self.txn.open_table(DUE)?.insert((queue.id, due, position), row.as_bytes())?;
                // Its key waits for its next attempt with it, and those before it are not passed over.
                if let Some(hash) = hash.filter(|_| queue.settings.order_by_key && record.attempts > 0 && !record.held)
                {
                    let before = heads.drain(..).map(|position| (position, IN_READY));
                    let mut retrying = self.txn.open_table(RETRYING)?;
                    for (position, due) in before.chain([(position, due)]) {
                        let key = (queue.id, hash, position);
                        counters.retrying += 1;
                        retrying.insert(key, seal(RETRYING, &key, due))?;
                    }
                }
            }
            None => {
                counters.ready += 1;
                let rank = if queue.settings.priority { rank_of(record.priority) } else { RANK };
                row.lie_at(queue.id, Place::Ready { rank, position });
                self.txn.open_table(READY)?.insert((queue.id, rank, position), row.as_bytes())?;
                if heads.len() < HEADS_MAX {
                    heads.push(position);
                }
            }
        }
        self.imported.messages += 1;
        *self.imported.queues.entry(record.queue.clone()).or_default() += 1;
        Ok(())
    }

    /// The row, with its body and its history stored where they belong.
    fn row(&mut self, record: &Record, position: u64, key: Option<u64>) -> Result<RowBuffer, Failure> {
        let data = record.message.data();
        let external = (data.len() > self.tuning.inline_bytes).then(|| External {
            bytes: u32::try_from(data.len()).expect("a line is far below 4 GiB"),
            checksum: crc32fast::hash(data),
            shared: false,
        });
        let facts = Facts {
            hops: record.hops,
            priority: record.priority,
            expires: record.expires.filter(|_| record.dead.is_none()),
            key,
            dead: record.dead.as_ref().map(|dead| &dead.reason),
            external,
        };
        let mut row = RowBuffer::new(&record.topic, &record.message, &facts);
        row.stamp(position, record.accepted.unwrap_or(self.now), external.map(|_| position));
        if let Some(dead) = &record.dead {
            row.stamp_death(self.queue(&dead.origin)?.id, dead.at);
        }
        row.set_attempts(record.attempts);
        row.set_chosen(record.chosen);
        row.set_alone(record.alone);
        let kept = record.history.len().min(self.tuning.attempts_kept as usize);
        let history = &record.history[record.history.len() - kept..];
        row.set_history(u32::try_from(kept).expect("few attempts are kept"));
        if external.is_some() {
            let mut bodies = self.txn.open_table(BODIES)?;
            for (number, chunk) in (0..).zip(data.chunks(self.tuning.chunk_bytes)) {
                bodies.insert((position, number), chunk)?;
            }
        }
        if !history.is_empty() {
            let mut attempts = self.txn.open_table(ATTEMPTS)?;
            for (number, attempt) in (0..).zip(history) {
                let key = (position, number);
                attempts.insert(key, seal(ATTEMPTS, &key, history::encode(attempt).as_slice()))?;
            }
        }
        Ok(row)
    }

    /// A queue that is new keeps the order of keys, if its messages have any, until a plan says what it does.
    fn keep_keys(&mut self, name: &QueueName, queue: &mut NameRecord) -> Result<(), Failure> {
        if queue.settings.order_by_key || !self.imported.created.contains(name) {
            return Ok(());
        }
        queue.settings.order_by_key = true;
        self.put_queue(name, queue)
    }

    fn put_queue(&mut self, name: &QueueName, record: &NameRecord) -> Result<(), Failure> {
        let key = (NAMES_QUEUE, name.as_str());
        self.txn.open_table(NAMES)?.insert(key, seal(NAMES, &key, record.encode().as_slice()))?;
        self.queues.insert(name.clone(), record.clone());
        Ok(())
    }

    /// The queue of that name; one with every default where there is none yet.
    fn queue(&mut self, name: &QueueName) -> Result<NameRecord, Failure> {
        if let Some(record) = self.queues.get(name) {
            return Ok(record.clone());
        }
        let record = NameRecord::new(self.global.next_queue);
        self.global.next_queue += 1;
        self.counters.entry(record.id).or_default();
        self.put_queue(name, &record)?;
        self.imported.created.push(name.clone());
        Ok(record)
    }
}
