//! Looking at queues and dead letters, and changing many at once.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::support::{Server, deployment, server};

/// Publishes messages `1` to `count` and rejects them all.
async fn with_dead_letters(count: usize) -> Server {
    let server = server().await;
    for id in 1..=count {
        server.publish("orders.new", &id.to_string(), r#","data":1"#).await;
    }
    let tokens = server.lease(count).await;
    let settlements: Vec<_> =
        tokens.iter().map(|token| json!({"token": token, "outcome": "reject", "reason": "no order"})).collect();
    server.post("/v1/queues/orders/settle", json!({"settlements": settlements}).to_string()).await.ok();
    server
}

fn ids(page: &Value) -> Vec<&str> {
    page["messages"].as_array().unwrap().iter().map(|item| item["message"]["id"].as_str().unwrap()).collect()
}

async fn dead_count(server: &Server) -> u64 {
    server.get("/v1/queues/orders").await.ok()["dead"].as_u64().unwrap()
}

#[tokio::test]
async fn queues_show_their_figures() {
    let server = with_dead_letters(1).await;
    server.publish("orders.new", "2", "").await;
    server.clock.advance(std::time::Duration::from_millis(1500));
    let queue = server.get("/v1/queues/orders").await.ok();
    let bytes = queue["bytes"].as_u64().unwrap();
    assert!(bytes > 0);
    let expected = json!({
        "name": "orders", "declared": true, "ready": 1, "leased": 0, "scheduled": 0, "dead": 1, "bytes": bytes,
        "oldest_age_ms": 1500, "dead_letter": "orders.dead"
    });
    assert_eq!(queue, expected);
    let queues = server.get("/v1/queues").await.ok();
    let names: Vec<_> =
        queues["queues"].as_array().unwrap().iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["audit", "audit.dead", "orders", "orders.dead"]);
    assert_eq!(queues["queues"][1]["dead_letter"], Value::Null);
}

