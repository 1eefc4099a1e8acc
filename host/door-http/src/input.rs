//! What callers send beside messages: parameters and small JSON bodies, checked, with errors that name the member.

use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Request, Uri};
use pelton_core::clock::WallMs;
use pelton_core::engine::Cursor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::Shared;
use crate::body::Received;
use crate::limits::{COMMAND_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX};
use crate::problem::{Code, Problem};
use crate::shape::{Shape, difference};

/// Reads the small JSON body of a command, which takes no parameters.
pub(crate) async fn command(shared: &Shared, request: Request<Body>) -> Result<Received<'_>, Problem> {
    let (head, body) = request.into_parts();
    let received = shared.budget.read(&head.headers, body, COMMAND_BYTES_MAX, "the limit of this call").await?;
    Parameters::none(&head.uri)?;
    Ok(received)
}

/// The command that `body` spells; an empty body is an empty object.
pub(crate) fn parse<'a, T: Deserialize<'a> + Shape>(body: &'a [u8]) -> Result<T, Problem> {
    let trimmed = body.trim_ascii();
    let body = if trimmed.is_empty() { b"{}" } else { body };
    // The deserializer would take a list for an object, too.
    let parsed = if trimmed.starts_with(b"[") { None } else { Some(serde_json::from_slice(body)) };
    match parsed {
        Some(Ok(command)) => Ok(command),
        Some(Err(error)) if !error.is_data() => Err(invalid_json(&error)),
        refused => Err(explain::<T>(body, refused.and_then(Result::err))),
    }
}

/// The problem of a body that is JSON, but not what was asked for.
fn explain<T: Shape>(body: &[u8], error: Option<serde_json::Error>) -> Problem {
    let value: Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => return invalid_json(&error),
    };
    // What is left for the deserializer to say: a member that stands twice.
    let other = || error.map_or_else(|| "the body is not what this call takes".to_owned(), |error| error.to_string());
    invalid(difference(&value, T::MEMBERS).unwrap_or_else(other))
}

/// The problem of a body that is no JSON, with the place.
pub(crate) fn invalid_json(error: &serde_json::Error) -> Problem {
    Problem::new(Code::InvalidJson, format!("the body is not JSON: {error}"))
        .with("line", error.line())
        .with("column", error.column())
}

/// The query parameters of a call.
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Those of `uri`, which may be any of `known`, each once.
    pub(crate) fn of(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        if uri.query().is_none_or(str::is_empty) {
            return Ok(Self(Vec::new()));
        }
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        let pairs = pairs.map_err(|_| invalid("the query is not of the form name=value&name=value, in UTF-8"))?.0;
        for (at, (name, _)) in pairs.iter().enumerate() {
            let shown: String = name.chars().take(40).collect();
            if !known.contains(&name.as_str()) {
                return Err(invalid(format!("the parameter '{shown}' is unknown; {}", list(known))));
            }
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(invalid(format!("the parameter '{shown}' stands twice")));
            }
        }
        Ok(Self(pairs))
    }

    /// Checks that `uri` has none.
    pub(crate) fn none(uri: &Uri) -> Result<(), Problem> {
        Self::of(uri, &[]).map(drop)
    }

    /// The value of `name`.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The whole number that `name` has for a value.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let parsed = self.text(name).map(|text| {
            let shown: String = text.chars().take(40).collect();
            text.parse().map_err(|_| invalid(format!("'{name}' is '{shown}'; a whole number from 1 is expected")))
        });
        parsed.transpose()
    }

    /// How many (`max`), and behind what (`after`).
    pub(crate) fn page(&self) -> Result<(usize, Option<Cursor>), Problem> {
        let max = self.number("max")?.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        Ok((count("max", max, PAGE_DEFAULT)?, self.after()))
    }

    /// Behind what.
    pub(crate) fn after(&self) -> Option<Cursor> {
        self.text("after").map(|text| Cursor(text.to_owned()))
    }
}

fn list(known: &[&str]) -> String {
    match known {
        [] => "this call takes none".to_owned(),
        known => format!("known are '{}'", known.join("', '")),
    }
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
        let (min, max) = (spelled(min), spelled(max));
        return Err(invalid(format!("'{name}' is {shown}; {min} to {max} are allowed")));
    }
    Ok(duration)
}

/// A duration as it is written in broker.toml and in requests, exactly: `1m 30s`, `366days`.
pub(crate) fn spelled(duration: Duration) -> String {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    let seconds = duration.as_secs();
    // Else months and years would stand there, which are no whole days.
    if duration.subsec_nanos() == 0 && seconds > DAY_SECONDS && seconds.is_multiple_of(DAY_SECONDS) {
        return format!("{}days", seconds / DAY_SECONDS);
    }
    humantime::format_duration(duration).to_string()
}

/// A moment in RFC 3339, such as `2026-01-31T12:00:00Z`. A started millisecond counts as a whole one.
pub(crate) fn moment(name: &str, text: &str) -> Result<WallMs, Problem> {
    let parsed: jiff::Timestamp = text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        // In a query '+' is a blank, so that an offset has to be written differently there.
        let hint = if text.contains(' ') { " (in a query write '+' as %2B)" } else { "" };
        invalid(format!("'{name}' is '{shown}', which is not RFC 3339, such as 2026-01-31T12:00:00Z{hint}"))
    })?;
    // What lies before 1970 has long come.
    let nanoseconds = u128::try_from(parsed.as_nanosecond()).unwrap_or_default();
    Ok(WallMs(u64::try_from(nanoseconds.div_ceil(1_000_000)).unwrap_or(u64::MAX)))
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

    #[test]
    fn what_is_spelled_reads_back() {
        let check = |seconds, expected: &str| {
            let duration = Duration::from_secs(seconds);
            assert_eq!(spelled(duration), expected);
            assert_eq!(humantime::parse_duration(expected), Ok(duration));
        };
        check(0, "0s");
        check(90, "1m 30s");
        check(86_400, "1day");
        check(366 * 86_400, "366days");
        check(366 * 86_400 + 1, "1year 18h 1s");
    }

    #[test]
    fn moments() {
        let check = |text, expected: Result<u64, &str>| {
            let parsed = moment("at", text);
            let shown = parsed.as_ref().map(|parsed| parsed.0);
            assert_eq!(shown.map_err(|problem| problem.detail()), expected);
        };
        check("1970-01-01T00:00:01Z", Ok(1_000));
        check("1970-01-01T01:00:01.5001+01:00", Ok(1_501));
        check("1969-12-31T23:59:59Z", Ok(0));
        check("noon", Err("'at' is 'noon', which is not RFC 3339, such as 2026-01-31T12:00:00Z"));
        check(
            "2026-01-31T12:00:00 01:00",
            Err(
                "'at' is '2026-01-31T12:00:00 01:00', which is not RFC 3339, such as 2026-01-31T12:00:00Z (in a query write '+' as %2B)",
            ),
        );
    }
}
