//! Reading a data file whole, to say what is in it and whether all of it is right: `pelton verify`.
//!
//! The file is not changed, and nobody may change it meanwhile. What redb vouches for (its pages) and what this crate does
//! (its rows, see [`crate::verify`]) are both checked.

use std::path::{Path, PathBuf};

use pelton_core::name::QueueName;
use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTableMetadata as _, StorageError};
use serde::Serialize;

use crate::failure::Failure;
use crate::folder::Held;
use crate::format::{FORMAT_VERSION, read_identity};
use crate::open::OpenError;
use crate::panics;
use crate::readonly;
use crate::records::{Counters, NameRecord};
use crate::seal::unseal;
use crate::tables::{ATTEMPTS, BODIES, DEDUP, DUE, NAMES, NAMES_QUEUE, PARKED, READY};
use crate::verify::{Findings, Problems};

/// How far the work on a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Bytes of the file are being copied.
    Copying {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        of: u64,
    },
    /// redb checks the pages of the file; nobody knows how far it is.
    Pages,
    /// Lines are being read; nobody knows how many there are.
    Lines {
        /// Lines done.
        lines: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Rows are being read.
    Rows {
        /// Rows done.
        done: u64,
        /// Rows in all.
        of: u64,
    },
}

/// Who is told how far the work is; often, so that it decides what to show.
pub type OnWork<'a> = &'a mut dyn FnMut(Work);

/// What is in a data file, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The version of its format.
    pub format: u64,
    /// The id of the store, as it stands in idempotency keys.
    pub store: u64,
    /// Whether its last user closed it; if not, what is reported is what opening it makes of it.
    pub closed_in_order: bool,
    /// By name.
    pub queues: Vec<QueueReport>,
    /// Bodies outside of rows.
    pub bodies: u64,
    /// Attempts kept in histories.
    pub attempts: u64,
    /// Identities kept, so that doubles are recognised.
    pub identities: u64,
    /// A sentence for each thing that is wrong.
    pub problems: Vec<String>,
    /// How many more problems there are than are listed.
    pub problems_left_out: u64,
}

