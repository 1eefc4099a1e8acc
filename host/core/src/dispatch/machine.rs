//! Who leases how much, and when a run starts: a pure machine. Events go in, actions come out; it does no I/O.
//!
//! Invariants: the runs of a consumer never exceed its concurrency, all runs never exceed the slots; a consumer has at most one
//! lease call under way; nothing is leased beyond what its free permits could start at once, nor while too much of it
//! waits to be settled.

use std::collections::BTreeMap;
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

/// What happened.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// These consumers, and no others, with their permits; none for one that can't run.
    Consumers(Vec<(UnitId, usize)>),
    /// The unit's lease call returned this many messages, now in hand.
    Leased(UnitId, usize),
    /// A run ended; its permit is free, its settlements are on their way.
    RunEnded { unit: UnitId, messages: usize, busy: Duration },
    /// So many messages of ended runs are settled, or will never be.
    Settled(UnitId, usize),
    /// No more deliveries.
    Stop,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask the engine for up to so many messages.
    Lease(UnitId, usize),
    /// Give up the lease call under way. If it returned already, [`Event::Leased`] still comes.
    CancelLease(UnitId),
    /// Start a run with so many messages from the front of those in hand.
    Run(UnitId, usize),
    /// Give back all messages in hand.
    Release(UnitId),
}

#[derive(Debug, Default)]
struct Unit {
    permits: usize,
    running: usize,
    leasing: bool,
    in_hand: usize,
    settling: usize,
    /// Moving mean of the time in the handler per message; none before the first run ended.
    mean: Option<Duration>,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Machine {
    units: BTreeMap<UnitId, Unit>,
    slots_free: usize,
    tuning: Tuning,
    stopping: bool,
    /// Who is served first when slots are short: the unit behind the one that was served last.
    last_served: UnitId,
}

impl Machine {
    pub(super) fn new(slots: usize, tuning: Tuning) -> Self {
        Self { units: BTreeMap::new(), slots_free: slots, tuning, stopping: false, last_served: UnitId(0) }
    }

    /// Takes note of `event` and adds what to do about it to `actions`.
    pub(super) fn on(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Consumers(units) => self.consumers(units, actions),
            Event::Leased(id, count) => {
                let unit = self.units.entry(id).or_default();
                unit.leasing = false;
                unit.in_hand += count;
            }
            Event::RunEnded { unit: id, messages, busy } => {
                self.slots_free += 1;
                let unit = self.units.entry(id).or_default();
                unit.running -= 1;
                unit.settling += messages;
                unit.measure(messages, busy);
            }
            Event::Settled(id, count) => self.units.entry(id).or_default().settling -= count,
            Event::Stop => {
                self.stopping = true;
                self.consumers(Vec::new(), actions);
            }
        }
        self.pump(actions);
    }

    /// Whether nothing runs, is leased or waits to be settled.
    pub(super) fn is_idle(&self) -> bool {
        self.units.values().all(|unit| unit.running == 0 && unit.settling == 0 && unit.in_hand == 0 && !unit.leasing)
    }

    /// Whether `id` runs, or has anything left to do.
    pub(super) fn knows(&self, id: UnitId) -> bool {
        self.units.contains_key(&id)
    }

    fn consumers(&mut self, wanted: Vec<(UnitId, usize)>, actions: &mut Vec<Action>) {
        for unit in self.units.values_mut() {
            unit.permits = 0;
        }
        if !self.stopping {
            for (id, permits) in wanted {
                self.units.entry(id).or_default().permits = permits;
            }
        }
        let retired = self.units.iter().filter(|(_, unit)| unit.permits == 0 && unit.leasing);
        actions.extend(retired.map(|(id, _)| Action::CancelLease(*id)));
    }

    fn pump(&mut self, actions: &mut Vec<Action>) {
        let order: Vec<UnitId> = {
            let behind = self.units.range((std::ops::Bound::Excluded(self.last_served), std::ops::Bound::Unbounded));
            behind.chain(self.units.range(..=self.last_served)).map(|(id, _)| *id).collect()
        };
        for id in order {
            let unit = self.units.get_mut(&id).expect("listed above");
            if unit.permits == 0 && unit.in_hand > 0 {
                unit.in_hand = 0;
                actions.push(Action::Release(id));
            }
            let run_max = unit.run_messages(&self.tuning);
            while unit.in_hand > 0 && unit.running < unit.permits && self.slots_free > 0 {
                let count = unit.in_hand.min(run_max);
                unit.in_hand -= count;
                unit.running += 1;
                self.slots_free -= 1;
                self.last_served = id;
                actions.push(Action::Run(id, count));
            }
            let permits_free = unit.permits.saturating_sub(unit.running).min(self.slots_free);
            let may_lease = unit.in_hand == 0 && !unit.leasing && unit.settling < self.tuning.settling_messages_max;
            if may_lease && permits_free > 0 {
                unit.leasing = true;
                let messages = permits_free.saturating_mul(run_max).min(self.tuning.lease_messages_max);
                actions.push(Action::Lease(id, messages));
            }
        }
        self.units.retain(|_, unit| unit.permits > 0 || unit.is_busy());
    }
}

