//! What the API answers when it can't: `application/problem+json` (RFC 9457) with a stable code.
//!
//! [`Code`] is the one table of codes; API.md repeats it and a test compares the two. Invariant: a problem says what is
//! wrong, where, and what to do, and never holds a body or a secret.

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use pelton_core::broker::{ExtendError, PauseError, PullError, UnknownConsumer, UnknownQueue};
use pelton_core::engine::{EngineError, SettleError};
use pelton_core::operator::{BackupError, ReloadError};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use crate::limits::OPERATOR_RETRY_SECONDS;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// The stable codes of the API's problems.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All of them, in the order of their status.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code as it stands in `code`, kebab-case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The status that it is answered with.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// What it means, in a few words that never change.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON; `line` and `column` say where.
    InvalidJson = "invalid-json", BAD_REQUEST, "The body is not JSON";
    /// A message breaks CloudEvents 1.0; `attribute` and `index` say where.
    InvalidEvent = "invalid-event", BAD_REQUEST, "A message is not a valid CloudEvent";
    /// What a message says about its delivery can't be met; `attribute` and `index` say where.
    InvalidAttribute = "invalid-attribute", BAD_REQUEST, "A delivery attribute is not valid";
    /// The topic in the path is none.
    InvalidTopic = "invalid-topic", BAD_REQUEST, "The topic is not valid";
    /// A parameter or a member of the body is missing, unknown or out of bounds.
    InvalidRequest = "invalid-request", BAD_REQUEST, "The request is not valid";
    /// The text is not a lease token.
    InvalidToken = "invalid-token", BAD_REQUEST, "The lease token is not valid";
    /// The lease is on another queue than the one in the path.
    WrongQueue = "wrong-queue", BAD_REQUEST, "The lease belongs to another queue";
    /// The text is no handle of a scheduled message.
    InvalidHandle = "invalid-handle", BAD_REQUEST, "The handle is not valid";
    /// A purge was not confirmed by the queue's name.
    ConfirmationRequired = "confirmation-required", BAD_REQUEST, "The deletion was not confirmed";
    /// The bearer token is missing or wrong.
    Unauthorized = "unauthorized", UNAUTHORIZED, "A bearer token is required";
    /// No route's pattern matches the topic.
    Unroutable = "unroutable", NOT_FOUND, "No route matches the topic";
    /// No queue has the name.
    UnknownQueue = "unknown-queue", NOT_FOUND, "There is no such queue";
    /// No consumer has the name.
    UnknownConsumer = "unknown-consumer", NOT_FOUND, "There is no such consumer";
    /// Nothing waits under the handle.
    UnknownHandle = "unknown-handle", NOT_FOUND, "No message waits under this handle";
    /// No dead letter has the position or id.
    UnknownMessage = "unknown-message", NOT_FOUND, "There is no such message";
    /// The API has no such path.
    NotFound = "not-found", NOT_FOUND, "There is no such path";
    /// The path takes other methods.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The path does not take this method";
    /// The body took too long.
    RequestTimeout = "request-timeout", REQUEST_TIMEOUT, "The request took too long to arrive";
    /// The lease ran out, or the broker restarted.
    LeaseLost = "lease-lost", CONFLICT, "The lease ran out";
    /// The lease was settled before.
    AlreadySettled = "already-settled", CONFLICT, "The lease was settled before";
    /// The scheduled message's time has come.
    TooLate = "too-late", CONFLICT, "The message's time has come";
    /// A message's source and id are known with another body.
    IdReused = "id-reused", CONFLICT, "The id was used for another message";
    /// The queue holds messages that are not dead letters.
    NotDeadLetters = "not-dead-letters", CONFLICT, "The queue holds no dead letters";
    /// A body or a message is over its limit.
    TooLarge = "too-large", PAYLOAD_TOO_LARGE, "The request is too large";
    /// A CloudEvents format that is not spoken here.
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The media type is not supported";
    /// The configuration file can't be taken over.
    InvalidConfiguration = "invalid-configuration", UNPROCESSABLE_ENTITY, "The configuration is not valid";
    /// A queue that refuses what does not fit is full.
    QueueFull = "queue-full", TOO_MANY_REQUESTS, "A queue is full";
    /// The data is damaged.
    Corrupt = "corrupt", INTERNAL_SERVER_ERROR, "The stored data is damaged";
    /// This broker was set up without what the call needs.
    Unsupported = "unsupported", NOT_IMPLEMENTED, "This broker can't do that";
    /// Storage failed while committing.
    Unknown = "unknown", SERVICE_UNAVAILABLE, "Whether it was done is unknown";
    /// Storage is not available right now.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Storage is not available";
    /// Too much is going on.
    Busy = "busy", SERVICE_UNAVAILABLE, "The broker is busy";
    /// The broker is starting, recovering, stopping or broken.
    NotReady = "not-ready", SERVICE_UNAVAILABLE, "The broker is not ready";
    /// The disk is too full for more messages.
    DiskFull = "disk-full", INSUFFICIENT_STORAGE, "The disk is too full";
}

/// An error answer. Members beyond the standard ones stand behind them, in the order they were added.
#[derive(Debug)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    members: Vec<(&'static str, Value)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

