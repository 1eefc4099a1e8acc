//! Every threshold of the engine, so that a test can shrink all of them.

use std::time::Duration;

/// The engine's thresholds. The defaults suit two cores and a broker in 150 MB.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// redb's page cache, in bytes. It holds dirty pages too.
    pub cache_bytes: usize,
    /// Most messages that a queue keeps in memory ahead of its consumers.
    pub window_entries: usize,
    /// Most bytes of them per queue; a single larger message passes.
    pub window_bytes: usize,
    /// Most bytes of all windows: each queue gets an equal part, though never less than a sixteenth of `window_bytes`.
    pub windows_bytes: usize,
    /// Most messages read from disk into a window at once.
    pub refill_entries: usize,
    /// A queue that is behind is read ahead when its window has fewer messages than this.
    pub refill_below: usize,
    /// Most keys of waiting messages that a queue keeps in memory.
    pub due_entries: usize,
    /// Most leases at once; beyond them nothing is leased until some end.
    pub leases: usize,
    /// Most messages in one answer to a lease request.
    pub lease_entries: usize,
    /// Most bytes in one answer to a lease request; a single larger message passes.
    pub lease_bytes: usize,
    /// Settled leases that are remembered, so that settling one twice is told from having lost it.
    pub settled_remembered: usize,
    /// Attempts kept of one message; older ones are dropped.
    pub attempts_kept: u32,
    /// Largest body that lies in its message's row when the message went to one queue, in bytes.
    pub inline_bytes: usize,
    /// The same when it went to several.
    pub inline_bytes_shared: usize,
    /// A larger body is cut into pieces of this size, a little below a power of two as redb's pages are.
    pub chunk_bytes: usize,
    /// How long so many messages wait in memory for their keys that they fill half a window, before they are parked on disk.
    pub park_after: Duration,
    /// Messages that one lease request may find expired or in the way and have staged, before it is answered.
    pub stage_on_lease: usize,
    /// Rows looked at in one step of collecting what expired.
    pub sweep_rows: usize,
    /// The pause after a step that found nothing, so that long queues don't keep the writer busy.
    pub sweep_step_wait: Duration,
    /// The pause after all queues were looked at for what expired.
    pub sweep_wait: Duration,
    /// Rows that one step of changing a queue's order moves.
    pub order_rows: usize,
    /// Identities of a dead generation that one commit deletes.
    pub dedup_delete_rows: usize,
    /// Rows looked at in one step of a bulk change.
    pub bulk_scan_rows: usize,
    /// Most bytes of messages on one page of browsing; a single larger message passes.
    pub page_bytes: usize,
    /// Kept on disk in reserve for when that is full, in bytes: what consuming needs until room is made.
    pub reserve_bytes: u64,
    /// Most commands in one batch.
    pub batch_commands: usize,
    /// A batch that appends this many messages, or settles this many, is closed.
    pub batch_messages: usize,
    /// The same for the messages appended by a batch that settles as well. Consumers come back once a commit, so that
    /// short commits keep their pace when producers send more than the disk takes; beyond some 1,000 messages a commit
    /// costs the same for each.
    pub batch_appends: usize,
    /// After a batch of more writing commands than this, the writer waits for about as many to come again before it
    /// commits: those that it just answered are on their way back.
    pub gather_from: usize,
    /// How long it waits for them at most.
    pub gather: Duration,
    /// How many it waits for at most.
    pub gather_max: usize,
    /// Bytes of appends that may wait for the writer; further callers wait for room.
    pub backlog_bytes: usize,
    /// From this file size on, in bytes, every commit records redb's allocator state, so that opening after a crash
    /// needs no walk over the file (0.5 s per GB).
    pub quick_repair_bytes: u64,
    /// After this long without a commit, one more records the allocator state.
    pub idle: Duration,
    /// How often the disk is asked for its room.
    pub space_wait: Duration,
    /// The first wait before a failed store is reopened; it doubles.
    pub reopen_min: Duration,
    /// The longest such wait.
    pub reopen_max: Duration,
    /// How often a writer that waits for a time looks at the clocks, since they may step.
    pub tick: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            cache_bytes: 40 << 20,
            window_entries: 4096,
            window_bytes: 4 << 20,
            windows_bytes: 32 << 20,
            refill_entries: 1024,
            refill_below: 512,
            due_entries: 4096,
            leases: 262_144,
            lease_entries: 1000,
            lease_bytes: 16 << 20,
            settled_remembered: 65_536,
            attempts_kept: 100,
            inline_bytes: 16 << 10,
            inline_bytes_shared: 1 << 10,
            chunk_bytes: (64 << 10) - 512,
            park_after: Duration::from_millis(10),
            stage_on_lease: 1000,
            sweep_rows: 1000,
            sweep_step_wait: Duration::from_millis(20),
            sweep_wait: Duration::from_secs(1),
            order_rows: 1000,
            dedup_delete_rows: 2000,
            bulk_scan_rows: 10_000,
            page_bytes: 8 << 20,
            reserve_bytes: 16 << 20,
            batch_commands: 4096,
            batch_messages: 8192,
            batch_appends: 2048,
            gather_from: 16,
            gather: Duration::from_micros(300),
            gather_max: 256,
            backlog_bytes: 64 << 20,
            quick_repair_bytes: 1 << 30,
            idle: Duration::from_secs(1),
            space_wait: Duration::from_millis(250),
            reopen_min: Duration::from_millis(50),
            reopen_max: Duration::from_secs(5),
            tick: Duration::from_millis(20),
        }
    }
}

impl Tuning {
    /// How much may wait for keys in memory.
    pub(crate) fn crowd(&self) -> Crowd {
        Crowd { entries: self.window_entries / 2, bytes: self.window_bytes / 2 }
    }

    /// The most bytes of one queue's window when there are `queues` of them.
    pub(crate) fn window_bytes_of(&self, queues: usize) -> usize {
        (self.windows_bytes / queues.max(1)).clamp(self.window_bytes / 16, self.window_bytes)
    }
}

/// Messages and bytes from which on something is too much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

impl Crowd {
    /// Whether so much is too much.
    pub(crate) fn is_reached(self, entries: usize, bytes: usize) -> bool {
        entries >= self.entries.max(1) || bytes >= self.bytes.max(1)
    }
}
