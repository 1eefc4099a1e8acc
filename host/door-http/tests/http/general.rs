//! What stands before all paths: the token, unknown paths, wrong methods; and the small calls.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use insta::assert_snapshot;
use serde_json::json;

use crate::support::{options, server, server_with};

#[tokio::test]
async fn only_liveness_is_open_without_the_token() {
    let server = server_with(&options(Some("secret"))).await;
    assert_snapshot!(server.get("/v1/queues").await.shown(), @r#"
    401
    www-authenticate: Bearer realm="pelton"
    title: A bearer token is required
    detail: send the header 'Authorization: Bearer TOKEN' with the broker's token ([http] token)
    code: unauthorized
    "#);
    for path in ["/readyz", "/metrics", "/v1/nothing", "/v1/topics/orders.new"] {
        assert_eq!(server.get(path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(server.get("/healthz").await.status, StatusCode::OK);
    let shown = async |token: &'static str| {
        server.send(Method::GET, "/v1/queues", &[("authorization", token)], Body::empty()).await
    };
    assert_eq!(shown("Bearer secret").await.status, StatusCode::OK);
    assert_snapshot!(shown("Bearer secrets").await.shown(), @r#"
    401
    www-authenticate: Bearer realm="pelton"
    title: A bearer token is required
    detail: the bearer token is not the broker's ([http] token)
    code: unauthorized
    "#);
    assert_snapshot!(shown("Basic c2VjcmV0").await.shown(), @r#"
    401
    www-authenticate: Bearer realm="pelton"
    title: A bearer token is required
    detail: the header Authorization is not of the form 'Bearer TOKEN'
    code: unauthorized
    "#);
}

#[tokio::test]
async fn an_unknown_path_names_those_that_there_are() {
    let server = server().await;
    let answer = server.get("/v1/queue/orders").await;
    assert_snapshot!(answer.shown(), @r#"
    404
    title: There is no such path
    detail: there is no path '/v1/queue/orders'; 'paths' lists those that there are
    code: not-found
    paths: ["POST /v1/topics/{topic}","DELETE /v1/scheduled/{handle}","GET /v1/queues","GET /v1/queues/{queue}","GET /v1/queues/{queue}/messages","DELETE /v1/queues/{queue}/messages","POST /v1/queues/{queue}/pause","POST /v1/queues/{queue}/resume","POST /v1/queues/{queue}/lease","POST /v1/queues/{queue}/settle","POST /v1/queues/{queue}/extend","GET /v1/queues/{queue}/dead","GET /v1/queues/{queue}/dead/{id}","POST /v1/queues/{queue}/redrive","POST /v1/queues/{queue}/discard","GET /v1/consumers","POST /v1/consumers/{consumer}/pause","POST /v1/consumers/{consumer}/resume","POST /v1/consumers/{consumer}/reset","GET /v1/schedules","POST /v1/reload","GET /v1/backup","GET /healthz","GET /readyz","GET /metrics"]
    "#);
    for path in answer.json()["paths"].as_array().unwrap() {
        let (method, path) = path.as_str().unwrap().split_once(' ').unwrap();
        let path = path.replace("{topic}", "orders.new").replace("{queue}", "orders").replace("{id}", "1");
        let path = path.replace("{consumer}", "auditor").replace("{handle}", "1");
        let answer = server.send(method.parse().unwrap(), &path, &[], Body::empty()).await;
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert!(!answer.body.contains("not-found"), "{method} {path}");
    }
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let server = server().await;
    assert_snapshot!(server.get("/v1/topics/orders.new").await.shown(), @r#"
    405
    allow: POST
    title: The path does not take this method
    detail: '/v1/topics/orders.new' does not take GET; the header Allow names what it takes
    code: method-not-allowed
    "#);
    assert_snapshot!(server.post("/v1/queues/orders/messages", "{}").await.shown(), @r#"
    405
    allow: GET,HEAD,DELETE
    title: The path does not take this method
    detail: '/v1/queues/orders/messages' does not take POST; the header Allow names what it takes
    code: method-not-allowed
    "#);
}

#[tokio::test]
async fn consumers_show_their_state() {
    let server = server().await;
    let breaker = json!({"state": "closed", "since": null, "next_probe": null, "last_reason": null});
    let expected = json!({"consumers": [{
        "name": "auditor", "queue": "audit", "concurrency": 16, "state": "no-component", "paused": false, "breaker": breaker
    }]});
    assert_eq!(server.get("/v1/consumers").await.ok(), expected);
}

#[tokio::test]
async fn metrics_are_open_metrics() {
    let answer = server().await.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
}
