//! Publishing: the four forms, and every way in which it is refused.

use axum::http::{Method, StatusCode};
use insta::assert_snapshot;
use serde_json::json;

use crate::support::{Answer, REQUEST_BYTES_MAX, Server, event, server};

const BATCH: [(&str, &str); 1] = [("content-type", "application/cloudevents-batch+json")];
const STRUCTURED: [(&str, &str); 1] = [("content-type", "application/cloudevents+json; charset=utf-8")];

async fn publish(server: &Server, topic: &str, headers: &[(&str, &str)], body: impl Into<axum::body::Body>) -> Answer {
    server.send(Method::POST, &format!("/v1/topics/{topic}"), headers, body).await
}

/// The message at the end of the queue `orders`, as JSON.
async fn last(server: &Server) -> serde_json::Value {
    let answer = server.get("/v1/queues/orders/messages").await.ok();
    answer["messages"].as_array().unwrap().last().unwrap()["message"].clone()
}

#[tokio::test]
async fn a_plain_body_gets_its_attributes_from_the_broker() {
    let server = server().await;
    let answer = publish(&server, "orders.new", &[("content-type", "application/json")], r#"{"a" : 1}"#).await.ok();
    let id = answer["messages"][0]["id"].as_str().unwrap();
    assert_eq!(answer, json!({"messages": [{"id": id, "targets": 1}]}));
    let message = last(&server).await;
    let expected = json!({
        "specversion": "1.0", "id": id, "source": "/pelton/http", "type": "orders.new", "time": "2026-01-01T00:00:00.000Z",
        "datacontenttype": "application/json", "data": {"a": 1}
    });
    assert_eq!(message, expected);
    publish(&server, "orders.new", &[], "text").await.ok();
    let message = last(&server).await;
    assert_eq!((&message["datacontenttype"], &message["data"]), (&json!("application/octet-stream"), &json!("text")));
    assert!(message["id"].as_str().unwrap() != id);
}

#[tokio::test]
async fn binary_mode_takes_attributes_from_headers() {
    let server = server().await;
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "7"),
        ("ce-source", "/shop"),
        ("ce-type", "order"),
        ("ce-subject", "Caf%C3%A9"),
        ("ce-traceparent", "00-1"),
        ("content-type", "text/plain"),
    ];
    publish(&server, "orders.new", &headers, "hello").await.ok();
    let expected = json!({
        "specversion": "1.0", "id": "7", "source": "/shop", "type": "order", "subject": "Caf\u{e9}", "traceparent": "00-1",
        "datacontenttype": "text/plain", "data": "hello"
    });
    assert_eq!(last(&server).await, expected);
}

