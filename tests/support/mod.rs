//! What cases share: the binary and the guests they run, brokers on free ports with data of their own, and waiting with a bound.
//!
//! Invariants: nothing sleeps to wait for something, nothing uses a fixed port, every broker's process ends with its test, and a
//! test that fails shows what its broker said.

mod api;
mod binary;
mod broker;
mod command;
mod disk;
mod faults;
mod ledger;
mod load;
mod snapshot;
mod soak;
mod wait;

pub(crate) use self::api::{Api, Reply, event, ids, send, subjects, tally, text_event, try_send, with};
pub(crate) use self::binary::root;
pub(crate) use self::broker::{TestBroker, example_target, with_guests, without_consumers};
pub(crate) use self::command::{command, finish, pelton};
pub(crate) use self::disk::SmallDisk;
pub(crate) use self::faults::{Calls, CarriedOut, Errno, Fault, Faults};
pub(crate) use self::ledger::{Fate, Ledger, Sums};
pub(crate) use self::load::{Load, THREE_WAYS};
pub(crate) use self::snapshot::masked;
pub(crate) use self::soak::{Soak, moment};
pub(crate) use self::wait::{BOUND, eventually};
