//! Looking at messages without leasing them: a queue's, its dead letters, and one dead letter with its history.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use pelton_core::clock::WallMs;
use pelton_core::engine::{Attempt, Cursor, DeadLetter, Position, Stored};
use serde::Serialize;

use super::fill::{Fill, Steps};
use super::{Shared, json, rfc3339};
use crate::event::MessageJson;
use crate::input::{InPath, Parameters};
use crate::limits::{DEAD_SCAN_MAX, PAGE_MAX};
use crate::problem::{Code, Problem};

/// The due time of a message that is held until somebody acts.
const HELD: WallMs = WallMs(u64::MAX);

#[derive(Serialize)]
struct StoredJson<'a> {
    position: u64,
    topic: &'a str,
    /// Of a dead letter those that it died of, which are its history; otherwise those in the queue where it lies.
    attempts: usize,
    accepted: String,
    /// When it may be delivered, or tried again; none: now, or never by itself when it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<String>,
    /// After this time it is not delivered any more; none: it does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    priority: u8,
    /// Nothing happens to it until somebody acts.
    held: bool,
    leased: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: Option<DeadJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<AttemptJson<'a>>>,
    message: MessageJson<'a>,
}

#[derive(Serialize)]
struct DeadJson<'a> {
    origin: &'a str,
    at: String,
    code: &'static str,
    detail: &'a str,
}

#[derive(Serialize)]
struct AttemptJson<'a> {
    number: u32,
    at: String,
    outcome: &'a str,
    reason: &'a str,
    duration_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    log_tail: &'a str,
}

impl<'a> StoredJson<'a> {
    fn new(stored: &'a Stored) -> Self {
        Self {
            position: stored.position.0,
            topic: stored.topic.as_str(),
            attempts: if stored.dead.is_some() { stored.history.len() } else { stored.attempts as usize },
            accepted: rfc3339(stored.accepted),
            due: stored.due.filter(|due| *due != HELD).map(rfc3339),
            expires: stored.expires.map(rfc3339),
            priority: stored.priority,
            held: stored.due == Some(HELD),
            leased: stored.leased,
            dead: stored.dead.as_ref().map(DeadJson::new),
            history: None,
            message: MessageJson(&stored.message),
        }
    }

    fn with_history(stored: &'a Stored) -> Self {
        Self { history: Some(stored.history.iter().map(AttemptJson::new).collect()), ..Self::new(stored) }
    }
}

impl<'a> DeadJson<'a> {
    fn new(dead: &'a DeadLetter) -> Self {
        let DeadLetter { origin, at, reason } = dead;
        Self { origin: origin.as_str(), at: rfc3339(*at), code: reason.code.as_str(), detail: &reason.detail }
    }
}

impl<'a> AttemptJson<'a> {
    fn new(attempt: &'a Attempt) -> Self {
        Self {
            number: attempt.number,
            at: rfc3339(WallMs(attempt.at_ms)),
            outcome: &attempt.outcome,
            reason: &attempt.reason,
            duration_us: attempt.duration_us,
            digest: attempt.digest.as_deref(),
            log_tail: &attempt.log_tail,
        }
    }
}

pub(super) async fn messages(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    page(&shared, &queue, &uri).await
}

pub(super) async fn dead(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let dead_letters = shared.broker.dead_letter_queue(&queue)?;
    page(&shared, dead_letters.as_str(), &uri).await
}

async fn page(shared: &Shared, queue: &str, uri: &Uri) -> Result<Response, Problem> {
    let (max, mut after) = Parameters::of(uri, &["max", "after"])?.page()?;
    let mut fill = Fill::new(max, shared.broker.plan().broker.message_bytes_max);
    while let Some(step) = fill.next_step() {
        let page = shared.broker.browse(queue, after, step).await?;
        page.items.iter().try_for_each(|stored| fill.push(&StoredJson::new(stored)))?;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    fill.finish(after.as_ref())
}

pub(super) async fn dead_one(
    State(shared): State<Arc<Shared>>,
    InPath((queue, id)): InPath<(String, String)>,
    uri: Uri,
) -> Result<Response, Problem> {
    Parameters::none(&uri)?;
    let dead_letters = shared.broker.dead_letter_queue(&queue)?;
    match find(&shared, dead_letters.as_str(), &id).await? {
        Some(stored) => Ok(json(&StoredJson::with_history(&stored), 4096)),
        None => {
            let detail = format!(
                "queue '{dead_letters}' holds no dead letter with the position or id '{}' among its first {DEAD_SCAN_MAX}",
                super::shorten(&id)
            );
            Err(Problem::new(Code::UnknownMessage, detail))
        }
    }
}

/// The message at the position that `id` spells or, where there is none, the first whose id it is.
async fn find(shared: &Shared, queue: &str, id: &str) -> Result<Option<Stored>, Problem> {
    let position: Option<u64> = id.parse().ok();
    if let Some(position) = position
        && let Some(stored) = shared.broker.dead_letter(queue, Position(position)).await?
    {
        return Ok(Some(stored));
    }
    // The search also finds, by its position, what waits for its time.
    let mut by_id = None;
    let mut after: Option<Cursor> = None;
    let mut steps = Steps::new(DEAD_SCAN_MAX, shared.broker.plan().broker.message_bytes_max);
    while let Some(step) = steps.next() {
        let page = shared.broker.browse(queue, after, step.min(PAGE_MAX)).await?;
        for stored in page.items {
            steps.took(stored.message.as_bytes().len());
            if Some(stored.position.0) == position {
                return Ok(Some(stored));
            }
            if by_id.is_none() && stored.message.id() == id {
                by_id = Some(stored);
            }
        }
        let is_found = by_id.is_some() && position.is_none();
        after = page.next;
        if is_found || after.is_none() {
            break;
        }
        steps.let_go();
    }
    Ok(by_id)
}
