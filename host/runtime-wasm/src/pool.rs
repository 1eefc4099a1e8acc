//! The engine and what its deliveries share: slots, turns and the ticker.
//!
//! Invariants: a delivery has a slot before it makes a sandbox, so that the pool never runs out; compiled code depends only
//! on [`compile_config`], so that the compiling process and this one agree on it.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::backtrace::BACKTRACE_FRAMES_MAX;
use crate::lane::Lane;
use crate::sandbox::TABLE_ELEMENTS_MAX;
use crate::ticker::Ticker;

/// Stack of guest code, in bytes.
const WASM_STACK_BYTES: usize = 1 << 20;
/// Stack of a delivery, in bytes: guest code and the host code that it calls.
const FIBER_STACK_BYTES: usize = 2 << 20;
/// Core modules of one component. Components from Python have 14, from Rust 3.
const CORE_INSTANCES_PER_COMPONENT: u32 = 64;
const MEMORIES_PER_COMPONENT: u32 = 2;
const TABLES_PER_COMPONENT: u32 = 4;
/// Most linear memory that a consumer can be given, in bytes.
pub(crate) const MEMORY_BYTES_MAX: usize = 1 << 30;
/// Most slots whose memories fit the 47 bits of an address space: two memories of 4 GiB and their guards each.
const SLOTS_MAX: usize = 10_000;
/// Memory that all slots together may keep resident between deliveries, in bytes.
const RESIDENT_BYTES: usize = 64 << 20;
/// Memory that one slot may keep resident, in bytes.
const RESIDENT_BYTES_PER_SLOT: usize = 1 << 20;

/// See the module's head.
pub(crate) struct Pool {
    pub(crate) engine: Engine,
    pub(crate) slots: usize,
    pub(crate) permits: Semaphore,
    pub(crate) lane: Arc<Lane>,
    pub(crate) ticker: Ticker,
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The number of slots can't be.
    #[error("{0} sandbox slots: from 1 to {SLOTS_MAX} are possible")]
    Slots(usize),
    /// The engine could not be made: mostly, the address space is limited.
    #[error("the sandbox engine can't be made for {slots} slots: {reason}; fewer slots need less address space")]
    Engine {
        /// How many slots it was to have.
        slots: usize,
        /// What wasmtime said.
        reason: String,
    },
    /// No thread for the ticker.
    #[error("the ticker thread can't be started: {0}")]
    Ticker(#[from] std::io::Error),
}

impl Pool {
    /// A pool of `slots` sandboxes for an executor with `workers` threads.
    pub(crate) fn new(slots: usize, workers: usize, backtrace_lines: bool) -> Result<Self, PoolError> {
        if slots == 0 || slots > SLOTS_MAX {
            return Err(PoolError::Slots(slots));
        }
        let mut config = compile_config(backtrace_lines);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(allocation(slots)));
        let engine = Engine::new(&config).map_err(|error| PoolError::Engine { slots, reason: format!("{error:#}") })?;
        let ticker = Ticker::start(engine.weak())?;
        let turns = workers.saturating_sub(1).max(1);
        Ok(Self { engine, slots, permits: Semaphore::new(slots), lane: Lane::new(turns), ticker })
    }
}

/// Everything that compiled code depends on. `backtrace_lines`: backtraces name files and lines, at the price of parsing
/// debug information for each frame.
pub(crate) fn compile_config(backtrace_lines: bool) -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .native_unwind_info(false)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES_MAX))
        .wasm_backtrace_details(if backtrace_lines {
            WasmBacktraceDetails::Enable
        } else {
            WasmBacktraceDetails::Disable
        });
    config
}

fn allocation(slots: usize) -> PoolingAllocationConfig {
    let count = u32::try_from(slots).expect("bounded by SLOTS_MAX");
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(count)
        .total_stacks(count)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .total_core_instances(CORE_INSTANCES_PER_COMPONENT * count)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_memories_per_module(MEMORIES_PER_COMPONENT)
        .total_memories(MEMORIES_PER_COMPONENT * count)
        .max_memory_size(MEMORY_BYTES_MAX)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_tables_per_module(TABLES_PER_COMPONENT)
        .total_tables(TABLES_PER_COMPONENT * count)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_unused_warm_slots(256);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.linear_memory_keep_resident(RESIDENT_BYTES_PER_SLOT.min(RESIDENT_BYTES / slots))
            .table_keep_resident(64 * 1024)
            .pagemap_scan(Enabled::Auto);
    } else {
        // Without a scan the lowest bytes would be kept, which hold the unused part of the guest's stack.
        pool.linear_memory_keep_resident(0).table_keep_resident(16 * 1024);
    }
    pool
}
