//! Every bound of the HTTP door, by name. What an operator may change is in broker.toml; these are fixed.

use std::time::Duration;

/// Connections open at once. More wait in the kernel's backlog; each serves one request at a time.
pub const CONNECTIONS_MAX: usize = 4096;
/// Request line and header fields together, in bytes; beyond it, or beyond 100 fields, hyper answers 431 without a body.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// What is read from a connection at once, in bytes: a buffer of at most this size per connection.
pub const READ_BYTES_MAX: usize = 128 * 1024;
/// Time until a request's head is complete, and so also the longest idle time of a connection.
pub const HEAD_READ_MAX: Duration = Duration::from_secs(75);
/// Time until a request's body is complete.
pub const BODY_READ_MAX: Duration = Duration::from_secs(120);
/// Longest time in which a caller reads nothing of its answer.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(60);
/// Largest request body of the calls that do not publish, in bytes.
pub const COMMAND_BYTES_MAX: u64 = 1024 * 1024;
/// A body up to this size, in bytes, is read without asking for a share of [`BODY_BUDGET_BYTES`].
pub const BODY_FREE_BYTES: u64 = 64 * 1024;
/// Memory for the larger request bodies of all connections together, in bytes. At least one of the largest always fits.
pub const BODY_BUDGET_BYTES: u64 = 128 * 1024 * 1024;
/// How long a larger body waits for its share.
pub const BODY_SHARE_WAIT_MAX: Duration = Duration::from_secs(10);
/// What is read and thrown away of a refused body, in bytes, so that its sender sees the answer before a reset.
pub const DISCARD_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long a refused body is read and thrown away.
pub const DISCARD_WITHIN: Duration = Duration::from_secs(5);
/// How long requests that have begun may take once the door was told to stop.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);
/// The wait after the system could not hand out a new connection (too many open files, say).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Messages in one publish request.
pub const BATCH_MESSAGES_MAX: usize = 10_000;
/// Faulty messages that one refusal lists; the count is always given in full.
pub const ITEMS_LISTED_MAX: usize = 100;

/// Longest time to live that a publish request may ask for.
pub const TTL_MAX: Duration = Duration::from_secs(3660 * 24 * 60 * 60);
/// When to come back to a full queue, in seconds: consumers make room all the time, and a refusal costs little.
pub const QUEUE_FULL_RETRY_SECONDS: u64 = 1;
/// When to come back to a full queue that is paused, or a full disk, in seconds: somebody has to do something about them.
pub const OPERATOR_RETRY_SECONDS: u64 = 30;

/// Messages that one call leases, peeks at or settles.
pub const PAGE_MAX: usize = 1000;
/// Messages that one peek returns unless it says otherwise.
pub const PAGE_DEFAULT: usize = 100;
/// A response takes no more messages once it has this many bytes; the rest comes with the next call.
pub const RESPONSE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest wait of a lease call for its first message.
pub const LEASE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Shortest lease.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(1);
/// Longest lease.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// A lease lasts this long unless the call says otherwise.
pub const LEASE_TTL_DEFAULT: Duration = Duration::from_secs(30);
/// Longest delay that a retry may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Longest reason of a settlement, in bytes: it is kept in the message's history.
pub const REASON_BYTES_MAX: usize = 4 * 1024;
/// Messages that one transaction of a bulk change touches.
pub const BULK_STEP_MESSAGES: usize = 1000;
/// Transactions of one bulk call; then it answers with where to go on.
pub const BULK_STEPS_MAX: usize = 100;
/// Messages that one bulk call changes, unless it asks for fewer.
pub const BULK_CALL_MESSAGES_MAX: u64 = 100_000;
/// Attributes that one filter of dead letters names.
pub const FILTER_ATTRIBUTES_MAX: usize = 16;
/// Dead letters that the search for a single one looks at.
pub const DEAD_SCAN_MAX: usize = 100_000;
/// What is read at once of a copy of the store while it is streamed, in bytes.
pub const BACKUP_READ_BYTES: usize = 256 * 1024;
