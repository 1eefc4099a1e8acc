//! One run: takes its messages through the sandbox in order, decides what becomes of each, and settles them together.
//!
//! Invariants: every message of a run is settled or released, exactly once; a slow message holds up neither the settlements
//! before it nor the messages behind it for longer than [`PATIENCE`]; behind a message that is to be tried again none of its
//! key is handled.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::breaker::{self, Effect, Failure, Now, Sign};
use super::breakers::SharedBreaker;
use super::history;
use super::machine::UnitId;
use super::shell::Input;
use super::{ConsumerUnit, DeliveryReport, Next, Observer};
use crate::broker::{Incoming, PublishOptions};
use crate::clock::{Clock, WallMs};
use crate::engine::{
    DeadCode, DeadReason, Engine, Fut, LeaseToken, Leased, NewEntry, QueueId, SettleError, Settlement, StoreId, Verdict,
};
use crate::in_flight::InFlight;
use crate::message::{Attributes, Message};
use crate::runtime::{Delivery, Emit, FaultKind, Handler, Invoked, Outcome};
use crate::settle;

/// After this long a run settles what it has handled and gives back what it has not begun, so that others can take it.
const PATIENCE: Duration = Duration::from_millis(10);
/// The pause of a run after the host failed it, so that a lasting failure does not spin.
pub(super) const HOST_PAUSE: Duration = Duration::from_millis(200);
/// What every run needs.
pub(super) struct WorkerContext {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) store: StoreId,
    pub(super) in_flight: Option<Arc<InFlight>>,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
}

/// For whom a run is, and how.
pub(super) struct RunOrder {
    pub(super) id: UnitId,
    pub(super) unit: Arc<ConsumerUnit>,
    pub(super) breaker: Option<Arc<SharedBreaker>>,
    /// Which of the sandbox's slots it has, as the record of running deliveries counts them.
    pub(super) slot: usize,
    /// Its one message passes though the consumer may be held back.
    pub(super) single: bool,
}

impl RunOrder {
    /// Whether the breaker opened, so that nothing more may begin.
    fn is_cut_off(&self) -> bool {
        !self.single && self.breaker.as_ref().is_some_and(|breaker| breaker.is_open())
    }
}

/// A run that ended, but for the commit of its settlements.
pub(super) struct Ran {
    /// Messages handled; the rest was given back.
    pub(super) handled: usize,
    /// Time in the handler over all of them.
    pub(super) busy: Duration,
    /// Ready when the settlements are committed or lost.
    pub(super) settled: BoxFuture<'static, ()>,
    /// Queues with bounds that it emitted to.
    pub(super) bounded: Vec<QueueId>,
}

pub(super) async fn run(order: &RunOrder, messages: Vec<Leased>, context: &WorkerContext) -> Ran {
    let mut run = Run::new(order, messages, context);
    let Some(handler) = order.unit.handler.clone() else {
        let rest = run.rest();
        release(context, rest).await;
        return run.end(Duration::ZERO);
    };
    let started = context.clock.monotonic();
    let patience = tokio::time::sleep(PATIENCE);
    tokio::pin!(patience);
    let record = context.in_flight.as_deref();
    let slot = record.and_then(|record| record.slot(order.slot, &order.unit.name, handler.digest()));
    let mut begun = if slot.is_some() { context.clock.wall() } else { WallMs::default() };
    let mut busy = Duration::ZERO;
    while !order.is_cut_off()
        && let Some(leased) = run.waiting.pop_front()
    {
        let delivery = run.delivery(&leased);
        let recorded = slot.as_ref().map(|slot| slot.fill(&leased, begun));
        let mut call = handler.invoke(delivery);
        // Biased: the sleep is only registered with the timer when a call is pending at its first poll.
        let invoked = tokio::select! {
            biased;
            invoked = &mut call => invoked,
            () = &mut patience, if run.holds_up_others() => {
                run.submit();
                let rest = run.rest();
                tokio::join!(call, release(context, rest)).0
            }
        };
        drop(recorded);
        busy += invoked.duration;
        begun = context.clock.wall();
        let concluded = run.conclude(&leased, invoked, &*handler, begun);
        match concluded {
            Concluded::Final => {}
            Concluded::Again => run.return_key(&leased),
            Concluded::GivenBack => {
                run.returned.push(leased.token);
                run.return_key(&leased);
            }
            Concluded::HostFailed => {
                run.waiting.push_front(leased);
                let rest = run.rest();
                release(context, rest).await;
                run.submit();
                tokio::time::sleep(HOST_PAUSE).await;
            }
        }
        if !run.waiting.is_empty() && context.clock.monotonic().since(started) > PATIENCE {
            break;
        }
    }
    let rest = run.rest();
    release(context, rest).await;
    run.end(busy)
}

async fn release(context: &WorkerContext, tokens: Vec<LeaseToken>) {
    if !tokens.is_empty() {
        context.engine.release(tokens).await;
    }
}

