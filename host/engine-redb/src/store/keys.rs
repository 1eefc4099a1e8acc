//! The keys of a queue that keeps messages in order by key: which are busy, and what of them waits in memory.
//!
//! A key is *busy* while a message of it is leased, waits to be tried again, or is next to be leased. Messages of a busy key wait
//! in memory at first; when too many do, they are parked on disk. Whoever is served next of a key is the one with the
//! least position among those in memory and those parked. Only busy keys are known here: a hundred thousand others cost nothing.
//!
//! Invariants: every key here is busy; a key that is next to be leased is in `eligible` exactly once; parked rows of a key
//! exist only while it is here, but for those from before the store was opened, which `scan` finds.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use pelton_core::clock::{Monotonic, WallMs};

use super::leases::{NumberHasher, Place};
use super::window::WindowEntry;
use crate::tuning::Crowd;

/// A message that waits for its key.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) place: Place,
    pub(crate) id: u64,
    pub(crate) accepted: WallMs,
    /// None: it is read from disk.
    pub(crate) entry: Option<WindowEntry>,
}

impl Waiting {
    /// Whether it can wait in `parked` instead: what lies in `due` stays there.
    fn is_parkable(&self) -> bool {
        matches!(self.place, Place::Ready { .. })
    }

    /// Bytes that it takes in memory, roughly.
    fn bytes(&self) -> usize {
        self.entry.as_ref().map_or(0, WindowEntry::bytes)
    }
}

/// A busy key.
#[derive(Debug, Default)]
pub(crate) struct Key {
    /// Messages of it that are leased or being settled.
    leased: u32,
    /// Messages of it that wait for their next attempt, by position; one whose time changes counts twice for a moment.
    retrying: BTreeMap<u64, u32>,
    /// The leased that lie in `ready` and stay there until they are settled.
    in_ready: BTreeSet<u64>,
    /// Messages in `ready` that are known on disk to come before those parked.
    marked: BTreeSet<u64>,
    /// It is in the line of those that are served next.
    eligible: bool,
    waiting: BTreeMap<u64, Waiting>,
    /// The first that is parked, as far as anybody looked; it may be gone.
    parked: Option<u64>,
}

impl Key {
    fn is_held_up(&self) -> bool {
        self.leased > 0 || !self.retrying.is_empty()
    }

    /// Whether somebody may be served: nothing of it is leased, and whoever is first does not wait behind one that is tried again later.
    fn may_serve(&self) -> bool {
        let first = self.waiting.keys().next().copied().into_iter().chain(self.parked).min();
        let retry = self.retrying.keys().next();
        self.leased == 0 && retry.is_none_or(|retry| first.is_some_and(|first| first < *retry))
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    by_hash: HashMap<u64, Key, BuildHasherDefault<NumberHasher>>,
    /// Keys that are free and may have something, in the order in which they became so.
    eligible: VecDeque<u64>,
    /// The messages that wait in memory, by when they were accepted, with their keys.
    ages: BTreeMap<(WallMs, u64), u64>,
    /// Those of them that lie in `ready`, and their bytes: the others can't be parked, and are few.
    parkable: usize,
    parkable_bytes: usize,
    /// Since when so many wait that they should be parked.
    crowded: Option<Monotonic>,
    /// Messages are being parked.
    parking: bool,
    /// Keys that were passed over meanwhile.
    passed_over: Vec<u64>,
    /// When the oldest message that was parked, as long as any are, was accepted.
    pub(crate) parked_oldest: Option<WallMs>,
    /// Positions in `parked` and `due` that the transaction being staged takes away: whoever reads those must pass them over.
    pub(crate) gone: BTreeSet<u64>,
    /// Positions in `ready` that were marked when the store was opened.
    aside: BTreeSet<u64>,
    /// Whether the keys of retries from before the store was opened are known.
    pub(crate) loaded: bool,
    /// Parked keys from this one on were not looked at since the store was opened.
    pub(crate) scan: Option<u64>,
}

impl Keys {
    /// What is known of the keys of a queue that was just opened.
    pub(crate) fn unread(parked: u64, retrying: u64) -> Self {
        Self { loaded: retrying == 0, scan: (parked > 0).then_some(0), ..Self::default() }
    }

    pub(crate) fn is_busy(&self, hash: u64) -> bool {
        self.by_hash.contains_key(&hash)
    }

