//! Looking at queues and dead letters, and changing many at once.

use std::time::Duration;

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
    server.clock.advance(Duration::from_millis(1500));
    let queue = server.get("/v1/queues/orders").await.ok();
    let bytes = queue["bytes"].as_u64().unwrap();
    assert!(bytes > 0);
    let expected = json!({
        "name": "orders", "declared": true, "paused": false, "full": false, "ready": 1, "leased": 0, "scheduled": 0,
        "dead": 1, "bytes": bytes, "oldest_age_ms": 1500, "dropped": 0, "expired": 0, "dead_letter": "orders.dead",
        "settings": {
            "order": "arrival", "key": null, "priority": false, "ttl": null, "expired": "dead-letter",
            "max_messages": null, "max_bytes": null, "overflow": "refuse", "max_attempts": 2, "max_age": null,
            "backoff": {"initial": "1s", "factor": 2.0, "max": "5m", "jitter": 0.0}
        }
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
    detail: 'max' is 'ten'; a whole number from 1 is expected
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
async fn a_position_is_found_without_a_search_and_what_waits_with_one() {
    let server = with_dead_letters(3).await;
    let page = server.get("/v1/queues/orders/dead").await.ok();
    let path = format!("/v1/queues/orders/dead/{}", page["messages"][2]["position"]);
    let pages = server.engine.browsed();
    let letter = server.get(&path).await.ok();
    assert_eq!(
        (&letter["message"]["id"], &letter["priority"], letter["due"].is_null()),
        (&json!("3"), &json!(4), true)
    );
    assert_eq!(server.engine.browsed(), pages, "no page was read");
    let leased = server.post("/v1/queues/orders.dead/lease", r#"{"max":3}"#).await.ok();
    let body = json!({"settlements": [{"token": leased["messages"][2]["token"], "outcome": "retry", "after": "1h"}]});
    server.post("/v1/queues/orders.dead/settle", body.to_string()).await.ok();
    let page = server.get("/v1/queues/orders/dead").await.ok();
    let waiting = page["messages"].as_array().unwrap().iter().find(|item| item["due"].is_string()).unwrap();
    let path = format!("/v1/queues/orders/dead/{}", waiting["position"]);
    let letter = server.get(&path).await.ok();
    assert_eq!((&letter["message"]["id"], &letter["due"]), (&json!("3"), &json!("2026-01-01T01:00:00.000Z")));
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

/// Three dead letters: one rejected, two minutes later one that used up its attempts, and another one rejected.
async fn with_reasons() -> Server {
    let server = with_dead_letters(1).await;
    server.clock.advance(Duration::from_secs(120));
    server.publish("orders.new", "2", r#","region":"eu""#).await;
    for _ in 0..2 {
        let token = &server.lease(1).await[0];
        let body = json!({"settlements": [{"token": token, "outcome": "retry", "after": "0s"}]}).to_string();
        server.post("/v1/queues/orders/settle", body).await.ok();
        server.clock.advance(Duration::from_millis(1));
    }
    server.publish("orders.changed", "3", r#","region":"us""#).await;
    let token = &server.lease(1).await[0];
    let body = json!({"settlements": [{"token": token, "outcome": "reject", "reason": "no order"}]}).to_string();
    server.post("/v1/queues/orders/settle", body).await.ok();
    assert_eq!(dead_count(&server).await, 3);
    server
}

#[tokio::test]
async fn filters_choose_among_dead_letters() {
    let check = async |filter: Value, expected: &[&str]| {
        let server = with_reasons().await;
        let done = server.post("/v1/queues/orders/redrive", filter.to_string()).await.ok();
        assert_eq!((&done["changed"], &done["next"]), (&json!(expected.len()), &Value::Null), "{filter}");
        assert_eq!(ids(&server.get("/v1/queues/orders/messages").await.ok()), expected, "{filter}");
        assert_eq!(dead_count(&server).await, 3 - expected.len() as u64, "{filter}");
    };
    check(json!({"all": true}), &["1", "2", "3"]).await;
    check(json!({"reason": "rejected"}), &["1", "3"]).await;
    check(json!({"reason": "max-attempts"}), &["2"]).await;
    check(json!({"reason": "expired"}), &[]).await;
    check(json!({"origin": "orders"}), &["1", "2", "3"]).await;
    check(json!({"origin": "audit"}), &[]).await;
    check(json!({"since": "2026-01-01T00:01:00Z"}), &["2", "3"]).await;
    check(json!({"until": "2026-01-01T00:01:00Z"}), &["1"]).await;
    check(json!({"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}), &[]).await;
    check(json!({"attributes": {"region": "us"}}), &["3"]).await;
    check(json!({"attributes": {"topic": "orders.new", "id": "2"}}), &["2"]).await;
    check(json!({"reason": "rejected", "since": "2026-01-01T00:01:00Z", "attributes": {"region": "us"}}), &["3"]).await;
    check(json!({"all": true, "reason": "rejected"}), &["1", "3"]).await;
}

#[tokio::test]
async fn a_filter_narrows_a_discard_and_a_list_of_positions() {
    let server = with_reasons().await;
    let page = server.get("/v1/queues/orders/dead").await.ok();
    let positions: Vec<_> = page["messages"].as_array().unwrap().iter().map(|item| &item["position"]).collect();
    let body = json!({"positions": positions, "reason": "max-attempts"}).to_string();
    assert_eq!(server.post("/v1/queues/orders/redrive", body).await.ok()["changed"], 1);
    let body = json!({"attributes": {"region": "us"}}).to_string();
    assert_eq!(server.post("/v1/queues/orders/discard", body).await.ok()["changed"], 1);
    assert_eq!(ids(&server.get("/v1/queues/orders/dead").await.ok()), ["1"]);
}

#[tokio::test]
async fn a_call_changes_no_more_than_it_is_asked_to() {
    let server = with_dead_letters(5).await;
    let mut changed = Vec::new();
    let mut after = Value::Null;
    for _ in 0..5 {
        let body = json!({"all": true, "max": 2, "after": after}).to_string();
        let done = server.post("/v1/queues/orders/redrive", body).await.ok();
        changed.push(done["changed"].as_u64().unwrap());
        after = done["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(changed[..2], [2, 2]);
    assert_eq!(changed.iter().sum::<u64>(), 5);
    assert_eq!(ids(&server.get("/v1/queues/orders/messages").await.ok()), ["1", "2", "3", "4", "5"]);
    let done = server.delete("/v1/queues/orders/messages?confirm=orders&max=3").await.ok();
    assert_eq!(done["changed"], 3);
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
    let shown = (&queue["declared"], &queue["dead_letter"], &queue["settings"]);
    assert_eq!(shown, (&json!(false), &Value::Null, &Value::Null));
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
    detail: say which dead letters: 'positions' with a list of numbers, 'reason', 'origin', 'since', 'until' or 'attributes', or 'all' with true
    code: invalid-request
    "#);
    assert_snapshot!(redrive(r#"{"all":true,"positions":[1]}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'positions' and 'all' are both given; only one of them is allowed
    code: invalid-request
    "#);
    assert_snapshot!(redrive(r#"{"reason":"bored"}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'reason': 'bored' is no reason of dead letters; there are max-attempts, rejected, route-failed, too-many-hops, max-age, expired and queue-full
    code: invalid-request
    "#);
    assert_snapshot!(redrive(r#"{"attributes":{"Subject":"s"}}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'attributes': no message has an attribute 'Subject': names are a-z and 0-9
    code: invalid-request
    "#);
    assert_snapshot!(redrive(r#"{"since":"yesterday"}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'since' is 'yesterday', which is not RFC 3339, such as 2026-01-31T12:00:00Z
    code: invalid-request
    "#);
    assert_snapshot!(redrive(r#"{"origin":"no queue"}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'origin': 'no queue' is not a queue name: it contains ' '; letters a-z and A-Z, digits, '.', '_' and '-' are allowed
    code: invalid-request
    "#);
    assert_snapshot!(redrive(r#"{"attributes":{"region":7}}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'attributes.region' is 7; a string is expected
    code: invalid-request
    "#);
    assert_snapshot!(redrive(r#"{"all":true,"max":0}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'max' is 0; 1 to 100000 are allowed
    code: invalid-request
    "#);
    let many: Vec<_> = (0..17).map(|number| (format!("a{number}"), Value::from("x"))).collect();
    let many = json!({"attributes": serde_json::Map::from_iter(many)}).to_string();
    assert_snapshot!(server.post("/v1/queues/orders/redrive", many).await.shown(), @r#"
    400
    title: The request is not valid
    detail: 'attributes' has 17 names; at most 16 are allowed
    code: invalid-request
    "#);
    let discard = server.post("/v1/queues/orders/discard", r#"{"all":true,"to":"audit"}"#).await.shown();
    assert_snapshot!(discard, @r#"
    400
    title: The request is not valid
    detail: 'to' goes with a redrive only: what is discarded goes nowhere
    code: invalid-request
    "#);
    assert_eq!(server.delete("/v1/queues/orders/messages?confirm=orders&max=all").await.code(), "invalid-request");
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