impl Unit {
    fn is_busy(&self) -> bool {
        self.running > 0 || self.leasing || self.in_hand > 0 || self.settling > 0
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
mod tests {
    use super::*;

    const A: UnitId = UnitId(1);
    const B: UnitId = UnitId(2);

    fn machine(slots: usize, units: &[(UnitId, usize)]) -> (Machine, Vec<Action>) {
        let mut machine = Machine::new(slots, Tuning::default());
        let mut actions = Vec::new();
        machine.on(Event::Consumers(units.to_vec()), &mut actions);
        (machine, actions)
    }

    fn on(machine: &mut Machine, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        machine.on(event, &mut actions);
        actions
    }

    fn ended(unit: UnitId, messages: usize, micros: u64) -> Event {
        Event::RunEnded { unit, messages, busy: Duration::from_micros(micros) }
    }

    #[test]
    fn leases_no_more_than_its_permits_could_start() {
        let (mut machine, actions) = machine(100, &[(A, 3)]);
        assert_eq!(actions, [Action::Lease(A, 3)], "runs of one while nothing is known");
        let runs = on(&mut machine, Event::Leased(A, 3));
        assert_eq!(runs, [Action::Run(A, 1), Action::Run(A, 1), Action::Run(A, 1)], "and no lease: no permit is free");
        assert_eq!(on(&mut machine, ended(A, 1, 10)), [Action::Lease(A, 64)], "10 us a message: 64 to a run");
    }

    #[test]
    fn long_handlers_get_runs_of_one() {
        let (mut machine, _) = machine(100, &[(A, 1)]);
        on(&mut machine, Event::Leased(A, 1));
        assert_eq!(on(&mut machine, ended(A, 1, 50_000)), [Action::Lease(A, 1)]);
    }

    #[test]
    fn slots_are_shared_in_turn() {
        let (mut machine, actions) = machine(1, &[(A, 5), (B, 5)]);
        assert_eq!(actions, [Action::Lease(A, 1), Action::Lease(B, 1)]);
        assert_eq!(on(&mut machine, Event::Leased(A, 1)), [Action::Run(A, 1)]);
        assert_eq!(on(&mut machine, Event::Leased(B, 1)), [], "the slot is taken");
        let next = on(&mut machine, ended(A, 1, 2_000));
        assert_eq!(next, [Action::Run(B, 1)], "B was waiting; A leases again when a slot is free");
    }

    #[test]
    fn settling_is_bounded() {
        let (mut machine, _) = machine(10, &[(A, 1)]);
        machine.tuning.settling_messages_max = 1;
        on(&mut machine, Event::Leased(A, 1));
        assert_eq!(on(&mut machine, ended(A, 1, 10)), [], "its settlement is not committed yet");
        assert_eq!(on(&mut machine, Event::Settled(A, 1)), [Action::Lease(A, 64)]);
    }

    #[test]
    fn a_consumer_that_is_gone_gives_back_what_it_has() {
        let (mut machine, _) = machine(10, &[(A, 1)]);
        assert_eq!(on(&mut machine, Event::Consumers(Vec::new())), [Action::CancelLease(A)]);
        assert_eq!(on(&mut machine, Event::Leased(A, 1)), [Action::Release(A)]);
        assert!(machine.is_idle() && !machine.knows(A));
    }

    #[test]
    fn stopping_waits_for_runs_and_their_settlements() {
        let (mut machine, _) = machine(10, &[(A, 2)]);
        on(&mut machine, Event::Leased(A, 1));
        on(&mut machine, Event::Stop);
        on(&mut machine, Event::Leased(A, 0));
        assert!(!machine.is_idle());
        on(&mut machine, ended(A, 1, 10));
        assert!(!machine.is_idle(), "not settled yet");
        assert_eq!(on(&mut machine, Event::Settled(A, 1)), []);
        assert!(machine.is_idle());
    }
}
