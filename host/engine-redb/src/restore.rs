//! Putting a backup in place: the opposite of [`crate::backup`].
//!
//! It is the same store: what is in the backup keeps its idempotency keys, and handles and identities are good. What was accepted after
//! it is lost, and its positions must never mean another message: outside systems remember idempotency keys, producers keep handles. So
//! the store goes on behind positions that it can't have given out yet, as does any other that is restored from the same backup.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableTable as _};

use crate::failure::Failure;
use crate::folder::{Folder, Held};
use crate::open::OpenError;
use crate::records::Global;
use crate::report::{OnWork, Report, Work, report_held};
use crate::seal::{seal, unseal};
use crate::tables::{COUNTERS, COUNTERS_GLOBAL};

const COPY_BYTES: usize = 1 << 20;
/// Positions that are passed over at least: a store that takes 100,000 messages a second takes four months for as many.
const PASSED_MIN: u64 = 1 << 40;
/// So many more are drawn from, so that two stores that are restored from one backup part ways. A hundred restores in a row stay below
/// 2^53, where numbers in JavaScript end.
const PASSED_DRAWN: u64 = 1 << 47;
/// Problems that an error lists.
const PROBLEMS_SHOWN: usize = 5;

/// Why a backup is not put in place. The data folder holds no data afterwards, if it held none before.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup or the folder can't be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is data already.
    #[error("the data folder '{}' holds data already; move '{}' away, or choose another folder", .dir.display(), .file.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
        /// What is in it.
        file: PathBuf,
    },
    /// The backup is not whole.
    #[error("the backup '{}' is damaged, so it was not restored: {}; use another one", .file.display(), .problems.join("; "))]
    Damaged {
        /// The backup.
        file: PathBuf,
        /// The first things that are wrong with it.
        problems: Vec<String>,
    },
}

/// Makes `file`, a backup or the data file of a store that is not in use, the data of the folder `dir`, which is created where
/// it is not there. Says what is in it. `seed` is where the place comes from at which it goes on: different each time.
///
/// The copy is read whole before it counts: a damaged backup is never put in place.
///
/// # Errors
/// [`RestoreError`]; `dir` then holds no data, or what it held before.
pub fn restore(file: &Path, dir: &Path, seed: u64, on_work: OnWork<'_>) -> Result<Report, RestoreError> {
    // First, so that a wrong name leaves no folder behind.
    if !file.exists() {
        return Err(OpenError::Missing { file: file.to_owned() }.into());
    }
    let folder = Folder::take(dir)?;
    let target = folder.data_file();
    if fs::metadata(&target).is_ok_and(|metadata| metadata.len() > 0) {
        return Err(RestoreError::NotEmpty { dir: dir.to_owned(), file: target });
    }
    let source = Held::take(file)?;
    let new = folder.new_file();
    let report = copy(&source, &new, on_work).and_then(|()| {
        let mut report = report_held(&Held::take(&new)?, on_work)?;
        report.file = target;
        Ok(report)
    });
    let damaged = |problems| RestoreError::Damaged { file: file.to_owned(), problems };
    let restored = match report {
        Ok(report) if report.is_clean() => {
            let passed = pass_positions(&new, seed).map_err(|failure| OpenError::from_failure(&new, failure));
            passed.and_then(|()| folder.put_in_place()).map(|()| report).map_err(RestoreError::from)
        }
        Ok(mut report) => {
            report.problems.truncate(PROBLEMS_SHOWN);
            Err(damaged(report.problems))
        }
        // It was found in the copy, and is about the backup.
        Err(OpenError::Damaged { file, reason }) if file == new => Err(damaged(vec![reason])),
        Err(OpenError::NotOurs { file: found, reason }) if found == new => {
            Err(OpenError::NotOurs { file: file.to_owned(), reason }.into())
        }
        Err(error) => Err(error.into()),
    };
    if restored.is_err() {
        // What stays behind is removed by who takes the folder next.
        let _ = fs::remove_file(&new);
    }
    restored
}

/// Lets the store in `file` go on behind all positions that it may have given out since.
fn pass_positions(file: &Path, seed: u64) -> Result<(), Failure> {
    let database = Database::open(file).map_err(|error| match error {
        DatabaseError::Storage(error) => error.into(),
        other => Failure::Io(other.to_string()),
    })?;
    let txn = database.begin_write()?;
    {
        let key = (COUNTERS_GLOBAL, 0);
        let mut table = txn.open_table(COUNTERS)?;
        let missing = || Failure::Damaged("the global counters are missing".to_owned());
        let mut global = Global::decode(unseal(COUNTERS, &key, table.get(key)?.ok_or_else(missing)?.value())?)?;
        let passed = PASSED_MIN + fastrand::Rng::with_seed(seed).u64(..PASSED_DRAWN);
        let used_up = || Failure::Damaged("its positions are used up".to_owned());
        global.next_position = global.next_position.checked_add(passed).ok_or_else(used_up)?;
        table.insert(key, seal(COUNTERS, &key, &global.encode()[..]))?;
    }
    txn.commit()?;
    Ok(())
}

fn copy(from: &Held, to: &Path, on_work: OnWork<'_>) -> Result<(), OpenError> {
    let read_failed = |error| OpenError::from_io(&from.path, &error);
    let write_failed = |error| OpenError::from_io(to, &error);
    let of = from.file.metadata().map_err(read_failed)?.len();
    let mut source = File::open(&from.path).map_err(read_failed)?;
    let mut target = File::create(to).map_err(write_failed)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    loop {
        on_work(Work::Copying { done, of });
        let count = source.read(&mut buffer).map_err(read_failed)?;
        if count == 0 {
            return target.sync_all().map_err(write_failed);
        }
        target.write_all(&buffer[..count]).map_err(write_failed)?;
        done += count as u64;
    }
}
