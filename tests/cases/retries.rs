//! Retries: when a message is tried again, by whose rules, and that it holds up nobody meanwhile.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{TestBroker, ids, subjects, text_event};

const QUEUES: &str = r#"
[queues.slow]
max-attempts = 5
backoff = { initial = "1h", max = "1h", jitter = 0.0 }
[queues.own]
max-attempts = 5
backoff = { initial = "1h", max = "1h", jitter = 0.0 }
[queues.aged]
max-age = "1s"
backoff = { initial = "400ms", factor = 1.0, jitter = 0.0 }
[queues.patient]
backoff = { initial = "10ms", max = "1s" }
[queues.sink]

[[routes]]
from = "slow"
to = ["queue:slow"]
[[routes]]
from = "own"
to = ["queue:own"]
[[routes]]
from = "aged"
to = ["queue:aged"]
[[routes]]
from = "patient"
to = ["queue:patient"]
[[routes]]
from = "done"
to = ["queue:sink"]

[consumers.slow]
queue = "slow"
component = "guest:script"
config = { topic = "done" }

[consumers.own]
queue = "own"
component = "guest:script"
max-attempts = 2
backoff = { initial = "20ms", jitter = 0.0 }

[consumers.aged]
queue = "aged"
component = "guest:script"

[consumers.patient]
queue = "patient"
component = "guest:script"
backoff = { initial = "1h", max = "2h", jitter = 0.0 }
"#;

#[tokio::test]
async fn younger_messages_do_not_wait_for_a_retry() {
    let broker = TestBroker::start(QUEUES).await;
    let mut events = vec![text_event("stuck", "retry")];
    events.extend((0..50).map(|number| text_event(&format!("m-{number}"), "done")));
    broker.accept("slow", &events).await;
    broker.holds("sink", 50).await;
    broker.counts("slow", "scheduled", 1).await;
    assert_eq!(ids(&broker.messages("slow").await), ["stuck"]);
}

#[tokio::test]
async fn a_handler_may_choose_the_time_itself() {
    let broker = TestBroker::start(QUEUES).await;
    let start = Instant::now();
    broker.accept("slow", &[text_event("a", "retry:300 retry:300 done")]).await;
    broker.holds("sink", 1).await;
    assert!(start.elapsed() >= Duration::from_millis(600), "twice 300 ms, in place of an hour");
    assert_eq!(subjects(&broker.messages("sink").await), ["a"]);
}

#[tokio::test]
async fn the_rules_of_a_consumer_come_before_its_queues() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("own", &[text_event("a", "trap")]).await;
    let dead = broker.only_dead("own").await;
    assert_eq!((&dead["dead"]["code"], &dead["attempts"]), (&json!("max-attempts"), &json!(2)), "{dead:#}");
}

#[tokio::test]
async fn an_attempt_that_fails_after_max_age_was_the_last() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("aged", &[text_event("a", "retry")]).await;
    let dead = broker.only_dead("aged").await;
    assert_eq!(dead["dead"]["code"], "max-age", "{dead:#}");
    // At 0, 400, 800 and 1200 ms, or later.
    let attempts = dead["attempts"].as_u64().expect("a number");
    assert!((2..=4).contains(&attempts), "{dead:#}");
}

/// The engine brings a retry forward that lies farther ahead than its queue's backoff ever would, since the clock was wrong then. A consumer's
/// own backoff may be longer.
#[tokio::test]
async fn the_wait_that_a_consumer_asks_for_outlives_a_restart() {
    let mut broker = TestBroker::start(QUEUES).await;
    broker.accept("patient", &[text_event("a", "retry")]).await;
    broker.counts("patient", "scheduled", 1).await;
    let before: Vec<Value> = broker.messages("patient").await;
    broker.kill_9();
    broker.restart().await;
    let after = broker.messages("patient").await;
    assert_eq!(after, before);
    assert_eq!(broker.queue("patient").await["scheduled"], 1);
}
