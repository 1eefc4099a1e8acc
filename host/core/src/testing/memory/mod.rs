//! An engine in memory: the contract of [`Engine`] with nothing else in the way.
//!
//! One lock around one [`Store`]; every call first lets the time act (leases run out, messages come due and expire), then does
//! its work. It is the model that other engines are compared to, so that each rule is written in the plainest way, however
//! many messages are looked at for it. Invariants: the lock is never held across an await; whatever may make a message available
//! wakes everybody who waits for one.

mod admit;
mod line;
mod look;
mod settle;
mod store;
mod time;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use self::store::Store;
use super::clock::{Moment, TestClock};
use crate::clock::Clock;
use crate::engine::{
    Append, Appended, Browse, Bulk, Counts, Defined, Definitions, Engine, EngineError, Fut, Guarantees, Health,
    LeaseRequest, LeaseToken, Leased, Lost, Page, Pausable, Position, Progress, QueueId, RequestError, SettleError,
    Settlement, StoreId, Stored,
};

/// Longest sleep of a waiting lease before it looks at the clock again: the wall clock may step meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The engine in memory. Everything is lost with the last clone; see [`MemoryEngine::crash`] for the likes of a restart.
#[derive(Clone)]
pub struct MemoryEngine {
    shared: Arc<Shared>,
}

struct Shared {
    id: StoreId,
    clock: Arc<dyn Clock>,
    /// Of a test clock: tells that it moved. With another clock waiters sleep instead.
    moved: Option<watch::Receiver<Moment>>,
    store: Mutex<Store>,
    /// Something may have become available, or the store was closed.
    changed: Notify,
    health: watch::Sender<Health>,
}

const GUARANTEES: Guarantees = Guarantees::ALL;

