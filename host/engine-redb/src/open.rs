//! Opening the data folder: who may have it, whether the file in it is ours, and errors that say what to do.
//!
//! The folder holds [`DATA_FILE`] and [`LOCK_FILE`], which is locked as long as an engine lives, also while it reopens its
//! file after a failure. A new data file is built under another name and renamed when it is whole, so that a crash while
//! creating it leaves nothing that looks like data.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageError, TableHandle, WriteTransaction};

use crate::failure::Failure;
use crate::records::Global;
use crate::tables::{ATTEMPTS, BODIES, BODY_REFS, COUNTERS, COUNTERS_GLOBAL, DUE, META, NAMES, READY};

/// The data file's name in its folder.
pub const DATA_FILE: &str = "pelton.redb";
/// The lock's name in its folder. The file is empty; what counts is who holds a lock on it.
pub const LOCK_FILE: &str = "pelton.lock";
/// The version of the file's format that this program writes.
pub const FORMAT_VERSION: u64 = 1;

const NEW_FILE: &str = "pelton.redb.new";
const MAGIC: &[u8; 4] = b"redb";

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such folder and it can't be made.
    #[error("can't create the data folder '{}': {reason}; create it, or choose another", .dir.display())]
    NotCreated {
        /// The folder.
        dir: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A file is in the way.
    #[error("can't use '{}' as the data folder: '{}' is not a folder; choose another", .dir.display(), .file.display())]
    NotAFolder {
        /// The data folder.
        dir: PathBuf,
        /// What is in its place, or in that of a folder above it.
        file: PathBuf,
    },
    /// Files in it can't be created or written.
    #[error("can't write to '{}': {reason}; make it writable for this user, or choose another data folder", .path.display())]
    ReadOnly {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Another process has it.
    #[error("the data folder '{}' is in use by another process; stop that one, or choose another data folder", .dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The file is something else.
    #[error("'{}' is not a data file of pelton: {reason}; move it away, or choose another data folder", .file.display())]
    NotOurs {
        /// The file.
        file: PathBuf,
        /// What it is instead.
        reason: String,
    },
    /// The file was written by a newer version of this program.
    #[error("'{}' has format {found}, and this version of pelton knows {known} at most; use the newer version that wrote it", .file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that is known here.
        known: u64,
    },
    /// The file is ours, but what it holds can't be read.
    #[error("'{}' is damaged: {reason}; restore it from a backup", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The disk or the system failed.
    #[error("can't open '{}': {reason}; check the disk and try again", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        reason: String,
    },
}

impl OpenError {
    /// Whether trying again may help without anybody doing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::InUse { .. } | Self::ReadOnly { .. })
    }

    fn from_io(path: &Path, error: &io::Error) -> Self {
        let (path, reason) = (path.to_owned(), error.to_string());
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, reason },
            _ => Self::Io { file: path, reason },
        }
    }

    pub(crate) fn from_redb(file: &Path, error: DatabaseError) -> Self {
        let file = file.to_owned();
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::InUse { dir: file.parent().unwrap_or(&file).to_owned() },
            DatabaseError::UpgradeRequired(version) => {
                Self::NotOurs { file, reason: format!("it is a redb file of the old format {version}") }
            }
            DatabaseError::Storage(StorageError::Corrupted(reason)) => Self::Damaged { file, reason },
            DatabaseError::Storage(StorageError::Io(error)) => Self::from_io(&file, &error),
            other => Self::Io { file, reason: other.to_string() },
        }
    }

    pub(crate) fn from_failure(file: &Path, failure: Failure) -> Self {
        let file = file.to_owned();
        match failure {
            Failure::Io(reason) => Self::Io { file, reason },
            Failure::Damaged(reason) => Self::Damaged { file, reason },
        }
    }
}

/// Where a store's database lies; asked again at each reopening.
pub trait Disk: Send {
    /// Opens the database, repairing it where it needs that.
    ///
    /// # Errors
    /// What redb says.
    fn open(&mut self, builder: &Builder) -> Result<Database, DatabaseError>;
    /// The size of the data file in bytes, or 0 where that is unknown.
    fn bytes(&self) -> u64;
    /// Its name in errors.
    fn path(&self) -> &Path;
}

/// A data folder that this process has to itself.
#[derive(Debug)]
pub struct FileDisk {
    file: PathBuf,
    opened_before: bool,
    _lock: File,
}

