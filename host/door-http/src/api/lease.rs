//! Pull consumers: lease, settle, extend.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use pelton_core::broker::{LeaseWant, PullOutcome};
use pelton_core::engine::{LeaseToken, Leased, QueueId, SettleError};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::fill::{Fill, respond};
use super::{Shared, json, rfc3339};
use crate::event::MessageJson;
use crate::handover::{Held, Wire};
use crate::input::{InPath, command, count, duration, invalid, parse};
use crate::limits::{
    LEASE_TTL_DEFAULT, LEASE_TTL_MAX, LEASE_TTL_MIN, LEASE_WAIT_MAX, PAGE_MAX, REASON_BYTES_MAX, RETRY_AFTER_MAX,
};
use crate::problem::{Code, Problem};
use crate::shape::{Kind, Member, Shape, optional, required};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseBody<'a> {
    max: Option<usize>,
    #[serde(borrow)]
    wait: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ttl: Option<Cow<'a, str>>,
}

impl Shape for LeaseBody<'_> {
    const MEMBERS: &'static [Member] =
        &[optional("max", Kind::Whole), optional("wait", Kind::Text), optional("ttl", Kind::Text)];
}

impl LeaseBody<'_> {
    fn checked(&self) -> Result<LeaseWant, Problem> {
        let wait = |text| duration("wait", text, Duration::ZERO, LEASE_WAIT_MAX);
        Ok(LeaseWant {
            max: count("max", self.max, 1)?,
            wait: self.wait.as_deref().map_or(Ok(Duration::ZERO), wait)?,
            ttl: ttl(self.ttl.as_deref())?,
        })
    }
}

fn ttl(text: Option<&str>) -> Result<Duration, Problem> {
    text.map_or(Ok(LEASE_TTL_DEFAULT), |text| duration("ttl", text, LEASE_TTL_MIN, LEASE_TTL_MAX))
}

#[derive(Serialize)]
struct LeasedJson<'a> {
    token: String,
    topic: &'a str,
    attempt: u32,
    accepted: String,
    message: MessageJson<'a>,
}

impl<'a> LeasedJson<'a> {
    fn new(leased: &'a Leased) -> Self {
        Self {
            token: leased.token.to_string(),
            topic: leased.topic.as_str(),
            attempt: leased.attempt(),
            accepted: rfc3339(leased.accepted),
            message: MessageJson(&leased.message),
        }
    }
}

pub(super) async fn lease(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    wire: Option<Extension<Wire>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let received = command(&shared, request).await?;
    let want = parse::<LeaseBody<'_>>(&received.bytes)?.checked()?;
    let LeaseWant { max, wait, ttl } = want;
    let mut fill = Fill::new(max, shared.broker.plan().broker.message_bytes_max);
    // From here on whoever hangs up gives back what was leased.
    let mut held = Held::new(&shared.broker);
    while let Some(step) = fill.next_step() {
        // Only the first message is waited for; what follows is there or not.
        let wait = if fill.is_empty() { wait } else { Duration::ZERO };
        let leasing = shared.broker.lease(&queue, LeaseWant { max: step, wait, ttl });
        let leased = tokio::select! {
            biased;
            leased = leasing => leased,
            () = shared.stopped() => break,
        };
        let leased = match leased {
            Ok(leased) => leased,
            // What is leased already is handed out; the next call meets the error again.
            Err(_) if !fill.is_empty() => break,
            Err(error) => return Err(error.into()),
        };
        leased.iter().for_each(|leased| held.add(leased.token));
        leased.iter().try_for_each(|leased| fill.push(&LeasedJson::new(leased)))?;
        if leased.len() < step {
            break;
        }
    }
    Ok(respond(held.hand_over(fill.into_text(), wire.map(|wire| wire.0))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleBody<'a> {
    #[serde(borrow)]
    settlements: Vec<SettlementBody<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettlementBody<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    outcome: OutcomeWord,
    #[serde(borrow)]
    after: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
}

impl Shape for SettleBody<'_> {
    const MEMBERS: &'static [Member] = &[required(
        "settlements",
        Kind::Objects(&[
            required("token", Kind::Text),
            required("outcome", Kind::Word(&["ack", "retry", "reject"])),
            optional("after", Kind::Text),
            optional("reason", Kind::Text),
        ]),
    )];
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum OutcomeWord {
    Ack,
    Retry,
    Reject,
}

impl SettlementBody<'_> {
    fn outcome(&self) -> Result<PullOutcome, Problem> {
        if self.after.is_some() && self.outcome != OutcomeWord::Retry {
            return Err(invalid("'after' goes with the outcome 'retry' only"));
        }
        if self.reason.is_some() && self.outcome == OutcomeWord::Ack {
            return Err(invalid("'reason' goes with the outcomes 'retry' and 'reject' only"));
        }
        if self.reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
            return Err(invalid(format!("'reason' has more than {REASON_BYTES_MAX} bytes; shorten it")));
        }
        let reason = || self.reason.as_deref().unwrap_or("the pull consumer gave no reason").to_owned();
        let after = |text| duration("after", text, Duration::ZERO, RETRY_AFTER_MAX);
        Ok(match self.outcome {
            OutcomeWord::Ack => PullOutcome::Ack,
            OutcomeWord::Retry => {
                PullOutcome::Retry { reason: reason(), after: self.after.as_deref().map(after).transpose()? }
            }
            OutcomeWord::Reject => PullOutcome::Reject { reason: reason() },
        })
    }
}

