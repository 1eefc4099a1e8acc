//! pelton-core: the words, rules and seams of the broker, and the dispatch loop between them.
//!
//! It knows no storage, no sandbox and no protocol: those stand behind [`engine::Engine`], [`runtime::Runtime`] and
//! [`door::Door`]. Rules ([`route`], [`retry`], [`settle`], [`config`]) are pure; I/O and time come in from outside.

pub mod broker;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod door;
pub mod engine;
pub mod in_flight;
pub mod message;
pub mod metrics;
pub mod name;
pub mod operator;
pub mod plan;
pub mod retry;
pub mod route;
pub mod runtime;
pub mod schedule;
pub mod settle;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
