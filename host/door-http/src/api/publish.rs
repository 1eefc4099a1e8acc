//! `POST /v1/topics/{topic}`: a request to messages, in the four forms that the content type and headers tell apart.
//!
//! The hot path of the broker: the body is read without copying where it came in one piece, parsed in one pass, and each
//! message is built once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use pelton_core::broker::{Publish, PublishError, PublishOptions, Published, Refusal, RefusalCode};
use pelton_core::clock::{Clock, WallMs};
use pelton_core::engine::DELAY_MAX;
use pelton_core::message::{Attributes, Message};
use pelton_core::name::Topic;
use serde::ser::{Serialize, SerializeSeq, SerializeStruct, Serializer};
use serde_json::json;

use super::{Shared, json, rfc3339};
use crate::body::refuse;
use crate::event::{Defect, Malformed, from_headers, has_event_headers, parse_batch, parse_one};
use crate::input::{InPath, Parameters, duration, invalid, invalid_json, moment, spelled};
use crate::limits::{BATCH_MESSAGES_MAX, ITEMS_LISTED_MAX, OPERATOR_RETRY_SECONDS, QUEUE_FULL_RETRY_SECONDS, TTL_MAX};
use crate::problem::{Code, Problem};

/// The source of messages that come without CloudEvents attributes.
const PLAIN_SOURCE: &str = "/pelton/http";

pub(super) async fn publish(
    State(shared): State<Arc<Shared>>,
    InPath(topic): InPath<String>,
    request: Request<Body>,
) -> Response {
    let (head, body) = request.into_parts();
    let known = Topic::new(&topic)
        .map_err(|error| Problem::new(Code::InvalidTopic, error.to_string()))
        .and_then(|topic| Timing::of(&head.uri, &**shared.broker.clock()).map(|timing| (topic, timing)))
        .and_then(|(topic, timing)| Form::of(&head.headers).map(|form| (topic, timing, form)));
    let (topic, timing, form) = match known {
        Ok(known) => known,
        Err(problem) => return refuse(&head.headers, body, problem),
    };
    accept(&shared, topic, timing, form, &head.headers, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn accept(
    shared: &Shared,
    topic: Topic,
    timing: Timing,
    form: Form,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let received = shared.budget.read(headers, body, shared.request_bytes_max, "[http] max-request").await?;
    let batch = match form {
        Form::Batch => batch(&topic, text(&received.bytes)?)?,
        Form::Structured => {
            let message = parse_one(text(&received.bytes)?).map_err(|error| malformed(error, false))?;
            vec![Publish { topic, message }]
        }
        Form::Binary => {
            let message = from_headers(headers, &received.bytes).map_err(|defect| invalid_event(None, &defect))?;
            vec![Publish { topic, message }]
        }
        Form::Plain => {
            let message = plain(shared.broker.clock().wall(), &topic, headers, &received.bytes)?;
            vec![Publish { topic, message }]
        }
    };
    drop(received);
    let options = timing.options(&**shared.broker.clock());
    let published = shared.broker.publish(batch, options).await.map_err(|error| refused(shared, error))?;
    Ok(json(&Answer(&published), 32 + published.len() * ITEM_BYTES))
}

/// What the parameters ask for, for all messages of the request.
#[derive(Default)]
struct Timing {
    /// Counts from when the request is complete.
    delay: Option<Duration>,
    /// Not beside a delay.
    at: Option<WallMs>,
    ttl: Option<Duration>,
}

impl Timing {
    fn of(uri: &Uri, clock: &dyn Clock) -> Result<Self, Problem> {
        if uri.query().is_none() {
            return Ok(Self::default());
        }
        let parameters = Parameters::of(uri, &["delay", "at", "ttl"])?;
        let delay =
            parameters.text("delay").map(|text| duration("delay", text, Duration::ZERO, DELAY_MAX)).transpose()?;
        let at = parameters.text("at").map(|text| moment("at", text)).transpose()?;
        let ttl = parameters.text("ttl").map(|text| duration("ttl", text, Duration::from_millis(1), TTL_MAX));
        if delay.is_some() && at.is_some() {
            return Err(invalid("'delay' and 'at' are both given; only one of them is allowed"));
        }
        if let Some(at) = at.filter(|at| *at > clock.wall().plus(DELAY_MAX)) {
            let at = rfc3339(at);
            return Err(invalid(format!("'at' is {at}; it may lie {} ahead at most", spelled(DELAY_MAX))));
        }
        Ok(Self { delay, at, ttl: ttl.transpose()? })
    }

    fn options(&self, clock: &dyn Clock) -> PublishOptions {
        PublishOptions { due: self.delay.map(|delay| clock.wall().plus(delay)).or(self.at), ttl: self.ttl }
    }
}

/// How the messages stand in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `application/cloudevents-batch+json`
    Batch,
    /// `application/cloudevents+json`
    Structured,
    /// Attributes in `ce-` headers; the body is the data.
    Binary,
    /// The body is the data; the broker makes the attributes.
    Plain,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let media = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let is = |expected: &str| media.eq_ignore_ascii_case(expected.as_bytes());
        const PREFIX: &str = "application/cloudevents";
        if is("application/cloudevents-batch+json") {
            Ok(Self::Batch)
        } else if is("application/cloudevents+json") {
            Ok(Self::Structured)
        } else if media.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes())) {
            let detail = format!(
                "the event format '{}' is not supported; use application/cloudevents+json or application/cloudevents-batch+json",
                media.escape_ascii()
            );
            Err(Problem::new(Code::UnsupportedMediaType, detail))
        } else if has_event_headers(headers) {
            Ok(Self::Binary)
        } else {
            Ok(Self::Plain)
        }
    }
}

