//! The data folder: who may have it, and what lies in it.
//!
//! It holds [`DATA_FILE`], [`LOCK_FILE`], which is locked as long as an engine lives, also while it reopens its file after a
//! failure, and [`crate::RESERVE_FILE`]. A new data file is built under another name and renamed when it is whole, so that
//! a crash while creating it leaves nothing that looks like data; so is a copy. Whoever takes the folder removes what is left of both.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::open::OpenError;

/// The data file's name in its folder.
pub const DATA_FILE: &str = "pelton.redb";
/// The lock's name in its folder. The file is empty; what counts is who holds a lock on it.
pub const LOCK_FILE: &str = "pelton.lock";

const NEW_FILE: &str = "pelton.redb.new";
/// How the names of copies begin that are being made or read; a number follows.
const COPY_PREFIX: &str = "pelton.copy.";
const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// A data folder that this process has to itself until this is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    _lock: File,
}

impl Folder {
    /// Takes `dir`, created (mode 0700) where it is not there, and removes what a crash left in it.
    pub(crate) fn take(dir: &Path) -> Result<Self, OpenError> {
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
        locked(lock.try_lock(), dir, &lock_path)?;
        let folder = Self { dir: dir.to_owned(), _lock: lock };
        folder.clear()?;
        Ok(folder)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the data is, or will be.
    pub(crate) fn data_file(&self) -> PathBuf {
        self.dir.join(DATA_FILE)
    }

    /// Where a data file is built.
    pub(crate) fn new_file(&self) -> PathBuf {
        self.dir.join(NEW_FILE)
    }

    /// Makes what was built at [`new_file`](Self::new_file), and is synced, the data.
    pub(crate) fn put_in_place(&self) -> Result<(), OpenError> {
        let new = self.new_file();
        let io = |error: io::Error| OpenError::from_io(&new, &error);
        fs::rename(&new, self.data_file()).map_err(io)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io)
    }

    fn clear(&self) -> Result<(), OpenError> {
        let io = |error: io::Error| OpenError::from_io(&self.dir, &error);
        for item in fs::read_dir(&self.dir).map_err(io)? {
            let name = item.map_err(io)?.file_name();
            let is_left_over = name.to_str().is_some_and(|name| name == NEW_FILE || name.starts_with(COPY_PREFIX));
            if is_left_over {
                let path = self.dir.join(name);
                fs::remove_file(&path).map_err(|error| OpenError::from_io(&path, &error))?;
            }
        }
        Ok(())
    }
}

/// The name that copy number `number` has in the folder `dir`.
pub(crate) fn copy_file(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{COPY_PREFIX}{number}"))
}

/// A data file that nobody changes while this is held, and that this process does not change either.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// The folder's, where it is a folder's data.
    _lock: Option<File>,
}

impl Held {
    /// The data file of the folder `place`, or the file `place` itself; whatever is in it.
    pub(crate) fn take(place: &Path) -> Result<Self, OpenError> {
        let path = if place.is_dir() { place.join(DATA_FILE) } else { place.to_owned() };
        let failed = |error: &io::Error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::Missing { file: path.clone() },
            _ => OpenError::from_io(&path, error),
        };
        // The folder's lock first: it is held for longer than the file's.
        let dir = path.parent().filter(|_| path.file_name().is_some_and(|name| name == DATA_FILE));
        let lock = match dir.map(|dir| File::open(dir.join(LOCK_FILE))) {
            Some(Ok(lock)) => Some(lock),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&error)),
            _ => None,
        };
        let dir = dir.unwrap_or(&path);
        if let Some(lock) = &lock {
            locked(lock.try_lock_shared(), dir, &path)?;
        }
        let file = File::open(&path).map_err(|error| failed(&error))?;
        locked(file.try_lock_shared(), dir, &path)?;
        match start_of(&file).map_err(|error| failed(&error))? {
            Start::Redb => {}
            Start::Nothing => return Err(OpenError::not_ours(&path, "it is empty")),
            Start::Other => return Err(OpenError::not_ours(&path, NOT_REDB)),
        }
        Ok(Self { path, file, _lock: lock })
    }
}

const NOT_REDB: &str = "it does not start as a redb file does";

fn locked(result: Result<(), TryLockError>, dir: &Path, path: &Path) -> Result<(), OpenError> {
    match result {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(OpenError::from_io(path, &error)),
    }
}

/// What stands where `dir` or a folder above it should, and is none.
fn in_the_way(dir: &Path) -> Option<PathBuf> {
    // The nearest that exists; where a file is above, the system finds nothing below it.
    let nearest = dir.ancestors().find_map(|path| Some((path, fs::metadata(path).ok()?)));
    nearest.filter(|(_, metadata)| !metadata.is_dir()).map(|(path, _)| path.to_owned())
}

/// How a file begins.
enum Start {
    Nothing,
    Redb,
    Other,
}

fn start_of(file: &File) -> io::Result<Start> {
    let mut start = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut start)?;
    Ok(match start.as_slice() {
        [] => Start::Nothing,
        start if start == MAGIC => Start::Redb,
        _ => Start::Other,
    })
}

/// Whether there is a data file; an empty one counts as none.
pub(crate) fn holds_redb_file(path: &Path) -> Result<bool, OpenError> {
    let start = match File::options().read(true).write(true).open(path).and_then(|file| start_of(&file)) {
        Ok(start) => start,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(OpenError::from_io(path, &error)),
    };
    match start {
        Start::Nothing => Ok(false),
        Start::Redb => Ok(true),
        Start::Other => Err(OpenError::not_ours(path, NOT_REDB)),
    }
}
