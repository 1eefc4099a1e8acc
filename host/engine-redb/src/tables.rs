//! The tables of the data file. One id space for queues; positions and entries come from one counter.

use redb::TableDefinition;

/// Key of a message that is ready: (queue, rank = 9 - priority, position).
pub(crate) type ReadyKey = (u32, u8, u64);
/// Key of a message that waits: (queue, due in ms since 1970, position). Held ones have [`HELD`] as their time.
pub(crate) type DueKey = (u32, u64, u64);

/// The due time of a message that nobody takes until somebody acts.
pub(crate) const HELD: u64 = u64::MAX;
/// The priority of every message as long as there is no other, and its rank in keys.
pub(crate) const PRIORITY: u8 = 4;
/// See [`PRIORITY`].
pub(crate) const RANK: u8 = 9 - PRIORITY;
/// The kind of [`COUNTERS`] row that holds what is global; its id is 0.
pub(crate) const COUNTERS_GLOBAL: u8 = 0;
/// The kind of [`COUNTERS`] row of a queue.
pub(crate) const COUNTERS_QUEUE: u8 = 1;
/// The kind of [`NAMES`] row of a queue.
pub(crate) const NAMES_QUEUE: u8 = 1;

/// `format` and `store`: what makes a redb file ours.
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Messages that are available or leased, by queue and order.
pub(crate) const READY: TableDefinition<'_, ReadyKey, &[u8]> = TableDefinition::new("ready");
/// Messages that wait for their time, by queue and time; leased in place.
pub(crate) const DUE: TableDefinition<'_, DueKey, &[u8]> = TableDefinition::new("due");
/// Chunks of bodies too large for their row: (body, chunk).
pub(crate) const BODIES: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("bodies");
/// How many rows refer to a body that is, or once was, shared.
pub(crate) const BODY_REFS: TableDefinition<'_, u64, u32> = TableDefinition::new("body_refs");
/// The history of a message: (entry, n).
pub(crate) const ATTEMPTS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("attempts");
/// Figures that would otherwise need a scan: (kind, id).
pub(crate) const COUNTERS: TableDefinition<'_, (u8, u32), &[u8]> = TableDefinition::new("counters");
/// Names and settings: (kind, name).
pub(crate) const NAMES: TableDefinition<'_, (u8, &str), &[u8]> = TableDefinition::new("names");