impl MemoryEngine {
    /// An empty store that goes by a real clock; waiting leases sleep on tokio's timer.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with(clock, None, StoreId(fastrand::u64(..)), Store::new())
    }

    /// An empty store that goes by a clock of a test; waiting leases look again whenever it moves.
    #[must_use]
    pub fn on_test_clock(clock: &TestClock) -> Self {
        Self::with(Arc::new(clock.clone()), Some(clock.moved()), StoreId(fastrand::u64(..)), Store::new())
    }

    fn with(clock: Arc<dyn Clock>, moved: Option<watch::Receiver<Moment>>, id: StoreId, store: Store) -> Self {
        let shared = Shared {
            id,
            clock,
            moved,
            store: Mutex::new(store),
            changed: Notify::new(),
            health: watch::Sender::new(Health::Ready),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The same store as a crash and a restart would leave it: messages stay, all leases end, the epoch rises.
    /// This engine answers `Unavailable` from now on.
    #[must_use]
    pub fn crash(&self) -> Self {
        let store = self.shared.lock().crash(self.shared.now());
        self.shared.changed.notify_waiters();
        Self::with(self.shared.clock.clone(), self.shared.moved.clone(), self.shared.id, store)
    }

    /// Lets storage fail: until [`recover`](Self::recover) every call answers `error` and does nothing.
    pub fn fail(&self, error: EngineError) {
        let health = match &error {
            EngineError::Corrupt(reason) => Health::Failed(reason.clone()),
            EngineError::Unavailable | EngineError::Unknown => Health::Recovering,
        };
        self.shared.lock().fail(error);
        self.shared.health.send_replace(health);
        self.shared.changed.notify_waiters();
    }

    /// Ends what [`fail`](Self::fail) began, as an engine that reopens its store does: all leases end, the epoch rises.
    pub fn recover(&self) {
        self.shared.lock().recover(self.shared.now());
        self.shared.health.send_replace(Health::Ready);
        self.shared.changed.notify_waiters();
    }

    /// Lets the disk be too full for new messages, or ends that.
    pub fn fill(&self, full: bool) {
        self.shared.lock().fill(full);
        self.shared.health.send_replace(if full { Health::Full } else { Health::Ready });
    }

    /// Does `work` on the open store, after letting the time act.
    fn work<T>(&self, work: impl FnOnce(&mut Store, Moment) -> T) -> Result<T, EngineError> {
        let result = self.shared.work(work);
        self.shared.changed.notify_waiters();
        result
    }
}

impl Shared {
    fn now(&self) -> Moment {
        Moment { wall: self.clock.wall(), monotonic: self.clock.monotonic() }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work<T>(&self, work: impl FnOnce(&mut Store, Moment) -> T) -> Result<T, EngineError> {
        let mut store = self.lock();
        store.check_open()?;
        let now = self.now();
        self.pass_time(&mut store, now);
        Ok(work(&mut store, now))
    }

    /// Wakes everybody when the time did something: a message may be anywhere now.
    fn pass_time(&self, store: &mut Store, now: Moment) {
        if store.pass_time(now) {
            self.changed.notify_waiters();
        }
    }

    /// Leases, waiting for something to lease until the wait is over.
    async fn lease(&self, want: LeaseRequest) -> Result<Vec<Leased>, RequestError> {
        let deadline = self.clock.monotonic().plus(want.wait);
        let mut moved = self.moved.clone();
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Both signals are armed before the store is looked at, so that none falls between looking and waiting.
            changed.as_mut().enable();
            if let Some(moved) = &mut moved {
                moved.mark_unchanged();
            }
            let now = self.now();
            let (leased, next) = self.work(|store, now| {
                store.lease(&want, now).map(|leased| (leased, store.next_event(want.queue, now)))
            })??;
            if !leased.is_empty() || now.monotonic >= deadline {
                return Ok(leased);
            }
            let left = deadline.since(now.monotonic);
            let moves = async {
                match &mut moved {
                    Some(moved) => drop(moved.changed().await),
                    None => tokio::time::sleep(next.map_or(left, |next| next.min(left)).min(LOOK_AGAIN)).await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = moves => {}
            }
        }
    }
}

fn ready<T: Send + 'static>(value: T) -> Fut<'static, T> {
    Box::pin(std::future::ready(value))
}

impl Engine for MemoryEngine {
    fn guarantees(&self) -> &Guarantees {
        &GUARANTEES
    }

    fn store_id(&self) -> StoreId {
        self.shared.id
    }

    fn define(&self, definitions: Definitions) -> Fut<'_, Result<Defined, EngineError>> {
        let defined = self.work(|store, now| (store.define(definitions, now), store.disk_full()));
        ready(defined.map(|(defined, full)| {
            self.shared.health.send_replace(if full { Health::Full } else { Health::Ready });
            defined
        }))
    }

    fn append(&self, append: Append) -> Fut<'_, Result<Appended, RequestError>> {
        ready(self.work(|store, now| store.append(append, now)).map_err(RequestError::from).flatten())
    }

    fn lease(&self, want: LeaseRequest) -> Fut<'_, Result<Vec<Leased>, RequestError>> {
        Box::pin(self.shared.lease(want))
    }

    fn extend(&self, leases: Vec<(LeaseToken, Duration)>) -> Fut<'_, Vec<Result<(), SettleError>>> {
        let extend =
            |(token, by)| self.work(|store, now| store.extend(token, by, now)).map_err(SettleError::from).flatten();
        ready(leases.into_iter().map(extend).collect())
    }

    fn release(&self, leases: Vec<LeaseToken>) -> Fut<'_, ()> {
        // A closed store has no leases to give back.
        let _ = self.work(|store, _| leases.into_iter().for_each(|token| store.release(token)));
        ready(())
    }

    fn settle(&self, batch: Vec<Settlement>) -> Fut<'static, Vec<Result<(), SettleError>>> {
        let count = batch.len();
        let settle = |store: &mut Store, now| batch.into_iter().map(|one| store.settle(one, now)).collect();
        ready(self.work(settle).unwrap_or_else(|error| vec![Err(error.into()); count]))
    }

    fn browse(&self, what: Browse) -> Fut<'_, Result<Page, RequestError>> {
        ready(self.work(|store, now| store.browse(&what, now)).map_err(RequestError::from).flatten())
    }

    fn bulk(&self, job: Bulk) -> Fut<'_, Result<Progress, RequestError>> {
        ready(self.work(|store, now| store.bulk(&job, now)).map_err(RequestError::from).flatten())
    }

    fn read(&self, queue: QueueId, position: Position) -> Fut<'_, Result<Option<Stored>, RequestError>> {
        ready(self.work(|store, now| store.read(queue, position, now)).map_err(RequestError::from).flatten())
    }

    fn pause(&self, what: Pausable, paused: bool) -> Fut<'_, Result<(), RequestError>> {
        ready(self.work(|store, _| store.pause(what, paused)).map_err(RequestError::from).flatten())
    }

    fn lost(&self, lost: Vec<Lost>) -> Fut<'_, Result<u64, EngineError>> {
        let count = |store: &mut Store, now| lost.into_iter().map(|lost| u64::from(store.lose(lost, now))).sum();
        ready(self.work(count))
    }

    fn counts(&self) -> Arc<Counts> {
        let now = self.shared.now();
        let mut store = self.shared.lock();
        self.shared.pass_time(&mut store, now);
        Arc::new(store.counts(now))
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    fn close(&self, _within: Duration) -> Fut<'_, ()> {
        self.shared.lock().close();
        self.shared.changed.notify_waiters();
        ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::engine::{Definitions, NewEntry, QueueDefinition, Settlement, Verdict};
    use crate::message::{Attributes, Message};
    use crate::name::{QueueName, Topic};
    use crate::testing::conformance::{self, Harness};

    fn harness(engine: MemoryEngine, clock: TestClock) -> Harness {
        let reopen = {
            let (engine, clock) = (engine.clone(), clock.clone());
            move || ready(harness(engine.crash(), clock))
        };
        let (engine, poke) = (Arc::new(engine), Box::new(|| ()));
        Harness { engine, clock, poke, many: 5_000, reopen: Some(Box::new(reopen)) }
    }

    #[tokio::test]
    async fn it_conforms() {
        let report = conformance::run(|| {
            let clock = TestClock::new();
            ready(harness(MemoryEngine::on_test_clock(&clock), clock))
        })
        .await;
        assert_eq!(report.skipped, [""; 0], "it claims everything");
    }

    #[tokio::test]
    async fn on_a_full_disk_only_appends_are_refused() {
        let clock = TestClock::new();
        let engine = MemoryEngine::on_test_clock(&clock);
        let name = QueueName::new("q").expect("a name");
        let queues = vec![QueueDefinition::new(name.clone())];
        let defined = engine.define(Definitions { queues, ..Definitions::default() }).await.expect("it is open");
        let queue = defined.queues[&name];
        let attributes = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
        let message = Message::new(&attributes, b"").expect("a message");
        let new = NewEntry::new(queue, Topic::new("t").expect("a topic"), message);
        engine.append(vec![new.clone()].into()).await.expect("there is room");
        engine.fill(true);
        assert_eq!(*engine.health().borrow(), Health::Full);
        assert_eq!(engine.append(vec![new.clone()].into()).await, Err(RequestError::DiskFull));
        let want = LeaseRequest { queue, max: 1, wait: Duration::ZERO, ttl: None };
        let lease = engine.lease(want).await.expect("it is open")[0].token;
        let verdict = Verdict::Done { emits: vec![new.clone()] };
        assert_eq!(engine.settle(vec![Settlement { lease, attempt: None, verdict }]).await, [Ok(())]);
        engine.fill(false);
        assert_eq!(*engine.health().borrow(), Health::Ready);
        engine.append(vec![new].into()).await.expect("there is room");
    }

    #[tokio::test]
    async fn on_a_real_clock_a_wait_ends_and_a_retry_comes() {
        let clock = Arc::new(SystemClock::new());
        let engine = MemoryEngine::new(clock.clone());
        let name = QueueName::new("q").expect("a name");
        let queue = QueueDefinition::new(name.clone());
        let defined =
            engine.define(Definitions { queues: vec![queue], ..Definitions::default() }).await.expect("it is open");
        let queue = defined.queues[&name];
        let want = |wait_ms| LeaseRequest { queue, max: 1, wait: Duration::from_millis(wait_ms), ttl: None };
        let nothing = tokio::time::timeout(Duration::from_secs(30), engine.lease(want(5))).await;
        assert_eq!(nothing.expect("it ends").expect("it is open").len(), 0, "the wait is over");
        let attributes = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
        let message = Message::new(&attributes, b"").expect("a message");
        let new = NewEntry::new(queue, Topic::new("t").expect("a topic"), message);
        engine.append(vec![new].into()).await.expect("it is open");
        let lease = engine.lease(want(0)).await.expect("it is open")[0].token;
        let at = clock.wall().plus(Duration::from_millis(5));
        engine.settle(vec![Settlement { lease, attempt: None, verdict: Verdict::Again { at, chosen: false } }]).await;
        let leased = engine.lease(want(60_000)).await.expect("it is open");
        assert_eq!(leased[0].attempt(), 2, "it came when it was due");
        assert!(clock.wall() >= at, "and not before");
    }
}
