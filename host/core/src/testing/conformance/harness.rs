//! What a case works with: an engine, the clock that it goes by, and the short forms in which cases are written.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock as _, WallMs};
use crate::engine::{
    Attempt, Browse, Bulk, BulkAction, DeadCode, DeadReason, Definitions, Engine, Filter, Fut, LeaseRequest,
    LeaseToken, Leased, NewEntry, Position, Progress, QueueCounts, QueueDefinition, QueueId, RequestError, Select,
    SettleError, Settlement, Stored, Verdict,
};
use crate::message::{Attributes, Message};
use crate::name::{QueueName, Topic};
use crate::retry::{Backoff, RetryPolicy};
use crate::testing::TestClock;

/// How often a condition is looked at, and how long between two looks: 5 s of real time in all.
const LOOKS_MAX: u32 = 2500;
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Most steps of a walk over pages or of a bulk job, far above what any case needs.
const STEPS_MAX: usize = 1000;

/// The least that [`Harness::many`] may be.
pub const MANY_MIN: usize = 300;
/// Most messages of one append of [`Harness::store`].
const APPEND_MAX: usize = 1000;

/// How long leases of cases last unless they say otherwise.
pub(super) const TTL: Duration = Duration::from_secs(30);
/// The wait after the first failed attempt; it doubles, without jitter, up to a minute.
pub(super) const BACKOFF: Duration = Duration::from_secs(10);
/// What a caller may pass for a cursor that never was one.
pub(super) const NO_CURSORS: [&str; 4] = ["", "zzz", "-1", "\u{e9}1"];
/// The attempts that the queues of [`Harness::standard`] allow.
pub(super) const ATTEMPTS_MAX: u32 = 3;

/// An engine under test, with an empty store that nobody else uses.
pub struct Harness {
    /// The engine; it goes by `clock`.
    pub engine: Arc<dyn Engine>,
    /// The clock. Cases move it only through [`advance`](Self::advance) and the steps.
    pub clock: TestClock,
    /// Called after each move of the clock: makes whatever sleeps inside the engine look at the clock again. May keep
    /// the engine alive; it is dropped before `reopen` is called.
    pub poke: Box<dyn Fn() + Send + Sync>,
    /// More messages than the engine keeps in memory of one queue, and at least [`MANY_MIN`]: cases of backlogs use so many.
    pub many: usize,
    /// Opens the same store again, as after a crash (nothing is closed or flushed first), on the same clock. None where
    /// the engine can't. All handles of this harness to the engine are gone when it is called.
    pub reopen: Option<Box<dyn FnOnce() -> Fut<'static, Harness> + Send + Sync>>,
}

/// The queues that most cases use: two, each with its dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queues {
    pub(super) a: QueueId,
    pub(super) a_dead: QueueId,
    pub(super) b: QueueId,
    pub(super) b_dead: QueueId,
}

impl Harness {
    /// Lets time pass and tells the engine.
    pub fn advance(&self, duration: Duration) {
        self.clock.advance(duration);
        (self.poke)();
    }

    /// Sets the wall clock forward, without time passing, and tells the engine.
    pub fn step_wall_forward(&self, by: Duration) {
        self.clock.step_wall_forward(by);
        (self.poke)();
    }

    /// Sets the wall clock back and tells the engine.
    pub fn step_wall_back(&self, by: Duration) {
        self.clock.step_wall_back(by);
        (self.poke)();
    }

    /// The same store after a crash.
    ///
    /// # Panics
    /// When the harness can't reopen: the case lacks `Need::Reopen`.
    pub async fn reopened(self) -> Self {
        let Self { engine, poke, reopen, .. } = self;
        drop((engine, poke));
        reopen.expect("the case says that it needs to reopen")().await
    }

    /// Defines `a` and `b` with the dead-letter queues `a.dead` and `b.dead`.
    pub(super) async fn standard(&self) -> Queues {
        self.standard_but(|_| ()).await
    }

    /// The same with other settings for `a`.
    pub(super) async fn standard_but(&self, change: impl FnOnce(&mut QueueDefinition)) -> Queues {
        let mut a = queue("a", Some("a.dead"));
        change(&mut a);
        self.define(vec![a, queue("a.dead", None), queue("b", Some("b.dead")), queue("b.dead", None)]).await
    }

    /// Defines these queues: `a`, `a.dead`, `b` and `b.dead` in any order.
    pub(super) async fn define(&self, queues: Vec<QueueDefinition>) -> Queues {
        let defined =
            self.engine.define(Definitions { queues, ..Definitions::default() }).await.expect("`define` works").queues;
        let id = |name| *defined.get(&queue_name(name)).unwrap_or_else(|| panic!("`define` gave no id for '{name}'"));
        Queues { a: id("a"), a_dead: id("a.dead"), b: id("b"), b_dead: id("b.dead") }
    }

    /// Appends a message per id, in one append.
    pub(super) async fn append(&self, queue: QueueId, ids: &[&str]) -> Vec<Position> {
        self.store(ids.iter().map(|id| entry(queue, id)).collect()).await
    }

