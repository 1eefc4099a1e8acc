//! What must be so after a failure: the store comes back, and nothing is missing.

use pelton_core::engine::{EngineError, Health};

use super::disk::Faults;
use super::model::Place;
use super::plan::{QUEUES, definitions};
use super::world::{Asked, Caller, Turn, World};
use crate::command::{Command, Reply, Request};
use crate::store::Store;

/// Reopenings in a row after which the disk must be good again.
const REOPEN_TRIES: usize = 50;
/// Tries after which somebody makes room on a disk that others have filled.
const MAKE_ROOM_AFTER: usize = 20;

impl World {
    /// After a failure: the store comes back by itself, or with the power; then nothing may be missing.
    pub(super) fn recover(&mut self) -> Result<(), String> {
        for tried in 0..REOPEN_TRIES {
            if self.disk.is_off() {
                self.count("power cut");
                self.store = None;
                self.doubt_unanswered();
                self.disk.restore_power();
                self.start()?;
            } else if self.store.is_none() {
                self.start()?;
            } else {
                self.count("reopened");
                if self.disk.is_full() {
                    self.count("reopened while full");
                }
                if self.features.small_disk && tried >= MAKE_ROOM_AFTER {
                    self.make_room();
                } else if self.features.small_disk && self.random.f64() < 0.3 {
                    self.change_room();
                }
                if self.random.f64() < 0.2 {
                    self.arm_faults();
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

    /// Starts the store until it runs, or until the power goes.
    fn start(&mut self) -> Result<(), String> {
        match self.random.usize(..10) {
            0 | 1 => {
                let crash_in = Some(self.random.u64(..40));
                self.disk.set_faults(Faults { crash_in, ..Faults::default() });
            }
            2 | 3 => self.arm_faults(),
            _ => {}
        }
        while !self.restart()? && !self.disk.is_off() {
            self.count("start failed");
            self.disk.set_faults(Faults::default());
            if self.features.small_disk {
                self.change_room();
            }
        }
        Ok(())
    }

    /// The store is closed in order, as far as the disk lets it, and started again.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        if self.random.bool() {
            self.arm_faults();
        }
        let (now, mut replies) = (self.now(), Vec::new());
        self.turn = Turn::default();
        self.turn.committing = true;
        self.store().close(now, &mut replies);
        for (caller, reply) in replies {
            self.check_reply(caller, reply)?;
        }
        self.count("stopped");
        self.store = None;
        self.recover()
    }

    /// Starts the store as a new process does; whether that came about. It may fail only with what another start may mend.
    pub(super) fn restart(&mut self) -> Result<bool, String> {
        self.store = None;
        let seed = self.store_seed.unwrap_or_else(|| self.random.u64(..));
        let store = match Store::open(Box::new(self.disk.clone()), self.tuning.clone(), seed) {
            Ok(store) => store,
            Err(error) if error.is_passing() => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        self.secret = store.secret();
        self.store = Some(store);
        let (now, mut replies) = (self.now(), Vec::new());
        let ticket = Caller { number: 0, listens: true };
        let request = Request::Define(definitions(&self.settings, &self.schedules, self.free_bytes_min));
        self.store().accept(vec![Command { ticket, request }], now, &mut replies);
        match replies.pop() {
            Some((_, Reply::Defined(Ok(defined)))) => self.check_defined(&defined, false).map(|()| true),
            Some((_, Reply::Defined(Err(EngineError::Unknown | EngineError::Unavailable)))) => {
                self.store = None;
                Ok(false)
            }
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
                Asked::PauseConsumer(_) => self.consumer_paused = None,
                Asked::Lease { .. }
                | Asked::Extend(..)
                | Asked::Release(_)
                | Asked::Held(_)
                | Asked::Define
                | Asked::Filtered => {}
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
        self.consumer_paused.get_or_insert(self.consumer_told);
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
}