/// One queue, as its rows say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueReport {
    /// Its name; a number where its name is lost.
    pub name: String,
    /// Whether the last plan named it.
    pub declared: bool,
    /// All of its messages.
    pub messages: u64,
    /// Those that wait for a time, or are held.
    pub scheduled: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Report {
    /// Whether everything is right.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Reads all of a data file: that of the folder `place`, or `place` itself.
///
/// Takes about a second per gigabyte and 50 bytes of memory per message.
///
/// # Errors
/// [`OpenError`], where there is no data file of this format, or it is in use, or so damaged that redb can't open it. What is
/// wrong beyond that is in the report.
pub fn report(place: &Path, on_work: OnWork<'_>) -> Result<Report, OpenError> {
    report_held(&Held::take(place)?, on_work)
}

pub(crate) fn report_held(held: &Held, on_work: OnWork<'_>) -> Result<Report, OpenError> {
    on_work(Work::Pages);
    let (mut database, closed_in_order) = readonly::open(held)?;
    let file = &held.path;
    let bytes = held.file.metadata().map_err(|error| OpenError::from_io(file, &error))?.len();
    let store = guarded(file, || {
        let txn = database.begin_read().map_err(|error| OpenError::from_failure(file, error.into()))?;
        Ok(read_identity(&txn, file)?.store)
    })?;
    let mut report = Report {
        file: file.clone(),
        bytes,
        format: FORMAT_VERSION,
        store,
        closed_in_order,
        queues: Vec::new(),
        bodies: 0,
        attempts: 0,
        identities: 0,
        problems: Vec::new(),
        problems_left_out: 0,
    };
    report.problems.extend(check_pages(&mut database));
    let mut problems = Problems::default();
    let read = panics::quietly(|| read_rows(&database, &mut report, &mut problems, on_work));
    let read = read.unwrap_or_else(|panic| Err(Failure::Damaged(panics::told(&panic))));
    if let Err(failure) = read {
        problems.push(format!(
            "the rest of it can't be read: {failure}; restore a backup, or save with `pelton export` what can be read"
        ));
    }
    report.problems.append(&mut problems.told);
    report.problems_left_out = problems.left_out;
    // What a repair has to write goes into memory; a damaged file may make redb stumble there as well.
    if let Err(panic) = panics::quietly(|| drop(database)) {
        tracing::debug!(%panic, "Closing the damaged file failed.");
    }
    Ok(report)
}

/// The panics of redb over a damaged file as errors.
fn guarded<T>(file: &Path, work: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let damaged = |panic: String| OpenError::Damaged { file: file.to_owned(), reason: panics::told(&panic) };
    panics::quietly(work).map_err(damaged)?
}

/// What redb itself finds: every page has a checksum, which it looks at only here and after a crash.
fn check_pages(database: &mut Database) -> Option<String> {
    match panics::quietly(|| database.check_integrity()) {
        Ok(Ok(true)) => None,
        Ok(Ok(false)) => Some("its last commit is damaged; without it the file is whole".to_owned()),
        Ok(Err(DatabaseError::Storage(StorageError::Corrupted(reason)))) => {
            Some(format!("pages are damaged: {reason}"))
        }
        Ok(Err(error)) => Some(format!("its pages can't be checked: {error}")),
        Err(panic) => Some(format!("pages are damaged, so that they can't be checked: {}", panics::told(&panic))),
    }
}

fn read_rows(
    database: &Database,
    report: &mut Report,
    problems: &mut Problems,
    on_work: OnWork<'_>,
) -> Result<(), Failure> {
    let txn = database.begin_read()?;
    let of = [txn.open_table(READY)?.len()?, txn.open_table(DUE)?.len()?, txn.open_table(PARKED)?.len()?];
    let of = of.iter().sum::<u64>() + txn.open_table(BODIES)?.len()? + txn.open_table(ATTEMPTS)?.len()?;
    let mut done = 0;
    on_work(Work::Rows { done, of });
    let mut on_row = || {
        done += 1;
        on_work(Work::Rows { done, of });
    };
    let mut findings = Findings::with_progress(&mut on_row);
    // What was found before the damage is worth telling, and what was being read.
    let read =
        panics::quietly(|| findings.read(&txn)).unwrap_or_else(|panic| Err(Failure::Damaged(panics::told(&panic))));
    let reading = findings.reading;
    report.bodies = findings.summary.bodies;
    report.attempts = findings.summary.attempts;
    let counted = std::mem::take(&mut findings.counted);
    *problems = std::mem::take(&mut findings.wrong);
    drop(findings);
    read.map_err(|failure| failure.while_reading(reading))?;
    report.identities = txn.open_table(DEDUP)?.len()?;
    report.queues = queues(&txn, counted)?;
    Ok(())
}

/// The queues by name; those without one come last, by id.
fn queues(
    txn: &ReadTransaction,
    mut counted: std::collections::BTreeMap<u32, Counters>,
) -> Result<Vec<QueueReport>, Failure> {
    let of = |name: String, declared: bool, counted: Counters| QueueReport {
        name,
        declared,
        messages: counted.messages(),
        scheduled: counted.due,
        bytes: counted.bytes,
    };
    let mut queues = Vec::new();
    for (name, record) in queue_names(txn)? {
        let counted = counted.remove(&record.id).unwrap_or_default();
        queues.push(of(name.as_str().to_owned(), record.declared, counted));
    }
    queues.extend(counted.into_iter().map(|(id, counted)| of(format!("#{id}"), false, counted)));
    Ok(queues)
}

/// All queues, in the order of names.
pub(crate) fn queue_names(txn: &ReadTransaction) -> Result<Vec<(QueueName, NameRecord)>, Failure> {
    let mut queues = Vec::new();
    for row in txn.open_table(NAMES)?.range((NAMES_QUEUE, "")..(NAMES_QUEUE + 1, ""))? {
        let (key, value) = row?;
        let record = NameRecord::decode(unseal(NAMES, &key.value(), value.value())?)?;
        let name = QueueName::new(key.value().1).map_err(|error| Failure::Damaged(error.to_string()))?;
        queues.push((name, record));
    }
    Ok(queues)
}
