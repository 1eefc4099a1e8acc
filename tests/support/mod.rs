//! What cases share: the binary and the guests they run, brokers on free ports with data of their own, and waiting with a bound.
//!
//! Invariants: nothing sleeps to wait for something, nothing uses a fixed port, every broker's process ends with its test, and a
//! test that fails shows what its broker said.

mod api;
mod binary;
mod broker;
mod command;
mod snapshot;
mod wait;

pub(crate) use self::api::{Api, Reply, event, ids, send, subjects, tally, try_send};
pub(crate) use self::binary::root;
pub(crate) use self::broker::{TestBroker, example_target, with_guests, without_consumers};
pub(crate) use self::command::{command, finish, pelton};
pub(crate) use self::snapshot::masked;
pub(crate) use self::wait::{BOUND, eventually};