    /// Whether somebody could be served who waits for nothing but a lease.
    pub(crate) fn has_eligible(&self) -> bool {
        !self.eligible.is_empty() || self.scan.is_some()
    }

    /// Whether so much waits in memory that nobody else should come to it. Who waits is parked if that lasts.
    pub(crate) fn is_crowded(&mut self, crowd: Crowd, now: Monotonic) -> bool {
        let crowded = crowd.is_reached(self.parkable, self.parkable_bytes);
        self.crowded = if crowded { self.crowded.or(Some(now)) } else { self.crowded_since(crowd) };
        crowded
    }

    /// Since when those who wait should be parked. Half a crowd still counts, so that a slow key does not end it by a message now and then.
    pub(crate) fn crowded_since(&self, crowd: Crowd) -> Option<Monotonic> {
        self.crowded.filter(|_| crowd.is_reached(self.parkable * 2, self.parkable_bytes * 2))
    }

    /// How many messages wait in memory.
    pub(crate) fn waiting(&self) -> usize {
        self.ages.len()
    }

    /// Whether no key is busy, and none is left to be looked at.
    pub(crate) fn is_idle(&self) -> bool {
        self.by_hash.is_empty() && self.scan.is_none()
    }

    /// A message of the key is leased.
    pub(crate) fn lease(&mut self, hash: u64, place: Place) {
        let key = self.by_hash.entry(hash).or_default();
        key.leased += 1;
        if let Place::Ready { position, .. } = place {
            key.in_ready.insert(position);
        }
    }

    /// A message that is leased, or waits in memory, is about to leave its place. Whether it is marked on disk: not any more.
    pub(crate) fn leave(&mut self, hash: u64, position: u64) -> bool {
        let Some(key) = self.by_hash.get_mut(&hash) else { return false };
        key.in_ready.remove(&position);
        key.marked.remove(&position)
    }

    /// Marks the leased messages of a key that lie in `ready`. Those that were not marked before.
    pub(crate) fn mark(&mut self, hash: u64) -> Vec<u64> {
        let Some(key) = self.by_hash.get_mut(&hash) else { return Vec::new() };
        let new: Vec<u64> = key.in_ready.difference(&key.marked).copied().collect();
        key.marked.extend(new.iter().copied());
        new
    }

    /// Marks the messages of a key that lie in `ready` before `position`, leased or not: they come before a retry at that position.
    /// Those that were not marked before.
    pub(crate) fn mark_before(&mut self, hash: u64, position: u64) -> Vec<u64> {
        let Some(key) = self.by_hash.get_mut(&hash) else { return Vec::new() };
        let in_ready = |waiting: &Waiting| matches!(waiting.place, Place::Ready { .. });
        let waiting =
            key.waiting.range(..position).filter(|(_, waiting)| in_ready(waiting)).map(|(position, _)| position);
        let before = key.in_ready.range(..position).chain(waiting);
        let new: Vec<u64> = before.copied().filter(|position| !key.marked.contains(position)).collect();
        key.marked.extend(new.iter().copied());
        new
    }

    /// Learns of a message in `ready` that is marked on disk, and that nobody holds.
    pub(crate) fn load_marked(&mut self, hash: u64, waiting: Waiting) {
        let position = waiting.place.position();
        self.wait(hash, waiting);
        self.by_hash.entry(hash).or_default().marked.insert(position);
        self.aside.insert(position);
        self.offer(hash);
    }

    /// Whether the message in `ready` came to memory by its mark, so that no window takes it up.
    pub(crate) fn is_aside(&self, position: u64) -> bool {
        self.aside.contains(&position)
    }

    /// A message of the key waits for its next attempt.
    pub(crate) fn retry(&mut self, hash: u64, position: u64) {
        *self.by_hash.entry(hash).or_default().retrying.entry(position).or_default() += 1;
    }

    /// The first position of the key behind which nobody is served: a message there waits for its next attempt.
    pub(crate) fn first_retry(&self, hash: u64) -> Option<u64> {
        self.by_hash.get(&hash)?.retrying.keys().next().copied()
    }

    /// A message of the key is not leased any more.
    pub(crate) fn unlease(&mut self, hash: u64, position: u64) {
        let key = self.by_hash.entry(hash).or_default();
        key.leased = key.leased.saturating_sub(1);
        key.in_ready.remove(&position);
    }

