//! Pull consumers: lease, settle, extend, and what goes wrong with leases.

use std::time::Duration;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::support::{Server, server};

async fn settle(server: &Server, items: Value) -> crate::support::Answer {
    server.post("/v1/queues/orders/settle", json!({"settlements": items}).to_string()).await
}

async fn figures(server: &Server) -> (u64, u64, u64, u64) {
    let queue = server.get("/v1/queues/orders").await.ok();
    let figure = |name: &str| queue[name].as_u64().unwrap();
    (figure("ready"), figure("leased"), figure("scheduled"), figure("dead"))
}

#[tokio::test]
async fn a_lease_shows_the_message_and_settles_it() {
    let server = server().await;
    server.publish("orders.new", "1", r#","data":{"a":1}"#).await;
    let leased = server.post("/v1/queues/orders/lease", "").await.ok();
    let token = leased["messages"][0]["token"].as_str().unwrap().to_owned();
    let message = json!({"specversion": "1.0", "id": "1", "source": "/test", "type": "t", "data": {"a": 1}});
    let expected = json!({"messages": [
        {"token": token, "topic": "orders.new", "attempt": 1, "accepted": "2026-01-01T00:00:00.000Z", "message": message}
    ]});
    assert_eq!(leased, expected);
    assert_eq!(figures(&server).await, (0, 1, 0, 0));
    let settled = settle(&server, json!([{"token": token, "outcome": "ack"}])).await.ok();
    assert_eq!(settled, json!({"results": [{"token": token, "result": "settled"}]}));
    assert_eq!(figures(&server).await, (0, 0, 0, 0));
}

#[tokio::test]
async fn outcomes_do_what_they_say() {
    let server = server().await;
    for id in ["1", "2", "3"] {
        server.publish("orders.new", id, "").await;
    }
    let tokens = server.lease(10).await;
    let items = json!([
        {"token": tokens[0], "outcome": "ack"},
        {"token": tokens[1], "outcome": "retry", "after": "5s", "reason": "closed"},
        {"token": tokens[2], "outcome": "reject", "reason": "no order"},
    ]);
    settle(&server, items).await.ok();
    assert_eq!(figures(&server).await, (0, 0, 1, 1));
    server.clock.advance(Duration::from_millis(4_999));
    assert_eq!(server.lease(10).await.len(), 0);
    server.clock.advance(Duration::from_millis(1));
    let tokens = server.lease(10).await;
    assert_eq!(tokens.len(), 1);
    // The second of two attempts: it is dead now.
    settle(&server, json!([{"token": tokens[0], "outcome": "retry"}])).await.ok();
    assert_eq!(figures(&server).await, (0, 0, 0, 2));
}

#[tokio::test]
async fn a_lease_waits_for_a_message() {
    let server = server().await;
    let waiting = server.post("/v1/queues/orders/lease", r#"{"max":5,"wait":"20s"}"#);
    let publishing = async {
        tokio::task::yield_now().await;
        server.publish("orders.new", "1", "").await;
    };
    let (leased, ()) = tokio::join!(waiting, publishing);
    assert_eq!(leased.ok()["messages"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_lease_ends_with_its_wait_and_with_the_door() {
    let server = server().await;
    let waiting = server.post("/v1/queues/orders/lease", r#"{"wait":"20s"}"#);
    let passing = async {
        tokio::task::yield_now().await;
        server.clock.advance(Duration::from_secs(20));
    };
    let (leased, ()) = tokio::join!(waiting, passing);
    assert_eq!(leased.ok(), json!({"messages": []}));
    let waiting = server.post("/v1/queues/orders/lease", r#"{"wait":"20s"}"#);
    let stopping = async {
        tokio::task::yield_now().await;
        server.stop.send_replace(true);
    };
    let (leased, ()) = tokio::join!(waiting, stopping);
    assert_eq!(leased.ok(), json!({"messages": []}));
}

#[tokio::test]
async fn many_messages_are_leased_at_once() {
    let server = server().await;
    for id in 0..40 {
        server.publish("orders.new", &id.to_string(), "").await;
    }
    assert_eq!(server.lease(39).await.len(), 39);
    assert_eq!(server.lease(39).await.len(), 1);
}

#[tokio::test]
async fn settling_twice_or_too_late() {
    let server = server().await;
    server.publish("orders.new", "1", "").await;
    let token = &server.lease(1).await[0];
    settle(&server, json!([{"token": token, "outcome": "ack"}])).await.ok();
    assert_snapshot!(settle(&server, json!([{"token": token, "outcome": "ack"}])).await.shown(), @r#"
    409
    title: The lease was settled before
    detail: the lease was settled before; nothing was changed
    code: already-settled
    "#);
    server.publish("orders.new", "2", "").await;
    let token = &server.lease(1).await[0];
    server.clock.advance(Duration::from_secs(31));
    assert_snapshot!(settle(&server, json!([{"token": token, "outcome": "ack"}])).await.shown(), @r#"
    409
    title: The lease ran out
    detail: the lease ran out, so the message is available to others again; nothing was settled
    code: lease-lost
    "#);
}

#[tokio::test]
async fn an_extended_lease_lasts_longer() {
    let server = server().await;
    server.publish("orders.new", "1", "").await;
    let token = &server.lease(1).await[0];
    let body = json!({"leases": [{"token": token, "ttl": "2m"}]}).to_string();
    let extended = server.post("/v1/queues/orders/extend", body.clone()).await.ok();
    assert_eq!(extended, json!({"results": [{"token": token, "result": "extended"}]}));
    server.clock.advance(Duration::from_secs(119));
    settle(&server, json!([{"token": token, "outcome": "ack"}])).await.ok();
    assert_eq!(server.post("/v1/queues/orders/extend", body).await.code(), "already-settled");
}

#[tokio::test]
async fn a_lease_that_ran_out_is_not_extended() {
    let server = server().await;
    server.publish("orders.new", "1", "").await;
    let token = &server.lease(1).await[0];
    server.clock.advance(Duration::from_secs(31));
    let body = json!({"leases": [{"token": token}]}).to_string();
    assert_snapshot!(server.post("/v1/queues/orders/extend", body).await.shown(), @r#"
    409
    title: The lease ran out
    detail: the lease is not in force any more: it ran out, was settled, or the broker restarted; nothing was done
    code: lease-lost
    "#);
}

#[tokio::test]
async fn one_bad_lease_does_not_hold_up_the_others() {
    let server = server().await;
    server.publish("orders.new", "1", "").await;
    server.publish("audit.x", "2", r#","subject":"yes""#).await;
    let other = server.post("/v1/queues/audit/lease", "{}").await.ok()["messages"][0]["token"].clone();
    let token = &server.lease(1).await[0];
    let items = json!([
        {"token": "nonsense", "outcome": "ack"},
        {"token": token, "outcome": "ack"},
        {"token": other, "outcome": "ack"},
    ]);
    let results = settle(&server, items).await.ok();
    let codes: Vec<_> = results["results"].as_array().unwrap().iter().map(|result| result["code"].as_str()).collect();
    assert_eq!(codes, [Some("invalid-token"), None, Some("wrong-queue")]);
    assert_eq!(server.get("/v1/queues/audit").await.ok()["leased"], 1, "the other queue's lease still stands");
}

#[tokio::test]
async fn when_all_leases_are_bad_it_is_a_problem() {
    let server = server().await;
    server.publish("audit.x", "2", r#","subject":"yes""#).await;
    let mut settings = insta::Settings::clone_current();
    settings.add_filter("([0-9a-f]+-){4,}[0-9a-f]{16}", "TOKEN");
    let other = server.post("/v1/queues/audit/lease", "{}").await.ok()["messages"][0]["token"].clone();
    let one = settle(&server, json!([{"token": other, "outcome": "ack"}])).await.shown();
    let two =
        settle(&server, json!([{"token": "x", "outcome": "ack"}, {"token": other, "outcome": "ack"}])).await.shown();
    settings.bind(|| {
        assert_snapshot!(one, @r#"
        400
        title: The lease belongs to another queue
        detail: the lease is not on queue 'orders'; settle it where it was leased
        code: wrong-queue
        "#);
        assert_snapshot!(two, @r#"
        400
        title: The lease token is not valid
        detail: 'x' is not a lease token; use the text that `lease` returned, unchanged
        code: invalid-token
        results: [{"code":"invalid-token","detail":"'x' is not a lease token; use the text that `lease` returned, unchanged","result":"failed","token":"x"},{"code":"wrong-queue","detail":"the lease is not on queue 'orders'; settle it where it was leased","result":"failed","token":"TOKEN"}]
        "#);
    });
}

#[tokio::test]
async fn bad_requests() {
    let server = server().await;
    let lease = async |body: &'static str| server.post("/v1/queues/orders/lease", body).await.shown();
    assert_snapshot!(lease(r#"{"max":0}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'max' is 0; 1 to 1000 are allowed
    code: invalid-request
    "#);
    assert_snapshot!(lease(r#"{"wait":"61s"}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'wait' is 61s; 0s to 1m are allowed
    code: invalid-request
    "#);
    assert_snapshot!(lease(r#"{"ttl":"soon"}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'ttl' is 'soon', which is not a duration such as "30s" or "500ms": expected number at 0
    code: invalid-request
    "#);
    assert_snapshot!(lease(r#"{"limit":1}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'limit' is unknown; known are 'max', 'wait', 'ttl'
    code: invalid-request
    "#);
    assert_snapshot!(lease(r#"[1]"#).await, @r#"
    400
    title: The request is not valid
    detail: the body is a list; an object is expected, with 'max', 'wait', 'ttl'
    code: invalid-request
    "#);
    assert_snapshot!(lease(r#"{"max":"1"}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'max' is the string "1"; a whole number from 0 is expected
    code: invalid-request
    "#);
    assert_snapshot!(server.post("/v1/queues/orders/lease?max=10", "{}").await.shown(), @r#"
    400
    title: The request is not valid
    detail: the parameter 'max' is unknown; this call takes none
    code: invalid-request
    "#);
    assert_snapshot!(lease(r#"{"max":1"#).await, @r#"
    400
    title: The body is not JSON
    detail: the body is not JSON: EOF while parsing an object at line 1 column 8
    code: invalid-json
    column: 8
    line: 1
    "#);
    let settle = async |body: &'static str| server.post("/v1/queues/orders/settle", body).await.shown();
    assert_snapshot!(settle(r#"{"settlements":[]}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'settlements' is empty; name at least one lease
    code: invalid-request
    "#);
    assert_snapshot!(settle(r#"{"settlements":[{"token":"x","outcome":"done"}]}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'settlements[0].outcome' is the string "done"; one of "ack", "retry", "reject" is expected
    code: invalid-request
    "#);
    assert_snapshot!(settle(r#"{"settlements":[{"token":"x","outcome":"ack","after":"1s"}]}"#).await, @r#"
    400
    title: The request is not valid
    detail: 'after' goes with the outcome 'retry' only
    code: invalid-request
    index: 0
    "#);
    assert_snapshot!(server.post("/v1/queues/order/lease", "{}").await.shown(), @r#"
    404
    title: There is no such queue
    detail: there is no queue 'order'; did you mean 'orders'? (GET /v1/queues lists them)
    code: unknown-queue
    nearest: "orders"
    "#);
}
