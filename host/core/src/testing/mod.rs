//! What tests of this crate and of others stand on: a clock that they move, an engine in memory, a runtime without
//! sandboxes, and the suite that every engine passes.
//!
//! Only under feature `testing` (or this crate's own tests). Failures here are panics: their readers are tests.

#[cfg(test)]
mod broker;
mod clock;
pub mod conformance;
mod memory;
mod runtime;

pub use self::clock::{Moment, TestClock};
pub use self::memory::MemoryEngine;
pub use self::runtime::{FakeRuntime, Invocation, done, emit, emitting, ended, fault, reject, retry, unlimited};
