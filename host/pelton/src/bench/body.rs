//! Request bodies, built once; only ids and times are patched in, as digits of fixed width.

use std::ops::Range;

use bytes::Bytes;

/// Digits of an id and of a time.
pub(super) const DIGITS: usize = 16;
/// What stands before the time in a body that is timed. Has no character that any format would escape.
const MARK: &str = "pelton-bench:";
/// Hexadecimal digits that tell one run from another.
const RUN_DIGITS: usize = 8;
/// The smallest body that holds a mark.
pub(super) const SIZE_MIN: usize = r#"{"mark":"","pad":""}"#.len() + MARK.len() + RUN_DIGITS + 1 + DIGITS + 1;

/// A number that tells this run's messages from those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run(pub(super) u32);

impl Run {
    pub(super) fn new() -> Self {
        Self(fastrand::u32(..))
    }

    fn mark(self) -> String {
        format!("{MARK}{:08x}:", self.0)
    }
}

/// The body of one message: JSON of exactly `size` bytes with a place for a time.
fn data(run: Run, size: usize) -> String {
    let head = format!(r#"{{"mark":"{}{:0DIGITS$};","pad":""#, run.mark(), 0);
    let pad = size.saturating_sub(head.len() + 2);
    format!("{head}{}\"}}", "x".repeat(pad))
}

/// Attributes that messages have beside the usual ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Features {
    /// `partitionkey`: one of so many, at random.
    pub(super) keys: Option<u64>,
    /// `priority`: 0 to 9, at random.
    pub(super) priority: bool,
    /// `deliverytime`: at random between two wall times, in milliseconds since 1970.
    pub(super) due_ms: Option<Range<u64>>,
}

impl Features {
    fn are_used(&self) -> bool {
        self.keys.is_some() || self.priority || self.due_ms.is_some()
    }

