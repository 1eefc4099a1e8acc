//! What the loop starts beside itself: lease calls, and runs with what follows them. However a task ends, the loop hears of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{error, warn};

use super::ConsumerUnit;
use super::breaker::Now;
use super::machine::{Event, UnitId};
use super::shell::Input;
use super::worker::{self, RunOrder, WorkerContext};
use crate::engine::{Counts, Engine, LeaseRequest, LeaseToken, Leased, QueueId};

/// How long one lease call waits for a message before it is made anew.
const LEASE_WAIT: Duration = Duration::from_secs(30);
/// The pause after a lease call that failed, so that a store that is down is not hammered.
const LEASE_PAUSE: Duration = Duration::from_millis(200);

/// Leases in a task of its own. However it ends, the loop hears of it exactly once.
pub(super) fn lease(
    id: UnitId,
    unit: Arc<ConsumerUnit>,
    max: usize,
    engine: Arc<dyn Engine>,
    inputs: mpsc::UnboundedSender<Input>,
) -> AbortHandle {
    let call = tokio::spawn(async move {
        let request = LeaseRequest { queue: unit.queue, max, wait: LEASE_WAIT, ttl: None };
        match engine.lease(request).await {
            Ok(leased) => leased,
            Err(error) => {
                warn!(consumer = %unit.name, queue = %unit.queue_name, %error, "Leasing failed; trying again.");
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
pub(super) async fn run(order: RunOrder, messages: Vec<Leased>, context: Arc<WorkerContext>) {
    let RunOrder { id, slot, .. } = order;
    let count = messages.len();
    let tokens: Vec<LeaseToken> = messages.iter().map(|leased| leased.token).collect();
    let tell = |input| {
        let _ = context.inputs.send(input);
    };
    let ended = |messages, busy| {
        unanswered(&order, &context);
        tell(Input::RunEnded { unit: id, slot, messages, busy });
    };
    let work = worker::run(&order, messages, &context);
    match std::panic::AssertUnwindSafe(work).catch_unwind().await {
        Ok(ran) => {
            ended(ran.handled, ran.busy);
            ran.settled.await;
            tell(Input::Happened(Event::Settled(id, ran.handled)));
            if !ran.bounded.is_empty() {
                let counts = context.engine.counts();
                let full: Vec<QueueId> = ran.bounded.into_iter().filter(|queue| is_full(&counts, *queue)).collect();
                if !full.is_empty() {
                    tell(Input::Overfilled(id, full));
                }
            }
        }
        Err(_panic) => {
            error!(consumer = %order.unit.name, messages = count, "The host panicked in a run; its messages go back uncounted.");
            context.engine.release(tokens).await;
            tokio::time::sleep(worker::HOST_PAUSE).await;
            ended(0, Duration::ZERO);
        }
    }
}

/// A probe that ended without telling the breaker anything is over nevertheless.
fn unanswered(order: &RunOrder, context: &WorkerContext) {
    if let Some(breaker) = order.breaker.as_ref().filter(|_| order.single) {
        breaker.unanswered(Now { wall: context.clock.wall(), monotonic: context.clock.monotonic() });
    }
}

/// Whether the queue is at its bounds or beyond.
pub(super) fn is_full(counts: &Counts, id: QueueId) -> bool {
    counts.queues.iter().any(|queue| queue.id == id && queue.full)
}
