//! Queues with bounds: what does not fit is refused as a whole, takes the place of the oldest, or becomes a dead letter.

use serde_json::{Value, json};

use crate::support::{BOUND, TestBroker, event, eventually, ids, send, text_event};

const QUEUES: &str = r#"
[queues.strict]
max-messages = 3
[queues.small]
max-bytes = "2KiB"
[queues.fresh]
max-messages = 3
overflow = "drop-oldest"
[queues.aside]
max-messages = 3
overflow = "dead-letter"
[queues.free]
[queues.work]

[[routes]]
from = "strict"
to = ["queue:strict"]
[[routes]]
from = "small"
to = ["queue:small"]
[[routes]]
from = "fresh"
to = ["queue:fresh"]
[[routes]]
from = "aside"
to = ["queue:aside"]
[[routes]]
from = "both"
to = ["queue:free", "queue:strict"]
[[routes]]
from = "work"
to = ["queue:work"]

[consumers.script]
queue = "work"
component = "guest:script"
config = { topic = "strict" }
"#;

fn numbered(range: std::ops::Range<usize>) -> Vec<Value> {
    range.map(|number| event(&format!("m-{number}"), json!(number))).collect()
}

#[tokio::test]
async fn a_full_queue_refuses_the_whole_request_and_says_which_it_is() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("strict", &numbered(0..2)).await;
    let reply = broker.batch("both", &numbered(2..4)).send().await.expect("an answer");
    let retry_after = reply.headers()["retry-after"].to_str().expect("a number").to_owned();
    assert_eq!((reply.status().as_u16(), retry_after.as_str()), (429, "1"));
    let problem: Value = serde_json::from_str(&reply.text().await.expect("a body")).expect("JSON");
    assert_eq!((&problem["code"], &problem["queue"]), (&json!("queue-full"), &json!("strict")), "{problem}");
    assert_eq!((&problem["max_messages"], &problem["max_bytes"]), (&json!(3), &Value::Null), "{problem}");
    assert_eq!((broker.depth("strict").await, broker.depth("free").await), (2, 0), "nothing of it is stored");

    broker.accept("both", &numbered(2..3)).await;
    assert_eq!(broker.queue("strict").await["full"], true);
    let leased = broker.lease("strict", 1, "10m").await.remove(0);
    assert_eq!(send(broker.batch("strict", &numbered(3..4))).await.status, 429, "what is handled has its place still");
    broker.settle("strict", &leased["token"], "ack").await.ok();
    broker.accept("strict", &numbered(3..4)).await;
    assert_eq!(ids(&broker.messages("strict").await), ["m-1", "m-2", "m-3"]);
}

#[tokio::test]
async fn a_bound_on_bytes_holds_but_a_large_message_fits_alone() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("small", &[text_event("large", &"x".repeat(5000))]).await;
    assert_eq!(send(broker.batch("small", &numbered(0..1))).await.status, 429);
    let leased = broker.lease("small", 1, "10m").await.remove(0);
    broker.settle("small", &leased["token"], "ack").await.ok();
    let mut accepted = 0;
    while send(broker.batch("small", &[text_event(&format!("m-{accepted}"), &"x".repeat(300))])).await.status == 200 {
        accepted += 1;
    }
    assert!((3..7).contains(&accepted), "{accepted} messages of 300 bytes in 2 KiB");
    let bytes = broker.queue("small").await["bytes"].as_u64().expect("a figure");
    assert!(bytes <= 2048, "{bytes}");
}

#[tokio::test]
async fn the_oldest_make_room_but_for_those_that_are_handled() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("fresh", &numbered(0..3)).await;
    let leased = broker.lease("fresh", 1, "10m").await.remove(0);
    broker.accept("fresh", &numbered(3..5)).await;
    assert_eq!(ids(&broker.messages("fresh").await), ["m-0", "m-3", "m-4"]);
    let queue = broker.queue("fresh").await;
    assert_eq!((&queue["dropped"], &queue["dead"]), (&json!(2), &json!(0)), "{queue}");
    broker.settle("fresh", &leased["token"], "ack").await.ok();
    let all = broker.lease("fresh", 10, "10m").await;
    assert_eq!(ids(&all), ["m-3", "m-4"]);
    broker.accept("fresh", &numbered(5..6)).await;
    let refused = send(broker.batch("fresh", &numbered(6..8))).await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (429, &json!("queue-full")),
        "nothing is left to drop: {refused}"
    );
}

#[tokio::test]
async fn what_does_not_fit_becomes_a_dead_letter_and_can_be_sent_back() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("aside", &numbered(0..5)).await;
    assert_eq!(ids(&broker.messages("aside").await), ["m-0", "m-1", "m-2"]);
    let dead = broker.dead("aside").await;
    assert_eq!(ids(&dead), ["m-3", "m-4"]);
    let reason = &dead[0]["dead"];
    assert_eq!((&reason["code"], &reason["origin"]), (&json!("queue-full"), &json!("aside")), "{reason}");
    for leased in broker.lease("aside", 10, "10m").await {
        broker.settle("aside", &leased["token"], "ack").await.ok();
    }
    let answer = send(broker.post("/v1/queues/aside/redrive").json(&json!({"all": true}))).await.ok();
    assert_eq!(answer["changed"], 2, "{answer}");
    assert_eq!(ids(&broker.messages("aside").await), ["m-3", "m-4"]);
}

#[tokio::test]
async fn emits_always_fit() {
    let mut broker = TestBroker::start(QUEUES).await;
    let scripts: Vec<Value> = (0..5).map(|number| text_event(&format!("m-{number}"), "done")).collect();
    broker.accept("work", &scripts).await;
    // Five emits go where three messages fit: none is lost, however slowly the rest comes.
    eventually("it is full", BOUND, async || match broker.queue("strict").await {
        queue if queue["full"] == true => Ok(()),
        queue => Err(queue),
    })
    .await;
    let mut handled = Vec::new();
    while handled.len() < 5 {
        for leased in broker.lease("strict", 10, "10m").await {
            broker.settle("strict", &leased["token"], "ack").await.ok();
            handled.push(leased["message"]["subject"].as_str().expect("a subject").to_owned());
        }
    }
    handled.sort_unstable();
    assert_eq!(handled, ["m-0", "m-1", "m-2", "m-3", "m-4"]);
    assert!(broker.runs());
}
