//! The whole engine, threads and all, on the bad disk: the contract with power cuts for restarts, and what callers see of
//! a failure.

use std::sync::Arc;

use pelton_core::engine::{
    Append, Bulk, BulkAction, Definitions, Engine, EngineError, Filter, Fut, Health, LeaseRequest, Progress,
    QueueDefinition, QueueId, RequestError, Select, SettleError, Settlement, Verdict,
};
use pelton_core::metrics::Metrics;
use pelton_core::name::QueueName;
use pelton_core::testing::TestClock;
use pelton_core::testing::conformance::{self, Harness};

use super::disk::{Faults, SimDisk};
use super::model::{message, new_entry};
use crate::{OpenOptions, RedbEngine, Tuning};

fn options(clock: &TestClock) -> OpenOptions {
    OpenOptions {
        dir: std::path::PathBuf::new(),
        clock: Arc::new(clock.clone()),
        metrics: Metrics::new().engine,
        tuning: Tuning::default(),
        seed: 7,
    }
}

/// Cuts the power when it is dropped, just before the engine ends in order.
struct Cut(SimDisk);

impl Drop for Cut {
    fn drop(&mut self) {
        self.0.cut_power();
    }
}

/// The last handle to an engine. Fields are dropped in this order.
struct Handle {
    _cut: Cut,
    engine: Arc<RedbEngine>,
}

fn harness(disk: SimDisk, clock: TestClock) -> Harness {
    disk.restore_power();
    let engine = Arc::new(RedbEngine::open_on(Box::new(disk.clone()), options(&clock)).expect("the disk is good"));
    let handle = Handle { _cut: Cut(disk.clone()), engine: Arc::clone(&engine) };
    let moved = clock.clone();
    Harness {
        engine,
        clock,
        poke: Box::new(move || {
            let handle: &Handle = &handle;
            handle.engine.look_at_the_clock();
        }),
        many: conformance::MANY_MIN,
        reopen: Some(Box::new(move || Box::pin(async move { harness(disk, moved) }))),
    }
}

