//! What must be so after a failure, and when all is over: nothing is missing, nothing is stuck, nothing is left behind.

use std::collections::BTreeMap;
use std::time::Duration;

use pelton_core::engine::{Bulk, BulkAction, Filter, Health, LeaseRequest, QueueId, Select, Settlement, Verdict};

use super::disk::Faults;
use super::model::{Change, Entry, Id, Model, Place};
use super::world::{Asked, Caller, QUEUES, World, definitions};
use crate::command::{Command, Reply, Request};
use crate::prepare::prepare_settlement;
use crate::store::Store;
use crate::tables::HELD;

/// Reopenings in a row after which the disk must be good again.
const REOPEN_TRIES: usize = 50;

impl World {
    /// After a failure: the store comes back by itself, or with the power; then nothing may be missing.
    pub(super) fn recover(&mut self) -> Result<(), String> {
        for _ in 0..REOPEN_TRIES {
            if self.disk.is_off() {
                self.count("power cut");
                self.store = None;
                self.asked.clear_unanswered(&mut self.model);
                self.disk.restore_power();
                if self.random.f64() < 0.2 {
                    let crash_in = Some(self.random.u64(..40));
                    self.disk.set_faults(Faults { crash_in, ..Faults::default() });
                }
                if self.restart().is_err() && !self.disk.is_off() {
                    return self.restart();
                }
            } else {
                self.count("reopened");
                if self.disk.is_full() {
                    self.count("reopened while full");
                }
                self.now.monotonic = self.now.monotonic.plus(self.tuning.reopen_max);
                let mut replies = Vec::new();
                let now = self.now();
                self.store().accept(Vec::new(), now, &mut replies);
                for (caller, reply) in replies {
                    self.check_reply(caller, reply)?;
                }
            }
            if let Some(store) = &self.store {
                match store.health() {
                    Health::Ready | Health::Full => return self.check_recovered(),
                    Health::Failed(reason) => return Err(format!("the store could not be reopened: {reason}")),
                    Health::Recovering => {}
                }
            }
        }
        Err("the store never came back".to_owned())
    }

    pub(super) fn restart(&mut self) -> Result<(), String> {
        self.store = None;
        let seed = self.random.u64(..);
        let store =
            Store::open(Box::new(self.disk.clone()), self.tuning.clone(), seed).map_err(|error| error.to_string())?;
        self.secret = store.secret();
        self.store = Some(store);
        let (now, mut replies) = (self.now(), Vec::new());
        let ticket = Caller { number: 0, listens: true };
        let command = Command { ticket, request: Request::Define(definitions(&self.declared)) };
        self.store().accept(vec![command], now, &mut replies);
        match replies.pop() {
            Some((_, Reply::Defined(Ok(defined)))) => self.check_defined(&defined, false),
            // Only what comes after a failure that the disk was told to have.
            other => Err(format!("defining the queues gave {other:?}")),
        }
    }

    fn check_recovered(&mut self) -> Result<(), String> {
        self.spent.extend(std::mem::take(&mut self.leases).into_values().map(|held| held.token));
        self.give_back.clear();
        if self.spent.len() > 100 {
            self.spent.drain(..50);
        }
        self.read_board();
        self.compare()?;
        self.check_counts()
    }

    /// No more faults: everything that is not held must be delivered within bounded time, and leave nothing behind.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.compare()?;
        for _ in 0..2000 {
            self.now.monotonic = self.now.monotonic.plus(Duration::from_secs(10));
            self.now.wall = self.now.wall.plus(Duration::from_secs(10));
            self.latest = self.latest.max(self.now.wall);
            let waiting = self.model.entries.values().filter(|entry| entry.place != Place::Due(HELD)).count();
            if waiting == 0 {
                return self.check_empty();
            }
            let mut commands: Vec<Command<Caller>> = Vec::new();
            let done: Vec<Id> = self.leases.iter().filter(|(_, held)| held.ends.is_none()).map(|(id, _)| *id).collect();
            for id in done {
                let lease = self.leases[&id].token;
                let settlement = Settlement { lease, attempt: None, verdict: Verdict::Done { emits: Vec::new() } };
                let ticket = self.caller(Asked::Settle(vec![(lease, Some(vec![(id, None)]))]));
                commands.push(Command {
                    ticket,
                    request: Request::Settle(vec![prepare_settlement(settlement, &self.tuning, &self.secret)]),
                });
            }
            for queue in 0..QUEUES.len() as u32 {
                let want = LeaseRequest { queue: QueueId(queue), max: 5, wait: Duration::ZERO, ttl: None };
                let ticket = self.caller(Asked::Lease { queue, max: 5, ttl: None });
                commands.push(Command { ticket, request: Request::Lease(want) });
            }
            self.apply(commands)?;
        }
        Err(format!("messages are stuck: {:?}", self.model.entries))
    }

    fn check_empty(&mut self) -> Result<(), String> {
        for queue in 0..QUEUES.len() as u32 {
            let in_queue = |entry: &&Entry| entry.queue == queue;
            let listed = self.model.entries.values().filter(in_queue).count();
            let change = self.model.entries.iter().filter(|(_, entry)| entry.queue == queue).map(|(id, _)| (*id, None));
            let ticket_change: Change = change.collect();
            debug_assert_eq!(listed, ticket_change.len());
            let ticket = self.caller(Asked::Bulk { change: ticket_change, skipped: 0 });
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

/// Requests without an answer when the power went.
trait Unanswered {
    fn clear_unanswered(&mut self, model: &mut Model);
}

impl Unanswered for BTreeMap<u64, Asked> {
    fn clear_unanswered(&mut self, model: &mut Model) {
        for asked in std::mem::take(self).into_values() {
            match asked {
                Asked::Append(change) | Asked::Bulk { change, .. } | Asked::Listed { change, .. } => {
                    model.doubt(change)
                }
                Asked::Settle(batch) => {
                    batch.into_iter().filter_map(|(_, change)| change).for_each(|change| model.doubt(change))
                }
                Asked::Lease { .. } | Asked::Extend(..) | Asked::Release(_) | Asked::Define => {}
            }
        }
    }
}