fn text(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| {
        let detail = format!("the body is not JSON: byte {} is not UTF-8", error.valid_up_to());
        Problem::new(Code::InvalidJson, detail).with("byte", error.valid_up_to())
    })
}

fn batch(topic: &Topic, text: &str) -> Result<Vec<Publish>, Problem> {
    /// An event with its attributes is hardly shorter.
    const EVENT_BYTES_ABOUT: usize = 256;
    let mut batch = Vec::with_capacity((text.len() / EVENT_BYTES_ABOUT).min(BATCH_MESSAGES_MAX));
    let parsed = parse_batch(text, &mut |message| batch.push(Publish { topic: topic.clone(), message }));
    parsed.map(|()| batch).map_err(|error| malformed(error, true))
}

/// The message of a plain body: the broker makes id, source, type and time.
fn plain(now: WallMs, topic: &Topic, headers: &HeaderMap, data: &[u8]) -> Result<Message, Problem> {
    let content_type = headers.get(CONTENT_TYPE).map(|value| std::str::from_utf8(value.as_bytes())).transpose();
    let content_type =
        content_type.map_err(|_| Problem::new(Code::InvalidRequest, "the header Content-Type is not UTF-8"))?;
    let made = uuid::Uuid::new_v7(uuid::Timestamp::from_unix(
        uuid::NoContext,
        now.0 / 1000,
        (now.0 % 1000 * 1_000_000) as u32,
    ));
    let mut buffer = uuid::Uuid::encode_buffer();
    let attributes = Attributes {
        id: made.hyphenated().encode_lower(&mut buffer),
        source: PLAIN_SOURCE,
        kind: topic.as_str(),
        time: Some(&rfc3339(now)),
        content_type: Some(content_type.unwrap_or("application/octet-stream")),
        ..Attributes::default()
    };
    Message::new(&attributes, data).map_err(|error| invalid_event(None, &error.into()))
}

fn malformed(error: Malformed, is_batch: bool) -> Problem {
    match error {
        Malformed::Syntax(error) => invalid_json(&error),
        Malformed::Shape { index: None, detail } => {
            Problem::new(Code::InvalidEvent, format!("the body is JSON, but of another shape: {detail}"))
        }
        Malformed::Shape { index: Some(index), detail } => {
            let detail = format!("message {index} is not a CloudEvent, so none was accepted: {detail}");
            Problem::new(Code::InvalidEvent, detail).with("index", index)
        }
        Malformed::Events { faults, count } => match faults.first() {
            Some((index, defect)) if is_batch => {
                let item = |(index, defect): &(usize, Defect)| json!({"index": index, "code": Code::InvalidEvent.as_str(), "attribute": defect.attribute, "detail": defect.detail});
                invalid_event(Some(*index), defect)
                    .with("count", count)
                    .with("items", faults.iter().map(item).collect::<Vec<_>>())
            }
            Some((_, defect)) => invalid_event(None, defect),
            None => Problem::new(Code::InvalidEvent, "the body is not an event"),
        },
        Malformed::TooMany => {
            let detail = format!("the batch has more than {BATCH_MESSAGES_MAX} messages; split it");
            Problem::new(Code::TooLarge, detail).with("messages_max", BATCH_MESSAGES_MAX)
        }
    }
}

fn invalid_event(index: Option<usize>, defect: &Defect) -> Problem {
    let detail = match index {
        Some(index) => format!("message {index} is not a valid CloudEvent, so none was accepted: {}", defect.detail),
        None => format!("this is not a valid CloudEvent: {}", defect.detail),
    };
    let problem = Problem::new(Code::InvalidEvent, detail);
    let problem = match &defect.attribute {
        Some(attribute) => problem.with("attribute", attribute.as_str()),
        None => problem,
    };
    match index {
        Some(index) => problem.with("index", index),
        None => problem,
    }
}

