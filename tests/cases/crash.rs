//! Crashes: `kill -9` at any moment loses nothing that was accepted and does nothing twice that must happen once. Neither does
//! a stop in good order.
//!
//! The page cache survives a killed process, so this shows that the broker's own memory holds nothing back; that the disk
//! has it is the subject of the engine's simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{Api, BOUND, TestBroker, event, eventually, ids, subjects, tally, try_send};

/// Each message goes three ways: settled with an emit, left where it is, and rejected.
const THREE_WAYS: &str = r#"
[sandbox]
slots = 16

[queues.work]
[queues.sink]
[queues.held]
[queues.picky]

[[routes]]
from = "load"
to = ["queue:work", "queue:held", "queue:picky"]

[[routes]]
from = "done"
to = ["queue:sink"]

[consumers.echo]
queue = "work"
component = "guest:echo"
config = { topic = "done" }
concurrency = 4

[consumers.reject]
queue = "picky"
component = "guest:reject"
concurrency = 4
"#;

/// Messages accepted in each round before the broker is ended.
const ROUNDS: [u64; 4] = [1, 300, 700, 1100];
const PUBLISHERS: u64 = 4;
const BATCH_MAX: u64 = 25;

/// What the publishers know, by request: the ids in it.
#[derive(Default)]
struct Log {
    accepted: BTreeMap<String, Vec<String>>,
    /// The answer never came: the request may have been accepted, as a whole, or not.
    unknown: BTreeMap<String, Vec<String>>,
}

/// Publishes batches until the broker is gone.
async fn load(api: Api, name: String, log: Arc<Mutex<Log>>, accepted: Arc<AtomicU64>) {
    for number in 0.. {
        let count = 1 + number * 7 % BATCH_MAX;
        let request = format!("{name}-{number}");
        let ids: Vec<String> = (0..count).map(|item| format!("{request}-{item}")).collect();
        let events: Vec<Value> = ids.iter().map(|id| event(id, json!({"of": request}))).collect();
        let answer = try_send(api.batch("load", &events)).await;
        let mut log = log.lock().expect("nobody panics holding it");
        match answer {
            Ok(reply) if reply.status == 200 => {
                log.accepted.insert(request, ids);
                accepted.fetch_add(count, Ordering::Relaxed);
            }
            Ok(reply) if reply.status != 503 => panic!("{reply}"),
            Ok(_) | Err(_) => {
                log.unknown.insert(request, ids);
                return;
            }
        }
    }
}

#[tokio::test]
async fn every_accepted_message_is_accounted_for_after_kill_9_under_load() {
    survives(async |broker| broker.kill_9()).await;
}

#[tokio::test]
async fn every_accepted_message_is_accounted_for_after_sigterm_under_load() {
    survives(async |broker| {
        broker.sigterm();
        assert_eq!(broker.ended().await.code(), Some(0), "{}", broker.said());
    })
    .await;
}

/// Loads a broker, ends it by `end`, starts it again, several times; then accounts for every message.
async fn survives(mut end: impl AsyncFnMut(&mut TestBroker)) {
    let mut broker = TestBroker::start(THREE_WAYS).await;
    let log = Arc::new(Mutex::new(Log::default()));
    for (round, enough) in ROUNDS.into_iter().enumerate() {
        let accepted = Arc::new(AtomicU64::new(0));
        let publish = |publisher| {
            let name = format!("round{round}-publisher{publisher}");
            tokio::spawn(load(broker.api(), name, log.clone(), accepted.clone()))
        };
        let publishers: Vec<_> = (0..PUBLISHERS).map(publish).collect();
        eventually("enough is accepted", BOUND, async || match accepted.load(Ordering::Relaxed) {
            count if count >= enough => Ok(()),
            count => Err(count),
        })
        .await;
        end(&mut broker).await;
        for publisher in publishers {
            publisher.await.expect("a publisher ends when the broker is gone");
        }
        broker.restart().await;
    }
    broker.holds("work", 0).await;
    broker.holds("picky", 0).await;

    let stored = tally(ids(&broker.messages("held").await));
    check_whole(&log.lock().expect("nobody panics holding it"), &stored.keys().cloned().collect());
    assert!(stored.values().all(|count| *count == 1), "stored once each");
    assert_eq!(tally(subjects(&broker.messages("sink").await)), stored, "settled and emitted exactly once each");
    assert_eq!(tally(ids(&broker.dead("picky").await)), stored, "dead exactly once each");
}

/// What was accepted is stored; what is unknown is stored as whole requests; and nothing else is.
fn check_whole(log: &Log, stored: &BTreeSet<String>) {
    let mut expected = BTreeSet::new();
    for (request, ids) in &log.accepted {
        let missing: Vec<_> = ids.iter().filter(|id| !stored.contains(*id)).collect();
        assert!(missing.is_empty(), "request {request} was accepted but these are lost: {missing:?}");
        expected.extend(ids.iter().cloned());
    }
    for (request, ids) in &log.unknown {
        let found = ids.iter().filter(|id| stored.contains(*id)).count();
        assert!(found == 0 || found == ids.len(), "request {request} is stored in part: {found} of {}", ids.len());
        expected.extend(ids.iter().filter(|id| stored.contains(*id)).cloned());
    }
    assert_eq!(*stored, expected, "nothing is stored that nobody sent");
}

const ONE_QUEUE: &str = r##"
[queues.inbox]
max-attempts = 3
backoff = { initial = "1h", max = "1h" }

[[routes]]
from = "#"
to = ["queue:inbox"]
"##;

#[tokio::test]
async fn a_crash_ends_leases_without_counting_an_attempt() {
    let mut broker = TestBroker::start(ONE_QUEUE).await;
    broker.publish("a", "1").await;
    let before = broker.lease("inbox", 1, "1h").await.remove(0);
    assert_eq!(before["attempt"], 1);

    broker.kill_9();
    broker.restart().await;
    let refused = broker.settle("inbox", &before["token"], "ack").await;
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("lease-lost")), "{refused}");
    let again = broker.lease("inbox", 1, "1h").await.remove(0);
    assert_eq!(again["attempt"], 1);
    assert_eq!(again["message"], before["message"]);
    broker.settle("inbox", &again["token"], "ack").await.ok();
    assert_eq!(broker.depth("inbox").await, 0);
}

#[tokio::test]
async fn a_crash_keeps_attempts_and_when_to_try_again() {
    let mut broker = TestBroker::start(ONE_QUEUE).await;
    broker.publish("a", "1").await;
    let lease = broker.lease("inbox", 1, "1h").await.remove(0);
    broker.settle("inbox", &lease["token"], "retry").await.ok();
    let before = broker.messages("inbox").await;
    assert_eq!((before.len(), &before[0]["attempts"]), (1, &json!(1)));

    broker.kill_9();
    broker.restart().await;
    assert_eq!(broker.messages("inbox").await, before);
    assert_eq!(broker.queue("inbox").await["scheduled"], 1);
}
