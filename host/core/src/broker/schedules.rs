//! Publishes what schedules tick: the loop around the rules of [`crate::schedule`].
//!
//! Invariants: a tick is stored with its messages, in one transaction, and the engine refuses one that has been stored, so that
//! none is published twice, whatever fails or is started anew; a tick that was taken in hand is tried until it is stored, so that
//! a full queue or a full disk loses none. What may pile up meanwhile is bounded by [`crate::schedule::MISSED_MAX`] for each schedule.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::Broker;
use super::options::PublishOptions;
use super::routing::{Incoming, Routing};
use crate::clock::{Clock, Monotonic, WallMs};
use crate::engine::{Append, Engine, EngineError, NewEntry, RequestError, Tick};
use crate::metrics::Metrics;
use crate::name::ScheduleName;
use crate::plan::Plan;
use crate::schedule::SchedulePlan;

/// Longest sleep before the clock is looked at again: it may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The pause before a tick is tried again that could not be stored.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A schedule that stands farther ahead of the clock than this is worth a warning: the clock was wrong, or is.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// A schedule as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleStatus {
    /// What broker.toml says.
    pub plan: SchedulePlan,
    /// Its last tick, published or passed over as missed; none before the first.
    pub last: Option<WallMs>,
    /// Its next tick, which lies behind the clock while its message can't be stored; none when there is none any more.
    pub next: Option<WallMs>,
}

/// The running loop. It ends with this handle.
pub(super) struct Schedules {
    inputs: mpsc::UnboundedSender<Input>,
    clock: Arc<dyn Clock>,
    progress: Progress,
}

/// How far each schedule is, and the tick that it has in hand: for those who look.
type Progress = Arc<Mutex<BTreeMap<ScheduleName, (WallMs, Option<WallMs>)>>>;

enum Input {
    Plan(Target),
    Stop(oneshot::Sender<()>),
}

/// What is published, where it goes, and how far it is.
struct Target {
    plan: Arc<Plan>,
    routing: Arc<Routing>,
    ticks: BTreeMap<ScheduleName, WallMs>,
    since: WallMs,
}

impl Schedules {
    /// Starts the loop, without any schedule, on the current tokio runtime.
    pub(super) fn start(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        // What is in it is bounded by those who deploy, one after another.
        let (inputs, received) = mpsc::unbounded_channel();
        let progress = Progress::default();
        let publisher = Publisher { engine, clock: clock.clone(), metrics, progress: progress.clone() };
        tokio::spawn(run(publisher, received));
        Self { inputs, clock, progress }
    }

    /// From now on the schedules of `plan`, and no others, tick. `ticks` is how far each is, as [`Engine::define`] says.
    ///
    /// One whose times changed starts anew: what they would have been before now was not missed.
    pub(super) fn set(&self, plan: Arc<Plan>, routing: Arc<Routing>, ticks: BTreeMap<ScheduleName, WallMs>) {
        let since = self.clock.wall();
        // The loop is gone only where storage is.
        let _ = self.inputs.send(Input::Plan(Target { plan, routing, ticks, since }));
    }

    /// Publishes no more; returns when what was under way has ended.
    pub(super) async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        if self.inputs.send(Input::Stop(done)).is_ok() {
            let _ = ended.await;
        }
    }
}

impl Broker {
    /// All schedules in the order of broker.toml.
    #[must_use]
    pub fn schedules(&self) -> Vec<ScheduleStatus> {
        let now = self.inner.clock.wall();
        let progress = self.inner.schedules.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |plan: &SchedulePlan| {
            // Unknown until the loop takes over a new plan, in the next moment.
            let (last, in_hand) =
                progress.get(&plan.name).map_or((None, None), |(last, in_hand)| (Some(*last), *in_hand));
            let next = in_hand.or_else(|| plan.times.next(last.map_or(now, |last| last.max(now))));
            // One that has not ticked yet stands where it began.
            ScheduleStatus { plan: plan.clone(), last: last.filter(|last| plan.times.has(*last)), next }
        };
        self.plan().schedules.iter().map(status).collect()
    }
}

async fn run(publisher: Publisher, mut received: mpsc::UnboundedReceiver<Input>) {
    let mut running = Running::default();
    loop {
        // A plan that waits is taken over before anything else is published: what it left out must not tick again.
        let input = match received.try_recv() {
            Ok(input) => Some(input),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => match running.look(&publisher).await {
                Ok(Look::Again) => continue,
                Ok(Look::In(pause)) => match tokio::time::timeout(pause, received.recv()).await {
                    Ok(input) => input,
                    Err(_elapsed) => continue,
                },
                Ok(Look::Never) => received.recv().await,
                Err(reason) => {
                    error!(%reason, "Schedules publish no more: storage can't be trusted.");
                    return;
                }
            },
        };
        match input {
            Some(Input::Plan(target)) => running.adopt(target, &publisher),
            Some(Input::Stop(done)) => {
                let _ = done.send(());
                return;
            }
            None => return,
        }
    }
}

