//! Leasing in order by key: who is served next, and parking those who wait for long.
//!
//! A lease call without an end may get several messages of one key, since its holder handles them in turn: a *chain*. Any other gets
//! one, and the key is busy until that is settled.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::time::Duration;

use pelton_core::clock::Monotonic;

use super::bulk::find;
use super::keys::Waiting;
use super::leases::{NumberHasher, Place};
use super::live::Live;
use super::reader::missing;
use super::stage::Take;
use super::window::WindowEntry;
use crate::command::Ticket;
use crate::failure::Failure;
use crate::seal::unseal;
use crate::tables::{IN_READY, RETRYING};

/// What one lease call has of keys so far.
#[derive(Debug)]
pub(super) struct Chain {
    /// Whether it may have more than one message of a key.
    allowed: bool,
    now: Monotonic,
    /// Keys that were free and had nothing waiting: what follows of them in the window may follow in the lease too.
    fresh: HashSet<u64, BuildHasherDefault<NumberHasher>>,
    /// The key that was served last from what waits, and behind which position to go on with it.
    current: Option<(u64, u64)>,
}

impl Chain {
    pub(super) fn new(allowed: bool, now: Monotonic) -> Self {
        Self { allowed, now, fresh: HashSet::default(), current: None }
    }
}

impl<T: Ticket> Live<T> {
    /// The next message whose key is free. Those of free keys that had to wait come first, then the queue in its order; what
    /// meets a busy key on the way waits for it.
    pub(super) fn next_of_keys(
        &mut self,
        queue: u32,
        chain: &mut Chain,
    ) -> Result<Option<(Place, WindowEntry)>, Failure> {
        self.load_keys(queue)?;
        loop {
            if let Some((hash, last)) = chain.current.take().filter(|_| chain.allowed)
                && let Some(next) = self.first_of_key(queue, hash, last.saturating_add(1))?
            {
                chain.current = Some((hash, next.0.position()));
                return Ok(Some(next));
            }
            if let Some(hash) = self.next_eligible(queue)? {
                if let Some(next) = self.first_of_key(queue, hash, 0)? {
                    chain.current = Some((hash, next.0.position()));
                    return Ok(Some(next));
                }
                let state = &mut self.queues[queue as usize];
                state.keys.pass_over(hash);
                // Was that the last key, though more is parked?
                if state.stored.parked > 0 {
                    self.changed.mark(queue);
                }
                continue;
            }
            let crowd = self.tuning.crowd();
            if self.queues[queue as usize].keys.is_crowded(crowd, chain.now) {
                return Ok(None);
            }
            let Some((place, entry)) = self.next_in_lines(queue)? else { return Ok(None) };
            let Some(hash) = entry.key else { return Ok(Some((place, entry))) };
            let keys = &mut self.queues[queue as usize].keys;
            if !keys.is_busy(hash) {
                chain.fresh.insert(hash);
                return Ok(Some((place, entry)));
            }
            if chain.allowed && chain.fresh.contains(&hash) {
                return Ok(Some((place, entry)));
            }
            let (id, accepted) = (entry.entry, entry.accepted);
            keys.wait(hash, Waiting { place, id, accepted, entry: Some(entry) });
        }
    }

    /// The message of a key with the least position from `from` on, of those that wait for it and do not come behind one that is tried
    /// again later. It is not in memory any more.
    fn first_of_key(&mut self, queue: u32, hash: u64, from: u64) -> Result<Option<(Place, WindowEntry)>, Failure> {
        let state = &self.queues[queue as usize];
        let end = state.keys.first_retry(hash).unwrap_or(u64::MAX);
        let waiting = state.keys.first_waiting(hash, from).filter(|waiting| *waiting < end);
        if state.stored.parked > 0 && from < end {
            self.reader()?;
            let reader = self.reader.as_ref().expect("it was made just now");
            let gone = &self.queues[queue as usize].keys.gone;
            for row in reader.parked.range((queue, hash, from)..(queue, hash, end))? {
                let (key, value) = row?;
                let (queue, hash, position) = key.value();
                if waiting.is_some_and(|waiting| waiting < position) {
                    break;
                }
                if !gone.contains(&position) {
                    let place = Place::Parked { key: hash, position };
                    return Ok(Some((place, reader.entry(queue, place, value.value())?)));
                }
            }
        }
        let state = &mut self.queues[queue as usize];
        let Some(waiting) = waiting.and_then(|position| state.keys.take_waiting(hash, position)) else {
            return Ok(None);
        };
        if matches!(waiting.place, Place::Due { .. }) {
            state.overdue -= 1;
        }
        let entry = match (waiting.entry, waiting.place) {
            (Some(entry), _) => entry,
            (None, place) => self.reader()?.at(queue, place)?,
        };
        Ok(Some((waiting.place, entry)))
    }

