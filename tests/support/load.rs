//! Load from producers and pull consumers, and a component beside them; and the audit: whether what the broker holds in the end agrees
//! with all that it said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::api::{Api, ids, send, subjects, tally, try_send};
use super::broker::TestBroker;
use super::ledger::{Fate, Ledger, Producer, Sums, events};
use super::wait::{BOUND, eventually};

/// Each message goes three ways: to a component that fails at times and then emits, to pull consumers, and to where it stays.
pub(crate) const THREE_WAYS: &str = r#"
[sandbox]
slots = 16

[topics.load]
dedup = "1d"

[queues.work]
max-attempts = 1000
backoff = { initial = "10ms", max = "50ms" }
[queues.pull]
max-attempts = 1000
backoff = { initial = "10ms", max = "50ms" }
[queues.sink]
[queues.held]

[[routes]]
from = "load"
to = ["queue:work", "queue:pull", "queue:held"]

[[routes]]
from = "done"
to = ["queue:sink"]

[consumers.script]
queue = "work"
component = "guest:script"
config = { topic = "done" }
concurrency = 4
"#;

/// What messages make the component do, one attempt after another.
const SCRIPTS: [&str; 8] = ["done", "done", "done", "done", "retry done", "trap done", "retry trap done", "reject"];

/// The script of the message with this id.
pub(crate) fn script(id: &str) -> &'static str {
    let sum: usize = id.bytes().fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    SCRIPTS[sum % SCRIPTS.len()]
}

const PRODUCERS: u64 = 3;
const PULLERS: u64 = 2;
/// Most messages between two audits.
const MOST: u64 = 8_000;
/// The load on a broker between a start and an end of it, and what is known of it since the last audit.
pub(crate) struct Load {
    ledger: Arc<Ledger>,
    pulled: Arc<Mutex<Pulled>>,
    ends: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    seed: u64,
    round: u64,
}

/// What pull consumers know.
#[derive(Default)]
struct Pulled {
    /// They held a lease on it.
    seen: BTreeSet<String>,
    /// The broker said that it is settled for good.
    settled: BTreeSet<String>,
    /// The broker said that it is rejected.
    rejected: BTreeSet<String>,
}

impl Load {
    pub(crate) fn new(seed: u64) -> Self {
        let (ledger, pulled) = (Ledger::new(), Arc::default());
        Self { ledger, pulled, ends: Arc::default(), tasks: Vec::new(), seed, round: 0 }
    }

    /// What the producers know.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Sets producers and pull consumers to work.
    pub(crate) fn begin(&mut self, api: &Api) {
        self.round += 1;
        for number in 0..PRODUCERS {
            let producer = Producer {
                api: api.clone(),
                topic: "load",
                name: format!("{}-{}-{number}", self.seed, self.round),
                ledger: Arc::clone(&self.ledger),
                text: script,
                ends: Arc::clone(&self.ends),
                most: MOST,
            };
            self.tasks.push(tokio::spawn(producer.run()));
        }
        self.begin_pulling(api);
    }

    fn begin_pulling(&mut self, api: &Api) {
        for number in 0..PULLERS {
            let random = fastrand::Rng::with_seed(self.seed ^ (self.round << 8 | number));
            let pull = pull(api.clone(), Arc::clone(&self.pulled), Arc::clone(&self.ends), random);
            self.tasks.push(tokio::spawn(pull));
        }
    }

    /// Publishes again, under the same ids, about half of the requests whose fate is unknown: where they were stored, they are known as doubles.
    pub(crate) async fn repeat_some(&self, api: &Api, random: &mut fastrand::Rng) {
        for (request, count) in self.ledger.unknown() {
            if random.bool() {
                let answers = accept_at_last(api, &events(&request, count, script)).await;
                let doubles = answers.iter().filter(|answer| answer["duplicate"] == true).count() as u64;
                assert!(doubles == 0 || doubles == count, "{doubles} of {count} of request {request} were there");
                self.ledger.enter(request, count, Fate::Accepted);
            }
        }
    }

