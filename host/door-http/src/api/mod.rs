//! The paths of the API and what stands before all of them: the token, and an answer for what does not exist.

mod backup;
mod bulk;
mod fill;
mod lease;
mod operate;
mod peek;
mod publish;
mod queues;
mod scheduled;
mod status;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use pelton_core::broker::Broker;
use serde::Serialize;
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::auth::Guard;
use crate::body::{Budget, refuse};
use crate::door::HttpOptions;
use crate::problem::{Code, Problem};

/// The API as a service of requests, without a socket. Clones are the same API.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
    router: Router,
}

/// What all handlers share.
pub(crate) struct Shared {
    pub(crate) broker: Broker,
    pub(crate) budget: Budget,
    request_bytes_max: u64,
    guard: Guard,
    stop: watch::Receiver<bool>,
}

/// Open without a token: whoever watches the process need not know it.
const LIVENESS: &str = "/healthz";

/// Every path with its methods, for whoever missed them. A test asserts that each exists.
pub(crate) const PATHS: [(&str, &str); 25] = [
    ("POST", "/v1/topics/{topic}"),
    ("DELETE", "/v1/scheduled/{handle}"),
    ("GET", "/v1/queues"),
    ("GET", "/v1/queues/{queue}"),
    ("GET", "/v1/queues/{queue}/messages"),
    ("DELETE", "/v1/queues/{queue}/messages"),
    ("POST", "/v1/queues/{queue}/pause"),
    ("POST", "/v1/queues/{queue}/resume"),
    ("POST", "/v1/queues/{queue}/lease"),
    ("POST", "/v1/queues/{queue}/settle"),
    ("POST", "/v1/queues/{queue}/extend"),
    ("GET", "/v1/queues/{queue}/dead"),
    ("GET", "/v1/queues/{queue}/dead/{id}"),
    ("POST", "/v1/queues/{queue}/redrive"),
    ("POST", "/v1/queues/{queue}/discard"),
    ("GET", "/v1/consumers"),
    ("POST", "/v1/consumers/{consumer}/pause"),
    ("POST", "/v1/consumers/{consumer}/resume"),
    ("POST", "/v1/consumers/{consumer}/reset"),
    ("GET", "/v1/schedules"),
    ("POST", "/v1/reload"),
    ("GET", "/v1/backup"),
    ("GET", LIVENESS),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
];

impl Api {
    /// The API over `broker`. Once `stop` turns true, long polls answer at once.
    #[must_use]
    pub fn new(broker: Broker, options: &HttpOptions, stop: watch::Receiver<bool>) -> Self {
        let shared = Arc::new(Shared {
            broker,
            budget: Budget::new(options.request_bytes_max),
            request_bytes_max: options.request_bytes_max,
            guard: Guard::new(options.token.clone()),
            stop,
        });
        Self { router: router(shared.clone()), shared }
    }

    /// The answer to one request.
    pub async fn respond(&self, request: Request<Body>) -> Response {
        if request.uri().path() != LIVENESS
            && let Err(problem) = self.shared.guard.check(request.headers())
        {
            let (head, body) = request.into_parts();
            return refuse(&head.headers, body, problem);
        }
        self.router.clone().oneshot(request).await.unwrap_or_else(|never: Infallible| match never {})
    }
}

impl Shared {
    /// Waits until the door is told to stop; a door whose owner is gone is one that stops.
    async fn stopped(&self) {
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/topics/{topic}", post(publish::publish))
        .route("/v1/scheduled/{handle}", delete(scheduled::cancel))
        .route("/v1/queues", get(queues::list))
        .route("/v1/queues/{queue}", get(queues::show))
        .route("/v1/queues/{queue}/messages", get(peek::messages).delete(bulk::purge))
        .route("/v1/queues/{queue}/pause", post(operate::pause_queue))
        .route("/v1/queues/{queue}/resume", post(operate::resume_queue))
        .route("/v1/queues/{queue}/lease", post(lease::lease))
        .route("/v1/queues/{queue}/settle", post(lease::settle))
        .route("/v1/queues/{queue}/extend", post(lease::extend))
        .route("/v1/queues/{queue}/dead", get(peek::dead))
        .route("/v1/queues/{queue}/dead/{id}", get(peek::dead_one))
        .route("/v1/queues/{queue}/redrive", post(bulk::redrive))
        .route("/v1/queues/{queue}/discard", post(bulk::discard))
        .route("/v1/consumers", get(queues::consumers))
        .route("/v1/consumers/{consumer}/pause", post(operate::pause_consumer))
        .route("/v1/consumers/{consumer}/resume", post(operate::resume_consumer))
        .route("/v1/consumers/{consumer}/reset", post(operate::reset))
        .route("/v1/schedules", get(queues::schedules))
        .route("/v1/reload", post(operate::reload))
        .route("/v1/backup", get(backup::backup))
        .route(LIVENESS, get(status::alive))
        .route("/readyz", get(status::ready))
        .route("/metrics", get(status::metrics))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(shared)
}

async fn not_found(uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let paths: Vec<String> = PATHS.iter().map(|(method, path)| format!("{method} {path}")).collect();
    let detail = format!("there is no path '{}'; 'paths' lists those that there are", shorten(uri.path()));
    refuse(&headers, body, Problem::new(Code::NotFound, detail).with("paths", paths))
}

/// The router adds the header Allow to this answer.
async fn method_not_allowed(method: Method, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let detail = format!("'{}' does not take {method}; the header Allow names what it takes", shorten(uri.path()));
    refuse(&headers, body, Problem::new(Code::MethodNotAllowed, detail))
}

fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The answer 200 with `value` as JSON; `bytes_hint` is about how long that is.
fn json(value: &impl Serialize, bytes_hint: usize) -> Response {
    let mut body = Vec::with_capacity(bytes_hint);
    match serde_json::to_writer(&mut body, value) {
        Ok(()) => ([(CONTENT_TYPE, JSON)], body).into_response(),
        // Only a map with keys that are no text could fail, and there is none.
        Err(error) => Problem::new(Code::Corrupt, format!("the answer can't be written: {error}")).into_response(),
    }
}

/// A moment as RFC 3339 with milliseconds.
fn rfc3339(moment: pelton_core::clock::WallMs) -> String {
    let ms = i64::try_from(moment.0).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    format!("{timestamp:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_path() {
        let reference = include_str!("../../API.md");
        for (method, path) in PATHS {
            assert!(reference.contains(path), "API.md does not know {method} {path}");
        }
    }
}
