//! What holds where broker.toml says nothing, and how far it may go. Sizes are bytes.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::Duration;

/// `[broker] data`: a folder beside broker.toml.
pub const DATA: &str = "data";
/// `[broker] max-message`.
pub const MESSAGE_BYTES: u64 = 1 << 20;
/// Bounds of `[broker] max-message`.
pub const MESSAGE_BYTES_RANGE: RangeInclusive<u64> = 1 << 10..=64 << 20;
/// `[broker] min-free-disk`.
pub const FREE_DISK_BYTES: u64 = 128 << 20;
/// `[broker] max-hops`.
pub const HOPS: u8 = 16;
/// Bounds of `[broker] max-hops`.
pub const HOPS_RANGE: RangeInclusive<u64> = 1..=255;

/// `[http] listen`.
pub const LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7656));
/// `[http] max-request`.
pub const REQUEST_BYTES: u64 = 16 << 20;
/// Bounds of `[http] max-request`.
pub const REQUEST_BYTES_RANGE: RangeInclusive<u64> = 1 << 10..=256 << 20;

/// `[sandbox] slots`.
pub const SLOTS: usize = 256;
/// Bounds of `[sandbox] slots`.
pub const SLOTS_RANGE: RangeInclusive<u64> = 1..=4096;

/// Bounds of `[queues.NAME] max-attempts`: every attempt leaves a record with its message.
pub const ATTEMPTS_RANGE: RangeInclusive<u64> = 1..=1_000;
/// Bounds of `backoff.initial` and `backoff.max`.
pub const BACKOFF_RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 3600);
/// Bounds of `backoff.factor`.
pub const FACTOR_RANGE: RangeInclusive<f64> = 1.0..=1_000.0;
/// Bounds of `backoff.jitter`.
pub const JITTER_RANGE: RangeInclusive<f64> = 0.0..=1.0;

/// `[consumers.NAME] concurrency`, or the sandbox's slots where there are fewer.
pub const CONCURRENCY: usize = 16;
/// `[consumers.NAME] timeout`.
pub const TIMEOUT: Duration = crate::plan::TIMEOUT_DEFAULT;
/// Bounds of `[consumers.NAME] timeout`.
pub const TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
/// `[consumers.NAME] memory`.
pub const MEMORY_BYTES: u64 = 64 << 20;
/// Bounds of `[consumers.NAME] memory`: no component starts with less than about 1 MiB.
pub const MEMORY_BYTES_RANGE: RangeInclusive<u64> = 2 << 20..=1 << 30;
/// `[consumers.NAME] max-emits`.
pub const EMITS: u32 = 1_000;
/// Bounds of `[consumers.NAME] max-emits`.
pub const EMITS_RANGE: RangeInclusive<u64> = 0..=100_000;
/// `[consumers.NAME] max-emit-bytes`.
pub const EMIT_BYTES: u64 = 16 << 20;
/// Bounds of `[consumers.NAME] max-emit-bytes`.
pub const EMIT_BYTES_RANGE: RangeInclusive<u64> = 0..=256 << 20;
/// `[consumers.NAME] max-log`.
pub const LOG_BYTES: u32 = 16 << 10;
/// Bounds of `[consumers.NAME] max-log`.
pub const LOG_BYTES_RANGE: RangeInclusive<u64> = 0..=16 << 20;

/// Most `[[routes]]`.
pub const ROUTES_MAX: usize = 1_000;
/// Most `[queues.*]`, dead-letter queues that follow from them not counted.
pub const QUEUES_MAX: usize = 1_000;
/// Most `[consumers.*]`.
pub const CONSUMERS_MAX: usize = 1_000;
