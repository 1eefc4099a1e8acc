//! The small records: a queue's counters, what is global, and a queue's name and settings. Each starts with a version; its checksum is
//! its table's business, see [`crate::seal`].

use std::time::Duration;

use pelton_core::engine::{Bounds, Expired, Order, Overflow, QueueDefinition};
use pelton_core::name::QueueName;
use pelton_core::retry::{Backoff, RetryPolicy};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

const VERSION: u8 = 2;

/// What a queue holds on disk, leased messages among it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    /// Rows in `ready`.
    pub(crate) ready: u64,
    /// Rows in `due`, held ones among them.
    pub(crate) due: u64,
    /// Rows in `parked`.
    pub(crate) parked: u64,
    /// Rows in `retrying`: messages elsewhere that come before others of their key.
    pub(crate) retrying: u64,
    /// Of all messages, those that expire.
    pub(crate) expiring: u64,
    /// Of the rows in `due`, those that are held.
    pub(crate) held: u64,
    /// Bytes of all these rows and of their bodies, shared ones counted in full.
    pub(crate) bytes: u64,
}

impl Counters {
    /// Messages in all.
    pub(crate) fn messages(self) -> u64 {
        self.ready + self.due + self.parked
    }
}

/// What the whole store must not forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Global {
    /// The position that the next message gets.
    pub(crate) next_position: u64,
    /// How often the store has been opened.
    pub(crate) epoch: u64,
    /// How many commits it has seen.
    pub(crate) commit: u64,
    /// The id that the next queue gets.
    pub(crate) next_queue: u32,
}

/// A queue's id and settings, as they were last declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    pub(crate) id: u32,
    pub(crate) declared: bool,
    pub(crate) paused: bool,
    pub(crate) dead_letter: Option<u32>,
    pub(crate) settings: Settings,
    /// Whether it ever kept priorities, so that its messages may have any rank.
    pub(crate) ranked: bool,
    /// Its order was changed, and its rows may still lie as in the other.
    #[serde(default)]
    pub(crate) turning: bool,
}

/// What a queue was declared as. Its field names are those of broker.toml; what is missing is as if nothing were declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    pub(crate) max_attempts: u32,
    pub(crate) max_age_ms: Option<u64>,
    pub(crate) backoff_initial_ms: u64,
    pub(crate) backoff_factor: f64,
    pub(crate) backoff_max_ms: u64,
    pub(crate) backoff_jitter: f64,
    pub(crate) order_by_key: bool,
    pub(crate) priority: bool,
    pub(crate) max_messages: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) overflow: StoredOverflow,
    pub(crate) expired_dropped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredOverflow {
    #[default]
    Refuse,
    DropOldest,
    DeadLetter,
}

impl Default for Settings {
    fn default() -> Self {
        let name = QueueName::new("default").expect("it is a queue's name");
        Self::of(&QueueDefinition::new(name))
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Settings {
    pub(crate) fn of(queue: &QueueDefinition) -> Self {
        let RetryPolicy { max_attempts, max_age, backoff } = &queue.retry;
        Self {
            max_attempts: *max_attempts,
            max_age_ms: max_age.map(ms),
            backoff_initial_ms: ms(backoff.initial),
            backoff_factor: backoff.factor,
            backoff_max_ms: ms(backoff.max),
            backoff_jitter: backoff.jitter,
            order_by_key: queue.order == Order::Key,
            priority: queue.priority,
            max_messages: queue.bounds.messages_max,
            max_bytes: queue.bounds.bytes_max,
            overflow: match queue.bounds.overflow {
                Overflow::Refuse => StoredOverflow::Refuse,
                Overflow::DropOldest => StoredOverflow::DropOldest,
                Overflow::DeadLetter => StoredOverflow::DeadLetter,
            },
            expired_dropped: queue.expired == Expired::Drop,
        }
    }

    pub(crate) fn retry(&self) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts,
            max_age: self.max_age_ms.map(Duration::from_millis),
            backoff: Backoff {
                initial: Duration::from_millis(self.backoff_initial_ms),
                factor: self.backoff_factor,
                max: Duration::from_millis(self.backoff_max_ms),
                jitter: self.backoff_jitter,
            },
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let overflow = match self.overflow {
            StoredOverflow::Refuse => Overflow::Refuse,
            StoredOverflow::DropOldest => Overflow::DropOldest,
            StoredOverflow::DeadLetter => Overflow::DeadLetter,
        };
        Bounds { messages_max: self.max_messages, bytes_max: self.max_bytes, overflow }
    }
}

/// Reads fixed-width parts in order and checks at the end that nothing is missing or left over.
struct Parts<'a> {
    rest: &'a [u8],
    complete: bool,
}

