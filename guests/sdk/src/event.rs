//! What a handler publishes.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::bindings::pelton::broker::types::Refused;
use crate::time::{after, rfc3339, unix_ms};
use crate::{Event, host};

/// Emits `value` as JSON to `topic` and returns the id that its message will have.
///
/// It exists only if this delivery settles as done; see [`Event`] for a subject, a type, another format, a later time.
///
/// # Errors
/// [`EmitError`]. By `?` it asks for another try.
pub fn emit(topic: &str, value: &(impl Serialize + ?Sized)) -> Result<String, EmitError> {
    Event::json(value).map_err(EmitError::Encode)?.emit(topic)
}

/// Builds and emits.
///
/// ```
/// # use pelton_guest::{Event, Result};
/// # fn ship(order: u64) -> Result {
/// Event::json(&order)?.subject(format!("order/{order}")).extension("partitionkey", "eu").emit("orders.shipped")?;
/// # Ok(()) }
/// # ship(7).unwrap();
/// ```
///
/// When it is delivered, and before which others:
///
/// ```
/// # use pelton_guest::{Event, Result};
/// # use std::time::Duration;
/// # fn remind(order: u64) -> Result {
/// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Event::json(&order)?.priority(7).expires_in(3 * DAY).emit_after("orders.unpaid", 2 * DAY)?;
/// # Ok(()) }
/// # remind(7).unwrap();
/// ```
impl Event {
    /// An event whose body is `value` as JSON.
    ///
    /// # Errors
    /// When `value` has no form in JSON: a map whose keys are no text, or what its own `Serialize` refuses.
    pub fn json(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        Ok(Self::of("application/json", serde_json::to_vec(value)?))
    }

    /// An event whose body is text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::of("text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// An event whose body is bytes: `application/octet-stream`, until [`content_type`](Self::content_type) says better.
    pub fn bytes(data: impl Into<Vec<u8>>) -> Self {
        Self::of("application/octet-stream", data.into())
    }

    fn of(content_type: &str, data: Vec<u8>) -> Self {
        Self {
            type_: None,
            subject: None,
            content_type: Some(content_type.to_owned()),
            data_schema: None,
            extensions: Vec::new(),
            data,
        }
    }

    /// Sets the kind of event, `type` in CloudEvents. Default: the topic.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.type_ = Some(kind.into());
        self
    }

    /// Sets what the event is about. Not empty.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the media type of the body.
    #[must_use]
    pub fn content_type(mut self, media_type: impl Into<String>) -> Self {
        self.content_type = Some(media_type.into());
        self
    }

    /// Adds an extension attribute. The name is 1 to 64 of `a-z 0-9`; each name once.
    #[must_use]
    pub fn extension(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.extensions.push((name.into(), value.into()));
        self
    }

    /// Sets what its message is kept in order by, in queues with `order = "key"`: one message of a key is handled at a time,
    /// in the order of emitting. Not empty. It is the extension `partitionkey`; a queue may go by another.
    #[must_use]
    pub fn partition_key(self, key: impl Into<String>) -> Self {
        self.replacing("partitionkey", key.into())
    }

    /// Sets how urgent it is, 0 to 9, in queues with `priority = true`: the highest is handled first, 4 is what others have.
    /// More than 9 counts as 9.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.replacing("priority", priority.min(9).to_string())
    }

    /// Sets the time from which on nobody is to handle it any more: it expires, as its queue says what becomes of that. A
    /// queue's own `ttl` may end sooner.
    #[must_use]
    pub fn expires_at(self, time: SystemTime) -> Self {
        self.replacing("expirytime", rfc3339(time))
    }

    /// The same, so long from now; from now also if it is emitted for later.
    #[must_use]
    pub fn expires_in(self, time: Duration) -> Self {
        self.expires_at(after(time))
    }

    fn replacing(mut self, name: &str, value: String) -> Self {
        self.extensions.retain(|(known, _)| known != name);
        self.extension(name, value)
    }

    /// Emits the event to `topic` and returns the id that its message will have: the same in every attempt. The message
    /// exists only if this delivery settles as done.
    ///
    /// # Errors
    /// [`EmitError`], never `Encode`. The delivery can go on.
    pub fn emit(&self, topic: &str) -> Result<String, EmitError> {
        host::emit(topic, self).map_err(EmitError::from)
    }

    /// Emits the event to `topic`, to be handled no earlier than `time`; see [`emit`](Self::emit). A time that has come means
    /// now. At most 366 days ahead: beyond, it is refused with [`EmitError::Limit`].
    ///
    /// # Errors
    /// [`EmitError`], never `Encode`. The delivery can go on.
    pub fn emit_at(&self, topic: &str, time: SystemTime) -> Result<String, EmitError> {
        host::emit_at(topic, self, unix_ms(time)).map_err(EmitError::from)
    }

    /// Emits the event to `topic`, to be handled no earlier than so long from now; see [`emit_at`](Self::emit_at).
    ///
    /// # Errors
    /// [`EmitError`], never `Encode`. The delivery can go on.
    pub fn emit_after(&self, topic: &str, wait: Duration) -> Result<String, EmitError> {
        self.emit_at(topic, after(wait))
    }
}

