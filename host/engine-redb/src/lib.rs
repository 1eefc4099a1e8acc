//! pelton-engine-redb: messages in one redb file, behind [`pelton_core::engine::Engine`].
//!
//! [`RedbEngine`] is a thin shell: a thread that feeds commands to a [`Store`], the synchronous, deterministic machine
//! that owns the database, the windows, the leases and the counts. Callers encode rows and decode messages on their own
//! threads ([`prepare`], [`Grant::open`]); the store only moves bytes.
//!
//! Deliberately absent: locks inside the store, clocks, randomness that was not injected, scans on a hot path or at
//! start.

mod backup;
mod browse;
mod command;
mod cursor;
mod dump;
mod engine;
mod failure;
mod folder;
mod format;
mod hash;
mod history;
mod lines;
mod open;
mod panics;
mod prepare;
mod readonly;
mod records;
mod report;
mod reserve;
mod restore;
mod row;
mod seal;
mod space;
mod store;
mod tables;
mod tuning;
mod verify;
mod writer;

#[cfg(fuzzing)]
pub mod fuzzing;

#[cfg(test)]
mod simulation;

pub use browse::Snapshot;
pub use command::{Command, Grant, Now, Reply, Request, Ticket};
pub use dump::{ExportError, Exported, ImportError, ImportOptions, Imported, export, import};
pub use engine::{GUARANTEES, OpenOptions, RedbEngine};
pub use folder::{DATA_FILE, LOCK_FILE};
pub use format::{FORMAT_VERSION, Identity};
pub use hash::Secret;
pub use open::{Disk, FileDisk, OpenError};
pub use prepare::{PreparedAppend, PreparedEntries, PreparedSettlement, prepare, prepare_append, prepare_settlement};
pub use report::{OnWork, QueueReport, Report, Work, report};
pub use reserve::RESERVE_FILE;
pub use restore::{RestoreError, restore};
pub use space::Space;
pub use store::{Store, Tally};
pub use tuning::Tuning;
pub use verify::{Summary, verify};