/// When to look at the clock next.
enum Look {
    Again,
    In(Duration),
    /// There is no schedule.
    Never,
}

/// All schedules of a plan.
#[derive(Default)]
struct Running {
    target: Option<Target>,
    schedules: Vec<Schedule>,
}

/// A schedule and how far it is.
struct Schedule {
    plan: SchedulePlan,
    /// The last tick that was seen to.
    last: WallMs,
    /// The tick after it; none: never again.
    next: Option<WallMs>,
    /// Ticks that are due, in order; the first is tried until it is stored.
    in_hand: VecDeque<InHand>,
    /// Since the last failure: not tried before.
    not_before: Option<Monotonic>,
    told_ahead: bool,
    published: Counter,
    missed: Counter,
}

/// A tick that is due.
struct InHand {
    at: WallMs,
    /// Otherwise it is passed over, and only remembered.
    publishes: bool,
}

/// What became of a try.
enum Tried {
    /// It is stored now, or was before: how far the schedule is.
    Stands(WallMs),
    /// It is tried again.
    Failed,
}

impl Running {
    fn adopt(&mut self, target: Target, publisher: &Publisher) {
        let mut before: BTreeMap<ScheduleName, Schedule> =
            self.schedules.drain(..).map(|schedule| (schedule.plan.name.clone(), schedule)).collect();
        for plan in &target.plan.schedules {
            let stored = target.ticks.get(&plan.name).copied().unwrap_or(target.since);
            let schedule = match before.remove(&plan.name) {
                Some(schedule) => schedule.with(plan, stored, target.since),
                None => Schedule::new(plan, stored, &publisher.metrics),
            };
            self.schedules.push(schedule);
        }
        self.target = Some(target);
        self.tell(publisher);
    }

    fn tell(&self, publisher: &Publisher) {
        let told = |Schedule { plan, last, in_hand, .. }: &Schedule| {
            (plan.name.clone(), (*last, in_hand.front().map(|tick| tick.at)))
        };
        let told = self.schedules.iter().map(told).collect();
        *publisher.progress.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// Tries one tick of each schedule that has one due, all at once.
    async fn look(&mut self, publisher: &Publisher) -> Result<Look, EngineError> {
        let Some(target) = self.target.as_ref().filter(|target| !target.plan.schedules.is_empty()) else {
            return Ok(Look::Never);
        };
        let (now, moment) = (publisher.clock.wall(), publisher.clock.monotonic());
        self.schedules.iter_mut().for_each(|schedule| schedule.look(now));
        let due = self.schedules.iter_mut().filter(|schedule| schedule.may_try(moment));
        let tries = join_all(due.map(|schedule| schedule.try_first(target, publisher))).await;
        if !tries.is_empty() {
            self.tell(publisher);
        }
        tries.into_iter().collect::<Result<(), EngineError>>()?;
        let moment = publisher.clock.monotonic();
        if self.schedules.iter().any(|schedule| schedule.may_try(moment)) {
            return Ok(Look::Again);
        }
        let idle = self.schedules.iter().filter(|schedule| schedule.in_hand.is_empty());
        let next = idle.filter_map(|schedule| schedule.next).min();
        let left = next.map_or(LOOK_EVERY, |next| next.since(publisher.clock.wall()));
        Ok(Look::In(left.clamp(Duration::from_millis(1), LOOK_EVERY)))
    }
}

impl Schedule {
    fn new(plan: &SchedulePlan, last: WallMs, metrics: &Metrics) -> Self {
        Self {
            plan: plan.clone(),
            last,
            next: plan.times.next(last),
            in_hand: VecDeque::new(),
            not_before: None,
            told_ahead: false,
            published: metrics.schedule_ticks(&plan.name),
            missed: metrics.schedule_ticks_missed(&plan.name),
        }
    }

    /// The same under a new plan. Ticks in hand stay so: they came before it.
    fn with(self, plan: &SchedulePlan, stored: WallMs, since: WallMs) -> Self {
        let anew = if self.plan.times == plan.times { WallMs(0) } else { since };
        let last = self.last.max(stored).max(anew);
        Self { last, next: plan.times.next(last), plan: plan.clone(), ..self }
    }

