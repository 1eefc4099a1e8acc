//! A store with something of everything in it, and what is there of it, so that two can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pelton_core::clock::{Clock as _, WallMs};
use pelton_core::engine::{
    Append, Attempt, Browse, DeadCode, DeadReason, Definitions, Engine, EntryOptions, Identity, LeaseRequest, Leased,
    NewEntry, Order, OrderKey, QueueDefinition, QueueId, Settlement, Stored, Verdict,
};
use pelton_core::message::{Attributes, Message};
use pelton_core::metrics::Metrics;
use pelton_core::name::{QueueName, ScheduleName, Topic};
use pelton_core::testing::TestClock;
use pelton_engine_redb::{DATA_FILE, OpenError, OpenOptions, RedbEngine, Report, Tuning, report};

pub(crate) const BODY_BYTES: usize = 200;
/// Larger than a row takes.
pub(crate) const LARGE_BYTES: usize = 150_000;

/// An engine with a clock that stands still, unless it is moved.
pub(crate) struct Opened {
    pub(crate) engine: RedbEngine,
    pub(crate) clock: TestClock,
    pub(crate) queues: BTreeMap<String, QueueId>,
}

pub(crate) fn usual_tuning() -> Tuning {
    Tuning { reserve_bytes: 1 << 20, park_after: Duration::ZERO, ..Tuning::default() }
}

pub(crate) fn open(dir: &Path) -> Result<RedbEngine, OpenError> {
    open_with(dir, TestClock::new(), usual_tuning())
}

pub(crate) fn open_with(dir: &Path, clock: TestClock, tuning: Tuning) -> Result<RedbEngine, OpenError> {
    let metrics = Metrics::new().engine;
    RedbEngine::open(OpenOptions { dir: dir.to_owned(), clock: Arc::new(clock), metrics, tuning, seed: 1 })
}

pub(crate) async fn close(engine: RedbEngine) {
    engine.close(Duration::from_secs(60)).await;
}

pub(crate) fn queue(text: &str) -> QueueName {
    QueueName::new(text).expect("valid")
}

pub(crate) fn topic() -> Topic {
    Topic::new("orders.created").expect("valid")
}

pub(crate) fn definitions() -> Definitions {
    let of = |name: &str, dead_letter: Option<&str>| QueueDefinition {
        dead_letter: dead_letter.map(queue),
        ..QueueDefinition::new(queue(name))
    };
    let queues = vec![
        of("plain", Some("plain.dead")),
        QueueDefinition { order: Order::Key, ..of("keyed", Some("plain.dead")) },
        QueueDefinition { priority: true, ..of("ranked", Some("plain.dead")) },
        of("plain.dead", None),
        of("second", Some("plain.dead")),
    ];
    let schedules = vec![ScheduleName::new("nightly").expect("valid")];
    Definitions { queues, schedules, ..Definitions::default() }
}

/// The message that has this id and a body of so many bytes, which differs from every other's.
pub(crate) fn message(id: &str, bytes: usize) -> Message {
    let seed = id.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let mut random = fastrand::Rng::with_seed(seed);
    let body: Vec<u8> = (0..bytes).map(|_| random.u8(..)).collect();
    let key = id.split('/').next().unwrap_or_default();
    let extensions = [("partitionkey", key), ("traceparent", "00-abc")];
    let content_type = Some("application/octet-stream");
    let base = Attributes { id, source: "/tests", kind: "test", content_type, ..Attributes::default() };
    let attributes = Attributes { subject: Some("a subject"), extensions: &extensions, ..base };
    Message::new(&attributes, &body).expect("valid")
}

impl Opened {
    pub(crate) async fn new(dir: &Path) -> Self {
        Self::at(dir, TestClock::new()).await
    }

    pub(crate) async fn at(dir: &Path, clock: TestClock) -> Self {
        Self::with(dir, clock, usual_tuning()).await
    }

    pub(crate) async fn with(dir: &Path, clock: TestClock, tuning: Tuning) -> Self {
        let engine = open_with(dir, clock.clone(), tuning).expect("the folder is new or our own");
        let defined = engine.define(definitions()).await.expect("the store is up");
        let queues = defined.queues.into_iter().map(|(name, id)| (name.as_str().to_owned(), id)).collect();
        Self { engine, clock, queues }
    }

    pub(crate) fn entry(&self, queue: &str, id: &str, bytes: usize, options: EntryOptions) -> NewEntry {
        NewEntry { options, ..NewEntry::new(self.queues[queue], topic(), message(id, bytes)) }
    }

    pub(crate) async fn append(&self, entries: Vec<NewEntry>) {
        self.engine.append(entries.into()).await.expect("the store is up");
    }

    pub(crate) async fn plain(&self, queue: &str, ids: &[&str]) {
        let entry = |id: &&str| self.entry(queue, id, BODY_BYTES, EntryOptions::default());
        self.append(ids.iter().map(entry).collect()).await;
    }

    pub(crate) async fn keyed(&self, ids: &[&str]) {
        let key = |id: &str| Some(OrderKey(id.split('/').next().unwrap_or_default().into()));
        let entry =
            |id: &&str| self.entry("keyed", id, BODY_BYTES, EntryOptions { key: key(id), ..EntryOptions::default() });
        self.append(ids.iter().map(entry).collect()).await;
    }

    pub(crate) async fn lease(&self, queue: &str, max: usize) -> Vec<Leased> {
        let ttl = Some(Duration::from_secs(600));
        let want = LeaseRequest { queue: self.queues[queue], max, wait: Duration::ZERO, ttl };
        self.engine.lease(want).await.expect("the store is up")
    }

