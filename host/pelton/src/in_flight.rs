//! The record of running deliveries as a mapped file in the data folder: see [`pelton_core::in_flight`].
//!
//! It is never synced: the page cache survives the process, and what the machine's end leaves of it is not believed. All of its
//! bytes are on the disk from the start, so that writing to the map needs no room when the disk is full.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use memmap2::MmapRaw;
use pelton_core::in_flight::{InFlight, Region};
use uuid::Uuid;

/// The file within the data folder.
const FILE: &str = "in-flight";
/// Where Linux says a number that is another one after every start of the machine. Elsewhere every record is believed.
const BOOT_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The record in the data folder `dir`, with room for `slots` deliveries, as an earlier process left it. The store is open, so that no
/// other process uses the folder.
pub(crate) fn open(dir: &Path, slots: usize) -> std::io::Result<InFlight> {
    let bytes = InFlight::words(slots) * size_of::<AtomicU64>();
    let mut file = File::options().read(true).append(true).create(true).open(dir.join(FILE))?;
    let there = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if there == 0 {
        in_place(&file);
    }
    // Never cut: an earlier process may have had more slots. Written, not only lengthened: a hole would take room later.
    file.write_all(&vec![0; bytes.saturating_sub(there)])?;
    Ok(InFlight::new(Mapped(MmapRaw::map_raw(&file)?), boot()))
}

/// Asks a file system that writes every change to a new place not to; for an empty file. Others need not be asked, and some can't.
fn in_place(file: &File) {
    #[cfg(target_os = "linux")]
    if let Ok(flags) = rustix::fs::ioctl_getflags(file) {
        let _ = rustix::fs::ioctl_setflags(file, flags | rustix::fs::IFlags::NOCOW);
    }
    let _ = file;
}

fn boot() -> u64 {
    let text = std::fs::read_to_string(BOOT_FILE).unwrap_or_default();
    Uuid::parse_str(text.trim()).map_or(0, |id| id.as_u64_pair().0)
}

/// A file in memory, both ways.
struct Mapped(MmapRaw);

impl Region for Mapped {
    #[expect(unsafe_code, reason = "a mapped file is memory that the compiler knows nothing about")]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the map begins at a page, so it is aligned for words; it is mapped for reading and writing, is `len` bytes
        // long, and is unmapped only when `self` is dropped, which the slice borrows. All of it is initialised, being bytes of a
        // file, and every access is atomic, so that other threads may write to it. Other processes leave the file as long as it is: whoever
        // uses the data folder holds the store's lock, and this module never cuts the file.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() / size_of::<AtomicU64>()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use pelton_core::engine::StoreId;

    use super::*;

    fn mapped(dir: &Path) -> Mapped {
        let file = File::options().read(true).write(true).open(dir.join(FILE)).expect("it is there");
        Mapped(MmapRaw::map_raw(&file).expect("it can be mapped"))
    }

    #[test]
    fn it_is_in_the_file_and_survives_whoever_wrote_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let record = open(dir.path(), 4).expect("it is made");
        assert_eq!(mapped(dir.path()).words().len(), InFlight::words(4));
        record.begin(StoreId(7));
        drop(record);
        let words = mapped(dir.path()).words().iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert!(words.contains(&7) && words.contains(&boot()), "{words:?}");
        assert_ne!(boot(), 0, "this system says which start it is");
    }

    #[test]
    fn it_grows_and_never_shrinks() {
        let dir = tempfile::tempdir().expect("a folder");
        for (slots, expected) in [(4, 4), (16, 16), (2, 16)] {
            open(dir.path(), slots).expect("it is opened").begin(StoreId(7));
            assert_eq!(mapped(dir.path()).words().len(), InFlight::words(expected), "{slots}");
        }
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(open(&dir.path().join("nowhere"), 4).is_err());
    }
}