/// Why an emit was not taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum EmitError {
    /// The value has no form in JSON.
    Encode(serde_json::Error),
    /// The topic is malformed or routed nowhere, or an attribute breaks a rule.
    Invalid(String),
    /// More emits, or more bytes of them, than a delivery of this consumer may have; or a time too far ahead.
    Limit(String),
    /// Anything else that the broker says.
    Other(String),
}

impl From<Refused> for EmitError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(reason) => Self::Invalid(reason),
            Refused::Limit(reason) => Self::Limit(reason),
            Refused::Other(reason) => Self::Other(reason),
        }
    }
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode(_) => f.write_str("what was to be emitted has no form in JSON"),
            Self::Invalid(reason) | Self::Limit(reason) | Self::Other(reason) => {
                write!(f, "the broker refused what was emitted: {reason}")
            }
        }
    }
}

impl std::error::Error for EmitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Encode(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn emits_carry_what_was_built() {
        Event::text("hello")
            .kind("greeting")
            .subject("world")
            .extension("partitionkey", "a")
            .emit("greetings")
            .expect("taken");
        emit("numbers", &[1, 2]).expect("taken");
        let emitted = testing::emitted();
        assert_eq!(emitted.len(), 2);
        let (topic, event) = &emitted[0];
        assert_eq!((topic.as_str(), event.data.as_slice()), ("greetings", &b"hello"[..]));
        assert_eq!((event.type_.as_deref(), event.subject.as_deref()), (Some("greeting"), Some("world")));
        assert_eq!(event.extensions, [("partitionkey".to_owned(), "a".to_owned())]);
        let (topic, event) = &emitted[1];
        assert_eq!((topic.as_str(), event.data.as_slice()), ("numbers", &b"[1,2]"[..]));
        assert_eq!(event.content_type.as_deref(), Some("application/json"));
    }

    #[test]
    fn an_event_says_when_and_in_which_order() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_millis(1_769_860_800_250);
        let event = Event::text("pay").priority(3).priority(12).partition_key("eu").expires_at(noon);
        let extension = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            extension("priority", "9"),
            extension("partitionkey", "eu"),
            extension("expirytime", "2026-01-31T12:00:00.250Z"),
        ];
        assert_eq!(event.extensions, expected, "each once");
        event.emit_at("reminders", noon).expect("taken");
        event.emit_after("reminders", Duration::from_secs(60)).expect("taken");
        assert!(testing::emitted().is_empty(), "not for now");
        let scheduled = testing::scheduled();
        assert_eq!(
            (scheduled[0].0.as_str(), &scheduled[0].1.extensions, scheduled[0].2),
            ("reminders", &event.extensions, noon)
        );
        let wait = scheduled[1].2.duration_since(SystemTime::now()).expect("it lies ahead");
        assert!((50..=60).contains(&wait.as_secs()), "{wait:?}");
    }

    #[test]
    fn a_refusal_says_why() {
        testing::refuse_topic("nowhere", "no route matches topic 'nowhere'");
        Event::text("x").emit_after("nowhere", Duration::ZERO).expect_err("refused");
        let error = crate::Error::from(emit("nowhere", "x").expect_err("refused"));
        assert!(!error.is_reject(), "the operator may add the route");
        assert_eq!(error.reason(), "the broker refused what was emitted: no route matches topic 'nowhere'");
    }
}
