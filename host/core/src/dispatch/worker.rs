//! One run: takes its messages through the sandbox in order, decides what becomes of each, and settles them together.
//!
//! Invariants: every message of a run is settled or released, exactly once; a slow message holds up neither the settlements
//! before it nor the messages behind it for longer than [`PATIENCE`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tracing::{debug, warn};

use super::{ConsumerUnit, DeliveryReport, Next, Observer};
use crate::broker::route_entries;
use crate::clock::{Clock, WallMs};
use crate::engine::{
    Attempt, DeadCode, DeadReason, Engine, Fut, LeaseToken, Leased, NewEntry, SettleError, Settlement, StoreId, Verdict,
};
use crate::message::{Attributes, Message};
use crate::runtime::{Delivery, Emit, FaultKind, Handler, Invoked, Outcome};
use crate::settle;

/// After this long a run settles what it has handled and gives back what it has not begun, so that others can take it.
const PATIENCE: Duration = Duration::from_millis(10);
/// The pause of a run after the host failed it, so that a lasting failure does not spin.
pub(super) const HOST_PAUSE: Duration = Duration::from_millis(200);
/// The longest log tail kept in a message's history, in bytes.
const LOG_TAIL_BYTES_MAX: usize = 4 * 1024;

/// What every run needs.
pub(super) struct WorkerContext {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) store: StoreId,
}

/// A run that ended, but for the commit of its settlements.
pub(super) struct Ran {
    /// Messages handled; the rest was given back.
    pub(super) handled: usize,
    /// Time in the handler over all of them.
    pub(super) busy: Duration,
    /// Ready when the settlements are committed or lost.
    pub(super) settled: BoxFuture<'static, ()>,
}

pub(super) async fn run(unit: &Arc<ConsumerUnit>, messages: Vec<Leased>, context: &WorkerContext) -> Ran {
    let Some(handler) = unit.handler.clone() else {
        release(context, messages.iter().map(|leased| leased.token).collect()).await;
        return Ran { handled: 0, busy: Duration::ZERO, settled: Box::pin(std::future::ready(())) };
    };
    let started = context.clock.monotonic();
    let patience = tokio::time::sleep(PATIENCE);
    tokio::pin!(patience);
    let mut run =
        Run { unit, context, settlements: Vec::with_capacity(messages.len()), submitted: Vec::new(), handled: 0 };
    let mut busy = Duration::ZERO;
    let mut waiting = VecDeque::from(messages);
    while let Some(leased) = waiting.pop_front() {
        let delivery = run.delivery(&leased);
        let mut call = handler.invoke(delivery);
        // Biased: the sleep is only registered with the timer when a call is pending at its first poll.
        let invoked = tokio::select! {
            biased;
            invoked = &mut call => invoked,
            () = &mut patience, if !waiting.is_empty() || !run.settlements.is_empty() => {
                run.submit();
                let others = release(context, waiting.drain(..).map(|leased| leased.token).collect());
                tokio::join!(call, others).0
            }
        };
        busy += invoked.duration;
        let host_failed = settle::is_hosts_fault(&invoked.outcome);
        run.conclude(&leased, invoked, &*handler);
        if host_failed {
            waiting.push_front(leased);
            release(context, waiting.drain(..).map(|leased| leased.token).collect()).await;
            run.submit();
            tokio::time::sleep(HOST_PAUSE).await;
        } else if !waiting.is_empty() && context.clock.monotonic().since(started) > PATIENCE {
            release(context, waiting.drain(..).map(|leased| leased.token).collect()).await;
        }
    }
    run.submit();
    Ran { handled: run.handled, busy, settled: Box::pin(settled(run.submitted)) }
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
    unit: &'a Arc<ConsumerUnit>,
    context: &'a WorkerContext,
    settlements: Vec<Settlement>,
    submitted: Vec<Fut<'static, Vec<Result<(), SettleError>>>>,
    handled: usize,
}

impl Run<'_> {
    fn delivery(&self, leased: &Leased) -> Delivery {
        Delivery {
            consumer: self.unit.name.clone(),
            source: self.unit.source.clone(),
            topic: leased.topic.clone(),
            message: leased.message.clone(),
            attempt: leased.attempt(),
            idempotency_key: format!("{:x}-{:x}", self.context.store.0, leased.token.entry.0).into(),
            gate: self.unit.router.clone(),
        }
    }

    /// Decides what becomes of the message and adds it to the settlements, unless the host failed.
    fn conclude(&mut self, leased: &Leased, invoked: Invoked, handler: &dyn Handler) {
        let Invoked { outcome, emits, log, duration } = invoked;
        let now = self.context.clock.wall();
        let (outcome, entries) = match self.route(leased, emits, &outcome, now) {
            Ok(entries) => (outcome, entries),
            Err(reason) => (Outcome::Fault { kind: FaultKind::Malformed, reason }, Vec::new()),
        };
        self.unit.metrics.delivered(&outcome);
        self.unit.metrics.invoke_seconds.observe(duration.as_secs_f64());
        let verdict = if settle::is_hosts_fault(&outcome) {
            warn!(consumer = %self.unit.name, id = leased.message.id(), ?outcome, "The host could not run a delivery; it is tried again, uncounted.");
            None
        } else if !entries.is_empty() && leased.hops >= self.unit.hops_max {
            Some(Verdict::Dead { reason: self.too_many_hops(leased) })
        } else {
            let random = fastrand::f64();
            Some(settle::decide(&outcome, leased.attempt(), leased.accepted, &self.unit.retry, now, random, entries))
        };
        debug!(queue = %self.unit.queue_name, id = leased.message.id(), attempt = leased.attempt(), outcome = outcome.word(), "Delivered.");
        self.report(leased, &outcome, &log, duration, verdict.as_ref(), now);
        let Some(verdict) = verdict else { return };
        let attempt = attempt(leased, &outcome, &verdict, log, duration, now, handler);
        self.settlements.push(Settlement { lease: leased.token, attempt, verdict });
        self.handled += 1;
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
            route_entries(&self.unit.router, &self.unit.queue_ids, &emit.topic, &message, hops, &mut entries);
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

/// The history of a delivery that did not simply succeed.
fn attempt(
    leased: &Leased,
    outcome: &Outcome,
    verdict: &Verdict,
    log: String,
    duration: Duration,
    now: WallMs,
    handler: &dyn Handler,
) -> Option<Attempt> {
    let reason = match (outcome, verdict) {
        (Outcome::Done, Verdict::Dead { reason }) => reason.detail.clone(),
        (Outcome::Done, _) => return None,
        (Outcome::Retry { reason, .. } | Outcome::Reject { reason } | Outcome::Fault { reason, .. }, _) => {
            reason.clone()
        }
    };
    Some(Attempt {
        number: leased.attempt(),
        at_ms: now.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        outcome: outcome.word().to_owned(),
        reason,
        duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        digest: Some(handler.digest().to_string()),
        log_tail: tail(log),
    })
}

/// The end of `log`, from a whole character on.
fn tail(log: String) -> String {
    if log.len() <= LOG_TAIL_BYTES_MAX {
        return log;
    }
    let start = log.len() - LOG_TAIL_BYTES_MAX;
    let start = (start..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
    log[start..].to_owned()
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