#[tokio::test]
async fn peeking_goes_page_by_page_and_leases_nothing() {
    let server = server().await;
    for id in ["1", "2", "3", "4", "5"] {
        server.publish("orders.new", id, "").await;
    }
    let mut seen = Vec::new();
    let mut path = "/v1/queues/orders/messages?max=2".to_owned();
    for _ in 0..4 {
        let page = server.get(&path).await.ok();
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/queues/orders/messages?max=2&after={next}");
    }
    assert_eq!(seen, ["1", "2", "3", "4", "5"]);
    assert_eq!(server.get("/v1/queues/orders").await.ok()["ready"], 5);
    assert_snapshot!(server.get("/v1/queues/orders/messages?max=0").await.shown(), @r#"
    400
    title: The request is not valid
    detail: 'max' is 0; 1 to 1000 are allowed
    code: invalid-request
    "#);
    assert_snapshot!(server.get("/v1/queues/orders/messages?limit=5").await.shown(), @r#"
    400
    title: The request is not valid
    detail: the parameter 'limit' is unknown; known are 'max', 'after'
    code: invalid-request
    "#);
    assert_snapshot!(server.get("/v1/queues/orders/messages?max=ten").await.shown(), @r#"
    400
    title: The request is not valid
    detail: 'max' is 'ten'; a whole number, 1 to 1000, is expected
    code: invalid-request
    "#);
    assert_snapshot!(server.get("/v1/queues/orders/messages?max=1&max=2").await.shown(), @r#"
    400
    title: The request is not valid
    detail: the parameter 'max' stands twice
    code: invalid-request
    "#);
    assert_snapshot!(server.get("/v1/queues/orders/messages?after=zzz").await.shown(), @r#"
    400
    title: The request is not valid
    detail: 'after': 'zzz' is not a cursor of this call; use the text that its last answer returned, unchanged, or start without one
    code: invalid-request
    "#);
    let redrive = r#"{"all": true, "after": "zzz"}"#;
    assert_eq!(server.post("/v1/queues/orders/redrive", redrive).await.code(), "invalid-request");
}

#[tokio::test]
async fn dead_letters_are_found_from_both_sides() {
    let server = with_dead_letters(2).await;
    for queue in ["orders", "orders.dead"] {
        let page = server.get(&format!("/v1/queues/{queue}/dead")).await.ok();
        assert_eq!(ids(&page), ["1", "2"]);
        let dead =
            json!({"origin": "orders", "at": "2026-01-01T00:00:00.000Z", "code": "rejected", "detail": "no order"});
        assert_eq!(page["messages"][0]["dead"], dead);
    }
}

#[tokio::test]
async fn one_dead_letter_shows_its_history() {
    let server = with_dead_letters(3).await;
    let page = server.get("/v1/queues/orders/dead").await.ok();
    let position = page["messages"][1]["position"].as_u64().unwrap();
    let by_position = server.get(&format!("/v1/queues/orders/dead/{position}")).await.ok();
    assert_eq!(by_position["message"]["id"], "2");
    let history = json!([{
        "number": 1, "at": "2026-01-01T00:00:00.000Z", "outcome": "reject", "reason": "no order", "duration_us": 0, "log_tail": ""
    }]);
    assert_eq!(by_position["history"], history);
    server.publish("orders.new", "some/id", "").await;
    let token = &server.lease(1).await[0];
    let body = json!({"settlements": [{"token": token, "outcome": "reject"}]}).to_string();
    server.post("/v1/queues/orders/settle", body).await.ok();
    let by_id = server.get("/v1/queues/orders/dead/some%2Fid").await.ok();
    assert_eq!(by_id["message"]["id"], "some/id");
    assert_snapshot!(server.get("/v1/queues/orders/dead/999999").await.shown(), @r#"
    404
    title: There is no such message
    detail: queue 'orders.dead' holds no dead letter with the position or id '999999' among its first 100000
    code: unknown-message
    "#);
}

#[tokio::test]
async fn redrive_by_position_and_of_all() {
    let server = with_dead_letters(3).await;
    let page = server.get("/v1/queues/orders/dead").await.ok();
    let position = &page["messages"][1]["position"];
    let body = json!({"positions": [position]}).to_string();
    let done = server.post("/v1/queues/orders/redrive", body).await.ok();
    assert_eq!(done, json!({"queue": "orders.dead", "changed": 1, "skipped": 0}));
    assert_eq!(ids(&server.get("/v1/queues/orders/messages").await.ok()), ["2"]);
    let done = server.post("/v1/queues/orders.dead/redrive", r#"{"all":true,"to":"audit"}"#).await.ok();
    assert_eq!(done["changed"], 2);
    assert_eq!(dead_count(&server).await, 0);
    assert_eq!(ids(&server.get("/v1/queues/audit/messages").await.ok()), ["1", "3"]);
}

#[tokio::test]
async fn large_changes_take_several_steps() {
    let server = server().await;
    for id in 0..1200 {
        server.publish("orders.new", &id.to_string(), "").await;
    }
    assert_snapshot!(server.delete("/v1/queues/orders/messages").await.shown(), @r#"
    400
    title: The deletion was not confirmed
    detail: this deletes all messages of queue 'orders' for good; confirm it with ?confirm=orders
    code: confirmation-required
    "#);
    assert_eq!(server.delete("/v1/queues/orders/messages?confirm=audit").await.code(), "confirmation-required");
    let done = server.delete("/v1/queues/orders/messages?confirm=orders").await.ok();
    assert_eq!(done, json!({"queue": "orders", "changed": 1200, "skipped": 0}));
}

#[tokio::test]
async fn a_stopping_door_ends_a_large_change_between_steps() {
    let server = server().await;
    for id in 0..1200 {
        server.publish("orders.new", &id.to_string(), "").await;
    }
    server.stop.send_replace(true);
    let done = server.delete("/v1/queues/orders/messages?confirm=orders").await.ok();
    assert_eq!(done["changed"], 1000);
    let next = done["next"].as_str().unwrap();
    let done = server.delete(&format!("/v1/queues/orders/messages?confirm=orders&after={next}")).await.ok();
    assert_eq!(done["changed"], 200);
}

#[tokio::test]
async fn discard_deletes_dead_letters_only() {
    let server = with_dead_letters(3).await;
    server.publish("orders.new", "4", "").await;
    let done = server.post("/v1/queues/orders/discard", r#"{"all":true}"#).await.ok();
    assert_eq!(done, json!({"queue": "orders.dead", "changed": 3, "skipped": 0}));
    assert_eq!(server.get("/v1/queues/orders").await.ok()["ready"], 1);
}

#[tokio::test]
async fn living_messages_of_an_undeclared_queue_are_no_dead_letters() {
    let server = with_dead_letters(2).await;
    server.publish("orders.new", "3", "").await;
    server.broker.deploy(deployment("[queues.audit]\n")).await.unwrap();
    let queue = server.get("/v1/queues/orders").await.ok();
    assert_eq!((&queue["declared"], &queue["dead_letter"]), (&json!(false), &Value::Null));
    assert_snapshot!(server.post("/v1/queues/orders/discard", r#"{"all":true}"#).await.shown(), @r#"
    409
    title: The queue holds no dead letters
    detail: queue 'orders' is not in broker.toml and holds messages that are not dead letters; purge it with DELETE /v1/queues/orders/messages?confirm=orders if you mean it
    code: not-dead-letters
    "#);
    assert_eq!(server.post("/v1/queues/orders/redrive", r#"{"all":true}"#).await.ok()["changed"], 0);
    let done = server.post("/v1/queues/orders.dead/discard", r#"{"all":true}"#).await.ok();
    assert_eq!(done["changed"], 2);
}

#[tokio::test]
async fn bad_requests() {
    let server = with_dead_letters(1).await;
    let redrive = async |body: &'static str| server.post("/v1/queues/orders/redrive", body).await.shown();
    assert_snapshot!(redrive("{}").await, @r#"
    400
    title: The request is not valid
    detail: say which dead letters: 'positions' with a list of numbers, or 'all' with true
    code: invalid-request
    "#);
    assert_snapshot!(redrive(r#"{"all":true,"positions":[1]}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'positions' and 'all' are both given; only one of them is allowed
    code: invalid-request
    "#);
    assert_snapshot!(redrive(r#"{"all":true,"to":"audits"}"#).await, @r#"
    404
    title: There is no such queue
    detail: there is no queue 'audits'; did you mean 'audit'? (GET /v1/queues lists them)
    code: unknown-queue
    nearest: "audit"
    "#);
    assert_snapshot!(server.post("/v1/queues/nope/discard", r#"{"all":true}"#).await.shown(), @r#"
    404
    title: There is no such queue
    detail: there is no queue 'nope' (GET /v1/queues lists them)
    code: unknown-queue
    "#);
    assert_eq!(dead_count(&server).await, 1);
}