    /// Appends these, in as many appends as it takes.
    pub(super) async fn store(&self, entries: Vec<NewEntry>) -> Vec<Position> {
        let mut positions = Vec::new();
        for entries in entries.chunks(APPEND_MAX) {
            let appended = self.engine.append(entries.to_vec().into()).await.expect("`append` works");
            positions.extend(appended.positions);
        }
        positions
    }

    /// One call of `lease`, without waiting.
    pub(super) async fn lease(&self, queue: QueueId, max: usize) -> Vec<Leased> {
        self.engine.lease(want(queue, max, Duration::ZERO)).await.expect("`lease` works")
    }

    /// Leases exactly `count` messages, in as many calls as the engine needs.
    pub(super) async fn take(&self, queue: QueueId, count: usize) -> Vec<Leased> {
        let mut leased = Vec::new();
        let mut looks = 0;
        while looks < LOOKS_MAX {
            let more = self.lease(queue, count - leased.len()).await;
            if more.is_empty() {
                looks += 1;
                tokio::time::sleep(LOOK_EVERY).await;
            }
            leased.extend(more);
            if leased.len() >= count {
                assert_eq!(leased.len(), count, "more leases than asked for");
                return leased;
            }
        }
        panic!("only {} of {count} messages can be leased: {:?}", leased.len(), ids(&leased));
    }

    /// Leases exactly one message.
    pub(super) async fn take_one(&self, queue: QueueId) -> Leased {
        self.take(queue, 1).await.remove(0)
    }

    /// Asserts that nothing can be leased from `queue` now.
    pub(super) async fn assert_none(&self, queue: QueueId, why: &str) {
        let leased = self.lease(queue, 10).await;
        assert!(leased.is_empty(), "{why}: {:?} was leased", ids(&leased));
    }

    pub(super) async fn settle(&self, settlement: Settlement) -> Result<(), SettleError> {
        let mut results = self.engine.settle(vec![settlement]).await;
        assert_eq!(results.len(), 1, "one result per settlement");
        results.remove(0)
    }

    /// Settles as handled, without emits.
    pub(super) async fn done(&self, leased: &Leased) -> Result<(), SettleError> {
        self.settle(done(leased, Vec::new())).await
    }

    /// Settles all as handled, in one batch.
    pub(super) async fn all_done(&self, leased: &[Leased]) {
        let batch = leased.iter().map(|leased| done(leased, Vec::new())).collect();
        assert!(self.engine.settle(batch).await.iter().all(Result::is_ok), "they are leased");
    }

    /// Settles as failed, to be tried again after [`BACKOFF`].
    pub(super) async fn again(&self, leased: &Leased) {
        self.again_after(leased, BACKOFF).await;
    }

    /// The same after another wait, which backoff chose.
    pub(super) async fn again_after(&self, leased: &Leased, wait: Duration) {
        let at = self.clock.wall().plus(wait);
        self.settle(failed(leased, Verdict::Again { at, chosen: false })).await.expect("`Again` works");
    }

    /// Settles as rejected.
    pub(super) async fn dead(&self, leased: &Leased) {
        self.settle(failed(leased, Verdict::Dead { reason: rejected() })).await.expect("`Dead` works");
    }

    /// Leases everything of a queue that holds `count` available messages, and declares it dead.
    pub(super) async fn bury(&self, queue: QueueId, count: usize) {
        for leased in self.take(queue, count).await {
            self.dead(&leased).await;
        }
    }

