//! The breakers of all consumers, as their runs, the loop and operators share them.
//!
//! Runs report to a breaker from many threads. One that is well costs them a load of a byte per delivery; the lock is only taken
//! once something failed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tracing::{info, warn};

use super::ConsumerUnit;
use super::breaker::{Breaker, BreakerStatus, Effect, Failure, Now};
use crate::engine::QueueId;
use crate::name::ConsumerName;
use crate::runtime::Digest;

/// Nothing failed since the last delivery that did not.
const WELL: u8 = 0;
/// Something did.
const FAILING: u8 = 1;
const OPEN: u8 = 2;

/// A consumer's breaker.
#[derive(Debug)]
pub(super) struct SharedBreaker {
    consumer: ConsumerName,
    gauge: Gauge,
    /// What is in the lock, in short; written under it.
    short: AtomicU8,
    breaker: Mutex<Guarded>,
}

#[derive(Debug)]
struct Guarded {
    breaker: Breaker,
    /// Another has taken its place: it stays closed, whatever the runs say that still have it.
    retired: bool,
}

impl SharedBreaker {
    fn new(consumer: ConsumerName, breaker: Breaker, gauge: Gauge) -> Self {
        let breaker = Mutex::new(Guarded { breaker, retired: false });
        Self { consumer, gauge, short: AtomicU8::new(WELL), breaker }
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down in short what `breaker` is now.
    fn note(&self, breaker: &Breaker) {
        let short = match breaker {
            open if open.is_open() => OPEN,
            failing if failing.has_failures() => FAILING,
            _ => WELL,
        };
        self.short.store(short, Ordering::Relaxed);
        self.gauge.set(i64::from(short == OPEN));
    }

    /// Whether it is open, or was a moment ago.
    pub(super) fn is_open(&self) -> bool {
        self.short.load(Ordering::Relaxed) == OPEN
    }

    /// Takes note of a failed delivery.
    pub(super) fn failed(&self, failure: Failure<'_>, now: Now) -> Effect {
        let mut guarded = self.lock();
        if guarded.retired {
            return Effect::Counts;
        }
        let effect = guarded.breaker.failed(failure, now);
        self.note(&guarded.breaker);
        if effect == Effect::Opens {
            let failures = guarded.breaker.plan().failures;
            warn!(consumer = %self.consumer, failures, reason = failure.reason, "The breaker opened: deliveries of different messages failed in a row. The consumer gets one message now and then, until one does not fail.");
        }
        effect
    }

    /// Takes note of a delivery that did not fail; whether that closed it.
    pub(super) fn passed(&self) -> bool {
        if self.short.load(Ordering::Relaxed) == WELL {
            return false;
        }
        let closed = self.close();
        if closed {
            info!(consumer = %self.consumer, "The breaker closed: the consumer works again.");
        }
        closed
    }

    fn close(&self) -> bool {
        let mut guarded = self.lock();
        let closed = guarded.breaker.close();
        self.note(&guarded.breaker);
        closed
    }

    fn retire(&self) {
        self.lock().retired = true;
        self.close();
    }

    /// See [`Breaker::probe`].
    pub(super) fn probe(&self, now: Now) -> Option<usize> {
        self.lock().breaker.probe(now)
    }

    /// See [`Breaker::choice`].
    pub(super) fn choice(&self, messages: usize) -> usize {
        self.lock().breaker.choice(messages)
    }

    /// See [`Breaker::unanswered`].
    pub(super) fn unanswered(&self, now: Now) {
        self.lock().breaker.unanswered(now);
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    by_consumer: Mutex<BTreeMap<ConsumerName, Known>>,
}

#[derive(Debug)]
struct Known {
    queue: QueueId,
    digest: Option<Digest>,
    breaker: Arc<SharedBreaker>,
}

impl Breakers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ConsumerName, Known>> {
        self.by_consumer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The breaker of each of these consumers, which are all that there are now. One stays as it is while its consumer keeps its queue, its
    /// component and its settings.
    pub(super) fn adopt(&self, units: &[Arc<ConsumerUnit>]) -> Vec<Option<Arc<SharedBreaker>>> {
        let mut known = self.lock();
        let mut before = std::mem::take(&mut *known);
        let breakers = units.iter().map(|unit| {
            let plan = unit.breaker.as_ref()?;
            let digest = unit.handler.as_ref().map(|handler| handler.digest());
            let same = |old: &Known| {
                old.queue == unit.queue && old.digest == digest && old.breaker.lock().breaker.plan() == plan
            };
            let breaker = match before.remove(&unit.name) {
                Some(old) if same(&old) => old.breaker,
                old => {
                    if let Some(old) = old {
                        old.breaker.retire();
                    }
                    let gauge = unit.metrics.breaker_open.clone();
                    Arc::new(SharedBreaker::new(unit.name.clone(), Breaker::new(plan.clone()), gauge))
                }
            };
            known.insert(unit.name.clone(), Known { queue: unit.queue, digest, breaker: breaker.clone() });
            Some(breaker)
        });
        let breakers = breakers.collect();
        before.values().for_each(|gone| gone.breaker.retire());
        breakers
    }

    pub(super) fn status(&self, consumer: &ConsumerName) -> Option<BreakerStatus> {
        self.lock().get(consumer).map(|known| known.breaker.lock().breaker.status())
    }

    /// Closes the breaker of `consumer`; whether it has one.
    pub(super) fn reset(&self, consumer: &ConsumerName) -> bool {
        let known = self.lock();
        let Some(known) = known.get(consumer) else { return false };
        if known.breaker.close() {
            info!(%consumer, "The breaker was closed by an operator.");
        }
        true
    }
}
