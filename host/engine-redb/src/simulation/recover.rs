//! What must be so after a failure, and when all is over: nothing is missing, nothing is stuck, nothing is left behind.

use std::time::Duration;

use pelton_core::engine::{Bulk, BulkAction, Filter, Health, LeaseRequest, QueueId, Select, Settlement, Verdict};

use super::disk::Faults;
use super::model::{Change, Id, Place};
use super::plan::{GRAVEYARD, QUEUES, definitions};
use super::world::{Asked, Caller, Turn, World};
use crate::command::{Command, Reply, Request};
use crate::prepare::prepare_settlement;
use crate::store::Store;
use crate::tables::HELD;

/// Reopenings in a row after which the disk must be good again.
const REOPEN_TRIES: usize = 50;
/// Rounds after which all messages must have been delivered once nothing fails any more.
const ROUNDS_MAX: usize = 3000;
/// Rounds after which the time between them is long: what waits for hours waits no longer than that.
const ROUNDS_SHORT: usize = 100;

impl World {
    /// After a failure: the store comes back by itself, or with the power; then nothing may be missing.
    pub(super) fn recover(&mut self) -> Result<(), String> {
        for _ in 0..REOPEN_TRIES {
            if self.disk.is_off() {
                self.count("power cut");
                self.store = None;
                self.doubt_unanswered();
                self.disk.restore_power();
                if self.random.f64() < 0.2 {
                    let crash_in = Some(self.random.u64(..40));
                    self.disk.set_faults(Faults { crash_in, ..Faults::default() });
                }
                if self.restart().is_err() && !self.disk.is_off() {
                    self.restart()?;
                    return self.recovered();
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
                    Health::Ready | Health::Full => return self.recovered(),
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
        let request = Request::Define(definitions(&self.settings, &self.schedules));
        self.store().accept(vec![Command { ticket, request }], now, &mut replies);
        match replies.pop() {
            Some((_, Reply::Defined(Ok(defined)))) => self.check_defined(&defined, false),
            // Only what comes after a failure that the disk was told to have.
            other => Err(format!("defining the queues gave {other:?}")),
        }
    }

    /// Requests without an answer when the power went.
    fn doubt_unanswered(&mut self) {
        for asked in std::mem::take(&mut self.asked).into_values() {
            match asked {
                Asked::Append(asked) => self.doubt_append(*asked),
                Asked::Bulk { change, .. } | Asked::Listed { change, .. } | Asked::Lost(change) => {
                    self.model.doubt(change);
                }
                Asked::Settle(batch) => {
                    batch.into_iter().filter_map(|(_, change)| change).for_each(|change| self.model.doubt(change));
                }
                Asked::Pause(queue, _) => self.paused[queue as usize] = None,
                Asked::Lease { .. } | Asked::Extend(..) | Asked::Release(_) | Asked::Define | Asked::Filtered => {}
            }
        }
    }

    /// The store is open again: all leases have ended, and what nobody knew shows.
    pub(super) fn recovered(&mut self) -> Result<(), String> {
        self.recoveries += 1;
        let now = self.now.wall.0;
        let has_come = |place: Place| matches!(place, Place::Due(due) if due <= now);
        self.ripe.extend(self.model.entries.iter().filter(|(_, entry)| has_come(entry.place)).map(|(id, _)| *id));
        self.board.clear();
        self.read_board();
        for queue in 0..QUEUES.len() {
            if let Some(counts) = self.board.get(&(queue as u32)) {
                let paused = *self.paused[queue].get_or_insert(counts.paused);
                if paused != counts.paused {
                    return Err(format!("queue {queue} was paused ({paused}), and is not the same after: {counts:?}"));
                }
                self.ended[queue] = (counts.expired, counts.dropped);
            }
        }
        self.find_new_ticks()?;
        self.look(true)?;
        self.settings_before = None;
        self.turn = Turn::default();
        self.passed.clear();
        self.ripe.retain(|id| self.model.entries.get(id).is_some_and(|entry| has_come(entry.place)));
        for (id, held) in std::mem::take(&mut self.leases) {
            self.lost.push((id, held.token.queue, held.token.entry, held.told));
            self.spent.push(held.token);
        }
        self.lost.truncate(10);
        self.give_back.clear();
        if self.spent.len() > 100 {
            self.spent.drain(..50);
        }
        self.compare()?;
        self.check_counts()
    }

    /// Schedules that were declared shortly before the failure count from whenever that came to be.
    fn find_new_ticks(&mut self) -> Result<(), String> {
        let stored = self.stored_ticks()?;
        let mut ticks = self.new_ticks();
        for (schedule, at) in &mut ticks {
            if !self.model.ticks.contains_key(schedule) && stored.get(schedule).is_some_and(|stored| stored <= at) {
                *at = stored[schedule];
            }
        }
        self.model.ticks = ticks;
        Ok(())
    }

    /// No more faults: everything that is not held must be delivered within bounded time, and leave nothing behind.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.compare()?;
        self.resume_all()?;
        for round in 0..ROUNDS_MAX {
            let ms = if round < ROUNDS_SHORT { 10_000 } else { 600_000 };
            self.advance(ms, ms);
            let waiting = self.model.entries.values().filter(|entry| entry.place != Place::Due(HELD)).count();
            if waiting == 0 {
                return self.check_empty();
            }
            self.turn = Turn::default();
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
        Err(format!("messages are stuck: {:?}; {:?}", self.model.entries, self.settings))
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
