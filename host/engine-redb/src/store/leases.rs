//! Who holds what: leases by entry, those with an end by time, and the leases settled last.
//!
//! Invariant: `ends` has exactly the leases with an end.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use pelton_core::clock::{Monotonic, WallMs};
use pelton_core::engine::{LeaseToken, Position, SettleError};

/// Where a message's row lies within its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In `ready`.
    Ready { rank: u8, position: u64 },
    /// In `due`.
    Due { due: u64, position: u64 },
    /// In `parked`.
    Parked { key: u64, position: u64 },
}

impl Place {
    pub(crate) fn position(self) -> u64 {
        match self {
            Self::Ready { position, .. } | Self::Due { position, .. } | Self::Parked { position, .. } => position,
        }
    }

    /// As others are told of it.
    pub(crate) fn told(self) -> pelton_core::engine::Place {
        let (kind, detail) = match self {
            Self::Ready { rank, .. } => (0, u64::from(rank)),
            Self::Due { due, .. } => (1, due),
            Self::Parked { key, .. } => (2, key),
        };
        pelton_core::engine::Place { position: Position(self.position()), detail, kind }
    }

    /// The place that others were told of; none where it was never one.
    pub(crate) fn of_told(told: pelton_core::engine::Place) -> Option<Self> {
        let (position, detail) = (told.position.0, told.detail);
        match told.kind {
            0 => Some(Self::Ready { rank: u8::try_from(detail).ok()?, position }),
            1 => Some(Self::Due { due: detail, position }),
            2 => Some(Self::Parked { key: detail, position }),
            _ => None,
        }
    }
}

/// A lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    pub(crate) queue: u32,
    pub(crate) place: Place,
    pub(crate) nonce: u64,
    pub(crate) attempt: u32,
    /// The hash of what its message is kept in order by.
    pub(crate) key: Option<u64>,
    /// 0 to 9.
    pub(crate) priority: u8,
    /// Bytes that its message takes on disk.
    pub(crate) cost: u64,
    /// When the message was accepted.
    pub(crate) accepted: WallMs,
    /// When the lease was given.
    pub(crate) since: WallMs,
    pub(crate) ends: Option<Monotonic>,
}

impl Lease {
    fn is(&self, token: &LeaseToken) -> bool {
        (self.nonce, self.queue, self.attempt, self.accepted)
            == (token.nonce, token.queue.0, token.attempt, token.accepted)
    }
}

/// Hashes numbers that the store made itself: a multiplication spreads them well enough, and deterministically.
#[derive(Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

type ByNumber<V> = HashMap<u64, V, BuildHasherDefault<NumberHasher>>;

/// The leases settled last, by nonce.
#[derive(Debug)]
struct Settled {
    entries: ByNumber<u64>,
    order: VecDeque<u64>,
    capacity: usize,
}

impl Settled {
    fn insert(&mut self, nonce: u64, entry: u64) {
        if self.order.len() >= self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
        self.entries.insert(nonce, entry);
        self.order.push_back(nonce);
    }
}

/// All leases of this opening of the store.
#[derive(Debug)]
pub(crate) struct Leases {
    by_entry: ByNumber<Lease>,
    ends: BTreeSet<(Monotonic, u64)>,
    settled: Settled,
}

impl Leases {
    pub(crate) fn new(settled_remembered: usize) -> Self {
        let settled =
            Settled { entries: HashMap::default(), order: VecDeque::new(), capacity: settled_remembered.max(1) };
        Self { by_entry: HashMap::default(), ends: BTreeSet::new(), settled }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_entry.len()
    }

    pub(crate) fn holds(&self, entry: u64) -> bool {
        self.by_entry.contains_key(&entry)
    }

    pub(crate) fn get(&self, entry: u64) -> Option<Lease> {
        self.by_entry.get(&entry).copied()
    }

    pub(crate) fn insert(&mut self, entry: u64, lease: Lease) {
        if let Some(ends) = lease.ends {
            self.ends.insert((ends, entry));
        }
        self.by_entry.insert(entry, lease);
    }

    /// The lease that `token` stands for, if it still holds.
    ///
    /// # Errors
    /// [`SettleError::AlreadySettled`] or [`SettleError::LeaseLost`].
    pub(crate) fn find(&self, token: &LeaseToken, epoch: u64) -> Result<Lease, SettleError> {
        if token.epoch != epoch {
            return Err(SettleError::LeaseLost);
        }
        match self.by_entry.get(&token.entry.0) {
            Some(lease) if lease.is(token) => Ok(*lease),
            _ if self.settled.entries.get(&token.nonce) == Some(&token.entry.0) => Err(SettleError::AlreadySettled),
            _ => Err(SettleError::LeaseLost),
        }
    }

