//! How a handler says no: try again, or never.

use std::fmt;
use std::time::Duration;

use crate::bindings::pelton::broker::types::{Failure, Retry};

/// What a handler returns.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Why a delivery failed, and whether it should be tried again.
///
/// Everything that implements [`std::error::Error`] turns into a retry by `?`: most failures of the outside pass. What will
/// fail each time should be rejected, so that it becomes a dead letter at once:
///
/// ```
/// # use std::time::Duration;
/// # use pelton_guest::{Error, Result, ResultExt};
/// fn quantity(text: &str) -> Result<u32> {
///     let quantity: u32 = text.parse().or_reject()?;
///     if quantity > 1000 {
///         return Err(Error::reject(format!("nobody orders {quantity} at once")));
///     }
///     if quantity > 100 {
///         return Err(Error::retry("the warehouse is closed").after(Duration::from_secs(3600)));
///     }
///     Ok(quantity)
/// }
/// # assert!(quantity("many").unwrap_err().is_reject());
/// ```
///
/// It does not implement [`std::error::Error`] itself: that is what lets `?` turn any error into it.
pub struct Error {
    reason: String,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Retry { after: Option<Duration> },
    Reject,
}

impl Error {
    /// It may work later: the message is delivered again after the queue's backoff, until its attempts are used up.
    pub fn retry(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), verdict: Verdict::Retry { after: None } }
    }

    /// It never will: the message becomes a dead letter at once.
    pub fn reject(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), verdict: Verdict::Reject }
    }

    /// Sets how long to wait at least before the next try, in place of the queue's backoff. Up to 49 days, in whole
    /// milliseconds. A rejection stays one.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        if let Verdict::Retry { after } = &mut self.verdict {
            *after = Some(wait);
        }
        self
    }

    /// Whether the message becomes a dead letter at once.
    #[must_use]
    pub fn is_reject(&self) -> bool {
        self.verdict == Verdict::Reject
    }

    /// Why, in the words that stand in the message's history.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// The error and what caused it, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason.push_str(": ");
        reason.push_str(&cause.to_string());
        source = cause.source();
    }
    reason
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self::retry(chain(&error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict {
            Verdict::Retry { after: None } => write!(f, "retry: {}", self.reason),
            Verdict::Retry { after: Some(wait) } => write!(f, "retry after {wait:?}: {}", self.reason),
            Verdict::Reject => write!(f, "reject: {}", self.reason),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.verdict {
            Verdict::Retry { after } => Self::Retry(Retry {
                reason: error.reason,
                after: after.map(|wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)),
            }),
            Verdict::Reject => Self::Reject(error.reason),
        }
    }
}

/// Decides what an error means, where `?` alone would ask for another try.
pub trait ResultExt<T> {
    /// An error rejects the message.
    ///
    /// # Errors
    /// [`Error::reject`] with the error's text and that of its causes.
    fn or_reject(self) -> Result<T>;

    /// An error asks for another try, even if it was a rejection.
    ///
    /// # Errors
    /// [`Error::retry`] with the error's text and that of its causes.
    fn or_retry(self) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn or_reject(self) -> Result<T> {
        self.map_err(|error| Error { verdict: Verdict::Reject, ..error.into() })
    }

    fn or_retry(self) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            if error.is_reject() { Error::retry(error.reason) } else { error }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<u32, std::num::ParseIntError> {
        text.parse()
    }

    fn by_question_mark(text: &str) -> Result<u32> {
        Ok(parse(text)?)
    }

    #[test]
    fn what_becomes_of_an_error() {
        let check = |result: Result<u32>, expected: &str| {
            assert_eq!(format!("{:?}", result.expect_err(expected)), expected);
        };
        check(by_question_mark("x"), "retry: invalid digit found in string");
        check(parse("x").or_reject(), "reject: invalid digit found in string");
        check(parse("x").or_reject().or_retry(), "retry: invalid digit found in string");
        check(Err(Error::retry("down").after(Duration::from_secs(2))), "retry after 2s: down");
        check(Err(Error::retry("down").after(Duration::from_secs(2))).or_retry(), "retry after 2s: down");
        check(Err(Error::reject("bad").after(Duration::from_secs(2))), "reject: bad");
    }

    #[test]
    fn causes_are_part_of_the_reason() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("reading the price")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = Error::from(Outer(parse("x").expect_err("no number")));
        assert_eq!(error.reason(), "reading the price: invalid digit found in string");
    }

    #[test]
    fn waits_cross_the_boundary_in_milliseconds() {
        let check = |wait, expected| match Failure::from(Error::retry("").after(wait)) {
            Failure::Retry(retry) => assert_eq!(retry.after, Some(expected)),
            Failure::Reject(_) => panic!("a retry became a rejection"),
        };
        check(Duration::from_millis(1500), 1500);
        check(Duration::MAX, u32::MAX);
    }
}
