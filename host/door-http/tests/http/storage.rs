//! What callers see when storage fails.

use insta::assert_snapshot;
use pelton_core::engine::{EngineError, Health};
use serde_json::json;

use crate::support::server;

#[tokio::test]
async fn every_call_says_what_is_known() {
    let server = server().await;
    server.publish("orders.new", "1", "").await;
    let token = &server.lease(1).await[0];
    let settlement = json!({"settlements": [{"token": token, "outcome": "ack"}]}).to_string();
    server.engine.fail(EngineError::Unknown);
    assert_snapshot!(server.post("/v1/topics/orders.new", "{}").await.shown(), @r#"
    503
    retry-after: 1
    title: Whether it was done is unknown
    detail: storage failed while committing; whether it was done is unknown. Repeat it with the same ids: where the topic has a dedup window, a double is recognised; elsewhere consumers can recognise it by source and id
    code: unknown
    "#);
    assert_snapshot!(server.post("/v1/queues/orders/settle", settlement).await.shown(), @r#"
    503
    retry-after: 1
    title: Whether it was done is unknown
    detail: storage failed while committing; whether it was done is unknown. Repeat it with the same ids: where the topic has a dedup window, a double is recognised; elsewhere consumers can recognise it by source and id
    code: unknown
    "#);
    server.engine.fail(EngineError::Unavailable);
    assert_snapshot!(server.post("/v1/topics/orders.new", "{}").await.shown(), @r#"
    503
    retry-after: 1
    title: Storage is not available
    detail: storage is not available right now; nothing was done, repeat it
    code: unavailable
    "#);
    assert_eq!(server.post("/v1/queues/orders/lease", "{}").await.code(), "unavailable");
    assert_eq!(server.get("/v1/queues/orders/messages").await.code(), "unavailable");
    assert_snapshot!(server.post("/v1/queues/orders/redrive", r#"{"all":true}"#).await.shown(), @r#"
    503
    retry-after: 1
    title: Storage is not available
    detail: storage is not available right now; nothing was done, repeat it
    code: unavailable
    "#);
    server.engine.fail(EngineError::Corrupt("a page has a wrong checksum".into()));
    assert_snapshot!(server.post("/v1/topics/orders.new", "{}").await.shown(), @r#"
    500
    title: The stored data is damaged
    detail: the data is damaged: a page has a wrong checksum
    code: corrupt
    "#);
}

#[tokio::test]
async fn readiness_follows_the_engine_and_the_door() {
    let server = server().await;
    assert_eq!(server.get("/readyz").await.ok(), json!({"status": "ready"}));
    server.engine.set_health(Health::Full);
    assert_eq!(server.get("/readyz").await.ok(), json!({"status": "full"}), "consuming goes on");
    server.engine.set_health(Health::Recovering);
    assert_snapshot!(server.get("/readyz").await.shown(), @r#"
    503
    retry-after: 1
    title: The broker is not ready
    detail: storage is being reopened after a failure; wait
    code: not-ready
    "#);
    server.engine.set_health(Health::Failed("the disk is gone".into()));
    assert_snapshot!(server.get("/readyz").await.shown(), @r#"
    503
    retry-after: 1
    title: The broker is not ready
    detail: storage has stopped for good: the disk is gone
    code: not-ready
    "#);
    server.engine.set_health(Health::Ready);
    server.stop.send_replace(true);
    assert_snapshot!(server.get("/readyz").await.shown(), @r#"
    503
    retry-after: 1
    title: The broker is not ready
    detail: the broker is stopping
    code: not-ready
    "#);
    assert_eq!(server.get("/healthz").await.ok(), json!({"status": "alive"}));
}