impl<'a> Parts<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Self { rest, complete: true },
            _ => Self { rest: &[], complete: false },
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((part, rest)) => {
                self.rest = rest;
                *part
            }
            None => {
                self.complete = false;
                [0; N]
            }
        }
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn finish<T>(self, record: T, what: &str) -> Result<T, Failure> {
        let whole = self.complete && self.rest.is_empty();
        if whole { Ok(record) } else { Err(Failure::Damaged(format!("the {what} record is damaged"))) }
    }
}

/// Bytes of encoded [`Counters`]: the version, seven numbers.
const COUNTERS_BYTES: usize = 1 + 7 * 8;
/// Bytes of encoded [`Global`]: the version, four numbers.
const GLOBAL_BYTES: usize = 1 + 3 * 8 + 4;

impl Counters {
    pub(crate) fn encode(self) -> [u8; COUNTERS_BYTES] {
        let Self { ready, due, parked, retrying, expiring, held, bytes } = self;
        let mut encoded = [VERSION; COUNTERS_BYTES];
        let numbers = [ready, due, parked, retrying, expiring, held, bytes];
        for (part, number) in encoded[1..].chunks_exact_mut(8).zip(numbers) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        encoded
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        let mut parts = Parts::new(bytes);
        let record = Self {
            ready: parts.u64(),
            due: parts.u64(),
            parked: parts.u64(),
            retrying: parts.u64(),
            expiring: parts.u64(),
            held: parts.u64(),
            bytes: parts.u64(),
        };
        parts.finish(record, "counters")
    }
}

impl Global {
    pub(crate) fn encode(self) -> [u8; GLOBAL_BYTES] {
        let mut bytes = [VERSION; GLOBAL_BYTES];
        bytes[1..9].copy_from_slice(&self.next_position.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[17..25].copy_from_slice(&self.commit.to_le_bytes());
        bytes[25..29].copy_from_slice(&self.next_queue.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        let mut parts = Parts::new(bytes);
        let record =
            Self { next_position: parts.u64(), epoch: parts.u64(), commit: parts.u64(), next_queue: parts.u32() };
        parts.finish(record, "global counters")
    }
}

impl NameRecord {
    /// A queue that nobody has declared yet.
    pub(crate) fn new(id: u32) -> Self {
        let settings = Settings::default();
        Self { id, declared: false, paused: false, dead_letter: None, settings, ranked: false, turning: false }
    }

    /// A version byte, then JSON: it is read at start and written when something is declared.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        serde_json::to_writer(&mut bytes, self).expect("a record is texts and numbers, written to memory");
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        let damaged = |reason: String| Failure::Damaged(format!("the record of a queue is damaged: {reason}"));
        match bytes.split_first() {
            Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| damaged(error.to_string())),
            _ => Err(damaged("its version is wrong".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_whole_and_damage_does_not_pass() {
        let counters = Counters { ready: 1, due: u64::MAX, parked: 2, retrying: 4, expiring: 5, held: 6, bytes: 3 };
        assert_eq!(Counters::decode(&counters.encode()), Ok(counters));
        let global = Global { next_position: 9, epoch: 8, commit: 7, next_queue: 6 };
        assert_eq!(Global::decode(&global.encode()), Ok(global));
        for dead_letter in [None, Some(0), Some(5)] {
            let settings = Settings { max_messages: Some(7), order_by_key: true, ..Settings::default() };
            let name =
                NameRecord { id: 4, declared: true, paused: true, dead_letter, settings, ranked: true, turning: true };
            assert_eq!(NameRecord::decode(&name.encode()), Ok(name));
        }
        assert!(Counters::decode(&counters.encode()[..COUNTERS_BYTES - 1]).is_err());
        assert!(Global::decode(&[&global.encode()[..], &[0]].concat()).is_err());
        let mut newer = global.encode();
        newer[0] = VERSION + 1;
        assert!(Global::decode(&newer).is_err());
    }
}
