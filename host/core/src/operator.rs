//! What an operator can ask of a running broker that the broker can't do by itself: whoever started it lends a hand.
//!
//! Both are given to the broker in [`crate::broker::Parts`], so that every way to ask (a door, a signal, the dev runner) does
//! the same thing.

use std::path::{Path, PathBuf};

use tokio::sync::OwnedSemaphorePermit;

use crate::broker::Broker;
use crate::engine::{EngineError, Fut};

/// Reads the configuration again and deploys it.
pub trait Reload: Send + Sync + 'static {
    /// Reads what the broker was started with, as it is now, and deploys it into `broker`; all of it or nothing. The caller
    /// sees to it that one reload runs at a time.
    ///
    /// # Errors
    /// Everything that is wrong with it, each as a text for people; the plan before it goes on.
    fn reload<'a>(&'a self, broker: &'a Broker) -> Fut<'a, Result<Reloaded, Vec<String>>>;
}

/// What a reload changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// A line for each thing that is not as it was, for people; empty where nothing changed.
    pub changes: Vec<String>,
    /// What takes effect only at the next start: an address, the data folder.
    pub at_next_start: Vec<String>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
}

/// Why a reload did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// Nobody who knows the configuration lends a hand.
    #[error("this broker was not started from a configuration that it could read again")]
    Unsupported,
    /// The configuration is wrong; nothing changed.
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
}

/// Copies the store while it is in use.
pub trait Backup: Send + Sync + 'static {
    /// A copy of the store as one moment saw it, in a temporary file: everything that was answered before the call, and
    /// nothing by half. A restore is a start on that file.
    ///
    /// May take as long as reading and writing the whole store does, and as much disk. Publishing and consuming go on. Dropping
    /// the future gives up and leaves no file behind.
    ///
    /// # Errors
    /// [`BackupError::DiskFull`] or [`BackupError::Engine`]; the store itself is as it was.
    fn backup(&self) -> Fut<'_, Result<BackupFile, BackupError>>;
}

/// A consistent copy of a store in a file of its own, which is removed when this is dropped.
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    bytes: u64,
    /// One copy at a time: it ends with this file.
    permit: Option<OwnedSemaphorePermit>,
}

impl BackupFile {
    /// The copy that lies, complete, at `path` and has `bytes`.
    #[must_use]
    pub fn new(path: PathBuf, bytes: u64) -> Self {
        Self { path, bytes, permit: None }
    }

    /// Where it lies, for as long as this is held.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }
}

impl Drop for BackupFile {
    fn drop(&mut self) {
        // Whoever restores by moving the file away has it; there is nobody to tell of another failure.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Why there is no backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// The storage can't copy itself.
    #[error("the storage of this broker can't be copied while it runs")]
    Unsupported,
    /// Another copy is being made or read: each takes as much disk as the store.
    #[error("another backup is under way; try again when it is done")]
    Busy,
    /// There is no room for the copy, or would be none for messages behind it: why, for people.
    #[error("there is no room for a copy of the store: {0}; make some and try again")]
    DiskFull(String),
    /// The engine could not.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