    /// The next key to serve. When nobody is known, those are looked for who were parked before the store was opened.
    fn next_eligible(&mut self, queue: u32) -> Result<Option<u64>, Failure> {
        loop {
            let keys = &mut self.queues[queue as usize].keys;
            if let Some(hash) = keys.next_eligible() {
                return Ok(Some(hash));
            }
            let Some(from) = keys.scan else { return Ok(None) };
            let reader = self.reader()?;
            let first = reader.parked.range((queue, from, 0)..=(queue, u64::MAX, u64::MAX))?.next();
            let found = first.transpose()?.map(|(key, _)| key.value());
            let keys = &mut self.queues[queue as usize].keys;
            keys.scan = found.and_then(|(_, hash, _)| hash.checked_add(1));
            if let Some((_, hash, position)) = found {
                keys.note_parked(hash, position);
            }
        }
    }

    /// Learns which messages from before the store was opened come before those parked of their key: such as wait for their next
    /// attempt, which block it, and such as were leased, which come first.
    pub(super) fn load_keys(&mut self, queue: u32) -> Result<(), Failure> {
        if self.queues[queue as usize].keys.loaded {
            return Ok(());
        }
        self.reader()?;
        let reader = self.reader.as_ref().expect("it was made just now");
        let state = &mut self.queues[queue as usize];
        let mut found = 0;
        for row in reader.retrying.range((queue, 0, 0)..=(queue, u64::MAX, u64::MAX))? {
            let (key, due) = row?;
            let (_, hash, position) = key.value();
            found += 1;
            if unseal(RETRYING, &key.value(), due.value())? != IN_READY {
                state.keys.retry(hash, position);
                continue;
            }
            let Some((place @ Place::Ready { rank, .. }, row)) = find(reader, queue, position)? else {
                return Err(missing(queue, position));
            };
            state.line(rank).window.forget(position);
            let row = row.view();
            let waiting = Waiting { place, id: row.entry(), accepted: row.accepted(), entry: None };
            state.keys.load_marked(hash, waiting);
        }
        state.keys.loaded = true;
        state.check_retrying(found)
    }

    /// Parks what has waited in memory for long, where there is more behind it. What waits for fast handlers is served from memory.
    pub(super) fn park_crowds(&mut self, now: Monotonic) {
        for queue in 0..self.queue_count() {
            if self.parking_in(queue, now) == Some(Duration::ZERO) {
                self.park(queue);
            }
        }
    }

    /// In how long what waits for its key is to be parked.
    pub(super) fn parking_in(&self, queue: u32, now: Monotonic) -> Option<Duration> {
        let state = &self.queues[queue as usize];
        let since = state.keys.crowded_since(self.tuning.crowd()).filter(|_| state.has_more_in_lines())?;
        Some(since.plus(self.tuning.park_after).since(now))
    }

    /// Stages what waits for its key in memory to wait on disk. Those of the key that are leased and stay in `ready` come before them,
    /// which has to be known after a restart.
    fn park(&mut self, queue: u32) {
        for (hash, waiting) in self.queues[queue as usize].keys.take_parkable() {
            let keys = &mut self.queues[queue as usize].keys;
            let marks = keys.mark(hash);
            let marked = keys.leave(hash, waiting.place.position());
            self.stage.marks.extend(marks.into_iter().map(|position| ((queue, hash, position), IN_READY)));
            self.stage_free(queue, waiting.place, waiting.id, Take::Park);
            if let Some(taken) = self.stage.taken.last_mut() {
                taken.marked = marked;
            }
        }
    }
}
