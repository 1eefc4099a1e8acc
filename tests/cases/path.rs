//! The way of one message: accepted, routed, handled, settled, and its emits where the routes say.

use serde_json::{Value, json};

use crate::support::{TestBroker, event, ids, send, subjects, tally};

const ECHO: &str = r#"
[sandbox]
slots = 16

[queues.work]
[queues.sink]
[queues.audit]

[[routes]]
from = "work.#"
to = ["queue:work"]

[[routes]]
from = "done.*"
to = ["queue:sink", "queue:audit"]

[[routes]]
from = "done.plain"
when = 'size(subject) > 1000'
to = ["queue:work"]

[consumers.echo]
queue = "work"
component = "guest:echo"
config = { topic = "done.plain" }
concurrency = 4
"#;

#[tokio::test]
async fn every_form_of_publishing_reaches_the_component_and_its_emits_the_queues() {
    let broker = TestBroker::start(ECHO).await;
    let plain = broker.publish("work", "plain body").await;
    let structured = broker.post("/v1/topics/work.a").header("content-type", "application/cloudevents+json");
    send(structured.body(event("structured", json!({"n": 1})).to_string())).await.ok();
    let binary = broker.post("/v1/topics/work.a.b").header("content-type", "text/plain").body("binary body");
    let binary = binary.header("ce-specversion", "1.0").header("ce-id", "binary").header("ce-type", "t");
    let answer = send(binary.header("ce-source", "/tests")).await.ok();
    assert_eq!(answer, json!({"messages": [{"id": "binary", "targets": 1}]}));
    let events = [event("first", json!("one")), event("second", json!(null))];
    let answer = send(broker.batch("work", &events)).await.ok();
    let in_order = json!([{"id": "first", "targets": 1}, {"id": "second", "targets": 1}]);
    assert_eq!(answer["messages"], in_order, "in the order of the batch");

    broker.holds("sink", 5).await;
    broker.holds("work", 0).await;
    let expected = tally([plain.as_str(), "structured", "binary", "first", "second"]);
    let emitted = broker.messages("sink").await;
    assert_eq!(tally(subjects(&emitted)), expected, "one emit each");
    assert_eq!(tally(subjects(&broker.messages("audit").await)), expected, "to each target of the route");
    assert_eq!(tally(ids(&emitted)).len(), 5, "with ids of their own");
    let body_of = |id: &str| {
        let message = emitted.iter().find(|stored| stored["message"]["subject"] == json!(id)).expect("it is there");
        assert_eq!(message["topic"], "done.plain");
        assert_eq!(message["message"]["source"], "/pelton/consumers/echo");
        message["message"]["data"].as_str().map(str::to_owned)
    };
    assert_eq!(body_of(&plain).as_deref(), Some("plain body"));
    assert_eq!(body_of("structured").as_deref(), Some(r#"{"n":1}"#));
    assert_eq!(body_of("binary").as_deref(), Some("binary body"));
    assert_eq!(body_of("first").as_deref(), Some(r#""one""#));
}

#[tokio::test]
async fn metrics_follow_a_message() {
    let broker = TestBroker::start(ECHO).await;
    for _ in 0..3 {
        broker.publish("work.x", "x").await;
    }
    assert_eq!(send(broker.post("/v1/topics/nowhere").body("x")).await.status, 404);
    broker.holds("sink", 3).await;
    broker.holds("work", 0).await;
    let expected = [
        ("pelton_accepted_total", 3.0),
        ("pelton_unroutable_total", 1.0),
        ("pelton_routed_total", 3.0),
        (r#"pelton_delivered_total{consumer="echo",queue="work",outcome="done"}"#, 3.0),
        (r#"pelton_delivered_total{consumer="echo",queue="work",outcome="trap"}"#, 0.0),
        (r#"pelton_invoke_seconds_count{consumer="echo"}"#, 3.0),
        ("pelton_settled_total", 3.0),
        ("pelton_dead_lettered_total", 0.0),
        (r#"pelton_queue_messages{queue="sink",state="ready"}"#, 3.0),
        (r#"pelton_queue_messages{queue="work",state="ready"}"#, 0.0),
    ];
    for (series, value) in expected {
        assert_eq!(broker.metric(series).await, value, "{series}\n{}", broker.get("/metrics").await);
    }
    assert!(broker.metric("pelton_commits_total").await >= 1.0);
    assert!(broker.metric("pelton_commit_seconds_count").await >= 1.0);
    assert!(broker.metric("pelton_commit_batch_messages_count").await >= 1.0);
    assert!(broker.metric(r#"pelton_queue_oldest_seconds{queue="sink"}"#).await > 0.0);
}

#[tokio::test]
async fn a_component_knows_its_delivery_and_nothing_else() {
    let toml = r#"
[queues.asks]
[queues.answers]

[[routes]]
from = "ask"
to = ["queue:asks"]

[[routes]]
from = "answer"
to = ["queue:answers"]

[consumers.facts]
queue = "asks"
component = "guest:facts"
config = { topic = "answer" }
timeout = "4s"
"#;
    let broker = TestBroker::start(toml).await;
    let mut asked = event("e-1", json!({"a": 1}));
    asked["subject"] = json!("things");
    asked["traceparent"] = json!("00-ab-cd-01");
    asked["time"] = json!("2026-01-31T12:00:00.5+01:00");
    let request = broker.post("/v1/topics/ask").header("content-type", "application/cloudevents+json");
    send(request.body(asked.to_string())).await.ok();
    broker.holds("answers", 1).await;
    let answer = broker.messages("answers").await.remove(0);
    let message = &answer["message"];
    let mut facts = message["data"].clone();
    let remaining = facts["remaining-ms"].take().as_u64().expect("a time");
    assert!((1..=4000).contains(&remaining), "{remaining} ms of 4 s");
    assert!(!facts["idempotency-key"].take().as_str().expect("a key").is_empty());
    let expected = json!({
        "consumer": "facts",
        "source": "queue:asks",
        "remaining-ms": null,
        "missing-config": null,
        "topic": "ask",
        "attempt": 1,
        "idempotency-key": null,
        "message": {
            "id": "e-1",
            "source": "/tests",
            "type": "test",
            "subject": "things",
            "time": "2026-01-31T12:00:00.5+01:00",
            "content-type": null,
            "data-schema": null,
            "extensions": [["traceparent", "00-ab-cd-01"]],
            "data-bytes": 7,
        },
    });
    assert_eq!(facts, expected);
    assert_eq!((&message["type"], &message["subject"]), (&json!("facts"), &json!("this")));
    assert_eq!(message["partitionkey"], "p");
}

const FILTERS: &str = r#"
[queues.small]
[queues.large]
[queues.slim]

[[routes]]
from = "order.*"
when = 'data.total < 100'
to = ["queue:small"]

[[routes]]
from = "order.*"
when = 'data.total >= 100'
to = ["queue:large"]

[[routes]]
from = "order.created"
transform = '{"id": data.id, "twice": data.total * 2}'
to = ["queue:slim"]
"#;

#[tokio::test]
async fn filters_choose_and_transforms_change() {
    let broker = TestBroker::start(FILTERS).await;
    let publish = async |topic: &str, id: &str, data: Value| {
        let answer = send(broker.batch(topic, &[event(id, data)])).await.ok();
        answer["messages"][0]["targets"].as_u64().expect("a count")
    };
    assert_eq!(publish("order.paid", "a", json!({"id": 1, "total": 99})).await, 1);
    assert_eq!(publish("order.paid", "b", json!({"id": 2, "total": 100})).await, 1);
    assert_eq!(publish("order.created", "c", json!({"id": 3, "total": 7})).await, 2);
    assert_eq!(publish("order.paid", "d", json!({"id": 4})).await, 0, "a missing field is false, not an error");
    assert_eq!(ids(&broker.messages("small").await), ["a", "c"]);
    assert_eq!(ids(&broker.messages("large").await), ["b"]);
    let slim = broker.messages("slim").await.remove(0);
    assert_eq!(slim["message"]["data"], json!({"id": 3, "twice": 14}));
}

#[tokio::test]
async fn a_failed_transform_makes_a_dead_letter_and_spares_the_other_routes() {
    let broker = TestBroker::start(FILTERS).await;
    let answer = send(broker.batch("order.created", &[event("a", json!({"total": 1}))])).await.ok();
    assert_eq!(answer["messages"][0]["targets"], 2, "the dead letter counts");
    assert_eq!(ids(&broker.messages("small").await), ["a"]);
    assert!(broker.messages("slim").await.is_empty());
    let dead = broker.only_dead("slim").await;
    assert_eq!((&dead["dead"]["code"], &dead["dead"]["origin"]), (&json!("route-failed"), &json!("slim")));
    assert_eq!(dead["message"]["id"], "a", "the message as it came");
    let detail = dead["dead"]["detail"].as_str().expect("a text");
    assert!(detail.contains("order.created") && detail.contains("id"), "names route and field: {detail}");
}
