//! A dead letter as the API shows it, as a row of a list and as a story.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::output::{self, Paint};

/// A dead letter as the API shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Letter {
    pub(super) position: u64,
    topic: String,
    attempts: u32,
    message: Message,
    pub(super) dead: Option<Dead>,
    #[serde(default)]
    history: Vec<Attempt>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Message {
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    data: Option<Box<RawValue>>,
    data_base64: Option<String>,
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

/// Characters of a reason in a list.
const REASON_SHOWN: usize = 100;

/// A letter's row of the list.
pub(super) fn row(letter: &Letter) -> Vec<String> {
    let dead = |field: fn(&Dead) -> &str| letter.dead.as_ref().map_or("-", field).to_owned();
    let detail = dead(|dead| &dead.detail);
    let detail = detail.lines().next().unwrap_or_default();
    let short: String = detail.chars().take(REASON_SHOWN).collect();
    vec![
        dead(|dead| &dead.origin),
        letter.position.to_string(),
        output::tame(&letter.message.id).into_owned(),
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
    let mut field = |name: &str, value: &str| {
        let _ = writeln!(text, "{}  {}", paint.bold(&format!("{name:<9}")), output::tame(value));
    };
    field("id", &letter.message.id);
    field("position", &letter.position.to_string());
    field("topic", &letter.topic);
    field("type", &letter.message.kind);
    field("source", &letter.message.source);
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
    let body = match (&letter.message.data, &letter.message.data_base64) {
        (Some(data), _) => pretty(data),
        (None, Some(base64)) => format!("(base64) {base64}"),
        (None, None) => "(empty)".to_owned(),
    };
    let _ = write!(text, "\n{}\n{body}", paint.bold("body"));
    text
}

/// A body as it reads best: text as it is, JSON over several lines. Control characters stay escaped in JSON.
fn pretty(data: &RawValue) -> String {
    match serde_json::from_str::<Value>(data.get()) {
        Ok(Value::String(text)) => {
            text.lines().map(|line| output::tame(line).into_owned() + "\n").collect::<String>().trim_end().to_owned()
        }
        Ok(value) => serde_json::to_string_pretty(&value).unwrap_or_else(|_| data.get().to_owned()),
        Err(_) => data.get().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_reads_as_a_story() {
        let letter: Letter = serde_json::from_str(
            r#"{"position": 17, "topic": "orders.created", "attempts": 2, "accepted": "2026-01-31T12:00:00.000Z", "held": false, "leased": false,
                "message": {"specversion": "1.0", "id": "o-1", "source": "/shop", "type": "order", "data": {"order": 7}},
                "dead": {"origin": "orders", "at": "2026-01-31T12:00:09.000Z", "code": "max-attempts", "detail": "attempt 2 of 2 ended with retry: closed"},
                "history": [
                  {"number": 1, "at": "2026-01-31T12:00:00.000Z", "outcome": "retry", "reason": "closed", "duration_us": 120, "digest": null, "log_tail": ""},
                  {"number": 2, "at": "2026-01-31T12:00:09.000Z", "outcome": "retry", "reason": "closed", "duration_us": 1200, "digest": "9f86", "log_tail": "INFO : knocked\nINFO : waited"}]}"#,
        )
        .expect("as the API writes it");
        let expected = r#"id         o-1
position   17
topic      orders.created
type       order
source     /shop
died in    orders at 2026-01-31T12:00:09.000Z
because    attempt 2 of 2 ended with retry: closed (max-attempts)

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
