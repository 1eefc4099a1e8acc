//! The layout of the control file: words of 64 bits, in the machine's byte order. The tests write it, the shim maps it.
//!
//! The tests include this very file, so that both sides mean the same.

/// Names the control file; without it the shim changes nothing.
pub(crate) const CONTROL_ENV: &str = "SHIM_CONTROL";
/// Names the one file whose calls can fail, without its folder.
pub(crate) const FILE_ENV: &str = "SHIM_FILE";

/// Words in the file, by their index.
pub(crate) const WORDS: usize = 8;
/// What the wall clock shows beyond the true time, in milliseconds; signed.
pub(crate) const CLOCK_OFFSET_MS: usize = 0;
/// Which calls are counted and may fail: a sum of the constants below; 0 for none. Written last when faults begin.
pub(crate) const CALLS: usize = 1;
/// What `errno` says after a fault.
pub(crate) const ERRNO: usize = 2;
/// So many calls pass before the first fault.
pub(crate) const PASS: usize = 3;
/// So many fail then; the rest passes again.
pub(crate) const FAIL: usize = 4;
/// How much of a call is carried out before it fails: 0 for nothing, or one of [`HALF`] and [`ALL`].
pub(crate) const CARRIED_OUT: usize = 5;
/// Written by the shim: calls counted.
pub(crate) const SEEN: usize = 6;
/// Written by the shim: calls that failed.
pub(crate) const FAILED: usize = 7;

/// `pwrite`, `write`.
pub(crate) const WRITE: u64 = 1;
/// `fsync`, `fdatasync`.
pub(crate) const SYNC: u64 = 2;
/// `pread`, `read`.
pub(crate) const READ: u64 = 4;
/// `ftruncate`, `fallocate`: the file's length.
pub(crate) const LENGTH: u64 = 8;

/// The first half of the bytes is written; of other calls, nothing.
pub(crate) const HALF: u64 = 1;
/// The call has all of its effect and fails nevertheless.
pub(crate) const ALL: u64 = 2;