    /// A message of the key does not wait for its next attempt any more: its time has come, or it is gone.
    pub(crate) fn unretry(&mut self, hash: u64, position: u64) {
        let key = self.by_hash.entry(hash).or_default();
        if let Some(times) = key.retrying.get_mut(&position) {
            *times -= 1;
            if *times == 0 {
                key.retrying.remove(&position);
            }
        }
        self.offer(hash);
    }

    /// Puts the key in line if nothing holds it up.
    pub(crate) fn offer(&mut self, hash: u64) {
        if let Some(key) = self.by_hash.get_mut(&hash)
            && key.may_serve()
            && !key.eligible
        {
            key.eligible = true;
            self.eligible.push_back(hash);
        }
    }

    /// The next key to serve; it is not in line any more.
    pub(crate) fn next_eligible(&mut self) -> Option<u64> {
        while let Some(hash) = self.eligible.pop_front() {
            if let Some(key) = self.by_hash.get_mut(&hash) {
                key.eligible = false;
                if key.may_serve() {
                    return Some(hash);
                }
            }
        }
        None
    }

    /// Learns that a message of the key is parked.
    pub(crate) fn note_parked(&mut self, hash: u64, position: u64) {
        let key = self.by_hash.entry(hash).or_default();
        key.parked = Some(key.parked.map_or(position, |first| first.min(position)));
        self.offer(hash);
    }

    /// Nobody of the key can be served. Whoever is being parked is not there yet: the key is in line again once it is.
    pub(crate) fn pass_over(&mut self, hash: u64) {
        let Some(key) = self.by_hash.get_mut(&hash) else { return };
        if self.parking && key.parked.is_some() {
            self.passed_over.push(hash);
        } else {
            key.parked = None;
            self.retire(hash);
        }
    }

    /// All that was to be parked is.
    pub(crate) fn parked(&mut self) {
        self.parking = false;
        for hash in std::mem::take(&mut self.passed_over) {
            self.offer(hash);
        }
    }

    /// Forgets a free key that has nothing left.
    pub(crate) fn retire(&mut self, hash: u64) {
        if let Some(key) = self.by_hash.get(&hash)
            && !key.is_held_up()
            && !key.eligible
            && key.waiting.is_empty()
            && key.parked.is_none()
            && key.marked.is_empty()
        {
            self.by_hash.remove(&hash);
        }
    }

    /// Lets a message wait for its key.
    pub(crate) fn wait(&mut self, hash: u64, waiting: Waiting) {
        let (position, accepted) = (waiting.place.position(), waiting.accepted);
        if waiting.is_parkable() {
            self.parkable += 1;
            self.parkable_bytes += waiting.bytes();
        }
        if let Some(old) = self.by_hash.entry(hash).or_default().waiting.insert(position, waiting) {
            self.forgotten(&old);
        }
        self.ages.insert((accepted, position), hash);
    }

    /// The position of the first message in memory that waits for the key, from `from` on.
    pub(crate) fn first_waiting(&self, hash: u64, from: u64) -> Option<u64> {
        self.by_hash.get(&hash)?.waiting.range(from..).next().map(|(position, _)| *position)
    }

    /// What memory knows of a message that waits for the key.
    pub(crate) fn waiting_entry(&mut self, hash: u64, position: u64) -> Option<&mut WindowEntry> {
        self.by_hash.get_mut(&hash)?.waiting.get_mut(&position)?.entry.as_mut()
    }

    pub(crate) fn take_waiting(&mut self, hash: u64, position: u64) -> Option<Waiting> {
        let waiting = self.by_hash.get_mut(&hash)?.waiting.remove(&position)?;
        self.forgotten(&waiting);
        Some(waiting)
    }

    /// The oldest message that waits in memory, with its key. It does not wait any more.
    pub(crate) fn take_oldest(&mut self) -> Option<(u64, Waiting)> {
        let ((_, position), hash) = self.ages.first_key_value().map(|(age, hash)| (*age, *hash))?;
        let waiting = self.take_waiting(hash, position)?;
        Some((hash, waiting))
    }

    /// Forgets a message, wherever it is going.
    pub(crate) fn forget(&mut self, hash: u64, position: u64) -> bool {
        let was_there = self.take_waiting(hash, position).is_some();
        self.retire(hash);
        was_there
    }

