//! Opening a store: where its file lies, and errors that say what to do.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError, StorageError};

use crate::failure::{ENDS_EARLY, Failure};
use crate::folder::{Folder, holds_redb_file};
use crate::format::{Identity, initialise};
use crate::reserve::{Reserve, taken};
use crate::space::Space;

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
    /// There is no data.
    #[error("there is no data file '{}'; name a folder that a broker has run on, or a file", .file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// The file was written by an older version of this program, whose format is not read any more.
    #[error("'{}' has format {found}, and this version of pelton reads {known}; export it with the older version that wrote it and import that", .file.display())]
    Older {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u64,
        /// The format that is known here.
        known: u64,
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

    pub(crate) fn not_ours(file: &Path, reason: &str) -> Self {
        Self::NotOurs { file: file.to_owned(), reason: reason.to_owned() }
    }

    pub(crate) fn from_io(path: &Path, error: &io::Error) -> Self {
        let (path, reason) = (path.to_owned(), error.to_string());
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, reason },
            io::ErrorKind::UnexpectedEof => Self::Damaged { file: path, reason: ENDS_EARLY.to_owned() },
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
            Failure::Io(reason) | Failure::Full(reason) => Self::Io { file, reason },
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
    /// How much room there is; none where that is unknown. A question to the system.
    fn space(&self) -> Option<Space> {
        None
    }
    /// Gives up what is kept in reserve for when the disk is full; whether there was any.
    fn release_reserve(&mut self) -> bool {
        false
    }
    /// Builds the reserve where it is not there and there is room for it. Costs nothing where it is there.
    fn keep_reserve(&mut self) {}
}

/// The data file of a folder that this process has to itself.
#[derive(Debug)]
pub struct FileDisk {
    folder: Folder,
    file: PathBuf,
    reserve: Reserve,
    opened_before: bool,
}

impl FileDisk {
    /// Takes `dir`: creates it (mode 0700) and an empty data file where there are none, and locks it until dropped. A
    /// reserve of `reserve_bytes` is built where there is room.
    ///
    /// `identity` is what a new store gets.
    ///
    /// # Errors
    /// Any [`OpenError`] but [`OpenError::Newer`] and [`OpenError::Older`], which are for who opens the database.
    pub fn take(dir: &Path, identity: &Identity, reserve_bytes: u64) -> Result<Self, OpenError> {
        let folder = Folder::take(dir)?;
        let file = folder.data_file();
        if !holds_redb_file(&file)? {
            create(&folder, identity)?;
        }
        let reserve = Reserve::new(dir, reserve_bytes);
        let mut disk = Self { folder, file, reserve, opened_before: false };
        disk.keep_reserve();
        Ok(disk)
    }

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
        std::fs::metadata(&self.file).map_or(0, |metadata| metadata.len())
    }

    fn path(&self) -> &Path {
        &self.file
    }

    fn space(&self) -> Option<Space> {
        Some(Space { free: free_bytes(self.folder.dir())?, file: taken(&self.file) })
    }

    fn release_reserve(&mut self) -> bool {
        self.reserve.release()
    }

    fn keep_reserve(&mut self) {
        self.reserve.keep(|| free_bytes(self.folder.dir()));
    }
}

/// What the file system of `dir` has to give to this user; none where it does not say.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let stats = rustix::fs::statvfs(dir).ok()?;
    Some(stats.f_bavail.saturating_mul(stats.f_frsize))
}

fn create(folder: &Folder, identity: &Identity) -> Result<(), OpenError> {
    let new = folder.new_file();
    let database = Builder::new().create(&new).map_err(|error| OpenError::from_redb(&new, error))?;
    initialise(&database, identity).map_err(|failure| OpenError::from_failure(&new, failure))?;
    drop(database);
    folder.put_in_place()
}
