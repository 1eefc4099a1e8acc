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
    insta::assert_snapshot!(structured(&broker, "{\"id\": 1,\n \"source\"}").await, @r#"
    400 application/problem+json
    {
      "code": "invalid-json",
      "column": 10,
      "detail": "the body is not JSON: expected `:` at line 2 column 10",
      "line": 2,
      "status": 400,
      "title": "The body is not JSON",
      "type": "urn:pelton:problem:invalid-json"
    }
    "#);
    insta::assert_snapshot!(structured(&broker, r#"{"specversion": "1.0", "id": "1", "source": "/s"}"#).await, @r#"
    400 application/problem+json
    {
      "attribute": "type",
      "code": "invalid-event",
      "detail": "this is not a valid CloudEvent: attribute 'type' is required and must not be empty",
      "status": 400,
      "title": "A message is not a valid CloudEvent",
      "type": "urn:pelton:problem:invalid-event"
    }
    "#);
    let twice = r#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "Time": "now"}"#;
    insta::assert_snapshot!(structured(&broker, twice).await, @r#"
    400 application/problem+json
    {
      "attribute": "Time",
      "code": "invalid-event",
      "detail": "this is not a valid CloudEvent: attribute 'Time' is no extension name: only a-z and 0-9 are allowed",
      "status": 400,
      "title": "A message is not a valid CloudEvent",
      "type": "urn:pelton:problem:invalid-event"
    }
    "#);
    let time = r#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "time": "yesterday"}"#;
    insta::assert_snapshot!(structured(&broker, time).await, @r#"
    400 application/problem+json
    {
      "attribute": "time",
      "code": "invalid-event",
      "detail": "this is not a valid CloudEvent: attribute 'time' is 'yesterday', which is not RFC 3339, such as 2026-01-31T12:00:00Z",
      "status": 400,
      "title": "A message is not a valid CloudEvent",
      "type": "urn:pelton:problem:invalid-event"
    }
    "#);
}

#[tokio::test]
async fn one_bad_event_refuses_the_whole_batch() {
    let broker = TestBroker::start(SMALL).await;
    let mut bad = event("b", json!(2));
    bad["id"] = json!("");
    let reply = send(broker.batch("orders.new", &[event("a", json!(1)), bad, event("c", json!(3))])).await;
    insta::assert_snapshot!(shown(&broker, &reply), @r#"
    400 application/problem+json
    {
      "attribute": "id",
      "code": "invalid-event",
      "count": 1,
      "detail": "message 1 is not a valid CloudEvent, so none was accepted: attribute 'id' is required and must not be empty",
      "index": 1,
      "items": [
        {
          "attribute": "id",
          "code": "invalid-event",
          "detail": "attribute 'id' is required and must not be empty",
          "index": 1
        }
      ],
      "status": 400,
      "title": "A message is not a valid CloudEvent",
      "type": "urn:pelton:problem:invalid-event"
    }
    "#);
    assert_eq!(broker.depth("inbox").await, 0, "nothing is stored");
}

#[tokio::test]
async fn bodies_over_the_limit() {
    let broker = TestBroker::start(SMALL).await;
    let publish = async |bytes: usize| send(broker.post("/v1/topics/orders.new").body("x".repeat(bytes))).await;
    let reply = publish(1025).await;
    insta::assert_snapshot!(shown(&broker, &reply), @r#"
    413 application/problem+json
    {
      "code": "too-large",
      "count": 1,
      "detail": "the body has 1025 bytes; at most 1024 are allowed ([broker] max-message)",
      "items": [
        {
          "code": "too-large",
          "detail": "the body has 1025 bytes; at most 1024 are allowed ([broker] max-message)",
          "index": 0
        }
      ],
      "status": 413,
      "title": "The request is too large",
      "type": "urn:pelton:problem:too-large"
    }
    "#);
    let reply = publish(5000).await;
    insta::assert_snapshot!(shown(&broker, &reply), @r#"
    413 application/problem+json
    {
      "bytes_max": 4096,
      "code": "too-large",
      "detail": "the body has more than 4096 bytes ([http] max-request); send less at once",
      "status": 413,
      "title": "The request is too large",
      "type": "urn:pelton:problem:too-large"
    }
    "#);
    let large = event("large", json!("x".repeat(1024)));
    let reply = send(broker.batch("orders.new", &[event("a", json!(1)), large])).await;
    insta::assert_snapshot!(shown(&broker, &reply), @r#"
    413 application/problem+json
    {
      "code": "too-large",
      "count": 1,
      "detail": "1 of the messages can't be accepted, so none was; message 1: the body has 1026 bytes; at most 1024 are allowed ([broker] max-message)",
      "items": [
        {
          "code": "too-large",
          "detail": "the body has 1026 bytes; at most 1024 are allowed ([broker] max-message)",
          "index": 1
        }
      ],
      "status": 413,
      "title": "The request is too large",
      "type": "urn:pelton:problem:too-large"
    }
    "#);
    assert_eq!(broker.depth("inbox").await, 0, "nothing is stored");
    publish(1024).await.ok();
}

#[tokio::test]
async fn a_topic_that_nobody_routes() {
    let broker = TestBroker::start(SMALL).await;
    let reply = send(broker.post("/v1/topics/order.new").body("x")).await;
    insta::assert_snapshot!(shown(&broker, &reply), @r#"
    404 application/problem+json
    {
      "code": "unroutable",
      "count": 1,
      "detail": "no route matches topic 'order.new' (the nearest is 'orders.*'); add one to [[routes]] or mend the topic",
      "items": [
        {
          "code": "unroutable",
          "detail": "no route matches topic 'order.new' (the nearest is 'orders.*'); add one to [[routes]] or mend the topic",
          "index": 0
        }
      ],
      "status": 404,
      "title": "No route matches the topic",
      "type": "urn:pelton:problem:unroutable"
    }
    "#);
    let reply = send(broker.post("/v1/topics/orders.%20").body("x")).await;
    insta::assert_snapshot!(shown(&broker, &reply), @r#"
    400 application/problem+json
    {
      "code": "invalid-topic",
      "detail": "'orders. ' is not a topic: it contains ' '; words have letters a-z and A-Z, digits, '_' and '-', with dots between them",
      "status": 400,
      "title": "The topic is not valid",
      "type": "urn:pelton:problem:invalid-topic"
    }
    "#);
    assert_eq!(broker.depth("inbox").await, 0, "nothing is stored");
}

#[tokio::test]
async fn a_queue_that_is_not_there() {
    let broker = TestBroker::start(SMALL).await;
    let reply = broker.get("/v1/queues/inbax").await;
    insta::assert_snapshot!(shown(&broker, &reply), @r#"
    404 application/problem+json
    {
      "code": "unknown-queue",
      "detail": "there is no queue 'inbax'; did you mean 'inbox'? (GET /v1/queues lists them)",
      "nearest": "inbox",
      "status": 404,
      "title": "There is no such queue",
      "type": "urn:pelton:problem:unknown-queue"
    }
    "#);
}

#[tokio::test]
async fn a_guarded_broker_wants_its_token() {
    let toml = SMALL.replace("[http]", "[http]\ntoken = { file = \"token\" }");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("token");
    std::fs::write(&path, "open sesame\n").expect("the folder is writable");
    let broker = TestBroker::start(&toml.replace("\"token\" }", &format!("{path:?} }}"))).await;
    let reply = broker.get("/v1/queues").await;
    insta::assert_snapshot!(shown(&broker, &reply), @r#"
    401 application/problem+json
    {
      "code": "unauthorized",
      "detail": "send the header 'Authorization: Bearer TOKEN' with the broker's token ([http] token)",
      "status": 401,
      "title": "A bearer token is required",
      "type": "urn:pelton:problem:unauthorized"
    }
    "#);
    let publish = || broker.post("/v1/topics/orders.new").body("x");
    assert_eq!(send(publish().bearer_auth("open sesam")).await.status, 401);
    send(publish().bearer_auth("open sesame")).await.ok();
    assert_eq!(broker.get("/healthz").await.status, 200, "liveness is for everybody");
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
    insta::assert_snapshot!(without_token(&broker, &reply, &lease["token"]), @r#"
    409 application/problem+json
    {
      "code": "already-settled",
      "detail": "the lease was settled before; nothing was changed",
      "status": 409,
      "title": "The lease was settled before",
      "type": "urn:pelton:problem:already-settled"
    }
    "#);

    broker.publish("orders.new", "x").await;
    let lease = broker.lease("inbox", 1, "1s").await.remove(0);
    broker.counts("inbox", "leased", 0).await;
    let reply = broker.settle("inbox", &lease["token"], "ack").await;
    insta::assert_snapshot!(without_token(&broker, &reply, &lease["token"]), @r#"
    409 application/problem+json
    {
      "code": "lease-lost",
      "detail": "the lease ran out, so the message is available to others again; nothing was settled",
      "status": 409,
      "title": "The lease ran out",
      "type": "urn:pelton:problem:lease-lost"
    }
    "#);
    assert_eq!(broker.depth("inbox").await, 1, "it was not settled");

    let reply = broker.settle("inbox", &json!("no-token"), "ack").await;
    insta::assert_snapshot!(shown(&broker, &reply), @r#"
    400 application/problem+json
    {
      "code": "invalid-token",
      "detail": "'no-token' is not a lease token; use the text that `lease` returned, unchanged",
      "status": 400,
      "title": "The lease token is not valid",
      "type": "urn:pelton:problem:invalid-token"
    }
    "#);
}
