//! Carries out what the machine decides: lease calls, runs, releases. One task owns the machine; everything else sends to it.
//!
//! The channel to it has no bound of its own: what is in it is bounded by permits (one lease call and `concurrency` runs a unit).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::{error, warn};

use super::machine::{Action, Event, Machine, Tuning, UnitId};
use super::worker::{self, WorkerContext};
use super::{ConsumerUnit, Observer};
use crate::clock::Clock;
use crate::engine::{Engine, LeaseRequest, LeaseToken, Leased, QueueId};
use crate::name::ConsumerName;

/// How long one lease call waits for a message before it is made anew.
const LEASE_WAIT: Duration = Duration::from_secs(30);
/// The pause after a lease call that failed, so that a store that is down is not hammered.
const LEASE_PAUSE: Duration = Duration::from_millis(200);

/// The running dispatch loop.
pub struct Dispatch {
    inputs: mpsc::UnboundedSender<Input>,
}

pub(super) enum Input {
    Consumers(Vec<Arc<ConsumerUnit>>),
    Leased(UnitId, Vec<Leased>),
    Happened(Event),
    Stop(oneshot::Sender<()>),
}

impl Dispatch {
    /// Starts the loop on the current tokio runtime; runs are spawned on `guests`, at most `slots` at once.
    #[must_use]
    pub fn start(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        guests: tokio::runtime::Handle,
        slots: usize,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        let (inputs, received) = mpsc::unbounded_channel();
        let store = engine.store_id();
        let context = Arc::new(WorkerContext { engine: engine.clone(), clock, observer, store });
        let shell = Shell {
            machine: Machine::new(slots, Tuning::default()),
            units: HashMap::new(),
            ids: HashMap::new(),
            inputs: inputs.clone(),
            engine,
            guests,
            context,
        };
        tokio::spawn(shell.run(received));
        Self { inputs }
    }

    /// From now on these consumers, and no others, get deliveries. Running ones end as they began.
    pub fn set_consumers(&self, units: Vec<Arc<ConsumerUnit>>) {
        let _ = self.inputs.send(Input::Consumers(units));
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
    units: HashMap<UnitId, Slot>,
    ids: HashMap<(ConsumerName, QueueId), UnitId>,
    inputs: mpsc::UnboundedSender<Input>,
    engine: Arc<dyn Engine>,
    guests: tokio::runtime::Handle,
    context: Arc<WorkerContext>,
}

/// What the shell holds for a unit: what it runs, and what it has in hand.
struct Slot {
    unit: Arc<ConsumerUnit>,
    in_hand: VecDeque<Leased>,
    lease: Option<AbortHandle>,
}

impl Shell {
    async fn run(mut self, mut received: mpsc::UnboundedReceiver<Input>) {
        let mut actions = Vec::new();
        let mut stopped: Option<oneshot::Sender<()>> = None;
        while let Some(input) = received.recv().await {
            let event = match input {
                Input::Consumers(units) => Event::Consumers(self.adopt(units)),
                Input::Leased(id, leased) => self.in_hand(id, leased),
                Input::Happened(event) => event,
                Input::Stop(done) => {
                    stopped = Some(done);
                    Event::Stop
                }
            };
            self.machine.on(event, &mut actions);
            for action in actions.drain(..) {
                self.carry_out(&action);
            }
            // A consumer that is gone takes its component with it.
            self.units.retain(|id, _| self.machine.knows(*id));
            if self.machine.is_idle()
                && let Some(done) = stopped.take()
            {
                let _ = done.send(());
            }
        }
    }

    fn adopt(&mut self, units: Vec<Arc<ConsumerUnit>>) -> Vec<(UnitId, usize)> {
        let mut permits = Vec::new();
        for unit in units {
            let next = UnitId(u32::try_from(self.ids.len() + 1).expect("consumers are written by people"));
            let id = *self.ids.entry((unit.name.clone(), unit.queue)).or_insert(next);
            permits.push((id, if unit.handler.is_some() { unit.concurrency } else { 0 }));
            match self.units.get_mut(&id) {
                Some(slot) => slot.unit = unit,
                None => {
                    self.units.insert(id, Slot { unit, in_hand: VecDeque::new(), lease: None });
                }
            }
        }
        permits
    }

    fn in_hand(&mut self, id: UnitId, leased: Vec<Leased>) -> Event {
        let count = leased.len();
        if let Some(slot) = self.units.get_mut(&id) {
            slot.lease = None;
            slot.in_hand.extend(leased);
        }
        Event::Leased(id, count)
    }

    fn carry_out(&mut self, action: &Action) {
        let (Action::Lease(id, _) | Action::CancelLease(id) | Action::Run(id, _) | Action::Release(id)) = *action;
        let Some(slot) = self.units.get_mut(&id) else { return };
        match *action {
            Action::Lease(_, max) => {
                slot.lease = Some(lease(id, slot.unit.queue, max, self.engine.clone(), self.inputs.clone()));
            }
            Action::CancelLease(_) => {
                if let Some(lease) = slot.lease.take() {
                    lease.abort();
                }
            }
            Action::Run(_, count) => {
                let messages = slot.in_hand.drain(..count).collect();
                let task = run(id, slot.unit.clone(), messages, self.context.clone(), self.inputs.clone());
                self.guests.spawn(task);
            }
            Action::Release(_) => {
                let tokens = slot.in_hand.drain(..).map(|leased| leased.token).collect();
                let engine = self.engine.clone();
                tokio::spawn(async move { engine.release(tokens).await });
            }
        }
    }
}

/// Leases in a task of its own. However it ends, the loop hears of it exactly once.
fn lease(
    id: UnitId,
    queue: QueueId,
    max: usize,
    engine: Arc<dyn Engine>,
    inputs: mpsc::UnboundedSender<Input>,
) -> AbortHandle {
    let call = tokio::spawn(async move {
        let request = LeaseRequest { queue, max, wait: LEASE_WAIT, ttl: None };
        match engine.lease(request).await {
            Ok(leased) => leased,
            Err(error) => {
                warn!(queue = queue.0, %error, "Leasing failed; trying again.");
                tokio::time::sleep(LEASE_PAUSE).await;
                Vec::new()
            }
        }
    });
    let abort = call.abort_handle();
    tokio::spawn(async move {
        let leased = call.await.unwrap_or_default();
        let _ = inputs.send(Input::Leased(id, leased));
    });
    abort
}

/// One run, its panics included: the permit always comes back and no lease is forgotten.
async fn run(
    id: UnitId,
    unit: Arc<ConsumerUnit>,
    messages: Vec<Leased>,
    context: Arc<WorkerContext>,
    inputs: mpsc::UnboundedSender<Input>,
) {
    let count = messages.len();
    let tokens: Vec<LeaseToken> = messages.iter().map(|leased| leased.token).collect();
    let happened = |event| {
        let _ = inputs.send(Input::Happened(event));
    };
    let work = worker::run(&unit, messages, &context);
    match std::panic::AssertUnwindSafe(work).catch_unwind().await {
        Ok(ran) => {
            happened(Event::RunEnded { unit: id, messages: ran.handled, busy: ran.busy });
            ran.settled.await;
            happened(Event::Settled(id, ran.handled));
        }
        Err(_panic) => {
            error!(consumer = %unit.name, messages = count, "The host panicked in a run; its messages go back uncounted.");
            context.engine.release(tokens).await;
            tokio::time::sleep(worker::HOST_PAUSE).await;
            happened(Event::RunEnded { unit: id, messages: 0, busy: Duration::ZERO });
        }
    }
}
