//! The API against a broker in memory, and the door on a socket.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod backup;
mod dead;
mod delivery;
mod faulty;
mod general;
mod operate;
mod publish;
mod pull;
mod socket;
mod storage;
mod support;
