//! Copies of a store in use: all tables as one read transaction sees them, in a new data file of the same store.
//!
//! The copy keeps positions, the next position, identities and the epoch, which opening it raises as ever. Its rows are
//! bytes taken over as they are, their checksums among them.
//!
//! As long as the copying takes, the pages that are freed meanwhile stay taken: the data file grows by as much as is
//! written in that time. What the copy takes of the disk is left to the store where there is too little.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pelton_core::engine::{Engine as _, EngineError, Fut, Health, RequestError};
use pelton_core::operator::{Backup, BackupError, BackupFile};
use redb::{
    Builder, Database, DatabaseError, Key, ReadTransaction, ReadableTable as _, TableDefinition, TableHandle as _,
    Value,
};

use crate::engine::RedbEngine;
use crate::failure::Failure;
use crate::folder::copy_file;
use crate::open::free_bytes;
use crate::panics;
use crate::records::Counters;
use crate::seal::unseal;
use crate::tables::{
    ATTEMPTS, BODIES, BODY_REFS, COUNTERS, COUNTERS_QUEUE, DEDUP, DUE, META, NAMES, PARKED, READY, RETRYING, SCHEDULES,
};

/// What one transaction of the copy holds, in bytes of rows: the copying can end, and looks at the room, between two.
const STEP_BYTES: usize = 8 << 20;
/// Pages of the copy that redb keeps in memory.
const CACHE_BYTES: usize = 16 << 20;

/// The number in the name of this process' next copy.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Backup for RedbEngine {
    /// The copy lies beside the data file. None is made while the disk is too full for new messages, or where it would
    /// make it so.
    fn backup(&self) -> Fut<'_, Result<BackupFile, BackupError>> {
        Box::pin(async move {
            let snapshot = self.snapshot(None).await.map_err(|error| match error {
                RequestError::Engine(error) => error,
                _ => EngineError::Unavailable,
            })?;
            let health = self.health();
            let work = Work {
                from: snapshot.into_transaction(),
                dir: self.file.parent().unwrap_or(Path::new(".")).to_owned(),
                free_min: self.tuning.reserve_bytes + 2 * STEP_BYTES as u64,
                has_room: Box::new(move || *health.borrow() != Health::Full),
            };
            work.finish_aside().await
        })
    }
}

/// What the copying needs to know.
struct Work {
    from: ReadTransaction,
    dir: PathBuf,
    /// It leaves as much of the disk.
    free_min: u64,
    /// Whether the store itself has room enough.
    has_room: Box<dyn Fn() -> bool + Send>,
}

impl Work {
    /// Copies on a thread that may wait for the disk. Once dropped, the copying ends soon and its file is removed.
    async fn finish_aside(self) -> Result<BackupFile, BackupError> {
        let given_up = Arc::new(AtomicBool::new(false));
        let until_dropped = GiveUp(Arc::clone(&given_up));
        let copied = match tokio::task::spawn_blocking(move || self.copy(&given_up)).await {
            Ok(copied) => copied,
            Err(_ended) => return Err(EngineError::Unavailable.into()),
        };
        drop(until_dropped);
        copied.map_err(|failure| {
            tracing::error!(error = %failure, "The store can't be copied.");
            match failure {
                Failure::Full(reason) => BackupError::DiskFull(reason),
                failure => failure.undone().into(),
            }
        })
    }

    fn copy(&self, given_up: &AtomicBool) -> Result<BackupFile, Failure> {
        let path = copy_file(&self.dir, NEXT.fetch_add(1, Ordering::Relaxed));
        let unfinished = Unfinished(Some(path.clone()));
        let go_on = || {
            if given_up.load(Ordering::Relaxed) {
                return Err(Failure::Io("nobody waits for the copy any more".to_owned()));
            }
            self.check_room(0)
        };
        let copied = panics::quietly(|| {
            self.check_room(live_bytes(&self.from)?)?;
            copy(&self.from, &path, &go_on)
        });
        copied.map_err(|panic| Failure::Damaged(panics::told(&panic)))??;
        let bytes = std::fs::metadata(&path)?.len();
        Ok(BackupFile::new(unfinished.finished(), bytes))
    }

