//! Who leases how much, and when a run starts: a pure machine. Events go in, actions come out; it does no I/O.
//!
//! Invariants: the runs of a consumer never exceed its concurrency, all runs never exceed the slots; a consumer has at most one
//! lease call under way; nothing is leased beyond what its free permits could start at once, nor while too much of it
//! waits to be settled. A message that is to be handled alone runs while nothing else does. A consumer that is held back gets
//! one message each time that it is let through, and nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A consumer of one plan or several: it stays the same while its name and queue do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct UnitId(pub(super) u32);

/// The machine's thresholds.
#[derive(Debug, Clone)]
pub(super) struct Tuning {
    /// A run should take about this long.
    pub(super) run_time: Duration,
    /// Most messages in a run.
    pub(super) run_messages_max: usize,
    /// Most messages asked for by one lease call.
    pub(super) lease_messages_max: usize,
    /// Most messages of a consumer that wait for their settlement's commit.
    pub(super) settling_messages_max: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            run_time: Duration::from_millis(1),
            run_messages_max: 64,
            lease_messages_max: 1024,
            settling_messages_max: 8192,
        }
    }
}

/// A consumer that there is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) id: UnitId,
    /// None for one that can't run.
    pub(super) permits: usize,
    /// See [`Event::Hold`].
    pub(super) held: bool,
}

/// Messages that were leased.
#[derive(Debug, Clone, Default)]
pub(super) struct Hand {
    /// How many, but for those to be handled alone.
    pub(super) messages: usize,
    /// How they are cut into runs already, in order: those that must not be cut anyhow. None: they may be.
    pub(super) runs: VecDeque<usize>,
    /// How many are to be handled alone.
    pub(super) alone: usize,
}

/// What happened.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// These consumers, and no others.
    Consumers(Vec<Wanted>),
    /// The unit's lease call returned these, now in hand.
    Leased(UnitId, Hand),
    /// A run ended; its permit is free, its settlements are on their way.
    RunEnded { unit: UnitId, messages: usize, busy: Duration },
    /// So many messages of ended runs are settled, or will never be.
    Settled(UnitId, usize),
    /// The unit is held back from now on, or not any more.
    Hold(UnitId, bool),
    /// One message passes for a unit that is held back, chosen from up to so many.
    Single(UnitId, usize),
    /// No more deliveries.
    Stop,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask the engine for up to so many messages. Those that must not be cut anyhow are to be cut into runs of about `run`.
    Lease { unit: UnitId, messages: usize, run: usize },
    /// Give up the lease call under way. If it returned already, [`Event::Leased`] still comes.
    CancelLease(UnitId),
    /// Start a run with so many messages from the front of those in hand.
    Run(UnitId, usize),
    /// Start a run with one message that is to be handled alone.
    RunAlone(UnitId),
    /// Start a run with one of the messages in hand, and give back the others.
    RunSingle(UnitId),
    /// Give back all messages in hand.
    Release(UnitId),
}

#[derive(Debug, Default)]
struct Unit {
    permits: usize,
    running: usize,
    leasing: bool,
    in_hand: usize,
    /// How they are cut already; empty: they are not.
    runs: VecDeque<usize>,
    alone: usize,
    settling: usize,
    hold: Hold,
    /// Moving mean of the time in the handler per message; none before the first run ended.
    mean: Option<Duration>,
}

/// Whether a unit is held back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Hold {
    #[default]
    No,
    Held,
    /// Until it had one message, chosen from up to so many.
    Single(usize),
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Machine {
    units: BTreeMap<UnitId, Unit>,
    slots: usize,
    slots_free: usize,
    tuning: Tuning,
    stopping: bool,
    /// Who is served first when slots are short: the unit behind the one that was served last.
    last_served: UnitId,
    /// Messages of all units that are to be handled alone, and wait for it.
    alone: usize,
    /// One of them runs.
    alone_runs: bool,
}

impl Machine {
    pub(super) fn new(slots: usize, tuning: Tuning) -> Self {
        Self {
            units: BTreeMap::new(),
            slots,
            slots_free: slots,
            tuning,
            stopping: false,
            last_served: UnitId(0),
            alone: 0,
            alone_runs: false,
        }
    }

