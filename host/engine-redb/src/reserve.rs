//! The reserve: a file of no use but its size, given up when the disk is full, so that consuming can go on: redb writes a
//! changed page to a new place, also where a message is deleted.
//!
//! Invariant: it is built only where as much room again is left, so that keeping it never fills a disk.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// The reserve's name in the data folder.
pub const RESERVE_FILE: &str = "pelton.reserve";

/// What [`MetadataExt::blocks`] counts in, on every system.
const BLOCK_BYTES: u64 = 512;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Reserve {
    file: PathBuf,
    bytes: u64,
    kept: bool,
}

impl Reserve {
    /// The reserve of the data folder `dir`, as an earlier process left it.
    pub(crate) fn new(dir: &Path, bytes: u64) -> Self {
        let file = dir.join(RESERVE_FILE);
        let kept = bytes > 0 && taken(&file) >= bytes;
        Self { file, bytes, kept }
    }

    /// Gives it up; whether there was any.
    pub(crate) fn release(&mut self) -> bool {
        self.kept = false;
        let held = taken(&self.file) > 0;
        // Cut short in place: where not a single block is left, even removing a name may fail.
        let cut = held && File::options().write(true).open(&self.file).and_then(|file| file.set_len(0)).is_ok();
        if cut {
            tracing::warn!(
                bytes = self.bytes,
                "The disk is full; the reserve is given up, so that consuming can go on."
            );
        }
        cut
    }

    /// Builds it where it is not there and `free`, what the disk has to give, is enough. Costs nothing where it is there.
    pub(crate) fn keep(&mut self, free: impl FnOnce() -> Option<u64>) {
        if self.kept || self.bytes == 0 || free().is_none_or(|free| free / 2 < self.bytes) {
            return;
        }
        match build(&self.file, self.bytes) {
            Ok(()) => self.kept = true,
            Err(error) => {
                tracing::debug!(%error, "The reserve can't be built now.");
                // What there is of it takes room from the messages.
                let _ = fs::remove_file(&self.file);
            }
        }
    }
}

/// Bytes of the disk that the file at `path` takes; 0 where there is none.
pub(crate) fn taken(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.blocks().saturating_mul(BLOCK_BYTES))
}

fn build(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::options().create(true).truncate(true).write(true).open(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => write_zeros(&mut file, bytes),
        Err(error) => Err(error.into()),
    }
}

fn write_zeros(file: &mut File, bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all(&ZEROS[..part])?;
        left -= part as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 1 << 20;

    #[test]
    fn it_is_built_released_and_built_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(RESERVE_FILE);
        let mut reserve = Reserve::new(folder.path(), BYTES);
        assert!(!reserve.release(), "there was none");
        for _ in 0..2 {
            reserve.keep(|| Some(2 * BYTES));
            assert!(taken(&path) >= BYTES, "it takes its room");
            reserve.keep(|| panic!("what is there needs no room"));
            assert!(reserve.release());
            assert_eq!(taken(&path), 0);
            assert!(!reserve.release(), "it is gone");
        }
    }

    #[test]
    fn it_is_known_to_the_next_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Reserve::new(folder.path(), BYTES).keep(|| Some(2 * BYTES));
        Reserve::new(folder.path(), BYTES).keep(|| panic!("it is there"));
        assert!(Reserve::new(folder.path(), BYTES).release());
        // What was written in part, or for a smaller size, is built anew.
        fs::write(folder.path().join(RESERVE_FILE), "a part").expect("written");
        Reserve::new(folder.path(), BYTES).keep(|| Some(2 * BYTES));
        assert!(taken(&folder.path().join(RESERVE_FILE)) >= BYTES);
    }

    #[test]
    fn it_never_fills_a_disk() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for free in [None, Some(0), Some(2 * BYTES - 1)] {
            let mut reserve = Reserve::new(folder.path(), BYTES);
            reserve.keep(|| free);
            assert!(!folder.path().join(RESERVE_FILE).exists(), "built with {free:?} free");
        }
        Reserve::new(folder.path(), 0).keep(|| Some(u64::MAX));
        assert!(!folder.path().join(RESERVE_FILE).exists(), "one of no size is none");
    }

    #[test]
    fn where_the_system_can_not_allocate_it_is_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(RESERVE_FILE);
        let mut file = File::create(&path).expect("created");
        write_zeros(&mut file, 100_001).expect("written");
        assert_eq!(fs::metadata(&path).expect("it is there").len(), 100_001);
    }
}
