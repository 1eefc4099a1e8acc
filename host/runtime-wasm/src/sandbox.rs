//! What the host knows about one running delivery: the data of its store, and the host's side of every import but `emit`.
//!
//! Invariants: nothing is granted (no files, sockets, environment, arguments); whatever the guest can make the host keep is
//! bounded; what most deliveries never use (WASI's context, the journal) is made at first use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pelton_core::runtime::{ComponentSpec, EmitGate};
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::bindings::pelton::broker::{context, types};
use crate::bindings::wasi::config::store as config;
use crate::bindings::wasi::logging::logging;
use crate::emit::Emits;
use crate::journal::{Journal, Stream};
use crate::lane::Turn;

/// Most handles a guest may hold at the same time: streams, pollables and the like.
pub(crate) const HANDLES_MAX: usize = 1024;
/// Most random bytes that one call returns.
const RANDOM_BYTES_MAX: u64 = 64 * 1024;
/// Most bytes that a stream takes at a time.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// Most elements of one table; the pool has no larger ones.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 50_000;

/// What outlives the store's borrow: the future around the call and the guest's streams share it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) turn: Turn,
    journal: Mutex<Journal>,
}

impl Shared {
    pub(crate) fn new(turn: Turn, log_bytes_max: u32) -> Self {
        Self { turn, journal: Mutex::new(Journal::new(log_bytes_max as usize)) }
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<Turn> for Shared {
    fn as_ref(&self) -> &Turn {
        &self.turn
    }
}

/// The data of a delivery's store.
pub(crate) struct Sandbox {
    pub(crate) spec: Arc<ComponentSpec>,
    pub(crate) source: Arc<str>,
    pub(crate) gate: Arc<dyn EmitGate>,
    pub(crate) deadline: Instant,
    pub(crate) shared: Arc<Shared>,
    pub(crate) memory: MemoryLimiter,
    pub(crate) emits: Emits,
    table: ResourceTable,
    wasi: Option<WasiCtx>,
}

impl Sandbox {
    pub(crate) fn new(
        spec: Arc<ComponentSpec>,
        source: Arc<str>,
        gate: Arc<dyn EmitGate>,
        deadline: Instant,
        shared: Arc<Shared>,
        emits: Emits,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let memory = MemoryLimiter::new(spec.limits.memory_bytes);
        Self { spec, source, gate, deadline, shared, memory, emits, table, wasi: None }
    }
}

impl WasiView for Sandbox {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let shared = &self.shared;
        WasiCtxView { ctx: self.wasi.get_or_insert_with(|| wasi(shared)), table: &mut self.table }
    }
}

/// A context that denies everything but clocks, random bytes and the journal's two streams.
fn wasi(shared: &Arc<Shared>) -> WasiCtx {
    let stream = |stream| Output { shared: Arc::clone(shared), stream };
    let mut builder = WasiCtx::builder();
    builder.stdout(stream(Stream::Stdout)).stderr(stream(Stream::Stderr));
    builder.allow_tcp(false).allow_udp(false).max_random_size(RANDOM_BYTES_MAX);
    builder.build()
}

/// One of the guest's streams, writing into the delivery's journal.
#[derive(Debug, Clone)]
struct Output {
    shared: Arc<Shared>,
    stream: Stream,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 would ask for it, which this runtime does not have.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.shared.journal().write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }

    async fn blocking_write_and_flush(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.write(bytes)
    }
}

/// Bounds the linear memory of all of a delivery's instances together.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    bytes_max: u64,
    bytes: u64,
    /// Whether more was asked for than there may be.
    pub(crate) denied: bool,
}

impl MemoryLimiter {
    fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, denied: false }
    }
}

impl wasmtime::ResourceLimiter for MemoryLimiter {
    /// Refuses by answer and not by error: a guest may cope, or raise its own out-of-memory exception.
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let after = self.bytes.saturating_add(desired.saturating_sub(current) as u64);
        if after > self.bytes_max || maximum.is_some_and(|maximum| desired > maximum) {
            self.denied = true;
            return Ok(false);
        }
        self.bytes = after;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX && maximum.is_none_or(|maximum| desired <= maximum))
    }
}

impl types::Host for Sandbox {}

impl context::Host for Sandbox {
    fn consumer(&mut self) -> wasmtime::Result<String> {
        Ok(self.spec.consumer.to_string())
    }

    fn source(&mut self) -> wasmtime::Result<String> {
        Ok(self.source.to_string())
    }

    fn remaining(&mut self) -> wasmtime::Result<u32> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        Ok(u32::try_from(left.as_millis()).unwrap_or(u32::MAX))
    }
}

impl config::Host for Sandbox {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config::Error>> {
        let found = self.spec.config.iter().find(|(known, _)| *known == key);
        Ok(Ok(found.map(|(_, value)| value.clone())))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::Error>> {
        Ok(Ok(self.spec.config.clone()))
    }
}

impl logging::Host for Sandbox {
    fn log(&mut self, level: logging::Level, context: String, message: String) -> wasmtime::Result<()> {
        let level = match level {
            logging::Level::Trace => "TRACE",
            logging::Level::Debug => "DEBUG",
            logging::Level::Info => "INFO",
            logging::Level::Warn => "WARN",
            logging::Level::Error => "ERROR",
            logging::Level::Critical => "CRITICAL",
        };
        self.shared.journal().log(level, &context, &message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiter as _;

    use super::*;

    const PAGE: usize = 64 * 1024;

    #[test]
    fn memory_is_summed_over_all_memories_and_refusal_is_remembered() {
        let mut limiter = MemoryLimiter::new(10 * PAGE as u64);
        let mut grow = |from: usize, to: usize| limiter.memory_growing(from * PAGE, to * PAGE, None).expect("no error");
        assert!(grow(0, 4));
        assert!(grow(0, 4));
        assert!(grow(4, 6));
        assert!(!grow(4, 5), "the eleventh page");
        assert!(limiter.denied);
    }
}
