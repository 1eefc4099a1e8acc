//! What operators do to a running broker: pausing and resuming, closing a breaker, reading the configuration again.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use pelton_core::dispatch::BreakerState;
use pelton_core::operator::Reloaded;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Shared, json};
use crate::input::{InPath, command, invalid};
use crate::problem::Problem;

#[derive(Serialize)]
struct QueuePaused<'a> {
    queue: &'a str,
    paused: bool,
}

#[derive(Serialize)]
struct ConsumerPaused<'a> {
    consumer: &'a str,
    paused: bool,
}

/// Checks that a call without a body has none, but for an empty object.
async fn nothing(shared: &Shared, request: Request<Body>) -> Result<(), Problem> {
    let received = command(shared, request).await?;
    let body = received.bytes.trim_ascii();
    if body.is_empty() || serde_json::from_slice(body).is_ok_and(|object: Map<String, Value>| object.is_empty()) {
        return Ok(());
    }
    Err(invalid("this call takes no body"))
}

/// Carries `work` through, also when the caller hangs up: half of it is stored and half of it is in memory.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels it, and then this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

pub(super) async fn pause_queue(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    set_queue(&shared, &queue, request, true).await
}

pub(super) async fn resume_queue(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    set_queue(&shared, &queue, request, false).await
}

async fn set_queue(shared: &Shared, queue: &str, request: Request<Body>, paused: bool) -> Result<Response, Problem> {
    nothing(shared, request).await?;
    shared.broker.pause_queue(queue, paused).await?;
    Ok(json(&QueuePaused { queue, paused }, 64))
}

pub(super) async fn pause_consumer(
    State(shared): State<Arc<Shared>>,
    InPath(consumer): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    set_consumer(&shared, &consumer, request, true).await
}

pub(super) async fn resume_consumer(
    State(shared): State<Arc<Shared>>,
    InPath(consumer): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    set_consumer(&shared, &consumer, request, false).await
}

async fn set_consumer(
    shared: &Shared,
    consumer: &str,
    request: Request<Body>,
    paused: bool,
) -> Result<Response, Problem> {
    nothing(shared, request).await?;
    let (broker, name) = (shared.broker.clone(), consumer.to_owned());
    to_the_end(async move { broker.pause_consumer(&name, paused).await }).await?;
    Ok(json(&ConsumerPaused { consumer, paused }, 64))
}

pub(super) async fn reset(
    State(shared): State<Arc<Shared>>,
    InPath(consumer): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Answer<'a> {
        consumer: &'a str,
        /// Closed now; none where the consumer has no breaker.
        breaker: Option<&'static str>,
    }
    nothing(&shared, request).await?;
    let has_breaker = shared.broker.reset_breaker(&consumer)?;
    let breaker = has_breaker.then_some(BreakerState::Closed.as_str());
    Ok(json(&Answer { consumer: &consumer, breaker }, 64))
}

#[derive(Serialize)]
struct ReloadedJson {
    changes: Vec<String>,
    at_next_start: Vec<String>,
    warnings: Vec<String>,
}

pub(super) async fn reload(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Result<Response, Problem> {
    nothing(&shared, request).await?;
    let broker = shared.broker.clone();
    let reloaded = to_the_end(async move { broker.reload().await }).await?;
    let Reloaded { changes, at_next_start, warnings } = reloaded;
    Ok(json(&ReloadedJson { changes, at_next_start, warnings }, 512))
}