/// Waits for the commits. A settlement that failed needs no action: the message is redelivered or was settled before.
async fn settled(submitted: Vec<Fut<'static, Vec<Result<(), SettleError>>>>) {
    for results in submitted {
        for error in results.await.into_iter().filter_map(Result::err) {
            warn!(%error, "A delivery was not settled; its message will be delivered again.");
        }
    }
}

struct Run<'a> {
    order: &'a RunOrder,
    unit: &'a ConsumerUnit,
    context: &'a WorkerContext,
    /// Not begun yet.
    waiting: VecDeque<Leased>,
    /// To be given back uncounted.
    returned: Vec<LeaseToken>,
    settlements: Vec<Settlement>,
    submitted: Vec<Fut<'static, Vec<Result<(), SettleError>>>>,
    handled: usize,
    bounded: Vec<QueueId>,
}

/// What became of a delivered message.
enum Concluded {
    /// It is done or dead.
    Final,
    /// It is tried again.
    Again,
    /// It goes back uncounted, since the breaker is open.
    GivenBack,
    /// The host could not run it.
    HostFailed,
}

impl<'a> Run<'a> {
    fn new(order: &'a RunOrder, messages: Vec<Leased>, context: &'a WorkerContext) -> Self {
        Self {
            order,
            unit: &order.unit,
            context,
            settlements: Vec::with_capacity(messages.len()),
            waiting: VecDeque::from(messages),
            returned: Vec::new(),
            submitted: Vec::new(),
            handled: 0,
            bounded: Vec::new(),
        }
    }

    fn end(mut self, busy: Duration) -> Ran {
        self.submit();
        let settled = Box::pin(settled(self.submitted));
        Ran { handled: self.handled, busy, settled, bounded: self.bounded }
    }

    /// Whether messages wait for the one that runs.
    fn holds_up_others(&self) -> bool {
        !self.waiting.is_empty() || !self.settlements.is_empty() || !self.returned.is_empty()
    }

    /// Takes all that is to be given back: what has not begun, and what was put aside for it.
    fn rest(&mut self) -> Vec<LeaseToken> {
        let mut rest = std::mem::take(&mut self.returned);
        rest.extend(self.waiting.drain(..).map(|leased| leased.token));
        rest
    }

    /// Puts aside the messages behind `leased` that have its key: they come after it.
    fn return_key(&mut self, leased: &Leased) {
        let Some(key) = leased.key else { return };
        let returned = &mut self.returned;
        self.waiting.retain(|behind| {
            let same = behind.key == Some(key);
            if same {
                returned.push(behind.token);
            }
            !same
        });
    }

    fn delivery(&self, leased: &Leased) -> Delivery {
        Delivery {
            consumer: self.unit.name.clone(),
            source: self.unit.source.clone(),
            topic: leased.topic.clone(),
            message: leased.message.clone(),
            attempt: leased.attempt(),
            idempotency_key: format!("{:x}-{:x}", self.context.store.0, leased.token.entry.0).into(),
            gate: self.unit.routing.router().clone(),
        }
    }

    /// Decides what becomes of the message and adds it to the settlements, unless it goes back uncounted.
    fn conclude(&mut self, leased: &Leased, invoked: Invoked, handler: &dyn Handler, now: WallMs) -> Concluded {
        let Invoked { outcome, emits, log, duration } = invoked;
        let (outcome, entries) = match self.route(leased, emits, &outcome, now) {
            Ok(entries) => (outcome, entries),
            Err(reason) => (Outcome::Fault { kind: FaultKind::Malformed, reason }, Vec::new()),
        };
        self.unit.metrics.delivered(&outcome);
        self.unit.metrics.invoke_seconds.observe(duration.as_secs_f64());
        let decided = if settle::is_hosts_fault(&outcome) {
            warn!(consumer = %self.unit.name, id = leased.message.id(), ?outcome, "The host could not run a delivery; it is tried again, uncounted.");
            self.unit.metrics.released_by_host.inc();
            Err(Concluded::HostFailed)
        } else if self.tell_breaker(leased, &outcome, now) == Effect::GivenBack {
            self.unit.metrics.released_by_breaker.inc();
            Err(Concluded::GivenBack)
        } else {
            Ok(self.decide(leased, &outcome, entries, now))
        };
        debug!(queue = %self.unit.queue_name, id = leased.message.id(), attempt = leased.attempt(), outcome = outcome.word(), "Delivered.");
        self.report(leased, &outcome, &log, duration, decided.as_ref().ok(), now);
        let verdict = match decided {
            Ok(verdict) => verdict,
            Err(concluded) => return concluded,
        };
        let concluded = match &verdict {
            Verdict::Again { .. } => {
                self.unit.metrics.retried(&outcome);
                Concluded::Again
            }
            Verdict::Done { .. } | Verdict::Dead { .. } => Concluded::Final,
        };
        let attempt = history::attempt(leased, &outcome, &verdict, log, duration, now, handler);
        self.settlements.push(Settlement { lease: leased.token, attempt, verdict });
        self.handled += 1;
        concluded
    }

