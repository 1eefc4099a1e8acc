//! pelton-engine-redb: messages in one redb file, behind [`pelton_core::engine::Engine`].
//!
//! [`RedbEngine`] is a thin shell: a thread that feeds commands to a [`Store`], the synchronous, deterministic machine
//! that owns the database, the windows, the leases and the counts. Callers encode rows and decode messages on their own
//! threads ([`prepare`], [`Grant::open`]); the store only moves bytes.
//!
//! Deliberately absent: locks inside the store, clocks, randomness that was not injected, scans on a hot path or at
//! start.

mod browse;
mod command;
mod cursor;
mod engine;
mod failure;
mod history;
mod lines;
mod open;
mod panics;
mod prepare;
mod records;
mod row;
mod store;
mod tables;
mod tuning;
mod verify;
mod writer;

#[cfg(test)]
mod simulation;

pub use browse::Snapshot;
pub use command::{Command, Grant, Now, Reply, Request, Ticket};
pub use engine::{OpenOptions, RedbEngine};
pub use open::{DATA_FILE, Disk, FORMAT_VERSION, FileDisk, LOCK_FILE, OpenError};
pub use prepare::{PreparedEntries, PreparedSettlement, prepare, prepare_settlement};
pub use store::{Store, Tally};
pub use tuning::Tuning;
pub use verify::{Summary, verify};
