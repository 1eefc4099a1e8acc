//! Dead letters as a queue like any other: consumed by a component, sent back by what they are, elsewhere, and at a rate.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{TestBroker, ids, send, subjects, tally, text_event, with};

const QUEUES: &str = r#"
[queues.orders]
max-attempts = 2
backoff = { initial = "10ms", jitter = 0.0 }
dead-letter = "graveyard"
[queues.bills]
max-attempts = 1
dead-letter = "graveyard"
[queues.graveyard]
[queues.elsewhere]
[queues.sink]

[[routes]]
from = "orders.*"
to = ["queue:orders"]
[[routes]]
from = "bills"
to = ["queue:bills"]
[[routes]]
from = "done"
to = ["queue:sink"]

[consumers.orders]
queue = "orders"
component = "guest:script"
config = { topic = "done" }
breaker = false

[consumers.bills]
queue = "bills"
component = "guest:script"
breaker = false
"#;

/// A broker with dead letters of several kinds in one queue.
async fn with_dead() -> TestBroker {
    let broker = TestBroker::start(QUEUES).await;
    let german = |event: Value| with(event, &json!({"country": "de"}));
    broker.accept("orders.new", &[text_event("trapped-1", "trap"), german(text_event("trapped-2", "trap"))]).await;
    broker
        .accept("orders.old", &[german(text_event("rejected-1", "reject")), text_event("rejected-2", "reject")])
        .await;
    broker.accept("bills", &[text_event("bill-1", "reject"), german(text_event("bill-2", "trap"))]).await;
    broker.holds("graveyard", 6).await;
    broker
}

/// What was sent back by these members, by the dead letters that are left.
async fn check(members: Value, sent_back: &[&str]) {
    let broker = with_dead().await;
    // So that they stay where they are sent.
    for queue in ["orders", "bills"] {
        broker.cli(["pause", "queue", queue]).await.ok();
    }
    let before = tally(ids(&broker.messages("graveyard").await));
    let answer = send(broker.post("/v1/queues/orders/redrive").json(&members)).await.ok();
    assert_eq!(answer["changed"], sent_back.len(), "{members}: {answer}");
    let left = tally(ids(&broker.messages("graveyard").await));
    let gone = before.keys().filter(|id| !left.contains_key(*id)).map(String::as_str);
    assert_eq!(tally(gone), tally(sent_back.iter().copied()), "{members}");
    let mut back = broker.messages("orders").await;
    back.append(&mut broker.messages("bills").await);
    back.append(&mut broker.messages("elsewhere").await);
    assert_eq!(tally(ids(&back)), tally(sent_back.iter().copied()), "{members}");
    assert!(back.iter().all(|stored| stored["attempts"] == json!(0)), "their attempts start anew");
}

#[tokio::test]
async fn by_reason() {
    check(json!({"reason": "rejected"}), &["rejected-1", "rejected-2", "bill-1"]).await;
}

#[tokio::test]
async fn by_origin_and_attribute() {
    check(json!({"origin": "orders", "attributes": {"country": "de"}}), &["trapped-2", "rejected-1"]).await;
}

#[tokio::test]
async fn by_topic_and_to_another_queue() {
    check(json!({"attributes": {"topic": "orders.new"}, "to": "elsewhere"}), &["trapped-1", "trapped-2"]).await;
}

#[tokio::test]
async fn by_time() {
    check(json!({"since": "2020-01-01T00:00:00Z", "until": "2020-01-02T00:00:00Z"}), &[]).await;
}

#[tokio::test]
async fn at_a_rate_and_their_history_goes_on() {
    let broker = with_dead().await;
    let start = Instant::now();
    let args = ["dead", "redrive", "graveyard", "--origin", "orders", "--rate", "4/s", "--json"];
    let answer = broker.cli(args).await.ok().json();
    assert_eq!(answer["changed"], 4, "{answer}");
    assert!(start.elapsed() >= Duration::from_millis(700), "four at 4/s: {:?}", start.elapsed());
    // They die again, and tell both stories.
    broker.holds("graveyard", 6).await;
    let dead = broker.get("/v1/queues/orders/dead/trapped-1").await.ok();
    let outcomes: Vec<&Value> =
        dead["history"].as_array().expect("a history").iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, [&json!("trap"); 4], "{dead:#}");
    let shown = broker.cli(["dead", "show", "graveyard", "trapped-1"]).await.ok().stdout;
    assert!(shown.contains("max-attempts") && shown.matches("as it is written").count() >= 4, "{shown}");
}

#[tokio::test]
async fn discarded_by_a_filter() {
    let broker = with_dead().await;
    let args = ["dead", "discard", "graveyard", "--attribute", "country=de", "--yes", "--json"];
    let answer = broker.cli(args).await.ok().json();
    assert_eq!(answer["changed"], 3, "{answer}");
    let left = tally(ids(&broker.messages("graveyard").await));
    assert_eq!(left, tally(["trapped-1", "rejected-2", "bill-1"]));
}

#[tokio::test]
async fn a_component_consumes_them() {
    let broker = with_dead().await;
    broker.rewrite(|toml| {
        format!("{toml}\n[consumers.undertaker]\nqueue = \"graveyard\"\ncomponent = \"guest:echo\"\nconfig = {{ topic = \"done\" }}\n")
    });
    broker.rewrite(crate::support::with_guests);
    broker.cli(["reload"]).await.ok();
    broker.holds("graveyard", 0).await;
    let sink = broker.messages("sink").await;
    assert_eq!(
        tally(subjects(&sink)),
        tally(["trapped-1", "trapped-2", "rejected-1", "rejected-2", "bill-1", "bill-2"]),
        "each handled once, though it was dead"
    );
}