    fn forgotten(&mut self, waiting: &Waiting) {
        self.ages.remove(&(waiting.accepted, waiting.place.position()));
        if waiting.is_parkable() {
            self.parkable -= 1;
            self.parkable_bytes -= waiting.bytes();
        }
    }

    /// Takes all messages that wait in memory and lie in `ready`, for parking: each with its key.
    pub(crate) fn take_parkable(&mut self) -> Vec<(u64, Waiting)> {
        self.crowded = None;
        let mut taken = Vec::new();
        for (hash, key) in &mut self.by_hash {
            let parkable = |_: &u64, waiting: &mut Waiting| waiting.is_parkable();
            // What is served next stays, so that a free key is never without.
            if key.is_held_up() {
                let from = taken.len();
                taken.extend(key.waiting.extract_if(.., parkable).map(|(_, waiting)| (*hash, waiting)));
                let first = taken.get(from).map(|(_, waiting)| waiting.place.position());
                key.parked = key.parked.into_iter().chain(first).min();
            }
        }
        for (_, waiting) in &taken {
            self.forgotten(waiting);
            self.parked_oldest =
                Some(self.parked_oldest.map_or(waiting.accepted, |oldest| oldest.min(waiting.accepted)));
        }
        self.parking |= !taken.is_empty();
        // The map has no order, and what follows must be the same every time.
        taken.sort_unstable_by_key(|(_, waiting)| waiting.place.position());
        taken
    }

    /// When the oldest message that waits for its key was accepted, or one nearly as old where it is parked.
    pub(crate) fn oldest(&self) -> Option<WallMs> {
        self.ages.first_key_value().map(|((accepted, _), _)| *accepted).into_iter().chain(self.parked_oldest).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u64 = 7;

    fn due(position: u64) -> Waiting {
        let place = Place::Due { due: 1, position };
        Waiting { place, id: position, accepted: WallMs(0), entry: None }
    }

    /// One of several retries of a key, which a change of order may bring about, was held up until the last was due.
    #[test]
    fn a_retry_holds_up_only_what_comes_behind_it() {
        let mut keys = Keys::default();
        keys.retry(KEY, 20);
        keys.retry(KEY, 83);
        keys.wait(KEY, due(20));
        keys.unretry(KEY, 20);
        assert_eq!(keys.next_eligible(), Some(KEY));
        assert!(keys.take_waiting(KEY, 20).is_some());
        keys.lease(KEY, due(20).place);
        keys.wait(KEY, due(90));
        keys.unlease(KEY, 20);
        keys.offer(KEY);
        assert_eq!(keys.next_eligible(), None, "the retry at 83 comes before 90");
        keys.wait(KEY, due(83));
        keys.unretry(KEY, 83);
        assert_eq!((keys.next_eligible(), keys.first_waiting(KEY, 0)), (Some(KEY), Some(83)));
    }

    #[test]
    fn a_retry_whose_time_changes_holds_up_its_key_all_the_while() {
        let mut keys = Keys::default();
        keys.retry(KEY, 20);
        keys.wait(KEY, due(21));
        // Its new time is known before the old one is forgotten.
        keys.retry(KEY, 20);
        keys.unretry(KEY, 20);
        assert_eq!((keys.next_eligible(), keys.first_retry(KEY)), (None, Some(20)));
    }

    /// A message that was parked came before a retry of its key, and waited for that.
    #[test]
    fn who_is_parked_before_a_retry_does_not_wait_for_it() {
        let mut keys = Keys::default();
        keys.retry(KEY, 83);
        let place = Place::Ready { rank: 5, position: 40 };
        keys.wait(KEY, Waiting { place, id: 40, accepted: WallMs(0), entry: None });
        keys.offer(KEY);
        assert_eq!(keys.take_parkable().len(), 1);
        assert_eq!(keys.next_eligible(), Some(KEY));
        // It is not there before the commit.
        keys.pass_over(KEY);
        assert_eq!(keys.next_eligible(), None);
        keys.parked();
        assert_eq!(keys.next_eligible(), Some(KEY));
        // Somebody took it away.
        keys.pass_over(KEY);
        keys.offer(KEY);
        assert_eq!(keys.next_eligible(), None);
    }
}
