//! What the store answers, held against what it should.

use std::hash::Hash;

use pelton_core::engine::{Defined, EngineError, LeaseToken, Progress, RequestError, SettleError};

use super::model::{Change, Place};
use super::observe::Deed;
use super::plan::{QUEUES, SCHEDULES};
use super::world::{Asked, Caller, World};
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
        self.tell(|| format!("{asked:?}\n    -> {text}"));
        match (asked, reply) {
            (Asked::Append(asked), Reply::Appended(result)) => self.check_append(*asked, result),
            (Asked::Settle(batch), Reply::Settled(results)) => {
                if batch.len() != results.len() {
                    return Err(format!("{} results for {} settlements", results.len(), batch.len()));
                }
                batch
                    .into_iter()
                    .zip(results)
                    .try_for_each(|((token, change), result)| self.check_settled(token, change, result))
            }
            (Asked::Lease { queue, max, ttl }, Reply::Leased(result)) => match result {
                Ok(grants) => self.check_leased(caller, (queue, max, ttl), grants),
                Err(error) => self.check_refusal(&Err(error)),
            },
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
            (Asked::Filtered, Reply::Progress(result)) => self.check_filtered(result),
            (Asked::Define, Reply::Defined(result)) => match result {
                Ok(defined) => self.take_up_definitions(&defined),
                Err(EngineError::Unknown | EngineError::Unavailable) => Ok(()),
                Err(error) => Err(format!("defining the queues gave {error:?}")),
            },
            (Asked::Extend(token, by), Reply::Extended(results)) => {
                let (now, ends) = (self.now.monotonic, self.now.monotonic.plus(by));
                let held = self.leases.values_mut().find(|held| held.token == token);
                match (held, results.as_slice()) {
                    (Some(held), [Ok(())]) => held.ends = held.ends.map(|_| ends),
                    (Some(held), [Err(SettleError::LeaseLost)]) if held.ends.is_some_and(|ends| ends <= now) => {}
                    (None, [Err(SettleError::LeaseLost)]) | (_, [Err(SettleError::Engine(_))]) => {}
                    (held, results) => return Err(format!("extending {held:?} gave {results:?}")),
                }
                Ok(())
            }
            (Asked::Release(tokens), Reply::Released) => {
                // One that ran out just now may have been ended before: what became of it shows when it is looked at.
                let now = self.now.monotonic;
                let released = |held: &super::world::Held| tokens.contains(&held.token);
                let ended = |held: &super::world::Held| held.ends.is_some_and(|ends| ends <= now);
                let unclear = self.leases.iter().filter(|(_, held)| released(held) && ended(held)).map(|(id, _)| *id);
                self.turn.released.extend(unclear);
                self.leases.retain(|_, held| !released(held) || ended(held));
                self.spent.extend(tokens);
                Ok(())
            }
            (Asked::Pause(queue, paused), Reply::Paused(result)) => {
                self.paused[queue as usize] = paused_now(self.paused[queue as usize], paused, result)?;
                Ok(())
            }
            (Asked::PauseConsumer(paused), Reply::Paused(result)) => {
                self.consumer_paused = paused_now(self.consumer_paused, paused, result)?;
                Ok(())
            }
            (Asked::Held(expected), Reply::Held(held)) if expected == held => Ok(()),
            (Asked::Lost(change), Reply::Lost(result)) => match result {
                Ok(count) if count == change.len() as u64 => {
                    self.apply_change(change);
                    Ok(())
                }
                Err(EngineError::Unknown) => {
                    self.model.doubt(change);
                    Ok(())
                }
                Err(EngineError::Unavailable) => Ok(()),
                other => Err(format!("{change:?} were lost, and the answer is {other:?}")),
            },
            (asked, _) => Err(format!("{asked:?} was answered with {text}")),
        }
    }

    pub(super) fn apply_change(&mut self, change: Change) {
        self.changed = true;
        self.model.apply(change);
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

    fn check_settled(
        &mut self,
        token: LeaseToken,
        change: Option<Change>,
        result: Result<(), SettleError>,
    ) -> Result<(), String> {
        let held = self.leases.iter().find(|(_, held)| held.token == token).map(|(id, held)| (*id, *held));
        let ended = held.is_none_or(|(_, held)| held.ends.is_some_and(|ends| ends <= self.now.monotonic));
        match (change, result) {
            (Some(change), Ok(())) if held.is_some() => {
                for (id, _) in &change {
                    self.ripe.remove(id);
                }
                self.apply_change(change);
                self.count("settled");
            }
            (Some(change), Err(SettleError::Engine(EngineError::Unknown))) => {
                self.model.doubt(change);
                self.count("settle unknown");
            }
            (_, Err(SettleError::Engine(EngineError::Unavailable))) => self.count("unavailable"),
            (Some(_), Err(SettleError::LeaseLost)) if ended => {
                self.count("lease lost");
                // What became of it shows when it is looked at.
                return Ok(());
            }
            (None, Err(SettleError::LeaseLost | SettleError::AlreadySettled)) => {
                self.count("settled twice");
                return Ok(());
            }
            // The second of two in one batch that failed as a whole.
            (change, result) => return Err(format!("settling {token} ({change:?}) gave {result:?}")),
        }
        if let Some((id, _)) = held {
            self.leases.remove(&id);
            self.spent.push(token);
        }
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
                    self.apply_change(change);
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

    /// A step of a change by a filter: some of what may change, as the look at it shows.
    fn check_filtered(&mut self, result: Result<Progress, RequestError>) -> Result<(), String> {
        let undone = !matches!(&result, Ok(_) | Err(RequestError::Engine(EngineError::Unknown)));
        if undone {
            let not_changed = |ways: &mut Vec<(_, Deed)>| ways.retain(|(_, deed)| *deed != Deed::Changed);
            self.turn.alternatives.values_mut().for_each(not_changed);
        }
        match result {
            Ok(progress) => {
                self.progress = Some(progress);
                Ok(())
            }
            Err(RequestError::Engine(EngineError::Unknown)) => Ok(()),
            other => self.check_refusal(&other.map(|_| ())),
        }
    }

    /// What was declared is in force from here on.
    fn take_up_definitions(&mut self, defined: &Defined) -> Result<(), String> {
        self.settings_before = None;
        self.model.ticks = self.new_ticks();
        self.changed = true;
        self.check_defined(defined, true)
    }

    /// The last tick of each declared schedule; a new one counts as having ticked just now.
    pub(super) fn new_ticks(&self) -> std::collections::BTreeMap<usize, u64> {
        let last = |schedule: usize| self.model.ticks.get(&schedule).copied().unwrap_or(self.now.wall.0);
        (0..SCHEDULES.len()).filter(|at| self.schedules[*at]).map(|schedule| (schedule, last(schedule))).collect()
    }

    /// The ids of the declared queues, and the names of the others that hold something. That is not looked at where the
    /// model may be behind the store.
    pub(super) fn check_defined(&self, defined: &Defined, looks_at_undeclared: bool) -> Result<(), String> {
        let queues =
            || (0..).zip(QUEUES).zip(&self.settings).map(|((id, name), settings)| (id, name, settings.declared));
        let mut declared: Vec<(&str, u32)> =
            queues().filter(|(_, _, declared)| *declared).map(|(id, name, _)| (name, id)).collect();
        declared.sort_unstable();
        let found = defined.queues.iter().map(|(name, id)| (name.as_str(), id.0));
        if !declared.iter().copied().eq(found) {
            return Err(format!("{declared:?} was defined, and there is {defined:?}"));
        }
        let holds_something = |id: u32| self.model.of_queue(id).next().is_some();
        let undeclared =
            queues().filter(|(id, _, declared)| !declared && holds_something(*id)).map(|(_, name, _)| name);
        if looks_at_undeclared && !undeclared.eq(defined.undeclared.iter().map(|name| name.as_str())) {
            return Err(format!("{declared:?} was defined, and there is {defined:?}"));
        }
        Ok(())
    }

    pub(super) fn check_counts(&mut self) -> Result<(), String> {
        let is_staged = self.store().has_staged();
        if self.consumer_paused.is_some_and(|paused| paused != self.consumer_told) {
            return Err(format!(
                "the consumer is paused: {:?}, and told to be: {}",
                self.consumer_paused, self.consumer_told
            ));
        }
        for queue in 0..QUEUES.len() as u32 {
            let (mut total, mut leased, mut held, mut bytes) = (0, 0, 0, 0);
            for (id, entry) in self.model.of_queue(queue) {
                total += 1;
                leased += u64::from(self.leases.contains_key(&id));
                held += u64::from(entry.place == Place::Due(HELD));
                bytes += self.facts[&id].cost;
            }
            let Some(counts) = self.board.get(&queue) else { return Err(format!("queue {queue} is not counted")) };
            if counts.declared != self.settings[queue as usize].declared
                || self.paused[queue as usize].is_some_and(|paused| paused != counts.paused)
            {
                return Err(format!("{:?} was defined, and there is {counts:?}", self.settings));
            }
            let sum = counts.ready + counts.leased + counts.scheduled;
            if sum != total || counts.leased != leased || counts.scheduled < held {
                return Err(format!("queue {queue} has {total} messages, {leased} leased, {held} held: {counts:?}"));
            }
            if counts.bytes != bytes {
                return Err(format!("queue {queue} has {bytes} bytes: {counts:?}"));
            }
            if !is_staged && counts.oldest.is_some() != (counts.ready + counts.leased > 0) {
                return Err(format!("the oldest message of queue {queue} is not known: {counts:?}"));
            }
        }
        Ok(())
    }
}

/// Whether something is paused after a request about it; none: nobody knows.
fn paused_now(before: Option<bool>, asked: bool, result: Result<(), RequestError>) -> Result<Option<bool>, String> {
    match result {
        Ok(()) => Ok(Some(asked)),
        Err(RequestError::Engine(EngineError::Unavailable)) => Ok(before),
        Err(RequestError::Engine(EngineError::Unknown)) => Ok(None),
        Err(error) => Err(format!("pausing gave {error:?}")),
    }
}