    pub(crate) async fn settle(&self, leased: &Leased, verdict: Verdict) {
        let attempt = Some(Attempt {
            number: leased.attempt(),
            at_ms: self.clock.wall().0,
            outcome: "trap".to_owned(),
            reason: format!("{} failed", leased.message.id()),
            duration_us: 17,
            digest: None,
            log_tail: "one\ntwo\n".to_owned(),
        });
        let settlement = Settlement { lease: leased.token, attempt, verdict };
        let results = self.engine.settle(vec![settlement]).await;
        assert_eq!(results, [Ok(())]);
    }

    /// Puts something of everything into it.
    pub(crate) async fn fill(&self) {
        let ids: Vec<String> = (0..60).map(|number| format!("p{number:02}")).collect();
        self.plain("plain", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        self.keyed(&["a/1", "b/1", "a/2", "b/2", "c/1", "a/3"]).await;
        let later = EntryOptions { due: Some(self.in_a(3600)), ..EntryOptions::default() };
        let mortal = EntryOptions { expires: Some(self.in_a(7200)), ..EntryOptions::default() };
        let urgent = EntryOptions { priority: 9, ..EntryOptions::default() };
        let idle = EntryOptions { priority: 0, ..EntryOptions::default() };
        let large = message("large", LARGE_BYTES);
        let shared = |name: &str| NewEntry::new(self.queues[name], topic(), large.clone());
        self.append(vec![
            self.entry("plain", "later", BODY_BYTES, later),
            self.entry("plain", "mortal", 0, mortal),
            self.entry("ranked", "idle", BODY_BYTES, idle),
            self.entry("ranked", "usual", BODY_BYTES, EntryOptions::default()),
            self.entry("ranked", "urgent", BODY_BYTES, urgent),
            self.entry("second", "large alone", LARGE_BYTES, EntryOptions::default()),
        ])
        .await;
        self.append(vec![shared("plain"), shared("second")]).await;
        self.publish_with_window("once").await;
        self.fail_some().await;
    }

    fn in_a(&self, seconds: u64) -> WallMs {
        self.clock.wall().plus(Duration::from_secs(seconds))
    }

    /// A message whose doubles are recognised for an hour; whether this is one.
    pub(crate) async fn publish_with_window(&self, id: &str) -> bool {
        let entry = self.entry("plain", id, BODY_BYTES, EntryOptions::default());
        let window = Duration::from_secs(3600);
        let identity = Identity { entries: 0..1, topic: topic(), message: entry.message.clone(), window };
        let append = Append { entries: vec![entry], identities: vec![identity], tick: None };
        let appended = self.engine.append(append).await.expect("the store is up");
        !appended.duplicates.is_empty()
    }

    /// Lets a message of each kind fail: one is tried again, one dies, and one dies of being a dead letter.
    async fn fail_some(&self) {
        let reason = |detail: &str| DeadReason { code: DeadCode::Rejected, detail: detail.to_owned() };
        let leased = self.lease("plain", 3).await;
        self.settle(&leased[0], Verdict::Again { at: self.in_a(60), chosen: true }).await;
        self.settle(&leased[1], Verdict::Dead { reason: reason("no") }).await;
        self.settle(&leased[2], Verdict::Dead { reason: reason("never") }).await;
        let dead = self.lease("plain.dead", 1).await;
        self.settle(&dead[0], Verdict::Dead { reason: reason("still no") }).await;
        // Of the key "a" the first waits for its second attempt, and holds up the others.
        let keyed = self.lease("keyed", 1).await;
        self.settle(&keyed[0], Verdict::Again { at: self.in_a(90), chosen: false }).await;
    }

    pub(crate) async fn stored(&self, queue: &str) -> Vec<Stored> {
        let mut stored = Vec::new();
        let mut after = None;
        loop {
            let page = self.engine.browse(Browse { queue: self.queues[queue], after, max: 1000 }).await;
            let page = page.expect("the store is up");
            stored.extend(page.items);
            after = page.next;
            if after.is_none() {
                return stored;
            }
        }
    }

    /// Everything that is known of every message, queue by queue, as text.
    pub(crate) async fn everything(&self) -> BTreeMap<String, Vec<String>> {
        let mut everything = BTreeMap::new();
        for name in self.queues.keys() {
            let stored = self.stored(name).await;
            everything.insert(name.clone(), stored.iter().map(|stored| format!("{stored:?}")).collect());
        }
        everything
    }

    /// The ids of a queue in the order in which they are leased, one by one; they are gone then.
    pub(crate) async fn drain(&self, queue: &str) -> Vec<String> {
        let mut ids = Vec::new();
        while let Some(leased) = self.lease(queue, 1).await.first() {
            ids.push(leased.message.id().to_owned());
            self.settle(leased, Verdict::Done { emits: Vec::new() }).await;
        }
        ids
    }

    pub(crate) async fn close(self) {
        close(self.engine).await;
    }
}

/// The report of a place that has nothing wrong.
pub(crate) fn clean_report(place: &Path) -> Report {
    let report = report(place, &mut |_| {}).expect("it is a data file");
    assert!(report.is_clean(), "{:#?}", report.problems);
    report
}

/// What a folder with a full store holds, closed; its data file.
pub(crate) async fn filled_file() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::new(folder.path()).await;
    opened.fill().await;
    opened.close().await;
    let bytes = fs::read(folder.path().join(DATA_FILE)).expect("it is there");
    (folder, bytes)
}

/// The names of all files in a folder, in order.
pub(crate) fn files_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("it is a folder")
        .map(|item| item.expect("it can be read").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
