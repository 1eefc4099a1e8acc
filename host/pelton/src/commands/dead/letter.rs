//! A dead letter as the API shows it, as a row of a list and as a story.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::output::{self, Paint};

/// A dead letter as the API shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Letter {
    pub(super) position: u64,
    topic: String,
    attempts: u32,
    accepted: String,
    message: Message,
    pub(super) dead: Option<Dead>,
    #[serde(default)]
    history: Vec<Attempt>,
}

/// A CloudEvent in the JSON format: its attributes, and its data as it was written.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Message {
    members: BTreeMap<String, Box<RawValue>>,
}

impl Message {
    /// An attribute, or base64 data: a text.
    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.members.get(name)?.get()).ok()
    }

    fn id(&self) -> String {
        self.text("id").unwrap_or_default()
    }

    /// Attributes that are not shown first anyway, by name.
    fn others(&self) -> impl Iterator<Item = (&str, String)> {
        let is_other = |name: &&String| !SHOWN_FIRST.contains(&name.as_str()) && !UNSHOWN.contains(&name.as_str());
        self.members.keys().filter(is_other).filter_map(|name| Some((name.as_str(), self.text(name)?)))
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Dead {
    origin: String,
    at: String,
    code: String,
    detail: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Attempt {
    number: u32,
    at: String,
    outcome: String,
    reason: String,
    duration_us: u64,
    digest: Option<String>,
    log_tail: String,
}

/// Attributes that every message has, in the order that they are shown in.
const SHOWN_FIRST: [&str; 3] = ["id", "type", "source"];
/// Members that are shown otherwise, or not.
const UNSHOWN: [&str; 3] = ["specversion", "data", "data_base64"];
/// Levels that a body is indented by at most.
const DEPTH_SHOWN: usize = 40;
/// Characters of the names of what is told of a message; longer ones of attributes make room for themselves.
const FIELD_WIDTH: usize = 9;
/// Characters of a reason in a list.
const REASON_SHOWN: usize = 100;

/// A letter's row of the list.
pub(super) fn row(letter: &Letter) -> Vec<String> {
    let dead = |field: fn(&Dead) -> &str| letter.dead.as_ref().map_or("-", field).to_owned();
    let detail = dead(|dead| &dead.detail);
    let detail = detail.lines().next().unwrap_or_default();
    let mut short: String = detail.chars().take(REASON_SHOWN).collect();
    if short.len() < detail.len() {
        short.push_str("...");
    }
    vec![
        dead(|dead| &dead.origin),
        letter.position.to_string(),
        output::tame(&letter.message.id()).into_owned(),
        letter.topic.clone(),
        letter.attempts.to_string(),
        dead(|dead| &dead.code),
        dead(|dead| &dead.at),
        output::tame(&short).into_owned(),
    ]
}

/// A letter's story: why it died, every attempt, the body.
pub(super) fn text(letter: &Letter, paint: Paint) -> String {
    let mut text = String::new();
    let width = letter.message.others().map(|(name, _)| name.chars().count()).chain([FIELD_WIDTH]).max();
    let width = width.unwrap_or(FIELD_WIDTH);
    let mut field = |name: &str, value: &str| {
        let _ = writeln!(text, "{}  {}", paint.bold(&format!("{name:<width$}")), output::tame(value));
    };
    let message = &letter.message;
    field("position", &letter.position.to_string());
    field("topic", &letter.topic);
    for name in SHOWN_FIRST {
        field(name, &message.text(name).unwrap_or_default());
    }
    message.others().for_each(|(name, value)| field(name, &value));
    field("accepted", &letter.accepted);
    if let Some(dead) = &letter.dead {
        field("died in", &format!("{} at {}", dead.origin, dead.at));
        field("because", &format!("{} ({})", dead.detail, dead.code));
    }
    if letter.history.is_empty() {
        field("history", "no attempt was made");
    }
    for attempt in &letter.history {
        let duration = output::duration(Duration::from_micros(attempt.duration_us));
        let _ = writeln!(
            text,
            "\n{}  {}  {}  {duration}",
            paint.bold(&format!("attempt {}", attempt.number)),
            attempt.at,
            paint.red(&attempt.outcome)
        );
        let component = attempt.digest.as_ref().map(|digest| format!("component {digest}"));
        let lines = attempt.reason.lines().chain(attempt.log_tail.lines()).map(str::to_owned).chain(component);
        for line in lines {
            let _ = writeln!(text, "    {}", output::tame(&line));
        }
    }
    let body = match (message.members.get("data"), message.text("data_base64")) {
        (Some(data), _) => pretty(data),
        (None, Some(base64)) => format!("(base64) {base64}"),
        (None, None) => "(empty)".to_owned(),
    };
    let _ = write!(text, "\n{}\n{body}", paint.bold("body"));
    text
}

/// A body as it reads best: text as it is, JSON over several lines.
fn pretty(data: &RawValue) -> String {
    let text = serde_json::from_str::<String>(data.get()).unwrap_or_else(|_| indented(data));
    text.lines().map(|line| output::tame(line).into_owned() + "\n").collect::<String>().trim_end().to_owned()
}

/// JSON over several lines, each of its words as it was written and in the order that it was written in.
fn indented(data: &RawValue) -> String {
    let text = data.get();
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0;
    let mut in_string = false;
    let mut is_escaped = false;
    let mut words = text.chars().peekable();
    while let Some(c) = words.next() {
        if in_string {
            out.push(c);
            in_string = is_escaped || c != '"';
            is_escaped = !is_escaped && c == '\\';
            continue;
        }
        let line = |out: &mut String, depth: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth.min(DEPTH_SHOWN)));
        };
        match c {
            _ if c.is_ascii_whitespace() => {}
            '{' | '[' => {
                while words.next_if(char::is_ascii_whitespace).is_some() {}
                out.push(c);
                if let Some(end) = words.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => {
                in_string = c == '"';
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_keep_their_order_and_their_words() {
        let check = |body: &str, expected: &str| {
            let raw = RawValue::from_string(body.to_owned()).expect("JSON");
            assert_eq!(pretty(&raw), expected);
        };
        check(
            r#"{"z":1.0,"a":[ ],"m":[1,{"b":"x,\"}y","a":{}}], "u":"\u00e9"}"#,
            "{\n  \"z\": 1.0,\n  \"a\": [],\n  \"m\": [\n    1,\n    {\n      \"b\": \"x,\\\"}y\",\n      \"a\": {}\n    }\n  ],\n  \"u\": \"\\u00e9\"\n}",
        );
        check(r#""two\nlines\u001b""#, "two\nlines?");
        check("12345678901234567890.10", "12345678901234567890.10");
        check(r#""\\""#, "\\");
        check(r#"["\\",1]"#, "[\n  \"\\\\\",\n  1\n]");
    }

    #[test]
    fn a_dead_letter_reads_as_a_story() {
        let letter: Letter = serde_json::from_str(
            r#"{"position": 17, "topic": "orders.created", "attempts": 2, "accepted": "2026-01-31T12:00:00.000Z", "held": false, "leased": false,
                "message": {"specversion": "1.0", "id": "o-1", "source": "/shop", "type": "order", "subject": "7", "partitionkey": "ada", "data": {"order": 7}},
                "dead": {"origin": "orders", "at": "2026-01-31T12:00:09.000Z", "code": "max-attempts", "detail": "attempt 2 of 2 ended with retry: closed"},
                "history": [
                  {"number": 1, "at": "2026-01-31T12:00:00.000Z", "outcome": "retry", "reason": "closed", "duration_us": 120, "digest": null, "log_tail": ""},
                  {"number": 2, "at": "2026-01-31T12:00:09.000Z", "outcome": "retry", "reason": "closed", "duration_us": 1200, "digest": "9f86", "log_tail": "INFO : knocked\nINFO : waited"}]}"#,
        )
        .expect("as the API writes it");
        let expected = r#"position      17
topic         orders.created
id            o-1
type          order
source        /shop
partitionkey  ada
subject       7
accepted      2026-01-31T12:00:00.000Z
died in       orders at 2026-01-31T12:00:09.000Z
because       attempt 2 of 2 ended with retry: closed (max-attempts)

attempt 1  2026-01-31T12:00:00.000Z  retry  120 us
    closed

attempt 2  2026-01-31T12:00:09.000Z  retry  1.2 ms
    closed
    INFO : knocked
    INFO : waited
    component 9f86

body
{
  "order": 7
}"#;
        assert_eq!(text(&letter, Paint::plain()), expected);
    }
}
