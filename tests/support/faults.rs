//! Faults in a broker's surroundings: what the shim (tests/shim) is told through its control file.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::binary::shim;

#[path = "../shim/src/control.rs"]
mod control;

/// The file whose calls fail: the store.
const DATA_FILE: &str = "pelton.redb";
/// The control file's name in the broker's folder.
const CONTROL_FILE: &str = "faults";

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// Writing.
    Write,
    /// Syncing.
    Sync,
    /// Reading.
    Read,
    /// Writing, and making the file longer, as on a full disk.
    Grow,
    /// All of these.
    All,
}

impl Calls {
    fn mask(self) -> u64 {
        match self {
            Self::Write => control::WRITE,
            Self::Sync => control::SYNC,
            Self::Read => control::READ,
            Self::Grow => control::WRITE | control::LENGTH,
            Self::All => control::WRITE | control::SYNC | control::READ | control::LENGTH,
        }
    }
}

/// What the failing calls say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errno {
    /// EIO
    Io,
    /// ENOSPC
    NoSpace,
}

impl Errno {
    fn number(self) -> u64 {
        let errno = match self {
            Self::Io => rustix::io::Errno::IO,
            Self::NoSpace => rustix::io::Errno::NOSPC,
        };
        u64::from(errno.raw_os_error().unsigned_abs())
    }
}

/// How much of a failing call is carried out all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CarriedOut {
    /// None of it.
    Nothing,
    /// The first half of what is written.
    Half,
    /// All of it: only the answer is wrong.
    All,
}

impl CarriedOut {
    fn number(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Half => control::HALF,
            Self::All => control::ALL,
        }
    }
}

/// A series of failing calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// Which fail.
    pub(crate) calls: Calls,
    /// What they say.
    pub(crate) errno: Errno,
    /// What they do nevertheless.
    pub(crate) carried_out: CarriedOut,
    /// So many pass before.
    pub(crate) pass: u64,
    /// So many fail then; none: all until [`Faults::end`].
    pub(crate) count: Option<u64>,
}

impl Fault {
    /// All calls of this kind fail with EIO, from now on, without effect.
    pub(crate) fn lasting(calls: Calls) -> Self {
        Self { calls, errno: Errno::Io, carried_out: CarriedOut::Nothing, pass: 0, count: None }
    }
}

/// The faults of one broker, over all its restarts. At first there are none.
pub(crate) struct Faults {
    control: File,
    path: PathBuf,
}

impl Faults {
    /// Faults for a broker in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join(CONTROL_FILE);
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        let control = options.expect("the folder is writable");
        control.set_len((control::WORDS * size_of::<u64>()) as u64).expect("the folder is writable");
        Self { control, path }
    }

    /// What the broker's environment has to say, so that it is at their mercy.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", shim().into()),
            (control::CONTROL_ENV, self.path.clone().into()),
            (control::FILE_ENV, DATA_FILE.into()),
        ]
    }

    /// Calls fail as `fault` says, from now on.
    pub(crate) fn begin(&self, fault: Fault) {
        self.end();
        self.set(control::ERRNO, fault.errno.number());
        self.set(control::PASS, fault.pass);
        self.set(control::FAIL, fault.count.unwrap_or(u64::MAX));
        self.set(control::CARRIED_OUT, fault.carried_out.number());
        self.set(control::SEEN, 0);
        self.set(control::FAILED, 0);
        self.set(control::CALLS, fault.calls.mask());
    }

    /// No call fails any more.
    pub(crate) fn end(&self) {
        self.set(control::CALLS, 0);
    }

    /// How many calls have failed since the last [`begin`](Self::begin).
    pub(crate) fn failed(&self) -> u64 {
        self.get(control::FAILED)
    }

    /// The broker's wall clock is so much ahead of the true time, from now on.
    pub(crate) fn clock_ahead(&self, by: Duration) {
        self.set(control::CLOCK_OFFSET_MS, u64::try_from(by.as_millis()).expect("a test's jump is short"));
    }

    /// The broker's wall clock is so much behind the true time, from now on.
    pub(crate) fn clock_behind(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).expect("a test's jump is short");
        self.set(control::CLOCK_OFFSET_MS, (-by).cast_unsigned());
    }

    fn set(&self, word: usize, value: u64) {
        let at = (word * size_of::<u64>()) as u64;
        self.control.write_all_at(&value.to_ne_bytes(), at).expect("the file is open");
    }

    fn get(&self, word: usize) -> u64 {
        let mut bytes = [0; size_of::<u64>()];
        self.control.read_exact_at(&mut bytes, (word * size_of::<u64>()) as u64).expect("the file is open");
        u64::from_ne_bytes(bytes)
    }
}
