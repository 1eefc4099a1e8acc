//! When nothing fails any more: everything that is not held must be delivered within bounded time, and leave nothing behind.

use std::collections::BTreeMap;
use std::time::Duration;

use pelton_core::engine::{Bulk, BulkAction, Filter, Health, LeaseRequest, QueueId, Select, Settlement, Verdict};

use super::model::{Change, Entry, Id, Place};
use super::plan::{GRAVEYARD, QUEUES};
use super::world::{Asked, Caller, Turn, World};
use crate::command::{Command, Request};
use crate::prepare::prepare_settlement;
use crate::tables::HELD;

/// Rounds after which all messages must have been delivered.
const ROUNDS_MAX: usize = 3000;
/// Rounds after which the time between them is long: what waits for hours waits no longer than that.
const ROUNDS_SHORT: usize = 100;
/// Longer than anybody waits.
const LONG: Duration = Duration::from_secs(1000 * 24 * 60 * 60);

/// Longer than the store goes without a look at the room.
const SPACE_MS: u64 = 1000;

impl World {
    /// No more faults: all that there is has to be delivered, to consumers that ask again and again or to such that wait.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.compare()?;
        if self.features.small_disk {
            self.make_room();
            self.advance(SPACE_MS, SPACE_MS);
        }
        self.resume_all()?;
        if self.store().health() != Health::Ready {
            return Err("there is room again, and the store does not see it".to_owned());
        }
        let is_done = if self.random.bool() { self.poll()? } else { self.wait()? };
        if is_done {
            self.check_empty()
        } else {
            Err(format!("messages are stuck: {:?}; {:?}", self.model.entries, self.settings))
        }
    }

    /// Whether only such messages are left as nobody can have.
    fn is_drained(&self) -> bool {
        self.model.entries.values().all(|entry| entry.place == Place::Due(HELD))
    }

    fn poll(&mut self) -> Result<bool, String> {
        for round in 0..ROUNDS_MAX {
            let ms = if round < ROUNDS_SHORT { 10_000 } else { 600_000 };
            self.advance(ms, ms);
            if self.is_drained() {
                return Ok(true);
            }
            self.turn = Turn::default();
            let mut commands = self.settlements();
            commands.extend((0..QUEUES.len() as u32).map(|queue| self.lease_request(queue, Duration::ZERO)));
            self.apply(commands)?;
        }
        Ok(false)
    }

    /// Whatever becomes available is given at once to those who wait, and the store says itself when to look at it again.
    fn wait(&mut self) -> Result<bool, String> {
        let mut waiting: BTreeMap<u32, u64> = BTreeMap::new();
        for round in 0..ROUNDS_MAX {
            if self.is_drained() {
                return Ok(true);
            }
            self.turn = Turn::default();
            let mut commands = self.settlements();
            for queue in 0..QUEUES.len() as u32 {
                if !waiting.get(&queue).is_some_and(|caller| self.asked.contains_key(caller)) {
                    let command = self.lease_request(queue, LONG);
                    waiting.insert(queue, command.ticket.number);
                    commands.push(command);
                }
            }
            let now = self.now();
            let deadline = self.store().next_deadline(now).unwrap_or(LONG);
            if commands.is_empty() && !deadline.is_zero() {
                self.check_served(deadline)?;
                self.check_deadline(deadline)?;
                let ms =
                    if round < ROUNDS_SHORT { deadline.as_millis().try_into().unwrap_or(u64::MAX) } else { 600_000 };
                self.advance(ms.max(1), ms.max(1));
            }
            self.apply(commands)?;
        }
        Ok(false)
    }

    /// All leases without an end are settled.
    fn settlements(&mut self) -> Vec<Command<Caller>> {
        let done: Vec<Id> = self.leases.iter().filter(|(_, held)| held.ends.is_none()).map(|(id, _)| *id).collect();
        let settle = |id: Id| {
            let lease = self.leases[&id].token;
            let settlement = Settlement { lease, attempt: None, verdict: Verdict::Done { emits: Vec::new() } };
            let ticket = self.listener(Asked::Settle(vec![(lease, Some(vec![(id, None)]))]));
            let settlement = prepare_settlement(settlement, &self.tuning, &self.secret);
            Command { ticket, request: Request::Settle(vec![settlement]) }
        };
        done.into_iter().map(settle).collect()
    }

    fn lease_request(&mut self, queue: u32, wait: Duration) -> Command<Caller> {
        let ticket = self.listener(Asked::Lease { queue, max: 5, ttl: None });
        Command { ticket, request: Request::Lease(LeaseRequest { queue: QueueId(queue), max: 5, wait, ttl: None }) }
    }

    /// Nothing is available that nobody holds, since somebody waits for it; unless too many wait for their keys before it, which is
    /// given some time.
    fn check_served(&self, deadline: Duration) -> Result<(), String> {
        let has_room = self.leases.len() < self.tuning.leases;
        let is_crowded =
            |entry: &Entry| self.settings[entry.queue as usize].keyed && deadline <= self.tuning.park_after;
        let mut left = self
            .model
            .entries
            .iter()
            .filter(|(id, entry)| has_room && !is_crowded(entry) && self.is_available(**id, entry));
        match left.next() {
            None => Ok(()),
            Some(left) => Err(format!("{left:?} is available, and not given to who waits for it: {:?}", self.leases)),
        }
    }

    fn is_available(&self, id: Id, entry: &Entry) -> bool {
        // One whose time had come before the clock was set back may be available or wait once more.
        let has_come = |place| !matches!(place, Place::Due(due) if due > self.now.wall.0);
        let key = self.facts[&id].key.filter(|_| self.settings[entry.queue as usize].keyed);
        let is_before = |other: &Id, of: &Entry| {
            key.is_some()
                && self.facts[other].key == key
                && (self.leases.contains_key(other)
                    || of.attempts > 0 && of.position < entry.position && !has_come(of.place))
        };
        let has_turned = || !self.of_other_order(entry.queue);
        has_come(entry.place)
            && !self.leases.contains_key(&id)
            && has_turned()
            && !self.model.of_queue(entry.queue).any(|(other, of)| is_before(&other, of))
    }

    /// Whether something of the queue was leased in another order than the one that was declared since.
    fn of_other_order(&self, queue: u32) -> bool {
        let keyed = self.settings[queue as usize].keyed;
        self.leases.values().any(|held| held.token.queue.0 == queue && held.keyed != keyed)
    }

    /// The store looks again no later than something happens. Where nothing can be leased, nobody needs to know what is due.
    fn check_deadline(&self, deadline: Duration) -> Result<(), String> {
        let has_room = self.leases.len() < self.tuning.leases;
        let is_looked_at = |entry: &Entry| has_room && !self.of_other_order(entry.queue);
        let due = self.model.entries.iter().filter_map(|(id, entry)| match entry.place {
            Place::Due(due) if due != HELD && is_looked_at(entry) && !self.has_come(*id, due) => {
                Some((Duration::from_millis(due - self.now.wall.0), *id))
            }
            _ => None,
        });
        let ends = self.leases.iter().filter_map(|(id, held)| Some((held.ends?.since(self.now.monotonic), *id)));
        match due.chain(ends).min().filter(|(next, _)| deadline > *next) {
            None => Ok(()),
            Some((next, id)) => {
                let what = (&self.model.entries[&id], self.leases.get(&id));
                Err(format!("message {id} is looked at in {next:?}, and the store sleeps for {deadline:?}: {what:?}"))
            }
        }
    }

    fn check_empty(&mut self) -> Result<(), String> {
        debug_assert_eq!(self.settings[GRAVEYARD as usize].dead_letter, None);
        for queue in 0..QUEUES.len() as u32 {
            let change: Change = self.model.of_queue(queue).map(|(id, _)| (id, None)).collect();
            let ticket = self.caller(Asked::Bulk { change, skipped: 0 });
            let job = Bulk {
                queue: QueueId(queue),
                filter: Filter::default(),
                select: Select::All,
                action: BulkAction::Discard,
                after: None,
                max: 1000,
            };
            self.apply(vec![Command { ticket, request: Request::Bulk(job) }])?;
        }
        self.compare()?;
        let summary = self.store().verify().map_err(|wrong| wrong.join("; "))?;
        if summary.bodies + summary.attempts > 0 { Err(format!("something is left over: {summary:?}")) } else { Ok(()) }
    }
}
