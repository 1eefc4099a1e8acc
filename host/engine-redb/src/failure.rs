//! What goes wrong beneath a store, reduced to what it has to do about it: reopen, or stop.

use std::io::ErrorKind;

use pelton_core::engine::EngineError;

/// What a read beyond the end of the file means: a page says that another one lies there.
pub(crate) const ENDS_EARLY: &str = "it ends before something that should be in it";

/// Why storage failed under a running store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The disk or the operating system: reopening may help.
    #[error("{0}")]
    Io(String),
    /// The disk is full: giving up the reserve and reopening may help.
    #[error("{0}")]
    Full(String),
    /// What was read can't be: nobody should go on.
    #[error("{0}")]
    Damaged(String),
}

impl Failure {
    /// The same, and what was being read.
    pub(crate) fn while_reading(self, what: &str) -> Self {
        match self {
            Self::Io(why) => Self::Io(format!("{what}: {why}")),
            Self::Full(why) => Self::Full(format!("{what}: {why}")),
            Self::Damaged(why) => Self::Damaged(format!("{what}: {why}")),
        }
    }

    /// What the caller is told when nothing of its request was done.
    pub(crate) fn undone(&self) -> EngineError {
        match self {
            Self::Io(_) | Self::Full(_) => EngineError::Unavailable,
            Self::Damaged(what) => EngineError::Corrupt(what.clone()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full(error.to_string()),
            ErrorKind::UnexpectedEof => Self::Damaged(ENDS_EARLY.to_owned()),
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<redb::StorageError> for Failure {
    fn from(error: redb::StorageError) -> Self {
        match error {
            redb::StorageError::Corrupted(what) => Self::Damaged(what),
            redb::StorageError::Io(error) => error.into(),
            other => Self::Io(other.to_string()),
        }
    }
}

impl From<redb::TableError> for Failure {
    fn from(error: redb::TableError) -> Self {
        match error {
            redb::TableError::Storage(storage) => storage.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<redb::TransactionError> for Failure {
    fn from(error: redb::TransactionError) -> Self {
        match error {
            redb::TransactionError::Storage(storage) => storage.into(),
            other => Self::Io(other.to_string()),
        }
    }
}

impl From<redb::CommitError> for Failure {
    fn from(error: redb::CommitError) -> Self {
        match error {
            redb::CommitError::Storage(storage) => storage.into(),
            other => Self::Io(other.to_string()),
        }
    }
}

impl From<redb::CursorError> for Failure {
    fn from(error: redb::CursorError) -> Self {
        match error {
            redb::CursorError::Storage(storage) => storage.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}