#[tokio::test]
async fn structured_mode_keeps_the_bytes_of_data() {
    let server = server().await;
    publish(&server, "orders.new", &STRUCTURED, event("7", r#","data":{"price" : 1.50, "z":1,"a":2}"#)).await.ok();
    let answer = server.get("/v1/queues/orders/messages").await;
    assert!(answer.body.contains(r#""data":{"price" : 1.50, "z":1,"a":2}}"#), "{}", answer.body);
}

#[tokio::test]
async fn a_batch_is_accepted_in_order_and_counts_its_targets() {
    let server = server().await;
    let batch = format!("[{},{}]", event("1", r#","subject":"yes""#), event("2", r#","subject":"no""#));
    let answer = publish(&server, "audit.x", &BATCH, batch).await.ok();
    assert_eq!(answer, json!({"messages": [{"id": "1", "targets": 2}, {"id": "2", "targets": 0}]}));
    let answer = publish(&server, "orders.new", &BATCH, "[]").await.ok();
    assert_eq!(answer, json!({"messages": []}));
}

#[tokio::test]
async fn a_body_in_pieces_is_put_together() {
    let server = server().await;
    let text = event("7", r#","data":"some text""#);
    let pieces: Vec<_> = text.as_bytes().chunks(5).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    let body = axum::body::Body::from_stream(futures_util::stream::iter(pieces));
    publish(&server, "orders.new", &STRUCTURED, body).await.ok();
    assert_eq!(last(&server).await["data"], json!("some text"));
}

#[tokio::test]
async fn a_refused_batch_leaves_nothing() {
    let server = server().await;
    let too_large = event("2", &format!(r#","data":"{}""#, "x".repeat(64 * 1024)));
    for bad in [event("2", r#","subject":"""#), "5".to_owned(), too_large] {
        let answer = publish(&server, "orders.new", &BATCH, format!("[{},{bad}]", event("1", ""))).await;
        assert!(answer.status.is_client_error());
        assert_eq!(server.get("/v1/queues/orders").await.ok()["ready"], 0);
    }
}

#[tokio::test]
async fn parameters_are_refused() {
    let server = server().await;
    assert_snapshot!(publish(&server, "orders.new?foo=1", &[], "text").await.shown(), @r#"
    400
    title: The request is not valid
    detail: the parameter 'foo' is unknown; known are 'delay', 'at', 'ttl'
    code: invalid-request
    "#);
    assert_eq!(server.get("/v1/queues/orders").await.ok()["ready"], 0);
    for path in ["/v1/queues?a", "/v1/queues/orders?a", "/v1/consumers?a=1", "/v1/queues/orders/dead/1?a=1"] {
        assert_eq!(server.get(path).await.code(), "invalid-request", "{path}");
    }
}

#[tokio::test]
async fn attributes_that_are_not_what_they_should_be() {
    let server = server().await;
    let with = |attribute: &'static str, value: &'static str| {
        let all = [("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-source", "/shop"), ("ce-type", "order")];
        let others = all.into_iter().filter(|(name, _)| *name != attribute);
        others.chain([(attribute, value)]).collect::<Vec<_>>()
    };
    assert_snapshot!(publish(&server, "orders.new", &with("ce-source", "a b"), "").await.shown(), @r#"
    400
    title: A message is not a valid CloudEvent
    detail: this is not a valid CloudEvent: attribute 'source' is 'a b', which is no URI reference such as /shop/1: ' ' is not allowed in one
    code: invalid-event
    attribute: "source"
    "#);
    assert_snapshot!(publish(&server, "orders.new", &with("content-type", "nonsense"), "").await.shown(), @r#"
    400
    title: A message is not a valid CloudEvent
    detail: this is not a valid CloudEvent: attribute 'datacontenttype' is 'nonsense', which is no media type such as application/json
    code: invalid-event
    attribute: "datacontenttype"
    "#);
    let plain = publish(&server, "orders.new", &[("content-type", "nonsense")], "").await;
    assert_eq!(plain.code(), "invalid-event");
}

#[tokio::test]
async fn unroutable() {
    let server = server().await;
    assert_snapshot!(publish(&server, "orderz.new", &STRUCTURED, event("1", "")).await.shown(), @r#"
    404
    title: No route matches the topic
    detail: no route matches topic 'orderz.new' (the nearest is 'orders.*'); add one to [[routes]] or mend the topic
    code: unroutable
    count: 1
    items: [{"code":"unroutable","detail":"no route matches topic 'orderz.new' (the nearest is 'orders.*'); add one to [[routes]] or mend the topic","index":0}]
    "#);
    let batch = format!("[{},{}]", event("1", ""), event("2", ""));
    assert_snapshot!(publish(&server, "orderz.new", &BATCH, batch).await.shown(), @r#"
    404
    title: No route matches the topic
    detail: 2 of the messages can't be accepted, so none was; message 0: no route matches topic 'orderz.new' (the nearest is 'orders.*'); add one to [[routes]] or mend the topic
    code: unroutable
    count: 2
    items: [{"code":"unroutable","detail":"no route matches topic 'orderz.new' (the nearest is 'orders.*'); add one to [[routes]] or mend the topic","index":0},{"code":"unroutable","detail":"no route matches topic 'orderz.new'; add one to [[routes]] or mend the topic","index":1}]
    "#);
}

#[tokio::test]
async fn invalid_events() {
    let server = server().await;
    assert_snapshot!(publish(&server, "orders.new", &STRUCTURED, event("1", r#","time":"noon""#)).await.shown(), @r#"
    400
    title: A message is not a valid CloudEvent
    detail: this is not a valid CloudEvent: attribute 'time' is 'noon', which is not RFC 3339, such as 2026-01-31T12:00:00Z
    code: invalid-event
    attribute: "time"
    "#);
    assert_snapshot!(publish(&server, "orders.new", &[("ce-id", "1")], "").await.shown(), @r#"
    400
    title: A message is not a valid CloudEvent
    detail: this is not a valid CloudEvent: attribute 'specversion' is required; it is '1.0'
    code: invalid-event
    attribute: "specversion"
    "#);
    assert_snapshot!(publish(&server, "orders.new", &STRUCTURED, "[]").await.shown(), @r#"
    400
    title: A message is not a valid CloudEvent
    detail: the body is JSON, but of another shape: it is a list; expected is an object with the attributes of a CloudEvent
    code: invalid-event
    "#);
    let batch = format!("[{},{{}},{},7]", event("1", ""), event("", ""));
    assert_snapshot!(publish(&server, "orders.new", &BATCH, batch).await.shown(), @r#"
    400
    title: A message is not a valid CloudEvent
    detail: message 3 is not a CloudEvent, so none was accepted: it is integer `7`; expected is an object with the attributes of a CloudEvent at line 1 column 122
    code: invalid-event
    index: 3
    "#);
    let batch = format!("[{},{{}},{}]", event("1", ""), event("", ""));
    assert_snapshot!(publish(&server, "orders.new", &BATCH, batch).await.shown(), @r#"
    400
    title: A message is not a valid CloudEvent
    detail: message 1 is not a valid CloudEvent, so none was accepted: attribute 'specversion' is required; it is '1.0'
    code: invalid-event
    attribute: "specversion"
    count: 2
    index: 1
    items: [{"attribute":"specversion","code":"invalid-event","detail":"attribute 'specversion' is required; it is '1.0'","index":1},{"attribute":"id","code":"invalid-event","detail":"attribute 'id' is required and must not be empty","index":2}]
    "#);
}

#[tokio::test]
async fn invalid_json() {
    let server = server().await;
    assert_snapshot!(publish(&server, "orders.new", &STRUCTURED, "{\"id\":\n 1,}").await.shown(), @r#"
    400
    title: The body is not JSON
    detail: the body is not JSON: trailing comma at line 2 column 4
    code: invalid-json
    column: 4
    line: 2
    "#);
    assert_snapshot!(publish(&server, "orders.new", &BATCH, "").await.shown(), @r#"
    400
    title: The body is not JSON
    detail: the body is not JSON: EOF while parsing a value at line 1 column 0
    code: invalid-json
    column: 0
    line: 1
    "#);
    assert_snapshot!(publish(&server, "orders.new", &BATCH, &b"[\"\xff\"]"[..]).await.shown(), @r#"
    400
    title: The body is not JSON
    detail: the body is not JSON: byte 2 is not UTF-8
    code: invalid-json
    byte: 2
    "#);
}

#[tokio::test]
async fn invalid_topics() {
    let server = server().await;
    assert_snapshot!(publish(&server, "orders..new", &[], "x").await.shown(), @r#"
    400
    title: The topic is not valid
    detail: 'orders..new' is not a topic: a word between the dots is empty
    code: invalid-topic
    "#);
    assert_snapshot!(publish(&server, "orders.%2A", &[], "x").await.shown(), @r#"
    400
    title: The topic is not valid
    detail: 'orders.*' is not a topic: it contains '*'; words have letters a-z and A-Z, digits, '_' and '-', with dots between them
    code: invalid-topic
    "#);
    assert_eq!(publish(&server, "%ff", &[], "x").await.code(), "invalid-request");
}

#[tokio::test]
async fn too_large() {
    let server = server().await;
    let body = event("1", &format!(r#","data":"{}""#, "x".repeat(64 * 1024)));
    assert_snapshot!(publish(&server, "orders.new", &BATCH, format!("[{body}]")).await.shown(), @r#"
    413
    title: The request is too large
    detail: the body has 65538 bytes; at most 65536 are allowed ([broker] max-message)
    code: too-large
    count: 1
    items: [{"code":"too-large","detail":"the body has 65538 bytes; at most 65536 are allowed ([broker] max-message)","index":0}]
    "#);
    let body = "x".repeat(usize::try_from(REQUEST_BYTES_MAX).unwrap() + 1);
    assert_snapshot!(publish(&server, "orders.new", &[], body.clone()).await.shown(), @r#"
    413
    title: The request is too large
    detail: the body has more than 262144 bytes ([http] max-request); send less at once
    code: too-large
    bytes_max: 262144
    "#);
    let declared = [("content-length", "262145")];
    assert_eq!(publish(&server, "orders.new", &declared, "").await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let batch = format!("[{}{}]", "1,".repeat(10_000), event("1", ""));
    assert_eq!(publish(&server, "orders.new", &BATCH, batch).await.code(), "invalid-event");
}

#[tokio::test]
async fn other_event_formats() {
    let server = server().await;
    let headers = [("content-type", "application/cloudevents+avro")];
    assert_snapshot!(publish(&server, "orders.new", &headers, "x").await.shown(), @r#"
    415
    title: The media type is not supported
    detail: the event format 'application/cloudevents+avro' is not supported; use application/cloudevents+json or application/cloudevents-batch+json
    code: unsupported-media-type
    "#);
}

#[tokio::test]
async fn counters_count() {
    let server = server().await;
    server.publish("orders.new", "1", "").await;
    publish(&server, "orderz.new", &STRUCTURED, event("2", "")).await;
    let text = server.get("/metrics").await.body;
    assert!(text.contains("pelton_accepted_total 1\n"), "{text}");
    assert!(text.contains("pelton_unroutable_total 1\n"), "{text}");
    assert!(text.contains("pelton_queue_messages{queue=\"orders\",state=\"ready\"} 1\n"), "{text}");
    assert!(text.ends_with("# EOF\n"));
}
