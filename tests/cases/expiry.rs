//! Time to live: what was not delivered in time is delivered no more, and becomes what its queue says.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::{TestBroker, event, ids, send, tally, with};

const QUEUES: &str = r##"
[queues.patient]
[queues.hasty]
ttl = "700ms"
[queues.careless]
ttl = "700ms"
expired = "drop"

[[routes]]
from = "patient"
to = ["queue:patient"]
[[routes]]
from = "hasty"
to = ["queue:hasty"]
[[routes]]
from = "careless"
to = ["queue:careless"]
[[routes]]
from = "all"
to = ["queue:patient", "queue:hasty", "queue:careless"]
"##;

fn soon(time: Duration) -> Value {
    json!({"expirytime": (Timestamp::now() + time).to_string()})
}

#[tokio::test]
async fn of_all_that_says_when_it_expires_the_earliest_counts() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("patient?ttl=500ms", &[event("by-request", json!(1))]).await;
    let events = [
        with(event("by-attribute", json!(1)), &soon(Duration::from_millis(500))),
        with(event("later", json!(1)), &soon(Duration::from_secs(3600))),
        event("never", json!(1)),
    ];
    broker.accept("patient", &events).await;
    broker.accept("patient?ttl=1h", &[with(event("by-both", json!(1)), &soon(Duration::from_millis(500)))]).await;
    broker.accept("hasty?ttl=1h", &[event("by-queue", json!(1))]).await;
    broker.counts("patient", "dead", 3).await;
    broker.counts("hasty", "dead", 1).await;
    assert_eq!(ids(&broker.messages("patient").await), ["later", "never"]);
    let dead = broker.dead("patient").await;
    let mut found = ids(&dead);
    found.sort_unstable();
    assert_eq!(found, ["by-attribute", "by-both", "by-request"]);
    for dead in &dead {
        let reason = &dead["dead"];
        assert_eq!((&reason["code"], &reason["origin"]), (&json!("expired"), &json!("patient")), "{dead}");
        assert!(dead.get("expires").is_none(), "a dead letter does not expire again: {dead}");
    }
    assert_eq!(broker.queue("patient").await["expired"], 3);
}

#[tokio::test]
async fn each_queue_has_its_own_way_with_what_expired() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("all", &[event("a", json!(1)), event("b", json!(1))]).await;
    assert_eq!(broker.depth("patient").await, 2);
    broker.counts("hasty", "dead", 2).await;
    broker.holds("careless", 0).await;
    assert_eq!(broker.queue("careless").await["expired"], 2);
    assert_eq!(broker.queue("careless").await["dead"], 0, "dropped");
    assert_eq!(ids(&broker.messages("patient").await), ["a", "b"]);
}

#[tokio::test]
async fn what_is_being_handled_does_not_expire_and_is_tried_again_no_more() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("patient?ttl=1s", &[event("kept", json!(1)), event("left", json!(1))]).await;
    let leased = broker.lease("patient", 1, "10m").await.remove(0);
    assert_eq!(leased["message"]["id"], "kept");
    broker.counts("patient", "dead", 1).await;
    assert_eq!(ids(&broker.dead("patient").await), ["left"]);
    assert_eq!(broker.queue("patient").await["leased"], 1);
    broker.settle("patient", &leased["token"], "retry").await.ok();
    broker.counts("patient", "dead", 2).await;
    let dead = broker.dead("patient").await;
    let kept = dead.iter().find(|dead| dead["message"]["id"] == "kept").expect("it is there");
    assert_eq!((&kept["dead"]["code"], &kept["attempts"]), (&json!("expired"), &json!(1)), "{kept}");
}

/// Expiry is exact for what is delivered, however late it is collected, and a delay comes first.
#[tokio::test]
async fn nothing_expired_is_ever_delivered() {
    let (mut broker, faults) = TestBroker::start_faulty(QUEUES).await;
    broker.accept("patient?ttl=1h&delay=1h", &[event("due-in-1h", json!(1))]).await;
    broker.accept("patient?ttl=90m", &[event("for-90m", json!(1))]).await;
    broker.accept("patient?ttl=30m", &[event("for-30m", json!(1))]).await;
    faults.clock_ahead(Duration::from_secs(80 * 60));
    broker.counts("patient", "ready", 2).await;
    let leased = broker.lease("patient", 10, "1s").await;
    assert_eq!(tally(ids(&leased)), tally(["for-90m", "due-in-1h"]));
    broker.kill_9();
    faults.clock_ahead(Duration::from_secs(100 * 60));
    broker.restart().await;
    assert_eq!(ids(&broker.lease("patient", 10, "10m").await), ["due-in-1h"], "its time counts from when it was due");
    faults.clock_ahead(Duration::from_secs(3 * 3600));
    let nothing = send(broker.post("/v1/queues/patient/lease").json(&json!({"wait": "0s"}))).await.ok();
    assert_eq!(nothing, json!({"messages": []}));
    broker.counts("patient", "dead", 2).await;
}

#[tokio::test]
async fn a_dead_letter_that_is_sent_back_lives_on() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("patient?ttl=200ms", &[event("a", json!(1))]).await;
    broker.counts("patient", "dead", 1).await;
    let answer = send(broker.post("/v1/queues/patient/redrive").json(&json!({"reason": "expired"}))).await.ok();
    assert_eq!(answer["changed"], 1, "{answer}");
    let leased = broker.lease("patient", 1, "10m").await;
    assert_eq!(ids(&leased), ["a"]);
}