fn on_a_new_disk() -> Fut<'static, Harness> {
    Box::pin(async { harness(SimDisk::new(fastrand::Rng::with_seed(5)), TestClock::new()) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_are_power_cuts() {
    let report = conformance::run_matching(on_a_new_disk, |name| name.starts_with("restart::")).await;
    assert!(report.passed.len() > 10 && report.skipped.is_empty(), "{report:?}");
}

async fn one_queue(engine: &RedbEngine) -> QueueId {
    let name = QueueName::new("q").expect("a name");
    let queue = QueueDefinition::new(name.clone());
    engine.define(Definitions { queues: vec![queue], ..Definitions::default() }).await.expect("defined").queues[&name]
}

fn append(queue: QueueId, id: u64) -> Append {
    vec![new_entry(id * 4, queue.0, &message(id * 4), None)].into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_unknown_and_the_engine_comes_back() {
    let (disk, clock) = (SimDisk::new(fastrand::Rng::with_seed(6)), TestClock::new());
    let engine = RedbEngine::open_on(Box::new(disk.clone()), options(&clock)).expect("the disk is good");
    let queue = one_queue(&engine).await;
    engine.append(append(queue, 1)).await.expect("appended");
    let want = LeaseRequest { queue, max: 1, wait: std::time::Duration::ZERO, ttl: None };
    let leased = engine.lease(want.clone()).await.expect("leased").remove(0);
    disk.set_faults(Faults { sync_in: Some(0), ..Faults::default() });
    let error = engine.append(append(queue, 2)).await.expect_err("the sync fails");
    assert_eq!(error, RequestError::Engine(EngineError::Unknown));
    let mut health = engine.health();
    assert_eq!(*health.borrow(), Health::Recovering);
    assert_eq!(engine.append(append(queue, 3)).await, Err(EngineError::Unavailable.into()));
    clock.advance(Tuning::default().reopen_min);
    engine.look_at_the_clock();
    health.wait_for(|health| *health == Health::Ready).await.expect("the engine lives");
    let verdict = Verdict::Done { emits: Vec::new() };
    let results = engine.settle(vec![Settlement { lease: leased.token, attempt: None, verdict }]).await;
    assert_eq!(results, [Err(SettleError::LeaseLost)], "leases end with the failure");
    assert_eq!(engine.lease(want).await.expect("leased").remove(0).message, leased.message);
    engine.append(append(queue, 4)).await.expect("appended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_redb_is_an_error_for_everybody_and_the_health_says_so() {
    let (disk, clock) = (SimDisk::new(fastrand::Rng::with_seed(9)), TestClock::new());
    let engine = RedbEngine::open_on(Box::new(disk.clone()), options(&clock)).expect("the disk is good");
    let queue = one_queue(&engine).await;
    let want = LeaseRequest { queue, max: 1, wait: std::time::Duration::from_secs(60), ttl: None };
    let mut waiting = engine.lease(want.clone());
    assert!(futures_poll(&mut waiting).is_none(), "there is nothing yet");
    disk.set_faults(Faults { panic_in: Some(0), ..Faults::default() });
    let unknown = RequestError::Engine(EngineError::Unknown);
    assert_eq!(engine.append(append(queue, 1)).await, Err(unknown));
    let Health::Failed(reason) = engine.health().borrow().clone() else { panic!("it says that it is well") };
    assert!(reason.contains("this page is not a page"), "{reason}");
    assert_eq!(waiting.await.expect_err("who waits is told"), EngineError::Unavailable.into());
    let refused = RequestError::Engine(EngineError::Corrupt(reason.clone()));
    assert_eq!(engine.append(append(queue, 2)).await, Err(refused.clone()));
    assert_eq!(engine.lease(want).await.expect_err("it has stopped"), refused);
    engine.close(std::time::Duration::from_secs(10)).await;
    assert_eq!(*engine.health().borrow(), Health::Failed(reason), "closing does not hide why");
    // The next process finds what was answered.
    disk.restore_power();
    let engine = RedbEngine::open_on(Box::new(disk), options(&clock)).expect("the file is as after a crash");
    assert_eq!(one_queue(&engine).await, queue);
}

/// It was taken out of its table twice, which looked like damage and stopped the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_is_listed_twice_is_changed_once() {
    let (disk, clock) = (SimDisk::new(fastrand::Rng::with_seed(10)), TestClock::new());
    let engine = RedbEngine::open_on(Box::new(disk), options(&clock)).expect("the disk is good");
    let queue = one_queue(&engine).await;
    let position = engine.append(append(queue, 1)).await.expect("appended").positions[0];
    let select = Select::Positions(vec![position, position]);
    let job = Bulk { queue, select, filter: Filter::default(), action: BulkAction::Discard, after: None, max: 10 };
    let progress = engine.bulk(job).await.expect("it is done");
    assert_eq!(progress, Progress { changed: 1, skipped: 0, next: None });
    assert_eq!(*engine.health().borrow(), Health::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_nobody_receives_is_given_back() {
    let (disk, clock) = (SimDisk::new(fastrand::Rng::with_seed(8)), TestClock::new());
    let engine = RedbEngine::open_on(Box::new(disk), options(&clock)).expect("the disk is good");
    let queue = one_queue(&engine).await;
    let want = LeaseRequest { queue, max: 1, wait: std::time::Duration::from_secs(60), ttl: None };
    // Two wait; the first gives up, at any moment between its request and its answer.
    let mut first = engine.lease(want.clone());
    assert!(futures_poll(&mut first).is_none(), "there is nothing yet");
    engine.append(append(queue, 1)).await.expect("appended");
    drop(first);
    assert_eq!(engine.lease(want).await.expect("leased").len(), 1);
}

/// Polls a future once.
fn futures_poll<T>(future: &mut Fut<'_, T>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}
