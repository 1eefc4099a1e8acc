//! Changes to many messages: purge, redrive, discard. One call runs bounded steps and says where to go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use pelton_core::broker::PullError;
use pelton_core::engine::{Cursor, DeadCode, Filter, Position, Progress, Select};
use pelton_core::name::QueueName;
use serde::{Deserialize, Serialize};

use super::{Shared, json};
use crate::input::{InPath, Parameters, command, invalid, moment, parse};
use crate::limits::{BULK_CALL_MESSAGES_MAX, BULK_STEP_MESSAGES, BULK_STEPS_MAX, FILTER_ATTRIBUTES_MAX, PAGE_MAX};
use crate::problem::{Code, Problem};
use crate::shape::{Kind, Member, Shape, optional};

pub(super) async fn purge(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &["confirm", "max", "after"])?;
    let name = shared.broker.queue(&queue)?.counts.name;
    if parameters.text("confirm") != Some(name.as_str()) {
        let detail = format!("this deletes all messages of queue '{name}' for good; confirm it with ?confirm={name}");
        return Err(Problem::new(Code::ConfirmationRequired, detail));
    }
    let max = messages_max(parameters.number("max")?)?;
    let step = |after, max| shared.broker.discard(name.as_str(), Select::All, Filter::default(), after, max);
    run(&shared, name.as_str(), max, parameters.after(), step).await
}

/// Which dead letters, and how far one call goes with them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkBody {
    positions: Option<Vec<u64>>,
    all: Option<bool>,
    reason: Option<String>,
    origin: Option<String>,
    since: Option<String>,
    until: Option<String>,
    attributes: Option<BTreeMap<String, String>>,
    to: Option<String>,
    max: Option<u64>,
    after: Option<String>,
}

impl Shape for BulkBody {
    const MEMBERS: &'static [Member] = &[
        optional("positions", Kind::Wholes),
        optional("all", Kind::Bool),
        optional("reason", Kind::Text),
        optional("origin", Kind::Text),
        optional("since", Kind::Text),
        optional("until", Kind::Text),
        optional("attributes", Kind::Texts),
        optional("to", Kind::Text),
        optional("max", Kind::Whole),
        optional("after", Kind::Text),
    ];
}

pub(super) async fn redrive(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let received = command(&shared, request).await?;
    let mut body: BulkBody = parse(&received.bytes)?;
    let filter = body.filter()?;
    let select = body.select(&filter)?;
    let max = messages_max(body.max)?;
    let dead_letters = shared.broker.dead_letter_queue(&queue)?;
    let (queue, to) = (dead_letters.as_str(), body.to.as_deref());
    let step = |after, max| shared.broker.redrive(queue, to, select.clone(), filter.clone(), after, max);
    run(&shared, queue, max, body.after.map(Cursor), step).await
}

pub(super) async fn discard(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let received = command(&shared, request).await?;
    let mut body: BulkBody = parse(&received.bytes)?;
    if body.to.is_some() {
        return Err(invalid("'to' goes with a redrive only: what is discarded goes nowhere"));
    }
    let filter = body.filter()?;
    let select = body.select(&filter)?;
    let max = messages_max(body.max)?;
    let dead_letters = shared.broker.dead_letter_queue(&queue)?;
    let queue = dead_letters.as_str();
    check_dead_letters(&shared, queue).await?;
    let step = |after, max| shared.broker.discard(queue, select.clone(), filter.clone(), after, max);
    run(&shared, queue, max, body.after.map(Cursor), step).await
}

impl BulkBody {
    /// What the members say that a dead letter has to match.
    fn filter(&self) -> Result<Filter, Problem> {
        let reason = self.reason.as_deref().map(str::parse::<DeadCode>).transpose();
        let origin = self.origin.as_deref().map(QueueName::new).transpose();
        let time = |name, text: &Option<String>| text.as_deref().map(|text| moment(name, text)).transpose();
        let attributes = self.attributes.clone().unwrap_or_default();
        if attributes.len() > FILTER_ATTRIBUTES_MAX {
            let count = attributes.len();
            return Err(invalid(format!(
                "'attributes' has {count} names; at most {FILTER_ATTRIBUTES_MAX} are allowed"
            )));
        }
        // No message has an attribute of another name, so that nothing would ever match.
        let is_name = |name: &String| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if let Some(name) = attributes.keys().find(|name| !is_name(name)) {
            let shown: String = name.chars().take(40).collect();
            return Err(invalid(format!("'attributes': no message has an attribute '{shown}': names are a-z and 0-9")));
        }
        Ok(Filter {
            reason: reason.map_err(|error| invalid(format!("'reason': {error}")))?,
            origin: origin.map_err(|error| invalid(format!("'origin': {error}")))?,
            died_from: time("since", &self.since)?,
            died_before: time("until", &self.until)?,
            attributes: attributes.into_iter().collect(),
        })
    }

    /// Which dead letters are looked at. Nothing stands for all of them by itself: a call without a choice is a mistake.
    fn select(&mut self, filter: &Filter) -> Result<Select, Problem> {
        let all = self.all.unwrap_or_default();
        match self.positions.take() {
            Some(_) if all => Err(invalid("'positions' and 'all' are both given; only one of them is allowed")),
            None if all || !filter.is_open() => Ok(Select::All),
            None => Err(invalid(
                "say which dead letters: 'positions' with a list of numbers, 'reason', 'origin', 'since', 'until' or \
                 'attributes', or 'all' with true",
            )),
            Some(positions) if positions.is_empty() => Err(invalid("'positions' is empty; name at least one")),
            Some(positions) if positions.len() > PAGE_MAX => {
                Err(invalid(format!("'positions' has {} items; at most {PAGE_MAX} are allowed", positions.len())))
            }
            Some(positions) => Ok(Select::Positions(positions.into_iter().map(Position).collect())),
        }
    }
}

/// How many messages one call changes.
fn messages_max(given: Option<u64>) -> Result<u64, Problem> {
    match given {
        None => Ok(BULK_CALL_MESSAGES_MAX),
        Some(max) if (1..=BULK_CALL_MESSAGES_MAX).contains(&max) => Ok(max),
        Some(max) => Err(invalid(format!("'max' is {max}; 1 to {BULK_CALL_MESSAGES_MAX} are allowed"))),
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

/// Runs steps until all is done, `max` messages are changed, the bound of steps is reached or the door stops.
async fn run<F>(
    shared: &Shared,
    queue: &str,
    max: u64,
    mut after: Option<Cursor>,
    step: impl Fn(Option<Cursor>, usize) -> F,
) -> Result<Response, Problem>
where
    F: Future<Output = Result<Progress, PullError>>,
{
    let mut done = Done { queue, changed: 0, skipped: 0, next: None };
    for _ in 0..BULK_STEPS_MAX {
        let at = after.clone();
        let left = usize::try_from(max - done.changed).unwrap_or(usize::MAX).min(BULK_STEP_MESSAGES);
        let progress = step(after, left).await.map_err(|error| {
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
        if after.is_none() || done.changed >= max || shared.is_stopping() {
            break;
        }
    }
    done.next = after.map(|Cursor(next)| next);
    Ok(json(&done, 128))
}
