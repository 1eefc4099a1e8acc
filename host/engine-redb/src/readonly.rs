//! A data file that is looked at and not changed: what redb writes, to repair a file that was not closed in order say,
//! stays in memory.
//!
//! Repairing and closing write a few pages per gigabyte, so that the memory stays small.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Builder, Database, StorageBackend};

use crate::folder::Held;
use crate::open::OpenError;
use crate::panics;

/// Pages that redb keeps in memory while it reads the file.
const CACHE_BYTES: usize = 64 << 20;
const PAGE_BYTES: usize = 4096;

/// The database in `held`, and whether it was closed in order: if not, it is what redb repairs it to.
pub(crate) fn open(held: &Held) -> Result<(Database, bool), OpenError> {
    let failed = |error: io::Error| OpenError::from_io(&held.path, &error);
    let backend = held.file.try_clone().and_then(ReadOnly::new).map_err(failed)?;
    let repaired = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&repaired);
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_repair_callback(move |_| seen.store(true, Ordering::Relaxed));
    let opened = panics::quietly(|| builder.create_with_backend(backend));
    let database = opened
        .map_err(|panic| OpenError::Damaged { file: held.path.clone(), reason: panics::told(&panic) })?
        .map_err(|error| OpenError::from_redb(&held.path, error))?;
    Ok((database, !repaired.load(Ordering::Relaxed)))
}

#[derive(Debug)]
struct ReadOnly {
    file: File,
    written: Mutex<Written>,
}

/// What differs from the file.
#[derive(Debug)]
struct Written {
    /// By their place in the file, in bytes.
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
    /// The length of the whole.
    bytes: u64,
    /// The part of the file that counts: what was cut off is zero when the whole grows back.
    file_bytes: u64,
}

impl ReadOnly {
    fn new(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let written = Mutex::new(Written { pages: BTreeMap::new(), bytes, file_bytes: bytes });
        Ok(Self { file, written })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    /// What the file has at `offset`, and zeros behind its end.
    fn read_file(&self, file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let left = usize::try_from(self.file_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (there, behind) = out.split_at_mut(left.min(out.len()));
        behind.fill(0);
        file.read_exact_at(there, offset)
    }

    /// The page at `place`, to be changed.
    fn page(&mut self, file: &File, place: u64) -> io::Result<&mut [u8; PAGE_BYTES]> {
        if !self.pages.contains_key(&place) {
            let mut page = Box::new([0; PAGE_BYTES]);
            self.read_file(file, place, &mut page[..])?;
            self.pages.insert(place, page);
        }
        Ok(self.pages.get_mut(&place).expect("it was put there just now"))
    }
}

/// Where the page of `offset` begins, and where in it `offset` is.
fn split(offset: u64) -> (u64, usize) {
    let in_page = offset % PAGE_BYTES as u64;
    (offset - in_page, usize::try_from(in_page).expect("a page is small"))
}

/// `bytes` from `offset` on, page by page: where the page begins, and which of the bytes lie from where on in it.
fn parts(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (page, in_page) = split(offset + done as u64);
        let count = (bytes - done).min(PAGE_BYTES - in_page);
        let part = (page, in_page, done..done + count);
        done += count;
        (count > 0).then_some(part)
    })
}

impl StorageBackend for ReadOnly {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        let end = offset.saturating_add(out.len() as u64);
        if end > written.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        written.read_file(&self.file, offset, out)?;
        for (place, page) in written.pages.range(split(offset).0..end) {
            let from = offset.max(*place);
            let count = (end.min(place + PAGE_BYTES as u64) - from) as usize;
            let (at, to) = (split(from).1, (from - offset) as usize);
            out[to..to + count].copy_from_slice(&page[at..at + count]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        let (last, kept) = split(len);
        if len < written.bytes {
            // Also of the page that the end lies in, nothing behind it must come back.
            if kept > 0 {
                written.page(&self.file, last)?[kept..].fill(0);
            }
            written.pages.split_off(&len);
            written.file_bytes = written.file_bytes.min(len);
        }
        written.bytes = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        for (place, at, range) in parts(offset, data.len()) {
            let page = written.page(&self.file, place)?;
            page[at..at + range.len()].copy_from_slice(&data[range]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does the same to a file through the backend and to a vector, and compares.
    #[test]
    fn it_reads_as_if_it_had_been_written_and_the_file_stays() {
        const BYTES: usize = 5 * PAGE_BYTES + 700;
        let mut random = fastrand::Rng::with_seed(11);
        let original: Vec<u8> = (0..BYTES).map(|_| random.u8(1..)).collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        std::fs::write(&path, &original).expect("written");
        let backend = ReadOnly::new(File::open(&path).expect("it is there")).expect("it has a length");
        let mut expected = original.clone();
        for round in 0..2000 {
            let at = random.usize(..expected.len());
            let count = random.usize(..=(expected.len() - at).min(3 * PAGE_BYTES));
            match round % 9 {
                0 => {
                    let len = random.usize(1..2 * BYTES);
                    backend.set_len(len as u64).expect("any length will do");
                    expected.resize(len, 0);
                }
                1..=3 => {
                    let data: Vec<u8> = (0..count).map(|_| random.u8(..)).collect();
                    backend.write(at as u64, &data).expect("it lies within");
                    expected[at..at + count].copy_from_slice(&data);
                }
                _ => {
                    let mut out = vec![7; count];
                    backend.read(at as u64, &mut out).expect("it lies within");
                    assert!(out == expected[at..at + count], "round {round}: {count} bytes at {at} differ");
                }
            }
            assert_eq!(backend.len().expect("it has a length"), expected.len() as u64);
        }
        assert!(backend.read(expected.len() as u64, &mut [0]).is_err(), "there is nothing behind the end");
        assert!(std::fs::read(&path).expect("it is there") == original, "the file changed");
    }
}
