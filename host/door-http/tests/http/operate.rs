//! Pausing, resuming, and reading the configuration again.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use insta::assert_snapshot;
use pelton_core::broker::{Broker, Deployment};
use pelton_core::engine::{EngineError, Fut};
use pelton_core::name::ConsumerName;
use pelton_core::operator::{Reload, Reloaded};
use pelton_core::runtime::Delivery;
use pelton_core::testing::conformance::eventually;
use pelton_core::testing::{FakeRuntime, done, retry};
use serde_json::{Value, json};

use crate::support::{CONFIG, Hands, Server, deployment, server, server_by, server_of};

#[tokio::test]
async fn a_paused_queue_takes_messages_and_gives_none() {
    let server = server().await;
    let paused = server.post("/v1/queues/orders/pause", "").await.ok();
    assert_eq!(paused, json!({"queue": "orders", "paused": true}));
    server.publish("orders.new", "1", "").await;
    assert_eq!(server.get("/v1/queues/orders").await.ok()["paused"], true);
    assert_eq!(server.get("/v1/queues/audit").await.ok()["paused"], false);
    assert_eq!(server.lease(1).await.len(), 0);
    server.post("/v1/queues/orders/pause", "{}").await.ok();
    let resumed = server.post("/v1/queues/orders/resume", "").await.ok();
    assert_eq!(resumed, json!({"queue": "orders", "paused": false}));
    assert_eq!(server.get("/v1/queues/orders").await.ok()["paused"], false);
    assert_eq!(server.lease(1).await.len(), 1);
}

#[tokio::test]
async fn a_paused_consumer_shows_so_until_it_is_resumed() {
    let server = server().await;
    let paused = async || server.get("/v1/consumers").await.ok()["consumers"][0]["paused"].clone();
    assert_eq!(paused().await, false);
    let answer = server.post("/v1/consumers/auditor/pause", "").await.ok();
    assert_eq!(answer, json!({"consumer": "auditor", "paused": true}));
    assert_eq!(paused().await, true);
    server.broker.deploy(deployment(CONFIG)).await.unwrap();
    assert_eq!(paused().await, true, "a new plan does not resume it");
    let answer = server.post("/v1/consumers/auditor/resume", "").await.ok();
    assert_eq!(answer, json!({"consumer": "auditor", "paused": false}));
    assert_eq!(paused().await, false);
}

