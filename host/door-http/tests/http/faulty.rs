//! An engine whose storage fails when a test says so.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pelton_core::engine::{
    Append, Appended, Browse, Bulk, Counts, Defined, Definitions, Engine, EngineError, Fut, Guarantees, Health,
    LeaseRequest, LeaseToken, Leased, Lost, Page, Pausable, Position, Progress, QueueId, RequestError, SettleError,
    Settlement, StoreId, Stored,
};
use pelton_core::testing::MemoryEngine;
use tokio::sync::watch;

pub(crate) struct FaultyEngine {
    inner: MemoryEngine,
    fault: Mutex<Option<EngineError>>,
    refusal: Mutex<Option<RequestError>>,
    browsed: AtomicUsize,
    health: watch::Sender<Health>,
}

impl FaultyEngine {
    pub(crate) fn new(inner: MemoryEngine) -> Self {
        let browsed = AtomicUsize::new(0);
        Self {
            inner,
            fault: Mutex::new(None),
            refusal: Mutex::new(None),
            browsed,
            health: watch::Sender::new(Health::Ready),
        }
    }

    /// From now on every call ends so.
    pub(crate) fn fail(&self, error: EngineError) {
        *self.fault.lock().unwrap() = Some(error);
    }

    /// From now on every append is refused so.
    pub(crate) fn refuse(&self, refusal: RequestError) {
        *self.refusal.lock().unwrap() = Some(refusal);
    }

    /// How many pages were read.
    pub(crate) fn browsed(&self) -> usize {
        self.browsed.load(SeqCst)
    }

    pub(crate) fn set_health(&self, health: Health) {
        self.health.send_replace(health);
    }

    fn check(&self) -> Result<(), EngineError> {
        self.fault.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn or_fail<'a, T, E>(&self, otherwise: impl FnOnce() -> Fut<'a, Result<T, E>>) -> Fut<'a, Result<T, E>>
    where
        T: Send + 'a,
        E: From<EngineError> + Send + 'a,
    {
        match self.check() {
            Ok(()) => otherwise(),
            Err(error) => Box::pin(std::future::ready(Err(error.into()))),
        }
    }

    fn or_fail_each<'a>(
        &self,
        count: usize,
        otherwise: impl FnOnce() -> Fut<'a, Vec<Result<(), SettleError>>>,
    ) -> Fut<'a, Vec<Result<(), SettleError>>> {
        match self.check() {
            Ok(()) => otherwise(),
            Err(error) => Box::pin(std::future::ready(vec![Err(error.into()); count])),
        }
    }
}

impl Engine for FaultyEngine {
    fn guarantees(&self) -> &Guarantees {
        self.inner.guarantees()
    }

    fn store_id(&self) -> StoreId {
        self.inner.store_id()
    }

    fn define(&self, definitions: Definitions) -> Fut<'_, Result<Defined, EngineError>> {
        self.inner.define(definitions)
    }

    fn append(&self, append: Append) -> Fut<'_, Result<Appended, RequestError>> {
        match self.refusal.lock().unwrap().clone() {
            Some(refusal) => Box::pin(std::future::ready(Err(refusal))),
            None => self.or_fail(|| self.inner.append(append)),
        }
    }

    fn lease(&self, want: LeaseRequest) -> Fut<'_, Result<Vec<Leased>, RequestError>> {
        self.or_fail(|| self.inner.lease(want))
    }

    fn extend(&self, leases: Vec<(LeaseToken, Duration)>) -> Fut<'_, Vec<Result<(), SettleError>>> {
        self.or_fail_each(leases.len(), || self.inner.extend(leases))
    }

    fn release(&self, leases: Vec<LeaseToken>) -> Fut<'_, ()> {
        self.inner.release(leases)
    }

    fn settle(&self, batch: Vec<Settlement>) -> Fut<'static, Vec<Result<(), SettleError>>> {
        self.or_fail_each(batch.len(), || self.inner.settle(batch))
    }

    fn browse(&self, what: Browse) -> Fut<'_, Result<Page, RequestError>> {
        self.browsed.fetch_add(1, SeqCst);
        self.or_fail(|| self.inner.browse(what))
    }

    fn bulk(&self, job: Bulk) -> Fut<'_, Result<Progress, RequestError>> {
        self.or_fail(|| self.inner.bulk(job))
    }

    fn read(&self, queue: QueueId, position: Position) -> Fut<'_, Result<Option<Stored>, RequestError>> {
        self.or_fail(|| self.inner.read(queue, position))
    }

    fn pause(&self, what: Pausable, paused: bool) -> Fut<'_, Result<(), RequestError>> {
        self.or_fail(|| self.inner.pause(what, paused))
    }

    fn lost(&self, lost: Vec<Lost>) -> Fut<'_, Result<u64, EngineError>> {
        self.inner.lost(lost)
    }

    fn counts(&self) -> Arc<Counts> {
        self.inner.counts()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn close(&self, within: Duration) -> Fut<'_, ()> {
        self.inner.close(within)
    }
}
