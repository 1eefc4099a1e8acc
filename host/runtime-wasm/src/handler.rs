//! A loaded component, and one delivery in one fresh sandbox.
//!
//! Invariants: whatever the guest does becomes an outcome; the slot is held until the sandbox is gone; what can be done once
//! at load is not done here.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pelton_core::engine::Fut;
use pelton_core::runtime::{ComponentSpec, Delivery, Digest, FaultKind, Handler, Invoked, Limits, Outcome};
use wasmtime::{Store, UpdateDeadline};

use crate::backtrace;
use crate::bindings::PresentPre;
use crate::bindings::pelton::broker::types::{self, Failure};
use crate::emit::Emits;
use crate::fault::{self, Phase};
use crate::lane::{self, Share, Turn};
use crate::pool::Pool;
use crate::sandbox::{HANDLES_MAX, Sandbox, Shared};
use crate::watch::{Ended, Watch};

/// Bytes that one host call may take out of the guest on top of what it may emit.
const HOSTCALL_BYTES: usize = 256 * 1024;
/// Longest time that a delivery can be given, so that adding it to a moment can't overflow.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Ticks before a delivery that has just begun is looked at: the first may come at once.
const FIRST_TICKS: u64 = 2;

/// See the module's head.
pub(crate) struct WasmHandler {
    pub(crate) pool: Arc<Pool>,
    pub(crate) spec: Arc<ComponentSpec>,
    pub(crate) digest: Digest,
    pub(crate) share: Share,
    pub(crate) component: PresentPre<Sandbox>,
}

/// Most bytes that one call may take out of the guest: the largest emit and a little more. An emit above its limit is
/// refused to the guest; far above, copying it would already be too much.
pub(crate) fn hostcall_bytes(limits: &Limits) -> usize {
    usize::try_from(limits.emit_bytes_max).unwrap_or(usize::MAX).saturating_add(HOSTCALL_BYTES)
}

type Returned = Result<Result<(), Failure>, (wasmtime::Error, Phase)>;

impl Handler for WasmHandler {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn invoke(&self, delivery: Delivery) -> Fut<'_, Invoked> {
        Box::pin(self.run(delivery))
    }
}

impl WasmHandler {
    async fn run(&self, delivery: Delivery) -> Invoked {
        // Declared before the store, and so dropped after it: a slot is free when its sandbox is gone.
        let _slot = self.pool.permits.acquire().await.expect("the semaphore is never closed");
        let _running = self.pool.ticker.run();
        let started = Instant::now();
        let deadline = started + self.spec.limits.timeout.min(TIMEOUT_MAX);
        let shared = Arc::new(Shared::new(Turn::new(&self.pool.lane, self.share), self.spec.limits.log_bytes_max));

        let Delivery { source, topic, message, attempt, idempotency_key, gate, .. } = delivery;
        let emits = Emits::new(Arc::clone(&idempotency_key), &self.spec.limits);
        let mut store =
            self.store(Sandbox::new(Arc::clone(&self.spec), source, gate, deadline, Arc::clone(&shared), emits));
        let ended = {
            let extensions: Vec<(&str, &str)> = message.extensions().collect();
            let message = types::Message {
                id: message.id(),
                source: message.source(),
                type_: message.kind(),
                subject: message.subject(),
                time: message.time(),
                content_type: message.content_type(),
                data_schema: message.data_schema(),
                extensions: &extensions,
                data: message.data(),
            };
            let delivery =
                types::Delivery { message, topic: topic.as_str(), attempt, idempotency_key: &idempotency_key };
            let work = pin!(self.call(&mut store, delivery));
            Watch::new(work, &shared.turn, deadline).await
        };
        self.conclude(ended, store, &shared, started.elapsed())
    }

    fn store(&self, sandbox: Sandbox) -> Store<Sandbox> {
        let mut store = Store::new(&self.pool.engine, sandbox);
        store.limiter(|sandbox| &mut sandbox.memory);
        store.set_hostcall_fuel(hostcall_bytes(&self.spec.limits));
        store.set_max_component_handles(HANDLES_MAX);
        store.set_epoch_deadline(FIRST_TICKS);
        store.epoch_deadline_callback(|store| {
            let Sandbox { shared, deadline, .. } = store.data();
            shared.turn.release();
            if Instant::now() >= *deadline {
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(lane::acquire(Arc::clone(shared)))))
        });
        store
    }

    async fn call(&self, store: &mut Store<Sandbox>, delivery: types::Delivery<'_>) -> Returned {
        let instance =
            self.component.instantiate_async(&mut *store).await.map_err(|error| (error, Phase::Instantiate))?;
        let handler = instance.pelton_broker_handler();
        handler.call_handle(store, delivery).await.map_err(|error| (error, Phase::Call))
    }

    fn conclude(&self, ended: Ended<Returned>, store: Store<Sandbox>, shared: &Shared, duration: Duration) -> Invoked {
        let outcome = match ended {
            Ended::Returned(Ok(Ok(()))) => match store.data().emits.exceeded() {
                None => Outcome::Done,
                Some(limit) => {
                    let reason = format!("{limit}, it tried more, and was done all the same");
                    Outcome::Fault { kind: FaultKind::Emits, reason }
                }
            },
            Ended::Returned(Ok(Err(Failure::Retry(types::Retry { reason, after })))) => {
                let after = after.map(|ms| Duration::from_millis(ms.into()));
                Outcome::Retry { reason: fault::bounded(reason), after }
            }
            Ended::Returned(Ok(Err(Failure::Reject(reason)))) => Outcome::Reject { reason: fault::bounded(reason) },
            Ended::Returned(Err((error, phase))) => return self.fault(&error, phase, &store, shared, duration),
            Ended::TimedOut => Outcome::Fault { kind: FaultKind::Timeout, reason: fault::timed_out(&self.spec.limits) },
            Ended::Panicked(message) => {
                let reason = fault::bounded(format!("the host panicked: {message}"));
                Outcome::Fault { kind: FaultKind::Host, reason }
            }
        };
        let log = shared.journal().take();
        let emits = if outcome == Outcome::Done { store.into_data().emits.into_kept() } else { Vec::new() };
        Invoked { outcome, emits, log, duration }
    }

    fn fault(
        &self,
        error: &wasmtime::Error,
        phase: Phase,
        store: &Store<Sandbox>,
        shared: &Shared,
        duration: Duration,
    ) -> Invoked {
        let mut journal = shared.journal();
        let mut log = journal.take();
        let (kind, reason) = fault::classify(error, phase, &self.spec.limits, store.data().memory.denied, &log);
        if let Some(frames) = backtrace::describe(error) {
            journal.log("BACKTRACE", "", &frames);
            if !log.is_empty() {
                log.push('\n');
            }
            log.push_str(&journal.take());
        }
        Invoked { outcome: Outcome::Fault { kind, reason: fault::bounded(reason) }, emits: Vec::new(), log, duration }
    }
}
