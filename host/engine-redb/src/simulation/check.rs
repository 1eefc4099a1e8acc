//! What the store answers, held against what it should.

use std::hash::Hash;
use std::time::Duration;

use pelton_core::engine::{Appended, Defined, EngineError, LeaseToken, Progress, RequestError, SettleError};

use super::model::{Change, Place, identify};
use super::world::{Asked, Caller, Held, QUEUES, World};
use crate::command::Reply;
use crate::tables::HELD;

impl World {
    pub(super) fn check_reply(&mut self, caller: Caller, reply: Reply) -> Result<(), String> {
        let text = match &reply {
            // Messages do not all print themselves in full.
            Reply::Leased(Ok(grants)) => format!("{:?}", grants.iter().map(|grant| grant.token()).collect::<Vec<_>>()),
            other => format!("{other:?}"),
        };
        (caller.number, &text).hash(&mut self.trace);
        let asked = self.asked.remove(&caller.number).ok_or_else(|| format!("nobody asked for {text}"))?;
        match (asked, reply) {
            (Asked::Append(change), Reply::Appended(result)) => self.check_append(change, result),
            (Asked::Settle(batch), Reply::Settled(results)) => {
                if batch.len() != results.len() {
                    return Err(format!("{} results for {} settlements", results.len(), batch.len()));
                }
                batch
                    .into_iter()
                    .zip(results)
                    .try_for_each(|((token, change), result)| self.check_settled(token, change, result))
            }
            (Asked::Lease { queue, max, ttl }, Reply::Leased(result)) => {
                let Ok(grants) = result else { return self.check_refusal(&result.map(|_| ())) };
                if grants.len() > max {
                    return Err(format!("{} leases, and {max} were asked for", grants.len()));
                }
                if !caller.listens {
                    self.give_back.extend(grants.iter().map(|grant| grant.token()));
                }
                grants.into_iter().try_for_each(|grant| self.check_grant(queue, ttl, grant))
            }
            (Asked::Bulk { change, skipped }, Reply::Progress(result)) => {
                let complete = (change.len() as u64, skipped, None);
                self.check_bulk(change, result, |progress| {
                    (progress.changed, progress.skipped, progress.next.clone()) == complete
                })
            }
            (Asked::Listed { change, skipped }, Reply::Progress(result)) => {
                let none = change.is_empty() && skipped == 0;
                let all = (change.len() as u64, skipped);
                self.check_bulk(change, result, |progress| match (progress.changed, progress.skipped) {
                    (0, 0) => none || progress.next.is_some(),
                    found => found == all,
                })
            }
            (Asked::Define, Reply::Defined(result)) => match result {
                Ok(defined) => self.check_defined(&defined, true),
                Err(EngineError::Unknown | EngineError::Unavailable) => Ok(()),
                Err(error) => Err(format!("defining the queues gave {error:?}")),
            },
            (Asked::Extend(token, by), Reply::Extended(results)) => {
                let ends = self.now.monotonic.plus(by);
                let held = self.leases.values_mut().find(|held| held.token == token);
                match (held, results.as_slice()) {
                    (Some(held), [Ok(())]) => held.ends = held.ends.map(|_| ends),
                    (None, [Err(SettleError::LeaseLost)]) | (_, [Err(SettleError::Engine(_))]) => {}
                    (held, results) => return Err(format!("extending {held:?} gave {results:?}")),
                }
                Ok(())
            }
            (Asked::Release(tokens), Reply::Released) => {
                self.leases.retain(|_, held| !tokens.contains(&held.token));
                self.spent.extend(tokens);
                Ok(())
            }
            (asked, _) => Err(format!("{asked:?} was answered with {text}")),
        }
    }

    pub(super) fn check_refusal(&mut self, result: &Result<(), RequestError>) -> Result<(), String> {
        match result {
            Err(RequestError::Engine(EngineError::Unavailable)) => {
                self.count("unavailable");
                Ok(())
            }
            other => Err(format!("nobody expected {other:?}")),
        }
    }

    pub(super) fn check_append(
        &mut self,
        change: Change,
        result: Result<Appended, RequestError>,
    ) -> Result<(), String> {
        match result {
            Ok(appended) if appended.positions.len() == change.len() => {
                self.model.apply(change);
                Ok(())
            }
            Err(RequestError::Engine(EngineError::Unknown)) => {
                self.count("append unknown");
                self.model.doubt(change);
                Ok(())
            }
            other => self.check_refusal(&other.map(|_| ())),
        }
    }

