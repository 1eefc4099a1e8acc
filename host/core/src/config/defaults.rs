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
/// Bounds of `[broker] min-free-disk`; 0: publishing goes on until the disk is full.
pub const FREE_DISK_BYTES_RANGE: RangeInclusive<u64> = 0..=1 << 50;
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

/// Ten years, as durations are written. Nothing is kept for longer.
const YEARS: Duration = Duration::from_secs(10 * 31_557_600);
/// Bounds of `[queues.NAME] max-messages`.
pub const QUEUE_MESSAGES_RANGE: RangeInclusive<u64> = 1..=1_000_000_000_000;
/// Bounds of `[queues.NAME] max-bytes`.
pub const QUEUE_BYTES_RANGE: RangeInclusive<u64> = 1 << 10..=1 << 50;
/// Bounds of `[queues.NAME] ttl`.
pub const TTL_RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=YEARS;
/// Bounds of `max-age`.
pub const AGE_RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=YEARS;
/// Bounds of `max-attempts`: every attempt leaves a record with its message.
pub const ATTEMPTS_RANGE: RangeInclusive<u64> = 1..=1_000;
/// Bounds of `backoff.initial` and `backoff.max`.
pub const BACKOFF_RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 3600);
/// Bounds of `backoff.factor`.
pub const FACTOR_RANGE: RangeInclusive<f64> = 1.0..=1_000.0;
/// Bounds of `backoff.jitter`.
pub const JITTER_RANGE: RangeInclusive<f64> = 0.0..=1.0;

/// Bounds of `breaker.failures`.
pub const FAILURES_RANGE: RangeInclusive<u64> = 1..=10_000;
/// Bounds of `breaker.probe` and `breaker.max`.
pub const PROBE_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(24 * 3600);

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
/// Most `[topics.*]`: a topic is compared with one after another.
pub const TOPICS_MAX: usize = 1_000;
/// Bounds of `[topics.PATTERN] dedup`: every message leaves a record for so long.
pub const WINDOW_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);
/// Most `[[schedules]]`.
pub const SCHEDULES_MAX: usize = 1_000;