    /// Ends all of them.
    pub(crate) async fn end(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await.expect("producers and pull consumers find nothing wrong");
        }
        self.ends.store(false, Ordering::Relaxed);
    }

    /// Waits until all queues are worked off, compares what is there with what is known, and clears both.
    pub(crate) async fn audit(&mut self, broker: &TestBroker) -> Sums {
        self.begin_pulling(&broker.api());
        for queue in ["work", "pull"] {
            broker.drains(queue).await;
        }
        self.end().await;
        let stored = tally(ids(&broker.messages("held").await));
        let sums = self.ledger.agrees_with(&stored);
        let rejects = |id: &str| script(id) == "reject";
        let of_kind = |rejected: bool| -> BTreeMap<String, u64> {
            stored.iter().filter(|(id, _)| rejects(id) == rejected).map(|(id, count)| (id.clone(), *count)).collect()
        };
        assert_eq!(tally(subjects(&broker.messages("sink").await)), of_kind(false), "each took effect exactly once");
        assert_eq!(tally(ids(&broker.dead("work").await)), of_kind(true), "each is dead exactly once, without effect");
        let dead = tally(ids(&broker.dead("pull").await));
        let pulled = std::mem::take(&mut *self.pulled.lock().expect("nobody panics holding it"));
        assert!(pulled.seen.iter().eq(stored.keys()), "each was pulled at least once, and nothing else was");
        assert!(dead.values().all(|count| *count == 1), "dead once: {dead:?}");
        assert!(pulled.rejected.iter().all(|id| dead.contains_key(id)), "what was rejected is dead");
        assert!(
            dead.keys().all(|id| pulled.rejected.contains(id) || !pulled.settled.contains(id)),
            "and not what was acked"
        );
        let mut queues = broker.get("/v1/queues").await.ok();
        for queue in queues["queues"].as_array_mut().expect("queues") {
            assert_eq!(
                (&queue["leased"], &queue["scheduled"]),
                (&json!(0), &json!(0)),
                "nothing is under way: {queue}"
            );
        }
        for queue in ["held", "sink", "work.dead", "pull.dead"] {
            broker.purge(queue).await;
            assert_eq!(broker.depth(queue).await, 0);
        }
        self.ledger = Ledger::new();
        sums
    }
}

/// Publishes these until they are accepted: after a failed read, the store finds that out with the next request.
async fn accept_at_last(api: &Api, events: &[Value]) -> Vec<Value> {
    let mut answer =
        eventually("a request is accepted again", BOUND, async || match send(api.batch("load", events)).await {
            reply if reply.status == 200 => Ok(reply.json()),
            reply => Err(reply),
        })
        .await;
    std::mem::take(answer["messages"].as_array_mut().expect("an answer for each message"))
}

/// Leases and settles messages of `pull` until it is to end or the broker is gone.
async fn pull(api: Api, pulled: Arc<Mutex<Pulled>>, ends: Arc<AtomicBool>, mut random: fastrand::Rng) {
    while !ends.load(Ordering::Relaxed) {
        // Long enough that it never runs out: a restart ends it.
        let want = json!({"max": random.u64(1..40), "wait": "100ms", "ttl": "10m"});
        let Ok(reply) = try_send(api.post("/v1/queues/pull/lease").json(&want)).await else { return };
        if reply.status == 503 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let leased = reply.ok();
        let messages = leased["messages"].as_array().expect("a lease has messages");
        if messages.is_empty() {
            continue;
        }
        see(&pulled, messages);
        let settlements: Vec<Value> = messages.iter().map(|leased| settlement(leased, &mut random)).collect();
        let request = api.post("/v1/queues/pull/settle").json(&json!({"settlements": settlements}));
        let Ok(reply) = try_send(request).await else { return };
        enter(&pulled, messages, &settlements, &reply.json());
    }
}

fn see(pulled: &Mutex<Pulled>, messages: &[Value]) {
    let mut pulled = pulled.lock().expect("nobody panics holding it");
    for id in ids(messages) {
        assert!(!pulled.settled.contains(id), "{id} was settled for good and is there again");
        pulled.seen.insert(id.to_owned());
    }
}

fn settlement(leased: &Value, random: &mut fastrand::Rng) -> Value {
    let token = &leased["token"];
    match random.u8(..20) {
        0 => json!({"token": token, "outcome": "reject"}),
        1..4 => json!({"token": token, "outcome": "retry"}),
        _ => json!({"token": token, "outcome": "ack"}),
    }
}

/// Enters what was settled; one problem for all says that none was, or that nobody knows.
fn enter(pulled: &Mutex<Pulled>, messages: &[Value], settlements: &[Value], answer: &Value) {
    let mut pulled = pulled.lock().expect("nobody panics holding it");
    let Some(results) = answer["results"].as_array() else { return };
    for ((id, settlement), result) in ids(messages).into_iter().zip(settlements).zip(results) {
        let is_for_good = settlement["outcome"] != "retry";
        if result["result"] == "settled" && is_for_good {
            pulled.settled.insert(id.to_owned());
            if settlement["outcome"] == "reject" {
                pulled.rejected.insert(id.to_owned());
            }
        }
    }
}