    fn check_room(&self, bytes: u64) -> Result<(), Failure> {
        let needed = self.free_min.saturating_add(bytes);
        match free_bytes(&self.dir) {
            _ if !(self.has_room)() => Err(Failure::Full("the disk is too full".to_owned())),
            Some(free) if free < needed => {
                Err(Failure::Full(format!("the disk has {free} bytes to give, and {needed} are needed for the copy")))
            }
            _ => Ok(()),
        }
    }
}

/// Tells the copying that nobody waits for it.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A file that is removed unless it is finished.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn finished(mut self) -> PathBuf {
        self.0.take().expect("it is finished once, by value")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // What stays behind is removed by who opens the folder next.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Bytes of all messages, from the counters: less than the copy will have, but known without reading it all.
fn live_bytes(txn: &ReadTransaction) -> Result<u64, Failure> {
    let mut bytes = 0_u64;
    for row in txn.open_table(COUNTERS)?.range((COUNTERS_QUEUE, 0)..=(COUNTERS_QUEUE, u32::MAX))? {
        let (key, value) = row?;
        let counters = Counters::decode(unseal(COUNTERS, &key.value(), value.value())?)?;
        bytes = bytes.saturating_add(counters.bytes);
    }
    Ok(bytes)
}

/// Copies all tables of `from` into a new file at `path`, synced. Asks `go_on` between two steps.
fn copy(from: &ReadTransaction, path: &Path, go_on: &dyn Fn() -> Result<(), Failure>) -> Result<(), Failure> {
    let to = Builder::new().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
        DatabaseError::Storage(error) => error.into(),
        other => Failure::Io(other.to_string()),
    })?;
    let mut copying = Copying { from, to, go_on, tables: Vec::new() };
    copying.all_tables()?;
    copying.check_complete()
    // Dropping the database records that it was closed in order, and syncs.
}

struct Copying<'a> {
    from: &'a ReadTransaction,
    to: Database,
    go_on: &'a dyn Fn() -> Result<(), Failure>,
    /// The names of those that are copied.
    tables: Vec<String>,
}

impl Copying<'_> {
    fn all_tables(&mut self) -> Result<(), Failure> {
        self.table(META)?;
        self.table(NAMES)?;
        self.table(COUNTERS)?;
        self.table(SCHEDULES)?;
        self.table(READY)?;
        self.table(DUE)?;
        self.table(PARKED)?;
        self.table(RETRYING)?;
        self.table(BODIES)?;
        self.table(BODY_REFS)?;
        self.table(ATTEMPTS)?;
        self.table(DEDUP)
    }

    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), Failure> {
        // Looked up before the rows, whose type does not outlive the loop.
        let source = self.from.open_table(table)?;
        let mut rows = source.iter()?;
        let mut more = true;
        while more {
            (self.go_on)()?;
            let txn = self.to.begin_write()?;
            let mut target = txn.open_table(table)?;
            let mut bytes = 0;
            while bytes < STEP_BYTES {
                let Some(row) = rows.next() else {
                    more = false;
                    break;
                };
                let (key, value) = row?;
                let (key, value) = (key.value(), value.value());
                bytes += K::as_bytes(&key).as_ref().len() + V::as_bytes(&value).as_ref().len();
                target.insert(key, value)?;
            }
            drop(target);
            txn.commit()?;
        }
        self.tables.push(table.name().to_owned());
        Ok(())
    }

    /// A table that this program does not know would be lost.
    fn check_complete(&self) -> Result<(), Failure> {
        for table in self.from.list_tables()? {
            if self.tables.iter().all(|copied| copied != table.name()) {
                return Err(Failure::Damaged(format!("the store has a table '{}', which is unknown", table.name())));
            }
        }
        Ok(())
    }
}
