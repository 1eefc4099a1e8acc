//! Request bodies, built once; only ids and times are patched in, as digits of fixed width.

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

/// A request body with places to patch.
#[derive(Debug, Clone)]
pub(super) struct Template {
    bytes: Vec<u8>,
    ids: Vec<usize>,
    times: Vec<usize>,
}

impl Template {
    /// The body of one message, whose id the broker makes.
    pub(super) fn single(run: Run, size: usize) -> Self {
        Self::find(data(run, size), run, 0)
    }

    /// A CloudEvents batch of `count` messages.
    pub(super) fn batch(run: Run, size: usize, count: usize) -> Self {
        let data = data(run, size);
        let zeros = "0".repeat(DIGITS);
        let source = format!("/pelton/bench/{:08x}", run.0);
        let event = format!(
            r#"{{"specversion":"1.0","id":"{zeros}","source":"{source}","type":"bench","datacontenttype":"application/json","data":{data}}}"#
        );
        Self::find(format!("[{}]", vec![event; count].join(",")), run, count)
    }

    fn find(text: String, run: Run, ids: usize) -> Self {
        let offsets = |needle: &str| text.match_indices(needle).map(|(at, _)| at + needle.len()).collect::<Vec<_>>();
        let times = offsets(&run.mark());
        let ids = if ids == 0 { Vec::new() } else { offsets(r#""id":""#) };
        Self { bytes: text.into_bytes(), ids, times }
    }

    /// The body with ids from `first_id` on and the time `time_us` in every message.
    pub(super) fn fill(&self, first_id: u64, time_us: u64) -> Bytes {
        let mut bytes = self.bytes.clone();
        for (id, at) in (first_id..).zip(&self.ids) {
            put(&mut bytes[*at..*at + DIGITS], id);
        }
        for at in &self.times {
            put(&mut bytes[*at..*at + DIGITS], time_us);
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
            let body = Template::single(run, size).fill(0, 1_234_567);
            assert_eq!(body.len(), size);
            serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
            assert_eq!(times(run, &body), [1_234_567]);
            assert_eq!(times(Run(8), &body), [0u64; 0], "another run's messages are not ours");
        }
    }

    #[test]
    fn batches_have_ids_of_their_own() {
        let run = Run::new();
        let body = Template::batch(run, 256, 3).fill(40, 9);
        let events: Vec<serde_json::Value> = serde_json::from_slice(&body).expect("JSON");
        let ids: Vec<_> = events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect();
        assert_eq!(ids, ["0000000000000040", "0000000000000041", "0000000000000042"]);
        assert_eq!(serde_json::to_string(&events[0]["data"]).expect("JSON").len(), 256);
        assert_eq!(times(run, &body), [9, 9, 9]);
    }
}