    /// Takes in hand what is due.
    fn look(&mut self, now: WallMs) {
        let ahead = self.last.since(now);
        if ahead > AHEAD_MAX && !self.told_ahead {
            let ahead = humantime::format_duration(Duration::from_secs(ahead.as_secs()));
            warn!(schedule = %self.plan.name, %ahead, "The schedule has ticked ahead of the clock; it waits until the clock is there.");
        }
        self.told_ahead = ahead > AHEAD_MAX;
        if !self.in_hand.is_empty() || self.next.is_none_or(|next| next > now) {
            return;
        }
        let Some(due) = self.plan.times.due(self.last, now, self.plan.missed) else { return };
        if due.passed_over > 0 || due.beyond {
            self.missed.inc_by(due.passed_over);
            let more = due.beyond;
            warn!(schedule = %self.plan.name, missed = due.passed_over, more, "Missed ticks are passed over.");
        }
        self.in_hand = due.publish.into_iter().map(|at| InHand { at, publishes: true }).collect();
        if self.in_hand.is_empty() {
            self.in_hand.push_back(InHand { at: due.latest, publishes: false });
        }
    }

    fn may_try(&self, moment: Monotonic) -> bool {
        !self.in_hand.is_empty() && self.not_before.is_none_or(|then| then <= moment)
    }

    /// Tries to store the first tick in hand.
    async fn try_first(&mut self, target: &Target, publisher: &Publisher) -> Result<(), EngineError> {
        let Some(first) = self.in_hand.front() else { return Ok(()) };
        let entries = if first.publishes { publisher.entries(&self.plan, first.at, target) } else { Vec::new() };
        let routed = entries.len() as u64;
        let tick = Tick { schedule: self.plan.name.clone(), at: first.at };
        let result = publisher.engine.append(Append { entries, tick: Some(tick), ..Append::default() }).await;
        if result.is_ok() && first.publishes {
            self.published.inc();
            publisher.metrics.routed.inc_by(routed);
        }
        match self.understand(result, publisher.clock.monotonic())? {
            Tried::Stands(at) => {
                self.last = self.last.max(at);
                self.in_hand.retain(|tick| tick.at > at);
                self.next = self.plan.times.next(self.last);
            }
            Tried::Failed => {}
        }
        Ok(())
    }

    fn understand<T>(&mut self, result: Result<T, RequestError>, moment: Monotonic) -> Result<Tried, EngineError> {
        let at = self.in_hand.front().map_or(self.last, |first| first.at);
        let name = &self.plan.name;
        let stands = match result {
            Ok(_) => at,
            Err(RequestError::Ticked(stored)) => stored.max(at),
            Err(error) if may_pass(&error) => {
                if self.not_before.is_none() {
                    warn!(schedule = %name, at = at.0, %error, "A tick could not be published; it is tried until it can.");
                }
                self.not_before = Some(moment.plus(RETRY_PAUSE));
                return Ok(Tried::Failed);
            }
            Err(RequestError::Engine(error)) => return Err(error),
            Err(error) => return Err(EngineError::Corrupt(error.to_string())),
        };
        if self.not_before.take().is_some() {
            info!(schedule = %name, "The schedule publishes again.");
        }
        Ok(Tried::Stands(stands))
    }
}

/// Whether a later try may go better.
fn may_pass(error: &RequestError) -> bool {
    match error {
        RequestError::QueueFull(_) | RequestError::DiskFull => true,
        RequestError::Engine(error) => matches!(error, EngineError::Unavailable | EngineError::Unknown),
        RequestError::UnknownQueue(_)
        | RequestError::IdReused(_)
        | RequestError::Ticked(_)
        | RequestError::InvalidCursor(_) => false,
    }
}

/// What ticks are published with.
struct Publisher {
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    progress: Progress,
}

impl Publisher {
    /// What the routes make of a tick; nothing where they let it pass.
    fn entries(&self, schedule: &SchedulePlan, at: WallMs, target: &Target) -> Vec<NewEntry> {
        let SchedulePlan { name, topic, .. } = schedule;
        let incoming = Incoming { now: self.clock.wall(), hops: 0, options: PublishOptions::default() };
        let mut entries = Vec::new();
        match target.routing.entries(topic, &schedule.message.at(at), incoming, &mut entries) {
            Ok(true) => {}
            // The configuration was checked for both.
            Ok(false) => error!(schedule = %name, %topic, "No route matches the topic of a tick; it is passed over."),
            Err(reason) => error!(schedule = %name, %reason, "A tick can't be delivered; it is passed over."),
        }
        entries
    }
}
