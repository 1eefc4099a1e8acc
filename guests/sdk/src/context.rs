//! Facts about the running delivery and its consumer.

use std::time::Duration;

use crate::host;

/// The value of `key` in the consumer's `config` (or `secrets`) table of broker.toml; none if it has no such key.
///
/// # Panics
/// When the host can't look it up: then the delivery is tried again.
#[must_use]
pub fn config(key: &str) -> Option<String> {
    match host::config(key) {
        Ok(value) => value,
        Err(reason) => panic!("the host can't look up the configuration value '{key}': {reason}"),
    }
}

/// The consumer's name in broker.toml.
#[must_use]
pub fn consumer() -> String {
    host::consumer()
}

/// Where the message comes from, as broker.toml spells it: `queue:reviews`.
#[must_use]
pub fn source() -> String {
    host::source()
}

/// How long until this call is interrupted. Ask before beginning something long, and return [`Error::retry`](crate::Error::retry)
/// instead.
#[must_use]
pub fn remaining() -> Duration {
    Duration::from_millis(u64::from(host::remaining_ms()))
}
