//! Carries out what the machine decides: lease calls, runs, releases. One task owns the machine; everything else sends to it.
//!
//! The channel to it has no bound of its own: what is in it is bounded by permits (one lease call and `concurrency` runs a unit).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;
use tracing::debug;

use super::breaker::{BreakerStatus, Now};
use super::breakers::{Breakers, SharedBreaker};
use super::hand::{self, Sorted};
use super::machine::{Action, Event, Hand, Machine, Tuning, UnitId, Wanted};
use super::tasks::{is_full, lease, run};
use super::throttle::Throttle;
use super::worker::{RunOrder, WorkerContext};
use super::{ConsumerUnit, Observer};
use crate::clock::Clock;
use crate::engine::{Engine, LeaseToken, Leased, QueueId};
use crate::in_flight::InFlight;
use crate::name::ConsumerName;

/// How often consumers that are held back are looked at. While there are none nobody looks.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// The running dispatch loop.
pub struct Dispatch {
    inputs: mpsc::UnboundedSender<Input>,
    breakers: Breakers,
}

/// A consumer and its breaker.
pub(super) type Adopted = (Arc<ConsumerUnit>, Option<Arc<SharedBreaker>>);

pub(super) enum Input {
    Consumers(Vec<Adopted>),
    Leased(UnitId, Vec<Leased>),
    /// A run ended that had this slot.
    RunEnded {
        unit: UnitId,
        slot: usize,
        messages: usize,
        busy: Duration,
    },
    Happened(Event),
    /// A unit's breaker opened or closed, or a probe failed.
    Look(UnitId),
    /// A unit emitted to these queues, and they are full.
    Overfilled(UnitId, Vec<QueueId>),
    /// It is time to look at all that are held back.
    LookAtAll,
    Stop(oneshot::Sender<()>),
}

impl Dispatch {
    /// Starts the loop on the current tokio runtime; runs are spawned on `guests`, at most `slots` at once. `in_flight` has as many.
    #[must_use]
    pub fn start(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        guests: tokio::runtime::Handle,
        slots: usize,
        observer: Option<Arc<dyn Observer>>,
        in_flight: Option<Arc<InFlight>>,
    ) -> Self {
        let (inputs, received) = mpsc::unbounded_channel();
        let store = engine.store_id();
        let context = Arc::new(WorkerContext {
            engine: engine.clone(),
            clock,
            observer,
            store,
            in_flight,
            inputs: inputs.clone(),
        });
        let shell = Shell {
            machine: Machine::new(slots, Tuning::default()),
            units: HashMap::new(),
            ids: HashMap::new(),
            held: BTreeSet::new(),
            slots_free: (0..slots).rev().collect(),
            inputs: inputs.clone(),
            engine,
            guests,
            context,
        };
        tokio::spawn(shell.run(received));
        Self { inputs, breakers: Breakers::default() }
    }

    /// From now on these consumers, and no others, get deliveries. Running ones end as they began.
    pub fn set_consumers(&self, units: Vec<Arc<ConsumerUnit>>) {
        let breakers = self.breakers.adopt(&units);
        let _ = self.inputs.send(Input::Consumers(units.into_iter().zip(breakers).collect()));
    }

    /// How the breaker of `consumer` is; none where it has none.
    #[must_use]
    pub fn breaker(&self, consumer: &ConsumerName) -> Option<BreakerStatus> {
        self.breakers.status(consumer)
    }

    /// Closes the breaker of `consumer`, as somebody who knows that it works again; whether it has one.
    pub fn reset_breaker(&self, consumer: &ConsumerName) -> bool {
        let reset = self.breakers.reset(consumer);
        let _ = self.inputs.send(Input::LookAtAll);
        reset
    }

    /// Starts no more deliveries and waits up to `grace` for running ones and their settlements; whether all ended.
    pub async fn stop(&self, grace: Duration) -> bool {
        let (done, ended) = oneshot::channel();
        if self.inputs.send(Input::Stop(done)).is_err() {
            return true;
        }
        tokio::time::timeout(grace, ended).await.is_ok()
    }
}

struct Shell {
    machine: Machine,
    units: HashMap<UnitId, UnitState>,
    ids: HashMap<(ConsumerName, QueueId), UnitId>,
    /// Those that the machine was told to hold back.
    held: BTreeSet<UnitId>,
    /// Slots of the sandbox that no run has.
    slots_free: Vec<usize>,
    inputs: mpsc::UnboundedSender<Input>,
    engine: Arc<dyn Engine>,
    guests: tokio::runtime::Handle,
    context: Arc<WorkerContext>,
}