    pub(super) fn check_settled(
        &mut self,
        token: LeaseToken,
        change: Option<Change>,
        result: Result<(), SettleError>,
    ) -> Result<(), String> {
        let held = self.leases.iter().find(|(_, held)| held.token == token).map(|(id, _)| *id);
        match (change, result) {
            (Some(change), Ok(())) if held.is_some() => {
                self.model.apply(change);
                self.count("settled");
            }
            (Some(change), Err(SettleError::Engine(EngineError::Unknown))) => {
                self.model.doubt(change);
                self.count("settle unknown");
            }
            (_, Err(SettleError::Engine(EngineError::Unavailable))) => self.count("unavailable"),
            (Some(_), Err(SettleError::LeaseLost)) if held.is_none() => self.count("lease lost"),
            (None, Err(SettleError::LeaseLost | SettleError::AlreadySettled)) => self.count("settled twice"),
            // The second of two in one batch that failed as a whole.
            (change, result) => return Err(format!("settling {token} ({change:?}) gave {result:?}")),
        }
        if let Some(id) = held {
            self.leases.remove(&id);
            self.spent.push(token);
        }
        Ok(())
    }

    pub(super) fn check_grant(&mut self, queue: u32, ttl: Option<Duration>, grant: crate::Grant) -> Result<(), String> {
        let leased = grant.open().map_err(|error| error.to_string())?;
        let id = identify(&leased.message, &leased.topic)?;
        let entry =
            self.model.entries.get(&id).ok_or_else(|| format!("message {id} was leased and should not exist"))?;
        let available = match entry.place {
            Place::Ready => true,
            // It may have become available before the clock was set back.
            Place::Due(due) => due != HELD && due <= self.latest.0,
        };
        if !available || entry.queue != queue || leased.attempt() != entry.attempts + 1 {
            return Err(format!("{:?} of queue {queue} was leased, and is {entry:?}", leased.token));
        }
        let ends = ttl.map(|ttl| self.now.monotonic.plus(ttl));
        if self.leases.insert(id, Held { token: leased.token, ends }).is_some() {
            return Err(format!("message {id} was leased twice"));
        }
        self.count("leased");
        Ok(())
    }

    /// A step of a bulk change: all of `change`, or nothing.
    fn check_bulk(
        &mut self,
        change: Change,
        result: Result<Progress, RequestError>,
        expected: impl Fn(&Progress) -> bool,
    ) -> Result<(), String> {
        match result {
            Ok(progress) => {
                if !expected(&progress) {
                    return Err(format!("nobody expected {progress:?} for {change:?}"));
                }
                if progress.changed > 0 {
                    self.model.apply(change);
                }
                self.progress = Some(progress);
                Ok(())
            }
            Err(RequestError::Engine(EngineError::Unknown)) => {
                self.model.doubt(change);
                Ok(())
            }
            other => self.check_refusal(&other.map(|_| ())),
        }
    }

    /// The ids of the declared queues, and the names of the others that hold something. That is not looked at where the
    /// model may be behind the store.
    pub(super) fn check_defined(&self, defined: &Defined, looks_at_undeclared: bool) -> Result<(), String> {
        let queues = || (0..).zip(QUEUES).zip(self.declared).map(|((id, (name, _, _)), declared)| (id, name, declared));
        let declared = queues().filter(|(_, _, declared)| *declared).map(|(id, name, _)| (name, id));
        let found = defined.queues.iter().map(|(name, id)| (name.as_str(), id.0));
        if !declared.eq(found) {
            return Err(format!("{:?} was defined, and there is {defined:?}", self.declared));
        }
        let holds_something = |id: u32| self.model.entries.values().any(|entry| entry.queue == id);
        let undeclared =
            queues().filter(|(id, _, declared)| !declared && holds_something(*id)).map(|(_, name, _)| name);
        if looks_at_undeclared && !undeclared.eq(defined.undeclared.iter().map(|name| name.as_str())) {
            return Err(format!("{:?} was defined, and there is {defined:?}", self.declared));
        }
        Ok(())
    }

    pub(super) fn check_counts(&self) -> Result<(), String> {
        for queue in 0..QUEUES.len() as u32 {
            let in_queue = || self.model.entries.iter().filter(|(_, entry)| entry.queue == queue);
            let leased = in_queue().filter(|(id, _)| self.leases.contains_key(id)).count() as u64;
            let held = in_queue().filter(|(_, entry)| entry.place == Place::Due(HELD)).count() as u64;
            let total = in_queue().count() as u64;
            let Some(counts) = self.board.get(&queue) else { return Err(format!("queue {queue} is not counted")) };
            if counts.declared != self.declared[queue as usize] {
                return Err(format!("{:?} was defined, and there is {counts:?}", self.declared));
            }
            let sum = counts.ready + counts.leased + counts.scheduled;
            if sum != total || counts.leased != leased || counts.scheduled < held {
                return Err(format!("queue {queue} has {total} messages, {leased} leased, {held} held: {counts:?}"));
            }
            if counts.oldest.is_some() != (counts.ready + counts.leased > 0) {
                return Err(format!("the oldest message of queue {queue} is not known: {counts:?}"));
            }
        }
        Ok(())
    }
}
