//! When and in which order messages are delivered, which are known already, and which don't fit.

use std::time::Duration;

use axum::http::Method;
use insta::assert_snapshot;
use pelton_core::engine::RequestError;
use serde_json::{Value, json};

use crate::support::{Answer, Server, event, server, server_of};

const STRUCTURED: [(&str, &str); 1] = [("content-type", "application/cloudevents+json")];
const BATCH: [(&str, &str); 1] = [("content-type", "application/cloudevents-batch+json")];

async fn publish(server: &Server, path: &str, headers: &[(&str, &str)], body: impl Into<axum::body::Body>) -> Answer {
    server.send(Method::POST, &format!("/v1/topics/{path}"), headers, body).await
}

/// Publishes one event with these members; what the answer says of it.
async fn one(server: &Server, path: &str, id: &str, members: &str) -> Value {
    publish(server, path, &STRUCTURED, event(id, members)).await.ok()["messages"][0].clone()
}

async fn first(server: &Server) -> Value {
    server.get("/v1/queues/orders/messages").await.ok()["messages"][0].clone()
}

#[tokio::test]
async fn a_delay_holds_all_messages_back_and_names_each() {
    let server = server().await;
    let batch = format!("[{},{}]", event("1", ""), event("2", ""));
    let answer = publish(&server, "orders.new?delay=10m", &BATCH, batch).await.ok();
    let handle = |at: usize| answer["messages"][at]["scheduled"].as_str().unwrap();
    assert_ne!(handle(0), handle(1));
    let message = first(&server).await;
    assert_eq!((&message["due"], &message["held"]), (&json!("2026-01-01T00:10:00.000Z"), &json!(false)));
    let queue = server.get("/v1/queues/orders").await.ok();
    assert_eq!((&queue["ready"], &queue["scheduled"]), (&json!(0), &json!(2)));
    server.clock.advance(Duration::from_millis(599_999));
    assert_eq!(server.lease(2).await.len(), 0);
    server.clock.advance(Duration::from_millis(1));
    assert_eq!(server.lease(2).await.len(), 2);
}

#[tokio::test]
async fn a_moment_holds_back_and_one_that_has_come_does_not() {
    let server = server().await;
    let later = one(&server, "orders.new?at=2026-01-01T01:00:01%2B01:00", "1", "").await;
    assert!(later["scheduled"].is_string(), "{later}");
    assert_eq!(first(&server).await["due"], "2026-01-01T00:00:01.000Z");
    let now = one(&server, "orders.new?at=2025-12-31T00:00:00Z", "2", "").await;
    assert_eq!(now, json!({"id": "2", "targets": 1}));
    assert_eq!(server.lease(2).await.len(), 1);
}

#[tokio::test]
async fn a_time_to_live_counts_from_when_a_message_is_available() {
    let server = server().await;
    one(&server, "orders.new?ttl=30s", "1", "").await;
    assert_eq!(first(&server).await["expires"], "2026-01-01T00:00:30.000Z");
    server.clock.advance(Duration::from_secs(30));
    assert_eq!(server.lease(1).await.len(), 0);
    let queue = server.get("/v1/queues/orders").await.ok();
    assert_eq!((&queue["dead"], &queue["expired"]), (&json!(1), &json!(1)));
    let dead = server.get("/v1/queues/orders/dead").await.ok()["messages"][0].clone();
    assert_eq!((&dead["dead"]["code"], &dead["expires"]), (&json!("expired"), &Value::Null));
    one(&server, "orders.new?ttl=30s&delay=1m", "2", "").await;
    assert_eq!(first(&server).await["expires"], "2026-01-01T00:02:00.000Z");
}

#[tokio::test]
async fn attributes_say_the_same_for_one_message() {
    let server = server_of(&priorities()).await;
    let members = r#","priority":"9","deliverytime":"2026-01-01T00:01:00Z","expirytime":"2026-01-01T00:02:00Z""#;
    assert!(one(&server, "orders.new", "1", members).await["scheduled"].is_string());
    let message = first(&server).await;
    let shown = (&message["priority"], &message["due"], &message["expires"]);
    assert_eq!(shown, (&json!(9), &json!("2026-01-01T00:01:00.000Z"), &json!("2026-01-01T00:02:00.000Z")));
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "2"),
        ("ce-source", "/shop"),
        ("ce-type", "order"),
        ("ce-priority", "0"),
        ("ce-expirytime", "2026-01-01T00:02:00Z"),
    ];
    publish(&server, "orders.new?ttl=1m", &headers, "x").await.ok();
    let message = first(&server).await;
    let shown = (&message["message"]["id"], &message["priority"], &message["expires"]);
    assert_eq!(shown, (&json!("2"), &json!(0), &json!("2026-01-01T00:01:00.000Z")), "the earlier end counts");
}

