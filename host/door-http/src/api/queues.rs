//! What there is: queues with their figures, consumers with their state.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use pelton_core::broker::{ConsumerState, QueueStatus};
use pelton_core::clock::WallMs;
use serde::Serialize;

use super::{Shared, json};
use crate::input::{InPath, Parameters};
use crate::problem::Problem;

#[derive(Serialize)]
struct QueueJson<'a> {
    name: &'a str,
    declared: bool,
    ready: u64,
    leased: u64,
    scheduled: u64,
    dead: u64,
    bytes: u64,
    /// None when nothing is ready or leased.
    oldest_age_ms: Option<u64>,
    dead_letter: Option<&'a str>,
}

impl<'a> QueueJson<'a> {
    fn new(status: &'a QueueStatus, now: WallMs) -> Self {
        let counts = &status.counts;
        Self {
            name: counts.name.as_str(),
            declared: counts.declared,
            ready: counts.ready,
            leased: counts.leased,
            scheduled: counts.scheduled,
            dead: status.dead,
            bytes: counts.bytes,
            oldest_age_ms: counts.oldest.map(|oldest| now.0.saturating_sub(oldest.0)),
            dead_letter: status.dead_letter.as_ref().map(|name| name.as_str()),
        }
    }
}

pub(super) async fn list(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Answer<'a> {
        queues: Vec<QueueJson<'a>>,
    }
    Parameters::none(&uri)?;
    let now = shared.broker.clock().wall();
    let queues = shared.broker.queues();
    let queues: Vec<_> = queues.iter().map(|queue| QueueJson::new(queue, now)).collect();
    Ok(json(&Answer { queues }, 1024))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    Parameters::none(&uri)?;
    let status = shared.broker.queue(&queue)?;
    Ok(json(&QueueJson::new(&status, shared.broker.clock().wall()), 256))
}

#[derive(Serialize)]
struct ConsumerJson {
    name: String,
    queue: String,
    concurrency: usize,
    /// `ready`, or `no-component` while it has none and its messages wait.
    state: &'static str,
    /// SHA-256 of the component that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

pub(super) async fn consumers(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Answer {
        consumers: Vec<ConsumerJson>,
    }
    Parameters::none(&uri)?;
    let consumers = shared.broker.consumers().into_iter().map(|consumer| {
        let (state, digest) = match consumer.state {
            ConsumerState::Ready(digest) => ("ready", Some(digest.to_string())),
            ConsumerState::NoComponent => ("no-component", None),
        };
        let (name, queue) = (consumer.name.to_string(), consumer.queue.to_string());
        ConsumerJson { name, queue, concurrency: consumer.concurrency, state, digest }
    });
    Ok(json(&Answer { consumers: consumers.collect() }, 1024))
}