pub(crate) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// When to come back after a 503, in seconds: reopening the store takes about that long.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let mut problem = Self { code, detail: detail.into(), members: Vec::new(), headers: Vec::new() };
        match code.status() {
            StatusCode::SERVICE_UNAVAILABLE => problem.headers.push((RETRY_AFTER, RETRY_AFTER_SECONDS)),
            StatusCode::UNAUTHORIZED => {
                problem.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pelton\"")));
            }
            _ => {}
        }
        problem
    }

    /// The problem with another member, for programs.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// The problem with a time to come back after.
    #[must_use]
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.headers.retain(|(name, _)| name != RETRY_AFTER);
        self.headers.push((RETRY_AFTER, HeaderValue::from(seconds)));
        self
    }

    pub(crate) fn code(&self) -> Code {
        self.code
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("urn:pelton:problem:{}", self.code.as_str()))?;
        map.serialize_entry("title", self.code.title())?;
        map.serialize_entry("status", &self.code.status().as_u16())?;
        map.serialize_entry("detail", &self.detail)?;
        map.serialize_entry("code", self.code.as_str())?;
        for (name, value) in &self.members {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("a problem has only text keys, and writing to memory can't fail");
        let mut response = Response::new(body.into());
        *response.status_mut() = self.code.status();
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        response.headers_mut().extend(self.headers);
        debug_assert!(response.headers().get(ALLOW).is_none(), "the router knows the allowed methods");
        response
    }
}

impl From<UnknownQueue> for Problem {
    fn from(error: UnknownQueue) -> Self {
        let problem = Self::new(Code::UnknownQueue, format!("{error} (GET /v1/queues lists them)"));
        match error.nearest {
            Some(nearest) => problem.with("nearest", nearest.as_str()),
            None => problem,
        }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        Self::new(engine_code(&error), error.to_string())
    }
}

impl From<PullError> for Problem {
    fn from(error: PullError) -> Self {
        match error {
            PullError::UnknownQueue(error) => error.into(),
            PullError::InvalidCursor(error) => Self::new(Code::InvalidRequest, format!("'after': {error}")),
            PullError::Engine(error) => error.into(),
        }
    }
}

impl From<SettleError> for Problem {
    fn from(error: SettleError) -> Self {
        let code = match &error {
            SettleError::LeaseLost => Code::LeaseLost,
            SettleError::AlreadySettled => Code::AlreadySettled,
            SettleError::Engine(error) => engine_code(error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<ExtendError> for Problem {
    fn from(error: ExtendError) -> Self {
        let code = match &error {
            ExtendError::NotInForce => Code::LeaseLost,
            ExtendError::AlreadySettled => Code::AlreadySettled,
            ExtendError::Engine(error) => engine_code(error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<UnknownConsumer> for Problem {
    fn from(error: UnknownConsumer) -> Self {
        let problem = Self::new(Code::UnknownConsumer, format!("{error} (GET /v1/consumers lists them)"));
        match error.nearest {
            Some(nearest) => problem.with("nearest", nearest.as_str()),
            None => problem,
        }
    }
}

impl From<PauseError> for Problem {
    fn from(error: PauseError) -> Self {
        match error {
            PauseError::UnknownConsumer(error) => error.into(),
            PauseError::Engine(error) => error.into(),
        }
    }
}

impl From<ReloadError> for Problem {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Unsupported => Self::new(Code::Unsupported, error.to_string()),
            ReloadError::Problems(problems) => {
                let first = problems.first().map(String::as_str).unwrap_or_default();
                let others = match problems.len() {
                    0 | 1 => String::new(),
                    count => format!(" (and {} more, see 'problems')", count - 1),
                };
                let detail = format!("the configuration can't be taken over, so nothing changed: {first}{others}");
                Self::new(Code::InvalidConfiguration, detail).with("problems", problems)
            }
        }
    }
}

impl From<BackupError> for Problem {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Unsupported => Self::new(Code::Unsupported, error.to_string()),
            BackupError::Busy => Self::new(Code::Busy, error.to_string()).retry_after(OPERATOR_RETRY_SECONDS),
            BackupError::DiskFull(_) => {
                Self::new(Code::DiskFull, error.to_string()).retry_after(OPERATOR_RETRY_SECONDS)
            }
            BackupError::Engine(error) => error.into(),
        }
    }
}

fn engine_code(error: &EngineError) -> Code {
    match error {
        EngineError::Unavailable => Code::Unavailable,
        EngineError::Unknown => Code::Unknown,
        EngineError::Corrupt(_) => Code::Corrupt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_lists_every_code_with_its_status() {
        let reference = include_str!("../API.md");
        for code in Code::ALL {
            let row = format!("| {} | `{}` |", code.status().as_u16(), code.as_str());
            assert!(reference.contains(&row), "API.md has no row that starts with {row:?}");
        }
        let rows = reference.lines().filter(|line| line.starts_with("| 4") || line.starts_with("| 5")).count();
        assert_eq!(rows, Code::ALL.len(), "API.md has a code that no longer exists");
    }

    #[test]
    fn codes_are_unique() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
    }
}
