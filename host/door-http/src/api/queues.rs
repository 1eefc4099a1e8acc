//! What there is: queues with their figures, consumers with their state, schedules with their times.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use pelton_core::broker::{ConsumerState, ConsumerStatus, QueueStatus, ScheduleStatus};
use pelton_core::clock::WallMs;
use pelton_core::dispatch::BreakerStatus;
use pelton_core::engine::{Expired, Order, Overflow};
use pelton_core::plan::{Plan, QueuePlan};
use pelton_core::retry::Backoff;
use pelton_core::schedule::Missed;
use serde::Serialize;

use super::{Shared, json, rfc3339};
use crate::input::{InPath, Parameters, spelled};
use crate::problem::Problem;

#[derive(Serialize)]
struct QueueJson<'a> {
    name: &'a str,
    declared: bool,
    paused: bool,
    full: bool,
    ready: u64,
    leased: u64,
    scheduled: u64,
    dead: u64,
    bytes: u64,
    /// None when nothing is ready or leased.
    oldest_age_ms: Option<u64>,
    dropped: u64,
    expired: u64,
    dead_letter: Option<&'a str>,
    /// None for a queue that broker.toml no longer names.
    settings: Option<SettingsJson<'a>>,
}

impl<'a> QueueJson<'a> {
    fn new(status: &'a QueueStatus, plan: &'a Plan, now: WallMs) -> Self {
        let counts = &status.counts;
        let planned = plan.queues.iter().find(|planned| planned.name == counts.name);
        Self {
            name: counts.name.as_str(),
            declared: counts.declared,
            paused: counts.paused,
            full: counts.full,
            ready: counts.ready,
            leased: counts.leased,
            scheduled: counts.scheduled,
            dead: status.dead,
            bytes: counts.bytes,
            oldest_age_ms: counts.oldest.map(|oldest| now.0.saturating_sub(oldest.0)),
            dropped: counts.dropped,
            expired: counts.expired,
            dead_letter: status.dead_letter.as_ref().map(|name| name.as_str()),
            settings: planned.map(SettingsJson::new),
        }
    }
}

/// What broker.toml says of a queue, its defaults filled in.
#[derive(Serialize)]
struct SettingsJson<'a> {
    order: &'static str,
    /// None unless the order is by key.
    key: Option<&'a str>,
    priority: bool,
    ttl: Option<String>,
    expired: &'static str,
    max_messages: Option<u64>,
    max_bytes: Option<u64>,
    overflow: &'static str,
    max_attempts: u32,
    max_age: Option<String>,
    backoff: BackoffJson,
}

#[derive(Serialize)]
struct BackoffJson {
    initial: String,
    factor: f64,
    max: String,
    jitter: f64,
}

impl BackoffJson {
    fn new(backoff: &Backoff) -> Self {
        let Backoff { initial, factor, max, jitter } = *backoff;
        Self { initial: spelled(initial), factor, max: spelled(max), jitter }
    }
}

impl<'a> SettingsJson<'a> {
    fn new(queue: &'a QueuePlan) -> Self {
        let by_key = queue.order == Order::Key;
        Self {
            order: if by_key { "key" } else { "arrival" },
            key: by_key.then_some(&*queue.key),
            priority: queue.priority,
            ttl: queue.ttl.map(spelled),
            expired: match queue.expired {
                Expired::DeadLetter => "dead-letter",
                Expired::Drop => "drop",
            },
            max_messages: queue.bounds.messages_max,
            max_bytes: queue.bounds.bytes_max,
            overflow: match queue.bounds.overflow {
                Overflow::Refuse => "refuse",
                Overflow::DropOldest => "drop-oldest",
                Overflow::DeadLetter => "dead-letter",
            },
            max_attempts: queue.retry.max_attempts,
            max_age: queue.retry.max_age.map(spelled),
            backoff: BackoffJson::new(&queue.retry.backoff),
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
    let (queues, plan) = (shared.broker.queues(), shared.broker.plan());
    let queues: Vec<_> = queues.iter().map(|queue| QueueJson::new(queue, &plan, now)).collect();
    let bytes_hint = 64 + 512 * queues.len();
    Ok(json(&Answer { queues }, bytes_hint))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    Parameters::none(&uri)?;
    let (status, plan) = (shared.broker.queue(&queue)?, shared.broker.plan());
    Ok(json(&QueueJson::new(&status, &plan, shared.broker.clock().wall()), 512))
}

#[derive(Serialize)]
struct ConsumerJson {
    name: String,
    queue: String,
    concurrency: usize,
    /// `ready`, or `no-component` while it has none and its messages wait.
    state: &'static str,
    paused: bool,
    /// SHA-256 of the component that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// None where it is switched off.
    breaker: Option<BreakerJson>,
}

#[derive(Serialize)]
struct BreakerJson {
    state: &'static str,
    since: Option<String>,
    next_probe: Option<String>,
    last_reason: Option<String>,
}

impl BreakerJson {
    fn new(status: BreakerStatus) -> Self {
        let BreakerStatus { state, since, next_probe, last_reason } = status;
        Self { state: state.as_str(), since: since.map(rfc3339), next_probe: next_probe.map(rfc3339), last_reason }
    }
}

impl ConsumerJson {
    fn new(status: ConsumerStatus) -> Self {
        let ConsumerStatus { name, queue, concurrency, state, paused, breaker } = status;
        let (state, digest) = match state {
            ConsumerState::Ready(digest) => ("ready", Some(digest.to_string())),
            ConsumerState::NoComponent => ("no-component", None),
        };
        let (name, queue) = (name.to_string(), queue.to_string());
        Self { name, queue, concurrency, state, paused, digest, breaker: breaker.map(BreakerJson::new) }
    }
}

pub(super) async fn consumers(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Answer {
        consumers: Vec<ConsumerJson>,
    }
    Parameters::none(&uri)?;
    let consumers: Vec<_> = shared.broker.consumers().into_iter().map(ConsumerJson::new).collect();
    let bytes_hint = 64 + 256 * consumers.len();
    Ok(json(&Answer { consumers }, bytes_hint))
}

#[derive(Serialize)]
struct ScheduleJson<'a> {
    name: &'a str,
    cron: &'a str,
    time_zone: &'a str,
    topic: &'a str,
    /// What becomes of ticks that nobody was there for.
    missed: &'static str,
    /// When it ticked last; none before the first time.
    last: Option<String>,
    /// When it ticks next; none when never again.
    next: Option<String>,
}

impl<'a> ScheduleJson<'a> {
    fn new(status: &'a ScheduleStatus) -> Self {
        let ScheduleStatus { plan, last, next } = status;
        Self {
            name: plan.name.as_str(),
            cron: plan.times.cron(),
            time_zone: plan.times.zone(),
            topic: plan.topic.as_str(),
            missed: match plan.missed {
                Missed::Once => "once",
                Missed::Skip => "skip",
                Missed::All => "all",
            },
            last: last.map(rfc3339),
            next: next.map(rfc3339),
        }
    }
}

pub(super) async fn schedules(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Answer<'a> {
        schedules: Vec<ScheduleJson<'a>>,
    }
    Parameters::none(&uri)?;
    let schedules = shared.broker.schedules();
    let schedules: Vec<_> = schedules.iter().map(ScheduleJson::new).collect();
    let bytes_hint = 64 + 256 * schedules.len();
    Ok(json(&Answer { schedules }, bytes_hint))
}
