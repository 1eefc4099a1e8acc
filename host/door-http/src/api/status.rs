//! Liveness, readiness and metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use pelton_core::engine::Health;
use serde_json::json;

use super::Shared;
use crate::problem::{Code, Problem};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// 200 while the process lives.
pub(super) async fn alive() -> Response {
    super::json(&json!({"status": "alive"}), 32)
}

/// 200 when messages are accepted.
pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    if shared.is_stopping() {
        return Err(Problem::new(Code::NotReady, "the broker is stopping"));
    }
    let health = shared.broker.health().borrow().clone();
    match health {
        Health::Ready => Ok(super::json(&json!({"status": "ready"}), 32)),
        Health::Full => Ok(super::json(&json!({"status": "full"}), 32)),
        Health::Recovering => Err(Problem::new(Code::NotReady, "storage is being reopened after a failure; wait")),
        Health::Failed(reason) => Err(Problem::new(Code::NotReady, format!("storage has stopped for good: {reason}"))),
    }
}

/// Everything that is counted, as OpenMetrics text.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = shared.broker.metrics().encode(&shared.broker.counts(), shared.broker.clock().wall().0);
    ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}
