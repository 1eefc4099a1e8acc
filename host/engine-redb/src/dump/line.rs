//! One line: a message in a queue with everything that is known of it. The names are those of the HTTP API.

use std::str::FromStr;

use jiff::Timestamp;
use pelton_core::clock::WallMs;
use pelton_core::engine::{Attempt, DeadCode, DeadReason, PRIORITY_DEFAULT, PRIORITY_MAX};
use pelton_core::message::Message;
use pelton_core::name::{QueueName, Topic};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::event::{self, EventJson};

/// A message as it leaves one store and comes into another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(super) queue: QueueName,
    pub(super) topic: Topic,
    pub(super) message: Message,
    /// None: now.
    pub(super) accepted: Option<WallMs>,
    /// Not before.
    pub(super) due: Option<WallMs>,
    /// Its handler chose that time.
    pub(super) chosen: bool,
    /// Until somebody acts.
    pub(super) held: bool,
    pub(super) expires: Option<WallMs>,
    pub(super) priority: u8,
    pub(super) key: Option<String>,
    pub(super) hops: u8,
    pub(super) attempts: u32,
    /// It is tried alone.
    pub(super) alone: bool,
    pub(super) dead: Option<Dead>,
    pub(super) history: Vec<Attempt>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) origin: QueueName,
    pub(super) at: WallMs,
    pub(super) reason: DeadReason,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineJson<M> {
    queue: String,
    topic: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    chosen: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    held: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(default = "priority_default")]
    priority: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    hops: u8,
    #[serde(default)]
    attempts: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    alone: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dead: Option<DeadJson>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    history: Vec<AttemptJson>,
    message: M,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadJson {
    origin: String,
    at: String,
    code: String,
    detail: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttemptJson {
    number: u32,
    at: String,
    outcome: String,
    reason: String,
    duration_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    log_tail: String,
}

fn priority_default() -> u8 {
    PRIORITY_DEFAULT
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Record {
    /// The line, without its end.
    pub(crate) fn to_line(&self) -> Vec<u8> {
        let attempt = |attempt: &Attempt| AttemptJson {
            number: attempt.number,
            at: rfc3339(WallMs(attempt.at_ms)),
            outcome: attempt.outcome.clone(),
            reason: attempt.reason.clone(),
            duration_us: attempt.duration_us,
            digest: attempt.digest.clone(),
            log_tail: attempt.log_tail.clone(),
        };
        let dead = |dead: &Dead| DeadJson {
            origin: dead.origin.as_str().to_owned(),
            at: rfc3339(dead.at),
            code: dead.reason.code.as_str().to_owned(),
            detail: dead.reason.detail.clone(),
        };
        let line = LineJson {
            queue: self.queue.as_str().to_owned(),
            topic: self.topic.as_str().to_owned(),
            accepted: self.accepted.map(rfc3339),
            due: self.due.map(rfc3339),
            chosen: self.chosen,
            held: self.held,
            expires: self.expires.map(rfc3339),
            priority: self.priority,
            key: self.key.clone(),
            hops: self.hops,
            attempts: self.attempts,
            alone: self.alone,
            dead: self.dead.as_ref().map(dead),
            history: self.history.iter().map(attempt).collect(),
            message: EventJson(&self.message),
        };
        serde_json::to_vec(&line).expect("texts, numbers and checked JSON, written to memory")
    }

    /// The message on a line; an error is a sentence that says what is wrong with it.
    pub(crate) fn of_line(line: &str) -> Result<Self, String> {
        let json: LineJson<&RawValue> = serde_json::from_str(line.trim_end()).map_err(|error| said(&error))?;
        let moment = |name, text: Option<String>| text.map(|text| moment(name, &text)).transpose();
        let record = Self {
            queue: name("queue", &json.queue)?,
            topic: Topic::new(&json.topic).map_err(|error| format!("'topic': {error}"))?,
            accepted: moment("accepted", json.accepted)?,
            due: moment("due", json.due)?,
            chosen: json.chosen,
            held: json.held,
            expires: moment("expires", json.expires)?,
            priority: json.priority,
            key: json.key,
            hops: json.hops,
            attempts: json.attempts,
            alone: json.alone,
            dead: json.dead.map(Dead::of_json).transpose()?,
            history: json.history.into_iter().map(attempt_of_json).collect::<Result<_, _>>()?,
            message: event::read(json.message)?,
        };
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), String> {
        if self.priority > PRIORITY_MAX {
            return Err(format!("'priority' is {}; 0 to {PRIORITY_MAX} is expected", self.priority));
        }
        if self.held && self.dead.is_none() {
            return Err("'held' stands without 'dead'; only dead letters are held".to_owned());
        }
        if self.held && self.due.is_some() {
            return Err("'held' stands beside 'due'; what is held waits for no time".to_owned());
        }
        Ok(())
    }
}

impl Dead {
    fn of_json(json: DeadJson) -> Result<Self, String> {
        let code = DeadCode::from_str(&json.code).map_err(|error| format!("'dead.code': {error}"))?;
        Ok(Self {
            origin: name("dead.origin", &json.origin)?,
            at: moment("dead.at", &json.at)?,
            reason: DeadReason { code, detail: json.detail },
        })
    }
}

fn attempt_of_json(json: AttemptJson) -> Result<Attempt, String> {
    Ok(Attempt {
        number: json.number,
        at_ms: moment("history.at", &json.at)?.0,
        outcome: json.outcome,
        reason: json.reason,
        duration_us: json.duration_us,
        digest: json.digest,
        log_tail: json.log_tail,
    })
}

fn name(member: &str, text: &str) -> Result<QueueName, String> {
    QueueName::new(text).map_err(|error| format!("'{member}': {error}"))
}

/// A time to the millisecond; what lies beyond all calendars becomes the last moment that they know.
fn rfc3339(moment: WallMs) -> String {
    let ms = i64::try_from(moment.0).unwrap_or(i64::MAX);
    let timestamp = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    format!("{timestamp:.3}")
}

fn moment(member: &str, text: &str) -> Result<WallMs, String> {
    let error = || format!("'{member}' is '{text}'; a time such as 2026-01-31T12:00:00Z is expected, from 1970 on");
    let timestamp: Timestamp = text.parse().map_err(|_| error())?;
    u64::try_from(timestamp.as_millisecond()).map(WallMs).map_err(|_| error())
}

/// What the parser says, without the number of the line, which is always the first for it.
pub(super) fn said(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests {
    use pelton_core::message::Attributes;

    use super::*;

    fn plain() -> Record {
        let attributes = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
        Record {
            queue: QueueName::new("q").expect("valid"),
            topic: Topic::new("a.b").expect("valid"),
            message: Message::new(&attributes, b"{}").expect("valid"),
            accepted: Some(WallMs(1_767_225_600_001)),
            due: None,
            chosen: false,
            held: false,
            expires: None,
            priority: 4,
            key: None,
            hops: 0,
            attempts: 0,
            alone: false,
            dead: None,
            history: Vec::new(),
        }
    }

    fn check(record: &Record, expected: &str) {
        let line = String::from_utf8(record.to_line()).expect("JSON is text");
        assert_eq!(line, expected);
        assert_eq!(Record::of_line(&line).as_ref(), Ok(record));
    }

    const EVENT: &str = r#""message":{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{}}"#;

    #[test]
    fn a_plain_message_is_a_short_line() {
        let line = r#"{"queue":"q","topic":"a.b","accepted":"2026-01-01T00:00:00.001Z","priority":4,"attempts":0,"#;
        check(&plain(), &format!("{line}{EVENT}}}"));
    }

    #[test]
    fn everything_that_is_known_is_on_the_line() {
        let reason = DeadReason { code: DeadCode::Rejected, detail: "no\nway".to_owned() };
        let attempt = Attempt {
            number: 1,
            at_ms: 2,
            outcome: "trap".to_owned(),
            reason: "it panicked".to_owned(),
            duration_us: 17,
            digest: Some("ab".to_owned()),
            log_tail: "line\n".to_owned(),
        };
        let dead = Dead { origin: QueueName::new("o").expect("valid"), at: WallMs(3), reason };
        let base = Record { expires: Some(WallMs(4)), due: Some(WallMs(5)), chosen: true, ..plain() };
        let dying = Record { dead: Some(dead), history: vec![attempt], ..base };
        let all = Record { priority: 9, key: Some("k".to_owned()), hops: 2, attempts: 3, alone: true, ..dying };
        let line = concat!(
            r#"{"queue":"q","topic":"a.b","accepted":"2026-01-01T00:00:00.001Z","due":"1970-01-01T00:00:00.005Z","chosen":true,"#,
            r#""expires":"1970-01-01T00:00:00.004Z","priority":9,"key":"k","hops":2,"attempts":3,"alone":true,"#,
            r#""dead":{"origin":"o","at":"1970-01-01T00:00:00.003Z","code":"rejected","detail":"no\nway"},"#,
            r#""history":[{"number":1,"at":"1970-01-01T00:00:00.002Z","outcome":"trap","reason":"it panicked","duration_us":17,"#,
            r#""digest":"ab","log_tail":"line\n"}],"#
        );
        check(&all, &format!("{line}{EVENT}}}"));
        let held = Record { held: true, due: None, chosen: false, ..all };
        let again = String::from_utf8(held.to_line()).expect("JSON is text");
        assert_eq!(Record::of_line(&again), Ok(held));
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let line = format!(r#"{{"queue":"q","topic":"a.b",{EVENT}}}"#);
        assert_eq!(Record::of_line(&line), Ok(Record { accepted: None, ..plain() }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |members: &str, expected: &str| {
            let line = format!(r#"{{"queue":"q","topic":"t",{members}{EVENT}}}"#);
            assert_eq!(Record::of_line(&line).map(|_| ()), Err(expected.to_owned()), "{line}");
        };
        check(r#""priority":10,"#, "'priority' is 10; 0 to 9 is expected");
        check(r#""held":true,"#, "'held' stands without 'dead'; only dead letters are held");
        let time = "a time such as 2026-01-31T12:00:00Z is expected, from 1970 on";
        check(r#""due":"noon","#, &format!("'due' is 'noon'; {time}"));
        check(r#""accepted":"1969-12-31T23:59:59Z","#, &format!("'accepted' is '1969-12-31T23:59:59Z'; {time}"));
        let dead = r#""dead":{"origin":"o","at":"2026-01-31T12:00:00Z","code":"bored","detail":""},"#;
        let error =
            Record::of_line(&format!(r#"{{"queue":"q","topic":"t",{dead}{EVENT}}}"#)).expect_err("no such code");
        assert!(error.starts_with("'dead.code': 'bored' is no reason"), "{error}");
        for line in
            ["", "7", "{}", "{\n", r#"{"queue":"q","topic":"t"}"#, r#"{"queue":"no queue","topic":"t","message":{}}"#]
        {
            let error = Record::of_line(line).expect_err("it is no message");
            assert!(!error.contains("at line"), "{error}");
        }
    }
}