    /// Tells the breaker how a delivery ended; what that means for its message.
    fn tell_breaker(&self, leased: &Leased, outcome: &Outcome, now: WallMs) -> Effect {
        let Some(breaker) = &self.order.breaker else { return Effect::Counts };
        let (changed, effect) = match breaker::sign(outcome) {
            Sign::None => (false, Effect::Counts),
            Sign::Health => (breaker.passed(), Effect::Counts),
            Sign::Failure => {
                let reason = match outcome {
                    Outcome::Retry { reason, .. } | Outcome::Reject { reason } | Outcome::Fault { reason, .. } => {
                        format!("{}: {reason}", outcome.word())
                    }
                    Outcome::Done => String::new(),
                };
                let failure = Failure { entry: leased.token.entry, probe: self.order.single, reason: &reason };
                let now = Now { wall: now, monotonic: self.context.clock.monotonic() };
                let effect = breaker.failed(failure, now);
                (effect != Effect::Counts, effect)
            }
        };
        if changed {
            let _ = self.context.inputs.send(Input::Look(self.order.id));
        }
        effect
    }

    fn decide(&mut self, leased: &Leased, outcome: &Outcome, entries: Vec<NewEntry>, now: WallMs) -> Verdict {
        if !entries.is_empty() && leased.hops >= self.unit.hops_max {
            return Verdict::Dead { reason: self.too_many_hops(leased) };
        }
        if !self.unit.bounded.is_empty() {
            let stays = entries.iter().filter(|entry| entry.dead.is_none()).map(|entry| entry.queue);
            for queue in stays {
                if self.unit.bounded.contains(&queue) && !self.bounded.contains(&queue) {
                    self.bounded.push(queue);
                }
            }
        }
        let random = fastrand::f64();
        settle::decide(outcome, leased.attempt(), leased.accepted, &self.unit.retry, now, random, entries)
    }

    /// What the routes make of the emits of a delivery that is done.
    fn route(
        &self,
        leased: &Leased,
        emits: Vec<Emit>,
        outcome: &Outcome,
        now: WallMs,
    ) -> Result<Vec<NewEntry>, String> {
        let mut entries = Vec::new();
        if *outcome != Outcome::Done {
            return Ok(entries);
        }
        let hops = leased.hops.saturating_add(1);
        for emit in emits {
            let message = message_of(&emit, &self.unit.event_source, now)?;
            let incoming = Incoming { now, hops, options: PublishOptions { due: emit.due, ttl: None } };
            let routed = self.unit.routing.entries(&emit.topic, &message, incoming, &mut entries);
            routed.map_err(|error| format!("an emit to '{}' can't be delivered as it says: {error}", emit.topic))?;
        }
        Ok(entries)
    }

    fn too_many_hops(&self, leased: &Leased) -> DeadReason {
        let detail = format!(
            "consumer '{}' emitted on message {}, which is {} emits away from its producer, the most allowed; \
             look for routes that form a loop, or raise [broker] max-hops",
            self.unit.name,
            leased.message.id(),
            leased.hops
        );
        DeadReason { code: DeadCode::TooManyHops, detail }
    }

    fn report(
        &self,
        leased: &Leased,
        outcome: &Outcome,
        log: &str,
        duration: Duration,
        verdict: Option<&Verdict>,
        now: WallMs,
    ) {
        let Some(observer) = &self.context.observer else { return };
        let next = match verdict {
            None => Next::Released,
            Some(Verdict::Done { emits }) => Next::Done { emitted: emits.len() },
            Some(Verdict::Again { at, .. }) => Next::Again(at.since(now)),
            Some(Verdict::Dead { reason }) => Next::Dead(reason),
        };
        observer.delivered(&DeliveryReport {
            consumer: &self.unit.name,
            queue: &self.unit.queue_name,
            topic: &leased.topic,
            message: &leased.message,
            attempt: leased.attempt(),
            outcome,
            duration,
            log,
            next,
        });
    }

    fn submit(&mut self) {
        if !self.settlements.is_empty() {
            self.submitted.push(self.context.engine.settle(std::mem::take(&mut self.settlements)));
        }
    }
}

/// The emit as a message: the broker adds source and time.
fn message_of(emit: &Emit, source: &str, now: WallMs) -> Result<Message, String> {
    let time =
        i64::try_from(now.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|at| at.to_string());
    let extensions: Vec<(&str, &str)> =
        emit.extensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let attributes = Attributes {
        id: &emit.id,
        source,
        kind: emit.kind.as_deref().unwrap_or(emit.topic.as_str()),
        subject: emit.subject.as_deref(),
        time: time.as_deref(),
        content_type: emit.content_type.as_deref(),
        data_schema: emit.data_schema.as_deref(),
        extensions: &extensions,
    };
    Message::new(&attributes, &emit.data).map_err(|error| format!("an emit to '{}' is no message: {error}", emit.topic))
}