    /// The attributes of one message, with zeros where it gets its own.
    fn text(&self) -> String {
        let mut text = String::new();
        if self.keys.is_some() {
            text.push_str(&format!(r#""{KEY}":"{:0DIGITS$}","#, 0));
        }
        if self.priority {
            text.push_str(&format!(r#""{PRIORITY}":"0","#));
        }
        if self.due_ms.is_some() {
            text.push_str(&format!(r#""{DUE}":"{}","#, "0".repeat(RFC3339_BYTES)));
        }
        text
    }
}

const KEY: &str = "partitionkey";
const PRIORITY: &str = "priority";
const DUE: &str = "deliverytime";
/// `2026-01-31T12:00:00.000Z`
const RFC3339_BYTES: usize = 24;

/// A request body with places to patch: of every message one place each, or none of any.
#[derive(Debug, Clone)]
pub(super) struct Template {
    bytes: Vec<u8>,
    features: Features,
    times: Vec<usize>,
    ids: Vec<usize>,
    keys: Vec<usize>,
    priorities: Vec<usize>,
    dues: Vec<usize>,
}

impl Template {
    /// The body of `count` messages: of a single one its data alone, whose id the broker makes, otherwise a CloudEvents batch.
    pub(super) fn new(run: Run, size: usize, count: usize, features: &Features) -> Self {
        if Self::is_plain(count, features) {
            return Self::find(data(run, size), run, features);
        }
        let (data, attributes) = (data(run, size), features.text());
        let zeros = "0".repeat(DIGITS);
        let source = format!("/pelton/bench/{:08x}", run.0);
        let event = format!(
            r#"{{"specversion":"1.0","id":"{zeros}","source":"{source}","type":"bench",{attributes}"datacontenttype":"application/json","data":{data}}}"#
        );
        Self::find(format!("[{}]", vec![event; count].join(",")), run, features)
    }

    /// Whether such a request has no attributes, so that its body is the message's.
    pub(super) fn is_plain(count: usize, features: &Features) -> bool {
        count == 1 && !features.are_used()
    }

    fn find(text: String, run: Run, features: &Features) -> Self {
        let behind = |needle: &str| text.match_indices(needle).map(|(at, _)| at + needle.len()).collect::<Vec<_>>();
        let attributes = |name: &str| behind(&format!(r#""{name}":""#));
        let (times, ids, keys) = (behind(&run.mark()), attributes("id"), attributes(KEY));
        let (priorities, dues) = (attributes(PRIORITY), attributes(DUE));
        Self { bytes: text.into_bytes(), features: features.clone(), times, ids, keys, priorities, dues }
    }

    /// The body with ids from `first_id` on, and in every message the time `time_us`, or when it is due where it is delayed.
    pub(super) fn fill(&self, first_id: u64, time_us: u64) -> Bytes {
        let mut bytes = self.bytes.clone();
        for (id, at) in (first_id..).zip(&self.ids) {
            put(&mut bytes[*at..*at + DIGITS], id);
        }
        for at in &self.keys {
            put(&mut bytes[*at..*at + DIGITS], fastrand::u64(..self.features.keys.unwrap_or(1).max(1)));
        }
        for at in &self.priorities {
            bytes[*at] = fastrand::u8(b'0'..=b'9');
        }
        let Some(due_ms) = &self.features.due_ms else {
            self.times.iter().for_each(|at| put(&mut bytes[*at..*at + DIGITS], time_us));
            return bytes.into();
        };
        for (due_at, time_at) in self.dues.iter().zip(&self.times) {
            let due_ms = fastrand::u64(due_ms.start..due_ms.end.max(due_ms.start + 1));
            let due = jiff::Timestamp::from_millisecond(i64::try_from(due_ms).unwrap_or(i64::MAX)).unwrap_or_default();
            bytes[*due_at..*due_at + RFC3339_BYTES].copy_from_slice(format!("{due:.3}").as_bytes());
            put(&mut bytes[*time_at..*time_at + DIGITS], due_ms * 1000);
        }
        bytes.into()
    }
}

fn put(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The times, in microseconds, of all messages of `run` in `answer`, in their order.
pub(super) fn times(run: Run, answer: &[u8]) -> Vec<u64> {
    let mark = run.mark().into_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at + mark.len() + DIGITS <= answer.len() {
        if answer[at..].starts_with(&mark) {
            let digits = &answer[at + mark.len()..at + mark.len() + DIGITS];
            found.extend(std::str::from_utf8(digits).ok().and_then(|text| text.parse::<u64>().ok()));
            at += mark.len() + DIGITS;
        } else {
            at += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_their_size_and_their_times_are_found_again() {
        let run = Run(7);
        for size in [SIZE_MIN, 256, 4096] {
            let body = Template::new(run, size, 1, &Features::default()).fill(0, 1_234_567);
            assert_eq!(body.len(), size);
            serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
            assert_eq!(times(run, &body), [1_234_567]);
            assert_eq!(times(Run(8), &body), [0u64; 0], "another run's messages are not ours");
        }
    }

    #[test]
    fn batches_have_ids_of_their_own() {
        let run = Run::new();
        let body = Template::new(run, 256, 3, &Features::default()).fill(40, 9);
        let events: Vec<serde_json::Value> = serde_json::from_slice(&body).expect("JSON");
        let ids: Vec<_> = events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect();
        assert_eq!(ids, ["0000000000000040", "0000000000000041", "0000000000000042"]);
        assert_eq!(serde_json::to_string(&events[0]["data"]).expect("JSON").len(), 256);
        assert_eq!(times(run, &body), [9, 9, 9]);
    }

    #[test]
    fn attributes_are_within_their_bounds_and_a_delayed_message_carries_its_time() {
        let run = Run::new();
        let due_ms = 1_769_860_800_000..1_769_860_800_010;
        let features = Features { keys: Some(3), priority: true, due_ms: Some(due_ms.clone()) };
        let body = Template::new(run, 256, 50, &features).fill(0, 0);
        let events: Vec<serde_json::Value> = serde_json::from_slice(&body).expect("JSON");
        let texts = |name: &str| events.iter().map(|event| event[name].as_str().expect("a text").to_owned()).collect();
        let keys: Vec<String> = texts(KEY);
        assert!(keys.iter().all(|key| key.len() == DIGITS && key.parse::<u64>().is_ok_and(|key| key < 3)), "{keys:?}");
        let priorities: Vec<String> = texts(PRIORITY);
        assert!(priorities.iter().all(|text| text.len() == 1 && text.parse::<u8>().is_ok()), "{priorities:?}");
        let dues: Vec<String> = texts(DUE);
        let us: Vec<u64> = dues
            .iter()
            .map(|due| due.parse::<jiff::Timestamp>().expect("RFC 3339").as_microsecond().unsigned_abs())
            .collect();
        assert!(us.iter().all(|us| due_ms.contains(&(us / 1000))), "{dues:?}");
        assert_eq!(times(run, &body), us);
        assert_eq!(Template::new(run, 256, 1, &features).fill(0, 0).first(), Some(&b'['), "attributes need an event");
    }
}
