//! The tables of the data file. One id space for queues; positions and entries come from one counter. Every value is sealed, but for rows
//! of messages and bodies, which have checksums of their own.

use pelton_core::engine::{PRIORITY_DEFAULT, PRIORITY_MAX};
use redb::TableDefinition;

use crate::seal::Sealed;

/// Key of a message that is ready: (queue, rank = 9 - priority, position).
pub(crate) type ReadyKey = (u32, u8, u64);
/// Key of a message that waits: (queue, due in ms since 1970, position). Held ones have [`HELD`] as their time.
pub(crate) type DueKey = (u32, u64, u64);

/// Key of a message that waits behind another of its key: (queue, hash of the key, position).
pub(crate) type ParkedKey = (u32, u64, u64);
/// Key of an identity: (window in seconds, generation, hash of topic, source and id).
pub(crate) type DedupKey = (u32, u32, u128);
/// What is known of an identity: accepted ms, first position, number of targets, hash of the body, and where it was put off, if it was.
pub(crate) type DedupValue = (u64, u64, u32, u64, &'static [u8]);

/// The due time of a message that nobody takes until somebody acts.
pub(crate) const HELD: u64 = u64::MAX;
/// The time in `retrying` of a message that lies in `ready`.
pub(crate) const IN_READY: u64 = 0;
/// The rank in keys of every message of a queue that does not keep priorities, and of priority 4 in one that does.
pub(crate) const RANK: u8 = rank_of(PRIORITY_DEFAULT);

/// The rank of a priority: the lowest comes first.
pub(crate) const fn rank_of(priority: u8) -> u8 {
    PRIORITY_MAX.saturating_sub(priority)
}

/// The kind of [`COUNTERS`] row that holds what is global; its id is 0.
pub(crate) const COUNTERS_GLOBAL: u8 = 0;
/// The kind of [`COUNTERS`] row of a queue.
pub(crate) const COUNTERS_QUEUE: u8 = 1;
/// The kind of [`NAMES`] row of a queue.
pub(crate) const NAMES_QUEUE: u8 = 1;

/// The kind of [`NAMES`] row of a paused consumer.
pub(crate) const NAMES_PAUSED_CONSUMER: u8 = 2;

/// `format`, `store`, and the secret of its hashes: what makes a redb file ours.
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Messages that are available or leased, by queue and order.
pub(crate) const READY: TableDefinition<'_, ReadyKey, &[u8]> = TableDefinition::new("ready");
/// Messages that wait for their time, by queue and time; leased in place.
pub(crate) const DUE: TableDefinition<'_, DueKey, &[u8]> = TableDefinition::new("due");
/// Messages that wait behind another of their key, so that they are out of the way; leased in place.
pub(crate) const PARKED: TableDefinition<'_, ParkedKey, &[u8]> = TableDefinition::new("parked");
/// Messages that come before those parked of their key and lie elsewhere: with their time in `due`, or [`IN_READY`].
pub(crate) const RETRYING: TableDefinition<'_, ParkedKey, Sealed<u64>> = TableDefinition::new("retrying");
/// Chunks of bodies too large for their row: (body, chunk).
pub(crate) const BODIES: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("bodies");
/// How many rows refer to a body that is, or once was, shared.
pub(crate) const BODY_REFS: TableDefinition<'_, u64, Sealed<u32>> = TableDefinition::new("body_refs");
/// The history of a message: (entry, n).
pub(crate) const ATTEMPTS: TableDefinition<'_, (u64, u32), Sealed<&[u8]>> = TableDefinition::new("attempts");
/// Figures that would otherwise need a scan: (kind, id).
pub(crate) const COUNTERS: TableDefinition<'_, (u8, u32), Sealed<&[u8]>> = TableDefinition::new("counters");
/// Names and settings: (kind, name).
pub(crate) const NAMES: TableDefinition<'_, (u8, &str), Sealed<&[u8]>> = TableDefinition::new("names");
/// Identities of messages that were accepted a while ago.
pub(crate) const DEDUP: TableDefinition<'_, DedupKey, Sealed<DedupValue>> = TableDefinition::new("dedup");
/// The last tick of each schedule, in ms since 1970.
pub(crate) const SCHEDULES: TableDefinition<'_, &str, Sealed<u64>> = TableDefinition::new("schedules");
