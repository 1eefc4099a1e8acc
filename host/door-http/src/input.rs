//! What callers send beside messages: parameters and small JSON bodies, checked, with errors that name the member.

use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Request, Uri};
use pelton_core::engine::Cursor;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::api::Shared;
use crate::body::Received;
use crate::limits::{COMMAND_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX};
use crate::problem::{Code, Problem};

/// Reads the small JSON body of a command.
pub(crate) async fn command(shared: &Shared, request: Request<Body>) -> Result<Received<'_>, Problem> {
    let (head, body) = request.into_parts();
    shared.budget.read(&head.headers, body, COMMAND_BYTES_MAX, "the limit of this call").await
}

/// The command that `body` spells; an empty body is an empty object.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() { Problem::new(Code::InvalidRequest, error.to_string()) } else { invalid_json(&error) }
    })
}

/// The problem of a body that is no JSON, with the place.
pub(crate) fn invalid_json(error: &serde_json::Error) -> Problem {
    Problem::new(Code::InvalidJson, format!("the body is not JSON: {error}"))
        .with("line", error.line())
        .with("column", error.column())
}

/// The query parameters as `T`, which names those that there are.
pub(crate) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let query = axum::extract::Query::<T>::try_from_uri(uri);
    query.map(|query| query.0).map_err(|rejection| Problem::new(Code::InvalidRequest, rejection.body_text()))
}

/// What the path holds in the places of its `{}`, percent-decoded.
pub(crate) struct InPath<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|rejection| Problem::new(Code::InvalidRequest, rejection.body_text()))
    }
}

/// `?max=&after=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    max: Option<usize>,
    after: Option<String>,
}

impl PageQuery {
    /// How many, and behind what.
    pub(crate) fn checked(self) -> Result<(usize, Option<Cursor>), Problem> {
        Ok((count("max", self.max, PAGE_DEFAULT)?, self.after.map(Cursor)))
    }
}

/// A number of messages, 1 to [`PAGE_MAX`].
pub(crate) fn count(name: &str, given: Option<usize>, default: usize) -> Result<usize, Problem> {
    match given {
        None => Ok(default),
        Some(count) if (1..=PAGE_MAX).contains(&count) => Ok(count),
        Some(count) => Err(invalid(format!("'{name}' is {count}; 1 to {PAGE_MAX} are allowed"))),
    }
}

/// A duration such as `30s` or `1m 30s`, from `min` to `max`.
pub(crate) fn duration(name: &str, text: &str, min: Duration, max: Duration) -> Result<Duration, Problem> {
    let shown: String = text.chars().take(40).collect();
    let duration = humantime::parse_duration(text).map_err(|error| {
        invalid(format!("'{name}' is '{shown}', which is not a duration such as \"30s\" or \"500ms\": {error}"))
    })?;
    if duration < min || duration > max {
        let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
        return Err(invalid(format!("'{name}' is {shown}; {min} to {max} are allowed")));
    }
    Ok(duration)
}

pub(crate) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text, expected: Result<u64, &str>| {
            let parsed = duration("ttl", text, Duration::from_secs(1), Duration::from_secs(60));
            let shown = parsed.as_ref().map(|parsed| u64::try_from(parsed.as_millis()).expect("short"));
            assert_eq!(shown.map_err(|problem| problem.detail()), expected);
        };
        check("30s", Ok(30_000));
        check("1500ms", Ok(1_500));
        check("1m", Ok(60_000));
        check("61s", Err("'ttl' is 61s; 1s to 1m are allowed"));
        check("10ms", Err("'ttl' is 10ms; 1s to 1m are allowed"));
        check(
            "fast",
            Err("'ttl' is 'fast', which is not a duration such as \"30s\" or \"500ms\": expected number at 0"),
        );
    }
}
