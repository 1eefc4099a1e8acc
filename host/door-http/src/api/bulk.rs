//! Changes to many messages: purge, redrive, discard. One call runs bounded steps and says where to go on.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use pelton_core::broker::PullError;
use pelton_core::engine::{Cursor, Position, Progress, Select};
use serde::{Deserialize, Serialize};

use super::{Shared, json};
use crate::input::{InPath, Parameters, command, invalid, parse};
use crate::limits::{BULK_STEP_MESSAGES, BULK_STEPS_MAX, PAGE_MAX};
use crate::problem::{Code, Problem};
use crate::shape::{Kind, Member, Shape, optional};

pub(super) async fn purge(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &["confirm", "after"])?;
    let name = shared.broker.queue(&queue)?.counts.name;
    if parameters.text("confirm") != Some(name.as_str()) {
        let detail = format!("this deletes all messages of queue '{name}' for good; confirm it with ?confirm={name}");
        return Err(Problem::new(Code::ConfirmationRequired, detail));
    }
    let step = |after| shared.broker.discard(name.as_str(), Select::All, after, BULK_STEP_MESSAGES);
    run(&shared, name.as_str(), parameters.after(), step).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedriveBody {
    positions: Option<Vec<u64>>,
    all: Option<bool>,
    to: Option<String>,
    after: Option<String>,
}

impl Shape for RedriveBody {
    const MEMBERS: &'static [Member] = &[
        optional("positions", Kind::Wholes),
        optional("all", Kind::Bool),
        optional("to", Kind::Text),
        optional("after", Kind::Text),
    ];
}

pub(super) async fn redrive(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let received = command(&shared, request).await?;
    let RedriveBody { positions, all, to, after } = parse(&received.bytes)?;
    let select = select(positions, all.unwrap_or_default())?;
    let dead_letters = shared.broker.dead_letter_queue(&queue)?;
    let queue = dead_letters.as_str();
    let step = |after| shared.broker.redrive(queue, to.as_deref(), select.clone(), after, BULK_STEP_MESSAGES);
    run(&shared, queue, after.map(Cursor), step).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiscardBody {
    positions: Option<Vec<u64>>,
    all: Option<bool>,
    after: Option<String>,
}

impl Shape for DiscardBody {
    const MEMBERS: &'static [Member] =
        &[optional("positions", Kind::Wholes), optional("all", Kind::Bool), optional("after", Kind::Text)];
}

pub(super) async fn discard(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let received = command(&shared, request).await?;
    let DiscardBody { positions, all, after } = parse(&received.bytes)?;
    let select = select(positions, all.unwrap_or_default())?;
    let dead_letters = shared.broker.dead_letter_queue(&queue)?;
    let queue = dead_letters.as_str();
    check_dead_letters(&shared, queue).await?;
    let step = |after| shared.broker.discard(queue, select.clone(), after, BULK_STEP_MESSAGES);
    run(&shared, queue, after.map(Cursor), step).await
}

fn select(positions: Option<Vec<u64>>, all: bool) -> Result<Select, Problem> {
    match positions {
        Some(_) if all => Err(invalid("'positions' and 'all' are both given; only one of them is allowed")),
        None if all => Ok(Select::All),
        None => Err(invalid("say which dead letters: 'positions' with a list of numbers, or 'all' with true")),
        Some(positions) if positions.is_empty() => Err(invalid("'positions' is empty; name at least one")),
        Some(positions) if positions.len() > PAGE_MAX => {
            Err(invalid(format!("'positions' has {} items; at most {PAGE_MAX} are allowed", positions.len())))
        }
        Some(positions) => Ok(Select::Positions(positions.into_iter().map(Position).collect())),
    }
}

/// A queue that broker.toml no longer names has no dead-letter queue to find: then its own messages must not be taken for
/// dead letters and deleted.
async fn check_dead_letters(shared: &Shared, queue: &str) -> Result<(), Problem> {
    if shared.broker.queue(queue)?.counts.declared {
        return Ok(());
    }
    let first = shared.broker.browse(queue, None, 1).await?.items.pop();
    match first {
        Some(stored) if stored.dead.is_none() => {
            let detail = format!(
                "queue '{queue}' is not in broker.toml and holds messages that are not dead letters; purge it with \
                 DELETE /v1/queues/{queue}/messages?confirm={queue} if you mean it"
            );
            Err(Problem::new(Code::NotDeadLetters, detail))
        }
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct Done<'a> {
    queue: &'a str,
    changed: u64,
    skipped: u64,
    /// Where a further call goes on; none when all is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Runs steps until all is done, the bound is reached or the door stops.
async fn run<F>(
    shared: &Shared,
    queue: &str,
    mut after: Option<Cursor>,
    step: impl Fn(Option<Cursor>) -> F,
) -> Result<Response, Problem>
where
    F: Future<Output = Result<Progress, PullError>>,
{
    let mut done = Done { queue, changed: 0, skipped: 0, next: None };
    for _ in 0..BULK_STEPS_MAX {
        let at = after.clone();
        let progress = step(after).await.map_err(|error| {
            let problem = Problem::from(error);
            match at {
                Some(Cursor(at)) => {
                    problem.with("changed", done.changed).with("skipped", done.skipped).with("next", at)
                }
                None => problem,
            }
        })?;
        done.changed += progress.changed;
        done.skipped += progress.skipped;
        after = progress.next;
        if after.is_none() || shared.is_stopping() {
            break;
        }
    }
    done.next = after.map(|Cursor(next)| next);
    Ok(json(&done, 128))
}