impl FileDisk {
    /// Takes `dir`: creates it (mode 0700) and an empty data file where there are none, and locks it until dropped.
    ///
    /// `store_id` is what a new store is called by.
    ///
    /// # Errors
    /// Any [`OpenError`] but [`OpenError::Newer`], which is for who opens the database.
    pub fn take(dir: &Path, store_id: u64) -> Result<Self, OpenError> {
        let not_created = |error: io::Error| match in_the_way(dir) {
            Some(file) => OpenError::NotAFolder { dir: dir.to_owned(), file },
            None => OpenError::NotCreated { dir: dir.to_owned(), reason: error.to_string() },
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(not_created)?;
        let lock_path = dir.join(LOCK_FILE);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| OpenError::from_io(&lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(OpenError::from_io(&lock_path, &error)),
        }
        let file = dir.join(DATA_FILE);
        if !holds_redb_file(&file)? {
            create(dir, &file, store_id)?;
        }
        Ok(Self { file, opened_before: false, _lock: lock })
    }
}

impl FileDisk {
    /// Has the system drop what it caches of the file. After a sync failed, Linux keeps the pages that it could not write
    /// and calls them clean: what is read must be what is on the disk, or the next power loss takes it away.
    fn forget_cached(&self) -> io::Result<()> {
        let file = File::open(&self.file)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(())
    }
}

impl Disk for FileDisk {
    fn open(&mut self, builder: &Builder) -> Result<Database, DatabaseError> {
        if self.opened_before {
            self.forget_cached()?;
        }
        self.opened_before = true;
        builder.open(&self.file)
    }

    fn bytes(&self) -> u64 {
        fs::metadata(&self.file).map_or(0, |metadata| metadata.len())
    }

    fn path(&self) -> &Path {
        &self.file
    }
}

/// What stands where `dir` or a folder above it should, and is none.
fn in_the_way(dir: &Path) -> Option<PathBuf> {
    // The nearest that exists; where a file is above, the system finds nothing below it.
    let nearest = dir.ancestors().find_map(|path| Some((path, fs::metadata(path).ok()?)));
    nearest.filter(|(_, metadata)| !metadata.is_dir()).map(|(path, _)| path.to_owned())
}

/// Whether there is a data file; an empty one counts as none.
fn holds_redb_file(path: &Path) -> Result<bool, OpenError> {
    let mut file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(OpenError::from_io(path, &error)),
    };
    let mut start = Vec::new();
    file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut start).map_err(|error| OpenError::from_io(path, &error))?;
    match start.as_slice() {
        [] => Ok(false),
        start if start == MAGIC => Ok(true),
        _ => Err(OpenError::NotOurs { file: path.to_owned(), reason: "it does not start as a redb file does".into() }),
    }
}

fn create(dir: &Path, file: &Path, store_id: u64) -> Result<(), OpenError> {
    let new = dir.join(NEW_FILE);
    let io = |error: io::Error| OpenError::from_io(&new, &error);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let database = Builder::new().create(&new).map_err(|error| OpenError::from_redb(&new, error))?;
    initialise(&database, store_id).map_err(|failure| OpenError::from_failure(&new, failure))?;
    drop(database);
    fs::rename(&new, file).map_err(io)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

/// Makes an empty database ours: all tables, the format and the store's id.
pub(crate) fn initialise(database: &Database, store_id: u64) -> Result<(), Failure> {
    let txn = database.begin_write()?;
    initialise_tables(&txn, store_id)?;
    txn.commit()?;
    Ok(())
}

fn initialise_tables(txn: &WriteTransaction, store_id: u64) -> Result<(), Failure> {
    txn.open_table(READY)?;
    txn.open_table(DUE)?;
    txn.open_table(BODIES)?;
    txn.open_table(BODY_REFS)?;
    txn.open_table(ATTEMPTS)?;
    txn.open_table(NAMES)?;
    let global = Global { next_position: 1, epoch: 0, commit: 0, next_queue: 0 };
    txn.open_table(COUNTERS)?.insert((COUNTERS_GLOBAL, 0), &global.encode()[..])?;
    let mut meta = txn.open_table(META)?;
    meta.insert("store", store_id)?;
    meta.insert("format", FORMAT_VERSION)?;
    Ok(())
}

/// Checks that `database` is ours and of a format that is known; one without any table becomes ours.
///
/// Returns the store's id.
pub(crate) fn check_format(database: &Database, path: &Path, new_store_id: u64) -> Result<u64, OpenError> {
    let failed = |failure: Failure| OpenError::from_failure(path, failure);
    let meta = |key: &str| -> Result<Option<u64>, Failure> {
        let txn = database.begin_read()?;
        Ok(txn.open_table(META)?.get(key)?.map(|value| value.value()))
    };
    let tables = table_names(database).map_err(failed)?;
    if tables.is_empty() {
        initialise(database, new_store_id).map_err(failed)?;
    } else if !tables.iter().any(|name| name == META.name()) {
        let reason = "it is the redb file of another program".to_owned();
        return Err(OpenError::NotOurs { file: path.to_owned(), reason });
    }
    match meta("format").map_err(failed)? {
        Some(FORMAT_VERSION) => {}
        Some(found) if found > FORMAT_VERSION => {
            return Err(OpenError::Newer { file: path.to_owned(), found, known: FORMAT_VERSION });
        }
        _ => return Err(failed(Failure::Damaged("its format is not recorded".to_owned()))),
    }
    meta("store").map_err(failed)?.ok_or_else(|| failed(Failure::Damaged("its id is not recorded".to_owned())))
}

fn table_names(database: &Database) -> Result<Vec<String>, Failure> {
    let txn = database.begin_read()?;
    Ok(txn.list_tables()?.map(|table| table.name().to_owned()).collect())
}