/// What the shell holds for a unit: what it runs, what holds it back, and what it has in hand.
struct UnitState {
    unit: Arc<ConsumerUnit>,
    breaker: Option<Arc<SharedBreaker>>,
    throttle: Option<Throttle>,
    /// The plan names it.
    wanted: bool,
    /// Messages of a run, as the machine said at the lease call.
    run: usize,
    in_hand: VecDeque<Leased>,
    /// In hand, and to be handled alone.
    alone: VecDeque<Leased>,
    lease: Option<AbortHandle>,
}

impl Shell {
    async fn run(mut self, mut received: mpsc::UnboundedReceiver<Input>) {
        let mut events = Vec::new();
        let mut actions = Vec::new();
        let mut stopped: Option<oneshot::Sender<()>> = None;
        let mut looks = tokio::time::interval(LOOK_PAUSE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let input = tokio::select! {
                biased;
                _ = looks.tick(), if !self.held.is_empty() => Input::LookAtAll,
                input = received.recv() => match input {
                    Some(input) => input,
                    None => return,
                },
            };
            match input {
                Input::Stop(done) => {
                    stopped = Some(done);
                    events.push(Event::Stop);
                }
                input => self.note(input, &mut events),
            }
            for event in events.drain(..) {
                self.machine.on(event, &mut actions);
            }
            for action in actions.drain(..) {
                self.carry_out(&action);
            }
            // A consumer that is gone takes its component with it.
            self.units.retain(|id, state| state.wanted || self.machine.knows(*id));
            if self.machine.is_idle()
                && let Some(done) = stopped.take()
            {
                let _ = done.send(());
            }
        }
    }

    /// What the machine has to be told about `input`.
    fn note(&mut self, input: Input, events: &mut Vec<Event>) {
        match input {
            Input::Consumers(units) => self.adopt(units, events),
            Input::Leased(id, leased) => events.push(self.in_hand(id, leased)),
            Input::RunEnded { unit, slot, messages, busy } => {
                self.slots_free.push(slot);
                events.push(Event::RunEnded { unit, messages, busy });
            }
            Input::Happened(event) => events.push(event),
            Input::Look(id) => self.look(id, events),
            Input::Overfilled(id, queues) => self.throttle(id, queues, events),
            Input::LookAtAll => {
                for id in self.held.clone() {
                    self.look(id, events);
                }
            }
            // Taken by the caller.
            Input::Stop(_) => {}
        }
    }

    fn adopt(&mut self, adopted: Vec<Adopted>, events: &mut Vec<Event>) {
        for state in self.units.values_mut() {
            state.wanted = false;
            state.unit.metrics.paused.set(0);
        }
        let now = self.now();
        self.held.clear();
        let mut wanted = Vec::with_capacity(adopted.len());
        for (unit, breaker) in adopted {
            let next = UnitId(u32::try_from(self.ids.len() + 1).expect("consumers are written by people"));
            let id = *self.ids.entry((unit.name.clone(), unit.queue)).or_insert(next);
            unit.metrics.paused.set(i64::from(unit.paused));
            let permits = if may_run(&unit) { unit.concurrency } else { 0 };
            let state = self.units.entry(id).or_insert_with(|| UnitState::new(unit.clone()));
            state.unit = unit;
            state.breaker = breaker;
            state.wanted = true;
            // The machine forgets whom it let through.
            if let Some(breaker) = &state.breaker {
                breaker.unanswered(now);
            }
            let held = state.is_held();
            if held {
                self.held.insert(id);
            }
            wanted.push(Wanted { id, permits, held });
        }
        for gone in self.units.values_mut().filter(|state| !state.wanted) {
            gone.throttle = None;
            gone.unit.metrics.throttled.set(0);
        }
        events.push(Event::Consumers(wanted));
    }

    fn in_hand(&mut self, id: UnitId, leased: Vec<Leased>) -> Event {
        let Some(state) = self.units.get_mut(&id) else { return Event::Leased(id, Hand::default()) };
        state.lease = None;
        let Sorted { messages, runs, alone, back } = hand::sort(leased, state.unit.ordered.then_some(state.run));
        let hand = Hand { messages: messages.len(), runs, alone: alone.len() };
        state.in_hand.extend(messages);
        state.alone.extend(alone);
        self.release(back);
        Event::Leased(id, hand)
    }

    /// The unit emitted to queues that are full.
    fn throttle(&mut self, id: UnitId, queues: Vec<QueueId>, events: &mut Vec<Event>) {
        let now = self.now();
        let Some(state) = self.units.get_mut(&id).filter(|state| state.wanted) else { return };
        match &mut state.throttle {
            Some(throttle) => throttle.add(queues),
            None => {
                debug!(consumer = %state.unit.name, "It filled queues beyond their bounds: it gets a message now and then until they drained.");
                state.throttle = Some(Throttle::new(queues, now.monotonic));
                state.unit.metrics.throttled.set(1);
            }
        }
        self.look(id, events);
    }

