//! Bad requests: each is answered by a problem that names place and remedy, and nothing is stored or settled by halves.

use serde_json::{Value, json};

use crate::support::{Reply, TestBroker, event, masked, send};

const SMALL: &str = r#"
[broker]
max-message = "1KiB"

[http]
max-request = "4KiB"

[queues.inbox]

[[routes]]
from = "orders.*"
to = ["queue:inbox"]
"#;

fn shown(broker: &TestBroker, reply: &Reply) -> String {
    masked(&reply.to_string(), broker.folder())
}

async fn structured(broker: &TestBroker, body: &str) -> String {
    let request = broker.post("/v1/topics/orders.new").header("content-type", "application/cloudevents+json");
    let reply = send(request.body(body.to_owned())).await;
    assert_eq!(broker.depth("inbox").await, 0, "nothing is stored");
    shown(broker, &reply)
}

#[tokio::test]
async fn invalid_events() {
    let broker = TestBroker::start(SMALL).await;
    insta::assert_snapshot!(structured(&broker, "{\"id\": 1,\n \"source\"}").await, @"");
    insta::assert_snapshot!(structured(&broker, r#"{"specversion": "1.0", "id": "1", "source": "/s"}"#).await, @"");
    let twice = r#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "Time": "now"}"#;
    insta::assert_snapshot!(structured(&broker, twice).await, @"");
    let time = r#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "time": "yesterday"}"#;
    insta::assert_snapshot!(structured(&broker, time).await, @"");
}

#[tokio::test]
async fn one_bad_event_refuses_the_whole_batch() {
    let broker = TestBroker::start(SMALL).await;
    let mut bad = event("b", json!(2));
    bad["id"] = json!("");
    let reply = send(broker.batch("orders.new", &[event("a", json!(1)), bad, event("c", json!(3))])).await;
    insta::assert_snapshot!(shown(&broker, &reply), @"");
    assert_eq!(broker.depth("inbox").await, 0, "nothing is stored");
}

#[tokio::test]
async fn bodies_over_the_limit() {
    let broker = TestBroker::start(SMALL).await;
    let publish = async |bytes: usize| send(broker.post("/v1/topics/orders.new").body("x".repeat(bytes))).await;
    let reply = publish(1025).await;
    insta::assert_snapshot!(shown(&broker, &reply), @"");
    let reply = publish(5000).await;
    insta::assert_snapshot!(shown(&broker, &reply), @"");
    let large = event("large", json!("x".repeat(1024)));
    let reply = send(broker.batch("orders.new", &[event("a", json!(1)), large])).await;
    insta::assert_snapshot!(shown(&broker, &reply), @"");
    assert_eq!(broker.depth("inbox").await, 0, "nothing is stored");
    publish(1024).await.ok();
}

#[tokio::test]
async fn a_topic_that_nobody_routes() {
    let broker = TestBroker::start(SMALL).await;
    let reply = send(broker.post("/v1/topics/order.new").body("x")).await;
    insta::assert_snapshot!(shown(&broker, &reply), @"");
    let reply = send(broker.post("/v1/topics/orders.%20").body("x")).await;
    insta::assert_snapshot!(shown(&broker, &reply), @"");
    assert_eq!(broker.depth("inbox").await, 0, "nothing is stored");
}

#[tokio::test]
async fn a_queue_that_is_not_there() {
    let broker = TestBroker::start(SMALL).await;
    let reply = broker.get("/v1/queues/inbax").await;
    insta::assert_snapshot!(shown(&broker, &reply), @"");
}

/// `reply` as it is shown, with the token's random parts masked.
fn without_token(broker: &TestBroker, reply: &Reply, token: &Value) -> String {
    shown(broker, reply).replace(token.as_str().expect("a token is a text"), "[token]")
}

#[tokio::test]
async fn settling_twice_or_too_late() {
    let broker = TestBroker::start(SMALL).await;
    broker.publish("orders.new", "x").await;
    let lease = broker.lease("inbox", 1, "60s").await.remove(0);
    broker.settle("inbox", &lease["token"], "ack").await.ok();
    let reply = broker.settle("inbox", &lease["token"], "ack").await;
    insta::assert_snapshot!(without_token(&broker, &reply, &lease["token"]), @"");

    broker.publish("orders.new", "x").await;
    let lease = broker.lease("inbox", 1, "1s").await.remove(0);
    broker.counts("inbox", "leased", 0).await;
    let reply = broker.settle("inbox", &lease["token"], "ack").await;
    insta::assert_snapshot!(without_token(&broker, &reply, &lease["token"]), @"");
    assert_eq!(broker.depth("inbox").await, 1, "it was not settled");

    let reply = broker.settle("inbox", &json!("no-token"), "ack").await;
    insta::assert_snapshot!(shown(&broker, &reply), @"");
}