    /// Takes note of `event` and adds what to do about it to `actions`.
    pub(super) fn on(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Consumers(units) => self.consumers(units, actions),
            Event::Leased(id, hand) => self.leased(id, hand, actions),
            Event::RunEnded { unit: id, messages, busy } => {
                self.slots_free += 1;
                // While a message is handled alone nothing else runs, so this was it.
                self.alone_runs = false;
                let unit = self.units.entry(id).or_default();
                unit.running -= 1;
                unit.settling += messages;
                unit.measure(messages, busy);
            }
            Event::Settled(id, count) => self.units.entry(id).or_default().settling -= count,
            Event::Hold(id, held) => {
                let unit = self.units.entry(id).or_default();
                unit.hold = if held { Hold::Held } else { Hold::No };
                self.hold_back(id, actions);
            }
            Event::Single(id, of) => {
                let unit = self.units.entry(id).or_default();
                if unit.hold == Hold::Held {
                    unit.hold = Hold::Single(of);
                }
            }
            Event::Stop => {
                self.stopping = true;
                self.consumers(Vec::new(), actions);
            }
        }
        self.pump(actions);
    }

    /// Whether nothing runs, is leased or waits to be settled.
    pub(super) fn is_idle(&self) -> bool {
        !self.units.values().any(Unit::is_busy)
    }

    /// Whether `id` runs, or has anything left to do.
    pub(super) fn knows(&self, id: UnitId) -> bool {
        self.units.contains_key(&id)
    }

    fn consumers(&mut self, wanted: Vec<Wanted>, actions: &mut Vec<Action>) {
        for unit in self.units.values_mut() {
            unit.permits = 0;
        }
        if !self.stopping {
            for Wanted { id, permits, held } in wanted {
                let unit = self.units.entry(id).or_default();
                unit.permits = permits;
                unit.hold = if held { Hold::Held } else { Hold::No };
            }
        }
        let all: Vec<UnitId> = self.units.keys().copied().collect();
        all.into_iter().for_each(|id| self.hold_back(id, actions));
    }

    fn leased(&mut self, id: UnitId, hand: Hand, actions: &mut Vec<Action>) {
        let unit = self.units.entry(id).or_default();
        unit.leasing = false;
        unit.in_hand += hand.messages;
        unit.runs.extend(hand.runs);
        unit.alone += hand.alone;
        self.alone += hand.alone;
        self.hold_back(id, actions);
    }

    /// Lets a unit that may not run give up what it has in hand, and what it waits for.
    fn hold_back(&mut self, id: UnitId, actions: &mut Vec<Action>) {
        let Some(unit) = self.units.get_mut(&id).filter(|unit| !unit.may_run()) else { return };
        if unit.leasing {
            actions.push(Action::CancelLease(id));
        }
        if unit.in_hand > 0 || unit.alone > 0 {
            self.alone -= unit.alone;
            unit.drop_hand();
            actions.push(Action::Release(id));
        }
    }

    fn pump(&mut self, actions: &mut Vec<Action>) {
        if self.alone > 0 && self.slots_free == self.slots {
            self.start_alone(actions);
        }
        if self.alone == 0 && !self.alone_runs {
            for id in self.in_turn() {
                self.serve(id, actions);
            }
        }
        self.units.retain(|_, unit| unit.permits > 0 || unit.is_busy());
    }

    fn in_turn(&self) -> Vec<UnitId> {
        let behind = self.units.range((std::ops::Bound::Excluded(self.last_served), std::ops::Bound::Unbounded));
        behind.chain(self.units.range(..=self.last_served)).map(|(id, _)| *id).collect()
    }

    /// Nothing runs: starts the next message that is to be handled so.
    fn start_alone(&mut self, actions: &mut Vec<Action>) {
        let waits = |id: &UnitId| self.units.get(id).is_some_and(|unit| unit.alone > 0);
        let id = self.in_turn().into_iter().find(waits).expect("`alone` is the sum over all units");
        let unit = self.units.get_mut(&id).expect("found just now");
        unit.alone -= 1;
        unit.running += 1;
        self.alone -= 1;
        self.alone_runs = true;
        self.slots_free -= 1;
        self.last_served = id;
        actions.push(Action::RunAlone(id));
        if matches!(unit.hold, Hold::Single(_)) {
            unit.hold = Hold::Held;
            self.hold_back(id, actions);
        }
    }

    /// Starts what a unit has in hand, as far as it may, and leases more when it has nothing.
    fn serve(&mut self, id: UnitId, actions: &mut Vec<Action>) {
        let unit = self.units.get_mut(&id).expect("the caller knows it");
        let run_max = unit.run_messages(&self.tuning);
        let mut started = 0;
        match unit.hold {
            Hold::Held => return,
            Hold::Single(_) if unit.in_hand > 0 => {
                if unit.permits_free() > 0 && self.slots_free > 0 {
                    unit.drop_hand();
                    unit.hold = Hold::Held;
                    started = 1;
                    actions.push(Action::RunSingle(id));
                }
            }
            Hold::Single(_) => {}
            Hold::No => {
                while unit.in_hand > 0 && started < unit.permits_free().min(self.slots_free) {
                    actions.push(Action::Run(id, unit.next_run(run_max)));
                    started += 1;
                }
            }
        }
        if started > 0 {
            unit.running += started;
            self.slots_free -= started;
            self.last_served = id;
        }
        let could_start = unit.permits_free().min(self.slots_free);
        let may_lease = unit.in_hand == 0 && !unit.leasing && unit.settling < self.tuning.settling_messages_max;
        if may_lease && could_start > 0 {
            let (messages, run) = match unit.hold {
                Hold::No => (could_start.saturating_mul(run_max).min(self.tuning.lease_messages_max), run_max),
                Hold::Single(of) => (of, of),
                Hold::Held => return,
            };
            unit.leasing = true;
            actions.push(Action::Lease { unit: id, messages, run });
        }
    }
}

impl Unit {
    fn is_busy(&self) -> bool {
        self.running > 0 || self.leasing || self.in_hand > 0 || self.alone > 0 || self.settling > 0
    }

    fn may_run(&self) -> bool {
        self.permits > 0 && self.hold != Hold::Held
    }

    fn permits_free(&self) -> usize {
        self.permits.saturating_sub(self.running)
    }

    fn drop_hand(&mut self) {
        self.in_hand = 0;
        self.runs.clear();
        self.alone = 0;
    }

    /// Takes the next run from those in hand; how many messages it has.
    fn next_run(&mut self, run_max: usize) -> usize {
        let count = self.runs.pop_front().unwrap_or_else(|| self.in_hand.min(run_max));
        self.in_hand -= count;
        count
    }

    /// One, until it is known how long a message takes.
    fn run_messages(&self, tuning: &Tuning) -> usize {
        let Some(mean) = self.mean else { return 1 };
        let fit = tuning.run_time.as_nanos() / mean.as_nanos().max(1);
        usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, tuning.run_messages_max)
    }

    fn measure(&mut self, messages: usize, busy: Duration) {
        let Ok(count @ 1..) = u32::try_from(messages) else { return };
        let sample = busy / count;
        self.mean = Some(self.mean.map_or(sample, |mean| (mean * 7 + sample) / 8));
    }
}

#[cfg(test)]
mod tests;
