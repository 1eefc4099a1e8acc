//! A disk so small that it can be filled: a file system in memory that only the broker and its test see.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A mounted disk. It goes with its keeper, a process in a mount namespace of its own, and that goes with this, however it
/// ends: it reads from a pipe that only this holds.
pub(crate) struct SmallDisk {
    keeper: Child,
    /// Where it is, as seen from here.
    path: PathBuf,
}

/// Mounts the disk at $0, says so, and waits for the end.
const KEEP: &str = r#"mount -t tmpfs -o "size=$1" tmpfs "$0" && echo mounted && exec cat"#;
/// Goes to $0, as the keeper sees it, and becomes the program that the rest names.
const ENTER: &str = r#"cd "$0" && exec "$@""#;
/// A file of no use but its size.
const FILLER: &str = "filler";

impl SmallDisk {
    /// A disk of so many bytes at `path`, a folder that is made; none where this user can't mount one.
    pub(crate) fn mount(path: &Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir(path).expect("the folder is writable");
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", KEEP]).arg(path).arg(bytes.to_string());
        let keeper = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let seen_from_here = PathBuf::from(format!("/proc/{}/root{}", keeper.id(), path.display()));
        let mut disk = Self { keeper, path: seen_from_here };
        let mut said = String::new();
        let stdout = disk.keeper.stdout.take().expect("it is a pipe");
        BufReader::new(stdout).read_line(&mut said).ok()?;
        (said == "mounted\n" && disk.path.is_dir()).then_some(disk)
    }

    /// What runs a program in `folder` so that it sees the disk. The process is the program's own.
    pub(crate) fn run_by(&self, folder: &Path) -> Vec<OsString> {
        let enter = ["nsenter", "--user", "--mount", "--preserve-credentials", "--target"].map(OsString::from);
        let mut run_by = Vec::from(enter);
        run_by.extend([self.keeper.id().to_string().into(), "sh".into(), "-c".into(), ENTER.into(), folder.into()]);
        run_by
    }

    /// Bytes that can still be written to it.
    pub(crate) fn free(&self) -> u64 {
        let room = rustix::fs::statvfs(&self.path).expect("it is mounted");
        room.f_bavail * room.f_frsize
    }

    /// Fills it up with something else, but for so many bytes.
    pub(crate) fn fill(&self, leave: u64) {
        let open = File::options().create(true).append(true).open(self.path.join(FILLER));
        let mut filler = open.expect("the disk is writable");
        let mut left = self.free().saturating_sub(leave);
        let zeros = [0; 4096];
        while left > 0 {
            match filler.write(&zeros[..zeros.len().min(usize::try_from(left).unwrap_or(usize::MAX))]) {
                Ok(written) => left -= written as u64,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Takes away what filled it up.
    pub(crate) fn clear(&self) {
        std::fs::remove_file(self.path.join(FILLER)).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