    /// The whole queue, in pages of `max`.
    pub(super) async fn browse_by(&self, queue: QueueId, max: usize) -> Vec<Stored> {
        let mut items = Vec::new();
        let mut after = None;
        for _ in 0..STEPS_MAX {
            let page = self.engine.browse(Browse { queue, after, max }).await.expect("`browse` works");
            assert!(page.items.len() <= max, "a page of {} where {max} were allowed", page.items.len());
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                return items;
            }
        }
        panic!("a walk over the queue does not end");
    }

    pub(super) async fn browse(&self, queue: QueueId) -> Vec<Stored> {
        self.browse_by(queue, 100).await
    }

    /// One step of a bulk job.
    pub(super) async fn bulk(
        &self,
        queue: QueueId,
        select: Select,
        action: BulkAction,
    ) -> Result<Progress, RequestError> {
        self.engine.bulk(Bulk { queue, select, filter: Filter::default(), action, after: None, max: 100 }).await
    }

    /// All steps of a bulk job of `max` each, added up.
    pub(super) async fn bulk_by(&self, queue: QueueId, action: BulkAction, max: usize) -> Progress {
        let mut sum = Progress::default();
        for _ in 0..STEPS_MAX {
            let job = Bulk {
                queue,
                select: Select::All,
                filter: Filter::default(),
                action: action.clone(),
                after: sum.next,
                max,
            };
            let step = self.engine.bulk(job).await.expect("`bulk` works");
            assert!(step.changed <= max as u64, "a step changed {} where {max} were allowed", step.changed);
            sum =
                Progress { changed: sum.changed + step.changed, skipped: sum.skipped + step.skipped, next: step.next };
            if sum.next.is_none() {
                return sum;
            }
        }
        panic!("a bulk job does not end");
    }

    /// The figures of one queue; zeros where the engine does not list it.
    pub(super) fn counts(&self, queue: QueueId) -> (u64, u64, u64) {
        self.figures(queue).map_or((0, 0, 0), |counts| (counts.ready, counts.leased, counts.scheduled))
    }

    pub(super) fn figures(&self, queue: QueueId) -> Option<QueueCounts> {
        self.engine.counts().queues.iter().find(|counts| counts.id == queue).cloned()
    }

    /// Waits until the figures of `queue` are these: ready, leased, scheduled. Counts may be a little behind.
    pub(super) async fn settles_at(&self, queue: QueueId, expected: (u64, u64, u64)) {
        for _ in 0..LOOKS_MAX {
            if self.counts(queue) == expected {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        panic!("(ready, leased, scheduled) stay at {:?}, not {expected:?}", self.counts(queue));
    }

    /// Lets time pass in steps until `future` is ready: for waits that begin whenever the engine gets to them.
    pub(super) async fn advance_until<T>(&self, step: Duration, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        for _ in 0..LOOKS_MAX {
            self.advance(step);
            if let Ok(value) = tokio::time::timeout(LOOK_EVERY, &mut future).await {
                return value;
            }
        }
        panic!("it does not end, however much time passes");
    }
}

/// Waits until `check` holds, for up to 5 s of real time.
///
/// # Panics
/// When it does not hold by then, with `what`.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..LOOKS_MAX {
        if check().await {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    panic!("it never came to this: {what}");
}

/// The result of a future that needs no time to pass.
///
/// # Panics
/// When it is not ready within 5 s of real time.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let bound = LOOK_EVERY * LOOKS_MAX;
    tokio::time::timeout(bound, future).await.unwrap_or_else(|_| panic!("it never came to this: {what}"))
}

pub(super) fn queue_name(name: &str) -> QueueName {
    QueueName::new(name).expect("cases use valid names")
}

pub(super) fn topic() -> Topic {
    Topic::new("cases.made").expect("it is a topic")
}

pub(super) fn queue(name: &str, dead_letter: Option<&str>) -> QueueDefinition {
    let backoff = Backoff { initial: BACKOFF, factor: 2.0, max: Duration::from_secs(60), jitter: 0.0 };
    QueueDefinition {
        dead_letter: dead_letter.map(queue_name),
        retry: RetryPolicy { max_attempts: ATTEMPTS_MAX, max_age: None, backoff },
        ..QueueDefinition::new(queue_name(name))
    }
}

/// A message with an extension and a body that repeats its id.
pub(super) fn message(id: &str) -> Message {
    message_with(id, format!("body of {id}").as_bytes())
}

pub(super) fn message_with(id: &str, body: &[u8]) -> Message {
    let attributes = Attributes {
        id,
        source: "/cases",
        kind: "case.made",
        subject: Some("a subject"),
        time: Some("2026-01-01T00:00:00Z"),
        content_type: Some("text/plain"),
        extensions: &[("traceparent", "00-x")],
        ..Attributes::default()
    };
    Message::new(&attributes, body).expect("the attributes are valid")
}

pub(super) fn entry(queue: QueueId, id: &str) -> NewEntry {
    NewEntry::new(queue, topic(), message(id))
}

pub(super) fn want(queue: QueueId, max: usize, wait: Duration) -> LeaseRequest {
    LeaseRequest { queue, max, wait, ttl: Some(TTL) }
}

pub(super) fn done(leased: &Leased, emits: Vec<NewEntry>) -> Settlement {
    Settlement { lease: leased.token, attempt: None, verdict: Verdict::Done { emits } }
}

/// A settlement with the attempt that a runtime would record.
pub(super) fn failed(leased: &Leased, verdict: Verdict) -> Settlement {
    Settlement { lease: leased.token, attempt: Some(attempt(leased.attempt())), verdict }
}

pub(super) fn attempt(number: u32) -> Attempt {
    Attempt {
        number,
        at_ms: 1_767_225_600_000 + u64::from(number),
        outcome: "retry".to_owned(),
        reason: format!("failure {number}"),
        duration_us: 1234,
        digest: Some("ab".repeat(32)),
        log_tail: format!("INFO case: line of attempt {number}\n"),
    }
}

pub(super) fn rejected() -> DeadReason {
    DeadReason { code: DeadCode::Rejected, detail: "the case rejected it".to_owned() }
}

/// A token that differs from a valid one only in its nonce.
pub(super) fn forged(token: LeaseToken) -> LeaseToken {
    LeaseToken { nonce: token.nonce.wrapping_add(1), ..token }
}

pub(super) fn ids(leased: &[Leased]) -> Vec<&str> {
    leased.iter().map(|leased| leased.message.id()).collect()
}

pub(super) fn stored_ids(stored: &[Stored]) -> Vec<&str> {
    stored.iter().map(|stored| stored.message.id()).collect()
}

/// A due time that never comes.
pub(super) const HELD: WallMs = WallMs(u64::MAX);