    /// Looks at what holds a unit back: whether it still does, and whether it is time to let one message through.
    fn look(&mut self, id: UnitId, events: &mut Vec<Event>) {
        let now = self.now();
        let Some(state) = self.units.get_mut(&id).filter(|state| state.wanted) else {
            self.held.remove(&id);
            return;
        };
        if let Some(throttle) = &mut state.throttle {
            let counts = self.engine.counts();
            if throttle.has_drained(|queue| is_full(&counts, queue)) {
                debug!(consumer = %state.unit.name, "The queues that it filled have drained.");
                state.throttle = None;
                state.unit.metrics.throttled.set(0);
            }
        }
        let held = state.is_held();
        let changed = if held { self.held.insert(id) } else { self.held.remove(&id) };
        if changed {
            events.push(Event::Hold(id, held));
        }
        let single = match (&state.breaker, &mut state.throttle) {
            // A probe is all that passes an open breaker, throttled or not.
            _ if !may_run(&state.unit) => None,
            (Some(breaker), _) if breaker.is_open() => breaker.probe(now),
            (_, Some(throttle)) => throttle.single(now.monotonic).then_some(1),
            _ => None,
        };
        if let Some(of) = single {
            events.push(Event::Single(id, of));
        }
    }

    fn now(&self) -> Now {
        Now { wall: self.context.clock.wall(), monotonic: self.context.clock.monotonic() }
    }

    fn carry_out(&mut self, action: &Action) {
        match *action {
            Action::Lease { unit: id, messages, run } => {
                let Some(state) = self.units.get_mut(&id) else { return };
                state.run = run;
                state.lease = Some(lease(id, state.unit.clone(), messages, self.engine.clone(), self.inputs.clone()));
            }
            Action::CancelLease(id) => {
                if let Some(lease) = self.units.get_mut(&id).and_then(|state| state.lease.take()) {
                    lease.abort();
                }
            }
            Action::Run(id, count) => self.start(id, false, |state| state.in_hand.drain(..count).collect()),
            Action::RunAlone(id) => self.start(id, true, |state| state.alone.pop_front().into_iter().collect()),
            Action::RunSingle(id) => {
                let mut rest = Vec::new();
                self.start(id, true, |state| {
                    let choice = state.breaker.as_ref().map_or(0, |breaker| breaker.choice(state.in_hand.len()));
                    let chosen = state.in_hand.remove(hand::first_of_key(&state.in_hand, choice));
                    rest.extend(state.in_hand.drain(..).map(|leased| leased.token));
                    chosen.into_iter().collect()
                });
                self.release(rest);
            }
            Action::Release(id) => {
                let Some(state) = self.units.get_mut(&id) else { return };
                let all = state.in_hand.drain(..).chain(state.alone.drain(..));
                let tokens = all.map(|leased| leased.token).collect();
                self.release(tokens);
            }
        }
    }

    /// Starts a run of the messages that `take` takes from those in hand.
    fn start(&mut self, id: UnitId, single: bool, take: impl FnOnce(&mut UnitState) -> Vec<Leased>) {
        let Some(state) = self.units.get_mut(&id) else { return };
        let messages = take(state);
        let slot = self.slots_free.pop().expect("the machine starts no more runs than there are slots");
        let order = RunOrder { id, unit: state.unit.clone(), breaker: state.breaker.clone(), slot, single };
        self.guests.spawn(run(order, messages, self.context.clone()));
    }

    /// Gives leases back, beside everything else.
    fn release(&self, tokens: Vec<LeaseToken>) {
        if !tokens.is_empty() {
            let engine = self.engine.clone();
            tokio::spawn(async move { engine.release(tokens).await });
        }
    }
}

impl UnitState {
    fn new(unit: Arc<ConsumerUnit>) -> Self {
        Self {
            unit,
            breaker: None,
            throttle: None,
            wanted: true,
            run: 1,
            in_hand: VecDeque::new(),
            alone: VecDeque::new(),
            lease: None,
        }
    }

    fn is_held(&self) -> bool {
        self.throttle.is_some() || self.breaker.as_ref().is_some_and(|breaker| breaker.is_open())
    }
}

/// Whether it gets deliveries, as far as its operator is concerned.
fn may_run(unit: &ConsumerUnit) -> bool {
    unit.handler.is_some() && !unit.paused
}
