//! The small records: a queue's counters, what is global, and a queue's name and settings. Each starts with a version.

use crate::failure::Failure;

const VERSION: u8 = 1;
const NO_QUEUE: u32 = u32::MAX;

/// What a queue holds on disk, leased messages among it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    /// Rows in `ready`.
    pub(crate) ready: u64,
    /// Rows in `due`, held ones among them.
    pub(crate) due: u64,
    /// Bytes of all these rows and of their bodies, shared ones counted in full.
    pub(crate) bytes: u64,
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

/// A queue's id and settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameRecord {
    pub(crate) id: u32,
    pub(crate) declared: bool,
    pub(crate) dead_letter: Option<u32>,
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

impl Counters {
    pub(crate) fn encode(self) -> [u8; 25] {
        let mut bytes = [VERSION; 25];
        bytes[1..9].copy_from_slice(&self.ready.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.due.to_le_bytes());
        bytes[17..25].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        let mut parts = Parts::new(bytes);
        let record = Self { ready: parts.u64(), due: parts.u64(), bytes: parts.u64() };
        parts.finish(record, "counters")
    }
}

impl Global {
    pub(crate) fn encode(self) -> [u8; 29] {
        let mut bytes = [VERSION; 29];
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
    pub(crate) fn encode(self) -> [u8; 10] {
        let mut bytes = [VERSION; 10];
        bytes[1..5].copy_from_slice(&self.id.to_le_bytes());
        bytes[5] = u8::from(self.declared);
        bytes[6..10].copy_from_slice(&self.dead_letter.unwrap_or(NO_QUEUE).to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        let mut parts = Parts::new(bytes);
        let id = parts.u32();
        let declared = parts.take::<1>() == [1];
        let dead_letter = Some(parts.u32()).filter(|id| *id != NO_QUEUE);
        parts.finish(Self { id, declared, dead_letter }, "queue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_whole_and_damage_does_not_pass() {
        let counters = Counters { ready: 1, due: u64::MAX, bytes: 3 };
        assert_eq!(Counters::decode(&counters.encode()), Ok(counters));
        let global = Global { next_position: 9, epoch: 8, commit: 7, next_queue: 6 };
        assert_eq!(Global::decode(&global.encode()), Ok(global));
        for dead_letter in [None, Some(0), Some(5)] {
            let name = NameRecord { id: 4, declared: true, dead_letter };
            assert_eq!(NameRecord::decode(&name.encode()), Ok(name));
        }
        assert!(Counters::decode(&counters.encode()[..24]).is_err());
        assert!(Global::decode(&[&global.encode()[..], &[0]].concat()).is_err());
        let mut newer = global.encode();
        newer[0] = 2;
        assert!(Global::decode(&newer).is_err());
    }
}
