//! Priorities: the highest first, and within one as they arrived; only where the queue says so.

use serde_json::{Value, json};

use crate::support::{TestBroker, event, ids, send, subjects, text_event, with};

const QUEUES: &str = r#"
[queues.ranked]
priority = true
backoff = { initial = "10ms", jitter = 0.0 }
[queues.plain]
[queues.work]
priority = true
[queues.sink]

[[routes]]
from = "both"
to = ["queue:ranked", "queue:plain"]
[[routes]]
from = "work"
to = ["queue:work"]
[[routes]]
from = "done"
to = ["queue:sink"]

[consumers.script]
queue = "work"
component = "guest:script"
config = { topic = "done" }
concurrency = 1
"#;

/// Ids whose first character is the priority, or `d` for none.
const IDS: [&str; 10] = ["1a", "9a", "da", "0a", "4a", "9b", "db", "1b", "5a", "0b"];
const RANKED: [&str; 10] = ["9a", "9b", "5a", "da", "4a", "db", "1a", "1b", "0a", "0b"];

fn events() -> Vec<Value> {
    let ranked = |id: &&str| match id.as_bytes()[0] {
        b'd' => text_event(id, "done"),
        digit => with(text_event(id, "done"), &json!({"priority": char::from(digit).to_string()})),
    };
    IDS.iter().map(ranked).collect()
}

#[tokio::test]
async fn the_highest_comes_first_and_within_one_the_oldest() {
    let mut broker = TestBroker::start(QUEUES).await;
    for event in events() {
        broker.accept("both", &[event]).await;
    }
    assert_eq!(ids(&broker.messages("ranked").await), RANKED, "as a peek shows it");
    assert_eq!(ids(&broker.lease("ranked", 3, "10m").await), RANKED[..3]);
    broker.kill_9();
    broker.restart().await;
    assert_eq!(ids(&broker.lease("plain", 20, "10m").await), IDS, "where priorities are not looked at");
    assert_eq!(ids(&broker.lease("ranked", 20, "10m").await), RANKED, "after a restart as before");
}

#[tokio::test]
async fn a_retry_keeps_its_priority() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("both", &events()).await;
    let high = broker.lease("ranked", 1, "10m").await.remove(0);
    broker.settle("ranked", &high["token"], "retry").await.ok();
    broker.counts("ranked", "scheduled", 0).await;
    broker.accept("both", &[with(event("8a", json!(1)), &json!({"priority": "8"}))]).await;
    let order: Vec<String> = ids(&broker.lease("ranked", 4, "10m").await).into_iter().map(str::to_owned).collect();
    assert_eq!(order.iter().filter(|id| id.starts_with('9')).count(), 2, "both of the highest come before: {order:?}");
    assert_eq!(order[2..], ["8a", "5a"]);
}

#[tokio::test]
async fn what_is_no_priority_is_refused_where_it_would_count() {
    let broker = TestBroker::start(QUEUES).await;
    for wrong in ["10", "-1", "high", ""] {
        let reply = send(broker.batch("both", &[with(event("a", json!(1)), &json!({"priority": wrong}))])).await;
        assert_eq!((reply.status, &reply.json()["code"]), (400, &json!("invalid-attribute")), "{wrong}: {reply}");
        assert!(reply.text.contains("priority"), "{reply}");
    }
    assert_eq!((broker.depth("ranked").await, broker.depth("plain").await), (0, 0));
}

#[tokio::test]
async fn a_component_gets_them_in_this_order() {
    let broker = TestBroker::start(QUEUES).await;
    broker.cli(["pause", "queue", "work"]).await.ok();
    broker.accept("work", &events()).await;
    broker.cli(["resume", "queue", "work"]).await.ok();
    broker.holds("sink", 10).await;
    assert_eq!(subjects(&broker.messages("sink").await), RANKED);
}