#[tokio::test]
async fn what_can_not_be_paused() {
    let server = server().await;
    assert_snapshot!(server.post("/v1/queues/order/pause", "").await.shown(), @r#"
    404
    title: There is no such queue
    detail: there is no queue 'order'; did you mean 'orders'? (GET /v1/queues lists them)
    code: unknown-queue
    nearest: "orders"
    "#);
    assert_snapshot!(server.post("/v1/consumers/auditer/pause", "").await.shown(), @r#"
    404
    title: There is no such consumer
    detail: there is no consumer 'auditer'; did you mean 'auditor'? (GET /v1/consumers lists them)
    code: unknown-consumer
    nearest: "auditor"
    "#);
    assert_eq!(server.post("/v1/consumers/nobody/resume", "").await.code(), "unknown-consumer");
    assert_snapshot!(server.post("/v1/queues/orders/pause", r#"{"for":"1h"}"#).await.shown(), @r#"
    400
    title: The request is not valid
    detail: this call takes no body
    code: invalid-request
    "#);
    assert_eq!(server.post("/v1/queues/orders/resume?for=1h", "").await.code(), "invalid-request");
    assert_eq!(server.get("/v1/queues/orders").await.ok()["paused"], false);
    server.engine.fail(EngineError::Unknown);
    assert_eq!(server.post("/v1/queues/orders/pause", "").await.code(), "unknown");
    assert_eq!(server.post("/v1/consumers/auditor/pause", "").await.code(), "unknown");
}

/// The only consumer.
async fn consumer(server: &Server) -> Value {
    server.get("/v1/consumers").await.ok()["consumers"][0].clone()
}

#[tokio::test]
async fn an_open_breaker_says_why_and_a_reset_closes_it() {
    let works = Arc::new(AtomicBool::new(false));
    let call = {
        let works = works.clone();
        move |_: &Delivery| if works.load(SeqCst) { done() } else { retry("the bank is closed") }
    };
    let runtime = FakeRuntime::new().handler("auditor", call);
    let server = server_by(Hands { runtime, ..Hands::default() }).await;
    for id in 0..60 {
        server.publish("audit.x", &id.to_string(), r#","subject":"yes""#).await;
    }
    let components = [(ConsumerName::new("auditor").unwrap(), "auditor.wasm".into())].into();
    server.broker.deploy(Deployment { components, ..deployment(CONFIG) }).await.unwrap();
    let is_open = async || consumer(&server).await["breaker"]["state"] == "open";
    eventually("the breaker opens", is_open).await;
    let expected = json!({
        "state": "open", "since": "2026-01-01T00:00:00.000Z", "next_probe": "2026-01-01T00:00:01.000Z",
        "last_reason": "retry: the bank is closed"
    });
    let shown = consumer(&server).await;
    assert_eq!((&shown["state"], &shown["breaker"]), (&json!("ready"), &expected));
    works.store(true, SeqCst);
    let reset = server.post("/v1/consumers/auditor/reset", "").await.ok();
    assert_eq!(reset, json!({"consumer": "auditor", "breaker": "closed"}));
    // Without a reset nothing would happen before the clock moves.
    let is_empty = async || server.get("/v1/queues/audit").await.ok()["ready"] == 0;
    eventually("what is ready is handled", is_empty).await;
    assert_eq!(consumer(&server).await["breaker"]["state"], "closed");
    assert_eq!(server.post("/v1/consumers/auditors/reset", "").await.code(), "unknown-consumer");
}

#[tokio::test]
async fn a_consumer_without_a_breaker_has_none_to_reset() {
    let config = CONFIG.replace("component = \"auditor.wasm\"", "component = \"auditor.wasm\"\nbreaker = false");
    let server = server_of(&config).await;
    assert_eq!(consumer(&server).await["breaker"], Value::Null);
    let reset = server.post("/v1/consumers/auditor/reset", "").await.ok();
    assert_eq!(reset, json!({"consumer": "auditor", "breaker": null}));
}

#[tokio::test]
async fn schedules_show_when_they_tick_next() {
    let schedule = r#"
[[schedules]]
name = "nightly"
cron = "30 3 * * MON-FRI"
time-zone = "Europe/Berlin"
topic = "orders.nightly"
body = "go"
missed = "all"
"#;
    let server = server_of(&format!("{CONFIG}{schedule}")).await;
    let expected = json!({"schedules": [{
        "name": "nightly", "cron": "30 3 * * MON-FRI", "time_zone": "Europe/Berlin", "topic": "orders.nightly",
        "missed": "all", "last": null, "next": "2026-01-01T02:30:00.000Z"
    }]});
    assert_eq!(server.get("/v1/schedules").await.ok(), expected);
}

/// A configuration that reads as the test says, and what is deployed of it.
struct Reading {
    next: Mutex<Option<Result<&'static str, Vec<String>>>>,
}

impl Reload for Reading {
    fn reload<'a>(&'a self, broker: &'a Broker) -> Fut<'a, Result<Reloaded, Vec<String>>> {
        Box::pin(async move {
            let next = self.next.lock().unwrap().take().expect("a test reloads once");
            broker.deploy(deployment(next?)).await.map_err(|error| vec![error.to_string()])?;
            Ok(Reloaded {
                changes: vec!["queue 'extra' is new".into()],
                at_next_start: vec!["[http] listen".into()],
                warnings: vec!["nothing is routed to the queue 'extra'".into()],
            })
        })
    }
}

async fn reading(next: Result<&'static str, Vec<String>>) -> Server {
    let reload = Reading { next: Mutex::new(Some(next)) };
    server_by(Hands { reload: Some(Arc::new(reload)), ..Hands::default() }).await
}

#[tokio::test]
async fn a_reload_says_what_changed() {
    let server = reading(Ok("[queues.extra]\n")).await;
    let expected = json!({
        "changes": ["queue 'extra' is new"], "at_next_start": ["[http] listen"],
        "warnings": ["nothing is routed to the queue 'extra'"]
    });
    assert_eq!(server.post("/v1/reload", "").await.ok(), expected);
    assert_eq!(server.get("/v1/queues/extra").await.ok()["declared"], true);
}

#[tokio::test]
async fn a_reload_that_can_not_be_says_why() {
    let problems = ["broker.toml:3:1: 'queue' is unknown", "broker.toml:9:1: 'max' is unknown"];
    let server = reading(Err(problems.map(str::to_owned).to_vec())).await;
    assert_snapshot!(server.post("/v1/reload", "").await.shown(), @r#"
    422
    title: The configuration is not valid
    detail: the configuration can't be taken over, so nothing changed: broker.toml:3:1: 'queue' is unknown (and 1 more, see 'problems')
    code: invalid-configuration
    problems: ["broker.toml:3:1: 'queue' is unknown","broker.toml:9:1: 'max' is unknown"]
    "#);
    let without = server_of(CONFIG).await;
    assert_snapshot!(without.post("/v1/reload", "").await.shown(), @r#"
    501
    title: This broker can't do that
    detail: this broker was not started from a configuration that it could read again
    code: unsupported
    "#);
    assert_eq!(server.post("/v1/reload?now=1", "").await.code(), "invalid-request");
}
