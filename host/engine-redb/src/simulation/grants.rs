//! Who gets which message: each only once, none that expired, and all in the order that was promised.

use std::time::Duration;

use super::model::{Entry, Id, Place, identify};
use super::world::{Caller, Held, World};
use crate::Grant;
use crate::tables::HELD;

impl World {
    pub(super) fn check_leased(
        &mut self,
        caller: Caller,
        (queue, max, ttl): (u32, usize, Option<Duration>),
        grants: Vec<Grant>,
    ) -> Result<(), String> {
        if grants.len() > max {
            return Err(format!("{} leases, and {max} were asked for", grants.len()));
        }
        if !caller.listens {
            self.give_back.extend(grants.iter().map(|grant| grant.token()));
        }
        // Leases that ended with the store say nothing any more.
        if !self.is_up() {
            return Ok(());
        }
        grants.into_iter().try_for_each(|grant| self.check_grant(caller.number, queue, ttl, grant))
    }

    fn check_grant(&mut self, call: u64, queue: u32, ttl: Option<Duration>, grant: Grant) -> Result<(), String> {
        let leased = grant.open().map_err(|error| error.to_string())?;
        let id = identify(&leased.message, &leased.topic, &self.doubles)?;
        let entry = self.model.entries.get(&id).cloned();
        let entry = entry.ok_or_else(|| format!("message {id} was leased and should not exist"))?;
        let told = |what: &str| Err(format!("{:?} of queue {queue}, message {id}, {what}: {entry:?}", leased.token));
        let available = match entry.place {
            Place::Ready(_) | Place::Parked => true,
            // It may have become available before the clock was set back.
            Place::Due(due) => due != HELD && self.has_come(id, due),
        };
        if !available || entry.queue != queue || leased.attempt() != entry.attempts + 1 || leased.alone != entry.alone {
            return told("was leased, and is");
        }
        if !self.is_at(id, leased.token.queue, leased.token.entry, leased.place) {
            return told("was said to lie elsewhere");
        }
        if entry.expires.is_some_and(|expires| expires <= self.now.wall.0) {
            return told("was leased though it had expired");
        }
        if self.paused[queue as usize] == Some(true) {
            return told("was leased from a queue that is paused");
        }
        let keyed = self.settings[queue as usize].keyed;
        if self.leases.values().any(|held| held.token.queue.0 == queue && held.keyed != keyed) {
            return told("was leased while others are in another order");
        }
        if keyed {
            self.check_key(call, id, &entry, ttl)?
        } else {
            self.check_line(id, &entry)?
        }
        let ends = ttl.map(|ttl| self.now.monotonic.plus(ttl));
        let held = Held { token: leased.token, ends, told: leased.place, call, keyed };
        let given_back = self.turn.released.remove(&id);
        if self.leases.insert(id, held).is_some() && !given_back {
            return told("was leased twice");
        }
        self.count("leased");
        if entry.alone {
            self.count("leased alone");
        }
        Ok(())
    }

    /// In order of arrival: of what is ready, the highest priority first, and within one the oldest.
    fn check_line(&mut self, id: Id, entry: &Entry) -> Result<(), String> {
        let Place::Ready(rank) = entry.place else { return Ok(()) };
        let comes_before = |other: &Entry| match other.place {
            Place::Ready(other_rank) => (other_rank, other.position) < (rank, entry.position),
            Place::Parked | Place::Due(_) => false,
        };
        // One commit may be several transactions, and who waits is served after each.
        let came_later = |of: &Entry| self.turn.committing && of.dead.is_some() && of.position >= self.turn.position;
        let earlier: Vec<Id> = self
            .model
            .of_queue(entry.queue)
            .filter(|(other, of)| comes_before(of) && !self.leases.contains_key(other) && !came_later(of))
            .map(|(other, _)| other)
            .collect();
        earlier.into_iter().for_each(|other| self.pass(id, other));
        Ok(())
    }

    /// In order by key: nothing of it is leased elsewhere, and nothing that comes before it lives.
    fn check_key(&mut self, call: u64, id: Id, entry: &Entry, ttl: Option<Duration>) -> Result<(), String> {
        let Some(key) = self.facts[&id].key else { return Ok(()) };
        let turned = self.turned[entry.queue as usize];
        let others: Vec<(Id, Entry)> = self
            .model
            .of_queue(entry.queue)
            .filter(|(other, _)| *other != id && self.facts[other].key == Some(key))
            .map(|(other, of)| (other, of.clone()))
            .collect();
        for (other, of) in others {
            let comes_before = of.position < entry.position;
            match self.leases.get(&other) {
                Some(held) if held.call == call && ttl.is_none() && comes_before => {}
                // Given back or run out: it is not known yet, but nobody has it.
                Some(_) if self.turn.released.contains(&other) => {}
                Some(held) => {
                    return Err(format!(
                        "message {id} ({entry:?}) was leased with {other} ({of:?}) of its key: {held:?}"
                    ));
                }
                // A retry from before the order was changed is not held up by what it had overtaken.
                None if turned && matches!(entry.place, Place::Due(_)) => {}
                // One that is delayed joins at the end when its time has come.
                None if of.place == Place::Due(HELD) || matches!(of.place, Place::Due(_)) && of.attempts == 0 => {}
                None if comes_before => self.pass(id, other),
                None => {}
            }
        }
        if !self.keys_leased.insert((entry.queue, key)) {
            self.count("key freed");
        }
        Ok(())
    }

    /// A message was passed by another that comes after it: that is right only where it is about to be gone.
    fn pass(&mut self, id: Id, other: Id) {
        let passed = self.model.entries[&other].clone();
        let what = format!("message {other} was passed by {id} ({:?})", self.model.entries[&id]);
        self.passed.entry(other).or_insert((passed, what));
    }

    /// Once all is written, those who were passed must have gone: they expired, or made room for others.
    pub(super) fn check_passed(&mut self) -> Result<(), String> {
        if self.store().has_staged() {
            return Ok(());
        }
        for (id, (entry, what)) in std::mem::take(&mut self.passed) {
            if self
                .model
                .entries
                .get(&id)
                .is_some_and(|there| there.position == entry.position && there.place == entry.place)
            {
                return Err(format!("{what}, and is still there: {entry:?}"));
            }
        }
        Ok(())
    }
}