fn priorities() -> String {
    "[queues.orders]\npriority = true\n[[routes]]\nfrom = \"#\"\nto = [\"queue:orders\"]\n".to_owned()
}

#[tokio::test]
async fn attributes_that_can_not_be_met() {
    let server = server_of(&priorities()).await;
    let refused = async |path: &'static str, members: &'static str| {
        publish(&server, path, &STRUCTURED, event("1", members)).await.shown()
    };
    assert_snapshot!(refused("orders.new", r#","priority":"10""#).await, @r#"
    400
    title: A delivery attribute is not valid
    detail: attribute 'priority' is '10'; write one digit, 0 to 9, the highest first
    code: invalid-attribute
    attribute: "priority"
    count: 1
    index: 0
    items: [{"attribute":"priority","code":"invalid-attribute","detail":"attribute 'priority' is '10'; write one digit, 0 to 9, the highest first","index":0}]
    "#);
    assert_snapshot!(refused("orders.new", r#","expirytime":"soon""#).await, @r#"
    400
    title: A delivery attribute is not valid
    detail: attribute 'expirytime' is 'soon', which is not RFC 3339, such as 2026-01-31T12:00:00Z
    code: invalid-attribute
    attribute: "expirytime"
    count: 1
    index: 0
    items: [{"attribute":"expirytime","code":"invalid-attribute","detail":"attribute 'expirytime' is 'soon', which is not RFC 3339, such as 2026-01-31T12:00:00Z","index":0}]
    "#);
    assert_snapshot!(refused("orders.new", r#","deliverytime":"2028-01-01T00:00:00Z""#).await, @r#"
    400
    title: A delivery attribute is not valid
    detail: attribute 'deliverytime' lies more than 366 days ahead, the most that is allowed
    code: invalid-attribute
    attribute: "deliverytime"
    count: 1
    index: 0
    items: [{"attribute":"deliverytime","code":"invalid-attribute","detail":"attribute 'deliverytime' lies more than 366 days ahead, the most that is allowed","index":0}]
    "#);
    assert_snapshot!(refused("orders.new?delay=1s", r#","deliverytime":"2026-01-02T00:00:00Z""#).await, @r#"
    400
    title: A delivery attribute is not valid
    detail: attribute 'deliverytime' stands beside the time that the request itself asks for; only one of them is allowed
    code: invalid-attribute
    attribute: "deliverytime"
    count: 1
    index: 0
    items: [{"attribute":"deliverytime","code":"invalid-attribute","detail":"attribute 'deliverytime' stands beside the time that the request itself asks for; only one of them is allowed","index":0}]
    "#);
    let batch = format!("[{},{}]", event("1", ""), event("2", r#","priority":"high""#));
    assert_snapshot!(publish(&server, "orders.new", &BATCH, batch).await.shown(), @r#"
    400
    title: A delivery attribute is not valid
    detail: 1 of the messages can't be accepted, so none was; message 1: attribute 'priority' is 'high'; write one digit, 0 to 9, the highest first
    code: invalid-attribute
    attribute: "priority"
    count: 1
    index: 1
    items: [{"attribute":"priority","code":"invalid-attribute","detail":"attribute 'priority' is 'high'; write one digit, 0 to 9, the highest first","index":1}]
    "#);
    assert_eq!(server.get("/v1/queues/orders").await.ok()["bytes"], 0, "nothing is stored");
}

#[tokio::test]
async fn parameters_that_are_not_what_they_should_be() {
    let server = server().await;
    let refused = async |path: &'static str| publish(&server, path, &STRUCTURED, event("1", "")).await.shown();
    assert_snapshot!(refused("orders.new?delay=1s&at=2026-01-02T00:00:00Z").await, @r#"
    400
    title: The request is not valid
    detail: 'delay' and 'at' are both given; only one of them is allowed
    code: invalid-request
    "#);
    assert_snapshot!(refused("orders.new?delay=367days").await, @r#"
    400
    title: The request is not valid
    detail: 'delay' is 367days; 0s to 366days are allowed
    code: invalid-request
    "#);
    assert_snapshot!(refused("orders.new?at=2027-01-03T00:00:00Z").await, @r#"
    400
    title: The request is not valid
    detail: 'at' is 2027-01-03T00:00:00.000Z; it may lie 366days ahead at most
    code: invalid-request
    "#);
    assert_snapshot!(refused("orders.new?at=2026-01-01T00:00:00+01:00").await, @r#"
    400
    title: The request is not valid
    detail: 'at' is '2026-01-01T00:00:00 01:00', which is not RFC 3339, such as 2026-01-31T12:00:00Z (in a query write '+' as %2B)
    code: invalid-request
    "#);
    assert_snapshot!(refused("orders.new?ttl=0s").await, @r#"
    400
    title: The request is not valid
    detail: 'ttl' is 0s; 1ms to 3660days are allowed
    code: invalid-request
    "#);
    for path in ["orders.new?delay=", "orders.new?at=noon", "orders.new?ttl=-1s", "orders.new?ttl=1s&ttl=2s"] {
        assert_eq!(publish(&server, path, &STRUCTURED, event("1", "")).await.code(), "invalid-request", "{path}");
    }
    assert_eq!(server.get("/v1/queues/orders").await.ok()["bytes"], 0, "nothing is stored");
}

#[tokio::test]
async fn what_waits_is_cancelled_by_its_handle() {
    let server = server().await;
    let both = one(&server, "audit.x?delay=1m", "1", r#","subject":"yes""#).await;
    let path = format!("/v1/scheduled/{}", both["scheduled"].as_str().unwrap());
    assert_eq!(server.delete(&path).await.ok(), json!({"cancelled": 2, "of": 2}));
    assert_snapshot!(server.delete(&path).await.shown(), @r#"
    404
    title: No message waits under this handle
    detail: no message waits under this handle, though it names 2026-01-01T00:01:00.000Z: it was cancelled, deleted or moved before, or is another store's
    code: unknown-handle
    "#);
    server.clock.advance(Duration::from_secs(60));
    assert_eq!(server.lease(1).await.len(), 0);
    assert_eq!(server.delete(&path).await.code(), "too-late");
}

#[tokio::test]
async fn what_was_delivered_can_not_be_cancelled() {
    let server = server().await;
    let late = one(&server, "orders.new?delay=1m", "1", "").await;
    let path = format!("/v1/scheduled/{}", late["scheduled"].as_str().unwrap());
    server.clock.advance(Duration::from_secs(60));
    assert_eq!(server.lease(1).await.len(), 1);
    assert_snapshot!(server.delete(&path).await.shown(), @r#"
    409
    title: The message's time has come
    detail: the message was due at 2026-01-01T00:01:00.000Z, so it waits no more; nothing was done
    code: too-late
    "#);
    assert_eq!(server.get("/v1/queues/orders").await.ok()["leased"], 1);
    assert_snapshot!(server.delete("/v1/scheduled/19b75a49400.1-2.00000000").await.shown(), @r#"
    400
    title: The handle is not valid
    detail: '19b75a49400.1-2.00000000' is not the handle of a scheduled message; use the text that its publish returned, unchanged
    code: invalid-handle
    "#);
    assert_eq!(server.delete(&format!("{path}?now=1")).await.code(), "invalid-request");
}

#[tokio::test]
async fn a_message_that_left_one_of_its_queues_is_cancelled_in_the_others() {
    let server = server().await;
    let both = one(&server, "audit.x?delay=1m", "1", r#","subject":"yes""#).await;
    server.delete("/v1/queues/audit/messages?confirm=audit").await.ok();
    let path = format!("/v1/scheduled/{}", both["scheduled"].as_str().unwrap());
    assert_eq!(server.delete(&path).await.ok(), json!({"cancelled": 1, "of": 2}));
}

/// Doubles on `orders.*` are recognised for ten minutes, and the queue holds two messages.
const BOUNDED: &str = r#"
[topics."orders.*"]
dedup = "10m"

[queues.orders]
max-messages = 2

[queues.other]

[[routes]]
from = "orders.*"
to = ["queue:orders", "queue:other"]
"#;

#[tokio::test]
async fn a_double_is_answered_and_not_stored() {
    let server = server_of(BOUNDED).await;
    assert_eq!(one(&server, "orders.new", "1", "").await, json!({"id": "1", "targets": 2}));
    assert_eq!(one(&server, "orders.new", "1", "").await, json!({"id": "1", "targets": 2, "duplicate": true}));
    let batch = format!("[{},{}]", event("1", ""), event("2", ""));
    let answer = publish(&server, "orders.new?delay=1m", &BATCH, batch).await.ok();
    assert_eq!(
        answer["messages"][0],
        json!({"id": "1", "targets": 2, "duplicate": true}),
        "its handle went out before"
    );
    assert!(answer["messages"][1]["scheduled"].is_string(), "{answer}");
    let queue = server.get("/v1/queues/orders").await.ok();
    assert_eq!((&queue["ready"], &queue["scheduled"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn an_id_with_another_body_is_refused() {
    let server = server_of(BOUNDED).await;
    one(&server, "orders.new", "1", r#","data":1"#).await;
    let batch = format!("[{},{}]", event("2", ""), event("1", r#","data":2"#));
    assert_snapshot!(publish(&server, "orders.new", &BATCH, batch).await.shown(), @r#"
    409
    title: The id was used for another message
    detail: 1 of the messages can't be accepted, so none was; message 1: a message with id '1' and source '/test' was published to 'orders.new' within 10m with another body; give every message an id of its own
    code: id-reused
    count: 1
    items: [{"code":"id-reused","detail":"a message with id '1' and source '/test' was published to 'orders.new' within 10m with another body; give every message an id of its own","index":1}]
    "#);
    assert_eq!(server.get("/v1/queues/orders").await.ok()["ready"], 1, "none of the batch is stored");
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let server = server_of(BOUNDED).await;
    one(&server, "orders.new", "1", "").await;
    assert_eq!(server.get("/v1/queues/orders").await.ok()["full"], false);
    one(&server, "orders.new", "2", "").await;
    assert_eq!(server.get("/v1/queues/orders").await.ok()["full"], true);
    let refused = publish(&server, "orders.new", &STRUCTURED, event("3", "")).await;
    assert_snapshot!(refused.shown(), @r#"
    429
    retry-after: 1
    title: A queue is full
    detail: queue 'orders' is full: it holds at most 2 messages (max-messages); try again when consumers have caught up, or raise the bound in [queues.orders]
    code: queue-full
    count: 1
    items: [{"code":"queue-full","detail":"queue 'orders' is full: it holds at most 2 messages (max-messages); try again when consumers have caught up, or raise the bound in [queues.orders]","index":0}]
    max_bytes: null
    max_messages: 2
    paused: false
    queue: "orders"
    "#);
    assert_eq!(server.get("/v1/queues/other").await.ok()["ready"], 2, "nor is it stored elsewhere");
    server.post("/v1/queues/orders/pause", "").await.ok();
    let refused = publish(&server, "orders.new", &STRUCTURED, event("3", "")).await;
    assert_eq!((&refused.headers["retry-after"], &refused.json()["paused"]), (&"30".parse().unwrap(), &json!(true)));
}

#[tokio::test]
async fn a_full_disk_refuses() {
    let server = server().await;
    server.engine.refuse(RequestError::DiskFull);
    let batch = format!("[{},{}]", event("1", ""), event("2", ""));
    assert_snapshot!(publish(&server, "orders.new", &BATCH, batch).await.shown(), @r#"
    507
    retry-after: 30
    title: The disk is too full
    detail: the disk has less than 128.0 MiB free ([broker] min-free-disk), so no messages are taken; consuming goes on. Free some space, or let consumers catch up, and try again
    code: disk-full
    "#);
}

#[tokio::test]
async fn queues_show_their_settings() {
    let server = server_of(
        r#"
[queues.orders]
order = "key"
key = "account"
ttl = "90s"
expired = "drop"
max-messages = 2
max-bytes = "1MiB"
overflow = "drop-oldest"
max-attempts = 7
max-age = "1h"
backoff = { initial = "1500ms", max = "2days", jitter = 1 }

[[routes]]
from = "orders.*"
to = ["queue:orders"]
"#,
    )
    .await;
    let settings = server.get("/v1/queues/orders").await.ok()["settings"].clone();
    let expected = json!({
        "order": "key", "key": "account", "priority": false, "ttl": "1m 30s", "expired": "drop", "max_messages": 2,
        "max_bytes": 1_048_576, "overflow": "drop-oldest", "max_attempts": 7, "max_age": "1h",
        "backoff": {"initial": "1s 500ms", "factor": 2.0, "max": "2days", "jitter": 1.0}
    });
    assert_eq!(settings, expected);
    for id in ["1", "2", "3"] {
        server.publish("orders.new", id, "").await;
    }
    assert_eq!(server.get("/v1/queues/orders").await.ok()["dropped"], 1);
}
