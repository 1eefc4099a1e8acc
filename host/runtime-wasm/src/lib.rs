//! pelton-runtime-wasm: runs consumers as WebAssembly components with wasmtime. The only crate that names wasmtime.
//!
//! [`WasmRuntime`] implements [`pelton_core::runtime::Runtime`]: it loads components ([`world`] checks them, [`compile`] and
//! [`cache`] make their code) and hands out handlers. A [`handler`] runs each delivery in a fresh [`sandbox`] out of one
//! [`pool`], under a deadline that [`ticker`], [`lane`] and [`watch`] enforce together; [`fault`] says how it ended,
//! [`backtrace`] where, [`journal`] what it said, [`emit`] what it published.

mod backtrace;
mod bindings;
mod cache;
mod compile;
mod emit;
mod fault;
mod handler;
mod journal;
mod lane;
mod pool;
mod runtime;
mod sandbox;
mod ticker;
mod watch;
mod world;

pub use compile::{COMPILE_COMMAND, Compiler, compile_child_main};
pub use pool::PoolError;
pub use runtime::{RuntimeOptions, WasmRuntime};
