//! Messages as lines of JSON, out of a data file and into one: for looking at them with other tools, for moving some of
//! them to another store, and for leaving a format behind.
//!
//! A line is one message in one queue with all that is known of it. What is not kept: its position and with it its idempotency key,
//! the window in which doubles are recognised, and which queues share one body. The broker of neither store may be running.

mod event;
mod export;
mod import;
mod line;

pub use self::export::{Exported, export};
pub use self::import::{ImportError, ImportOptions, Imported, import};
#[cfg(fuzzing)]
pub(crate) use self::line::Record as Line;

/// Why messages were not written out, or only in part.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The data can't be used.
    #[error(transparent)]
    Open(#[from] crate::OpenError),
    /// The lines can't be written.
    #[error("can't write the messages: {0}")]
    Output(std::io::Error),
}