pub(super) async fn settle(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let received = command(&shared, request).await?;
    let body: SettleBody<'_> = parse(&received.bytes)?;
    check_count("settlements", body.settlements.len())?;
    let id = shared.broker.queue(&queue)?.counts.id;
    let mut leases = Leases::default();
    for (index, settlement) in body.settlements.iter().enumerate() {
        let outcome = settlement.outcome().map_err(|problem| problem.with("index", index))?;
        leases.add(&settlement.token, outcome, id, &queue);
    }
    leases.answer("settled", |good| shared.broker.settle(good)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendBody<'a> {
    #[serde(borrow)]
    leases: Vec<ExtensionBody<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtensionBody<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(borrow)]
    ttl: Option<Cow<'a, str>>,
}

impl Shape for ExtendBody<'_> {
    const MEMBERS: &'static [Member] =
        &[required("leases", Kind::Objects(&[required("token", Kind::Text), optional("ttl", Kind::Text)]))];
}

pub(super) async fn extend(
    State(shared): State<Arc<Shared>>,
    InPath(queue): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let received = command(&shared, request).await?;
    let body: ExtendBody<'_> = parse(&received.bytes)?;
    check_count("leases", body.leases.len())?;
    let id = shared.broker.queue(&queue)?.counts.id;
    let mut leases = Leases::default();
    for (index, extension) in body.leases.iter().enumerate() {
        let ttl = ttl(extension.ttl.as_deref()).map_err(|problem| problem.with("index", index))?;
        leases.add(&extension.token, ttl, id, &queue);
    }
    leases.answer("extended", |good| shared.broker.extend(good)).await
}

fn check_count(name: &str, count: usize) -> Result<(), Problem> {
    match count {
        0 => Err(invalid(format!("'{name}' is empty; name at least one lease"))),
        1..=PAGE_MAX => Ok(()),
        count => Err(invalid(format!("'{name}' has {count} items; at most {PAGE_MAX} are allowed"))),
    }
}

/// What is asked about several leases, and what keeps some of them from being asked at all.
struct Leases<T> {
    tokens: Vec<String>,
    /// By place: the problem of a token that is none, or is another queue's.
    problems: Vec<Option<Problem>>,
    /// The rest, in order.
    good: Vec<(LeaseToken, T)>,
}

impl<T> Default for Leases<T> {
    fn default() -> Self {
        Self { tokens: Vec::new(), problems: Vec::new(), good: Vec::new() }
    }
}

impl<T> Leases<T> {
    fn add(&mut self, token: &str, what: T, queue: QueueId, name: &str) {
        self.tokens.push(token.to_owned());
        self.problems.push(match token.parse::<LeaseToken>() {
            Err(error) => Some(Problem::new(Code::InvalidToken, error.to_string())),
            Ok(token) if token.queue != queue => {
                let detail = format!("the lease is not on queue '{name}'; settle it where it was leased");
                Some(Problem::new(Code::WrongQueue, detail))
            }
            Ok(token) => {
                self.good.push((token, what));
                None
            }
        });
    }

    /// Asks `ask` about the good ones. 200 with one result each; a problem when none came through.
    async fn answer<F, E: Into<Problem>>(
        self,
        done: &'static str,
        ask: impl FnOnce(Vec<(LeaseToken, T)>) -> F,
    ) -> Result<Response, Problem>
    where
        F: Future<Output = Vec<Result<(), E>>>,
    {
        let answers = if self.good.is_empty() { Vec::new() } else { ask(self.good).await };
        let mut answers = answers.into_iter();
        let results: Vec<LeaseResult> = self
            .tokens
            .into_iter()
            .zip(self.problems)
            .map(|(token, problem)| {
                let asked = || match answers.next() {
                    Some(answer) => answer.err().map(Into::into),
                    None => Some(SettleError::LeaseLost.into()),
                };
                LeaseResult { token, done, problem: problem.or_else(asked) }
            })
            .collect();
        if results.iter().any(|result| result.problem.is_none()) {
            let bytes_hint = 64 + 96 * results.len();
            return Ok(json(&Results { results }, bytes_hint));
        }
        Err(all_failed(results))
    }
}

/// The first problem, for all of them, with the results as a member where there are several.
fn all_failed(results: Vec<LeaseResult>) -> Problem {
    let listed = serde_json::to_value(&results).unwrap_or_default();
    let several = results.len() > 1;
    let first = results.into_iter().find_map(|result| result.problem);
    let first = first.unwrap_or_else(|| invalid("there is no lease in the request"));
    if several { first.with("results", listed) } else { first }
}

#[derive(Serialize)]
struct Results {
    results: Vec<LeaseResult>,
}

struct LeaseResult {
    token: String,
    done: &'static str,
    problem: Option<Problem>,
}

impl Serialize for LeaseResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("token", &self.token)?;
        match &self.problem {
            None => map.serialize_entry("result", self.done)?,
            Some(problem) => {
                map.serialize_entry("result", "failed")?;
                map.serialize_entry("code", problem.code().as_str())?;
                map.serialize_entry("detail", problem.detail())?;
            }
        }
        map.end()
    }
}