fn refused(shared: &Shared, error: PublishError) -> Problem {
    let refusals = match error {
        PublishError::Engine(error) => return error.into(),
        PublishError::Refused(refusals) => refusals,
    };
    let Some(first) = refusals.first() else {
        return Problem::new(Code::InvalidRequest, "the messages can't be accepted");
    };
    let detail = match (refusals.len(), first.index) {
        (1, 0) => first.detail.clone(),
        (count, index) => {
            format!("{count} of the messages can't be accepted, so none was; message {index}: {}", first.detail)
        }
    };
    let problem = Problem::new(code_of(first.code), detail);
    match first.code {
        RefusalCode::DiskFull => problem.retry_after(OPERATOR_RETRY_SECONDS),
        RefusalCode::QueueFull => of_queue(shared, itemized(problem, &refusals), first),
        RefusalCode::InvalidAttribute => {
            let problem = itemized(problem, &refusals).with("index", first.index);
            match &first.attribute {
                Some(attribute) => problem.with("attribute", &**attribute),
                None => problem,
            }
        }
        RefusalCode::Unroutable | RefusalCode::TooLarge | RefusalCode::IdReused => itemized(problem, &refusals),
    }
}

fn itemized(problem: Problem, refusals: &[Refusal]) -> Problem {
    let items: Vec<_> = refusals.iter().take(ITEMS_LISTED_MAX).map(item).collect();
    problem.with("count", refusals.len()).with("items", items)
}

fn item(refusal: &Refusal) -> serde_json::Value {
    let Refusal { index, code, detail, attribute, .. } = refusal;
    let mut item = json!({"index": index, "code": code_of(*code).as_str(), "detail": detail});
    if let Some(attribute) = attribute {
        item["attribute"] = json!(attribute);
    }
    item
}

/// The problem with the queue that is full, its bounds, and when to try again.
fn of_queue(shared: &Shared, problem: Problem, refusal: &Refusal) -> Problem {
    let Some(name) = &refusal.queue else { return problem.retry_after(QUEUE_FULL_RETRY_SECONDS) };
    let plan = shared.broker.plan();
    let bounds = plan.queues.iter().find(|queue| queue.name == *name).map(|queue| queue.bounds).unwrap_or_default();
    let is_paused = shared.broker.queue(name.as_str()).is_ok_and(|queue| queue.counts.paused);
    problem
        .with("queue", name.as_str())
        .with("max_messages", bounds.messages_max)
        .with("max_bytes", bounds.bytes_max)
        .with("paused", is_paused)
        .retry_after(if is_paused { OPERATOR_RETRY_SECONDS } else { QUEUE_FULL_RETRY_SECONDS })
}

fn code_of(code: RefusalCode) -> Code {
    match code {
        RefusalCode::Unroutable => Code::Unroutable,
        RefusalCode::TooLarge => Code::TooLarge,
        RefusalCode::InvalidAttribute => Code::InvalidAttribute,
        RefusalCode::IdReused => Code::IdReused,
        RefusalCode::QueueFull => Code::QueueFull,
        RefusalCode::DiskFull => Code::DiskFull,
    }
}

/// About what a message adds to the answer: its id and the framing.
const ITEM_BYTES: usize = 64;

/// `{"messages":[{"id":..,"targets":..}]}`, with what else there is to say of a message
struct Answer<'a>(&'a [Published]);

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut answer = serializer.serialize_struct("Answer", 1)?;
        answer.serialize_field("messages", &Each(self.0, MessageAnswer::new))?;
        answer.end()
    }
}

/// A list, one item per published message, made while it is written.
struct Each<'a, F>(&'a [Published], F);

impl<'a, T: Serialize, F: Fn(&'a Published) -> T> Serialize for Each<'a, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for published in self.0 {
            list.serialize_element(&(self.1)(published))?;
        }
        list.end()
    }
}

#[derive(serde::Serialize)]
struct MessageAnswer<'a> {
    id: &'a str,
    targets: usize,
    /// Only where it was stored before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    /// The handle that cancels it, while it waits for its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled: Option<String>,
}

impl<'a> MessageAnswer<'a> {
    fn new(published: &'a Published) -> Self {
        let Published { id, targets, duplicate, scheduled } = published;
        Self { id, targets: *targets, duplicate: *duplicate, scheduled: scheduled.as_ref().map(ToString::to_string) }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn the_form_follows_the_headers() {
        let check = |pairs: &[(&'static str, &'static str)], expected: Option<Form>| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            assert_eq!(Form::of(&headers).ok(), expected, "{pairs:?}");
        };
        check(&[], Some(Form::Plain));
        check(&[("content-type", "application/json")], Some(Form::Plain));
        check(&[("content-type", "Application/CloudEvents+JSON; charset=utf-8")], Some(Form::Structured));
        check(&[("content-type", "application/cloudevents+json"), ("ce-id", "1")], Some(Form::Structured));
        check(&[("content-type", "application/cloudevents-batch+json")], Some(Form::Batch));
        check(&[("content-type", "text/plain"), ("ce-id", "1")], Some(Form::Binary));
        check(&[("content-type", "application/cloudevents+avro")], None);
        check(&[("content-type", "application/cloudevents")], None);
    }
}