    /// Ends a lease; its token is worth nothing from here on.
    pub(crate) fn remove(&mut self, entry: u64) -> Option<Lease> {
        let lease = self.by_entry.remove(&entry)?;
        if let Some(ends) = lease.ends {
            self.ends.remove(&(ends, entry));
        }
        Some(lease)
    }

    /// Remembers that the lease was ended by being settled.
    pub(crate) fn remember_settled(&mut self, token: &LeaseToken) {
        self.settled.insert(token.nonce, token.entry.0);
    }

    /// Lets a lease with an end last until `ends`; one without stays so.
    pub(crate) fn prolong(&mut self, entry: u64, ends: Monotonic) {
        if let Some(lease) = self.by_entry.get_mut(&entry)
            && let Some(old) = lease.ends
        {
            lease.ends = Some(ends);
            self.ends.remove(&(old, entry));
            self.ends.insert((ends, entry));
        }
    }

    pub(crate) fn next_end(&self) -> Option<Monotonic> {
        self.ends.first().map(|(ends, _)| *ends)
    }

    /// An entry whose lease has run out, if there is one.
    pub(crate) fn first_expired(&self, now: Monotonic) -> Option<u64> {
        self.ends.first().filter(|(ends, _)| *ends <= now).map(|(_, entry)| *entry)
    }
}

#[cfg(test)]
mod tests {
    use pelton_core::engine::{EntryId, QueueId};

    use super::*;

    const EPOCH: u64 = 3;

    fn token(entry: u64, nonce: u64) -> LeaseToken {
        LeaseToken { queue: QueueId(1), entry: EntryId(entry), epoch: EPOCH, attempt: 1, accepted: WallMs(0), nonce }
    }

    fn lease(nonce: u64, ends: Option<u64>) -> Lease {
        let place = Place::Ready { rank: 5, position: 5 };
        let ends = ends.map(Monotonic);
        Lease {
            queue: 1,
            place,
            nonce,
            attempt: 1,
            key: None,
            priority: 4,
            cost: 0,
            accepted: WallMs(0),
            since: WallMs(0),
            ends,
        }
    }

    #[test]
    fn every_part_of_a_token_is_checked() {
        let mut leases = Leases::new(8);
        leases.insert(5, lease(77, None));
        assert!(leases.find(&token(5, 77), EPOCH).is_ok());
        let wrong = [
            (token(5, 78), EPOCH),
            (token(6, 77), EPOCH),
            (token(5, 77), EPOCH + 1),
            (LeaseToken { queue: QueueId(2), ..token(5, 77) }, EPOCH),
            (LeaseToken { attempt: 2, ..token(5, 77) }, EPOCH),
            (LeaseToken { accepted: WallMs(1), ..token(5, 77) }, EPOCH),
        ];
        for (token, epoch) in wrong {
            assert_eq!(leases.find(&token, epoch).err(), Some(SettleError::LeaseLost), "{token}");
        }
    }

    #[test]
    fn settled_leases_are_remembered_up_to_a_bound() {
        let mut leases = Leases::new(2);
        for entry in 1..=3 {
            leases.insert(entry, lease(entry, None));
            leases.remove(entry);
            leases.remember_settled(&token(entry, entry));
        }
        assert_eq!(leases.find(&token(3, 3), EPOCH).err(), Some(SettleError::AlreadySettled));
        assert_eq!(leases.find(&token(1, 1), EPOCH).err(), Some(SettleError::LeaseLost), "beyond the bound");
        assert_eq!(leases.find(&token(3, 2), EPOCH).err(), Some(SettleError::LeaseLost), "another's nonce");
    }

    #[test]
    fn ends_follow_their_leases() {
        let mut leases = Leases::new(2);
        leases.insert(1, lease(1, Some(10)));
        leases.insert(2, lease(2, None));
        leases.prolong(1, Monotonic(20));
        leases.prolong(2, Monotonic(20));
        leases.prolong(2, Monotonic(20));
        assert_eq!(leases.first_expired(Monotonic(19)), None);
        assert_eq!(leases.first_expired(Monotonic(20)), Some(1));
        leases.remove(1);
        assert_eq!(leases.next_end(), None, "a lease without an end stays so");
    }
}
