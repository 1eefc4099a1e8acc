//! A response that lists messages, filled step by step up to a count and a size.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use pelton_core::engine::Cursor;
use serde::Serialize;

use super::JSON;
use crate::limits::RESPONSE_BYTES_MAX;
use crate::problem::{Code, Problem};

/// The text of `{"messages":[..], ..}` while it grows.
pub(super) struct Fill {
    text: Vec<u8>,
    steps: Steps,
}

/// How many messages to fetch at once without holding much more than [`RESPONSE_BYTES_MAX`] of them.
pub(super) struct Steps {
    left: usize,
    taken: usize,
    bytes: usize,
    message_bytes_max: u64,
}

impl Steps {
    /// For up to `max` messages of at most `message_bytes_max` bytes each.
    pub(super) fn new(max: usize, message_bytes_max: u64) -> Self {
        Self { left: max, taken: 0, bytes: 0, message_bytes_max }
    }

    /// The number to ask for next; none when there is no room for more.
    ///
    /// The first step is small enough for the largest messages; later ones go by what was seen, with a margin.
    pub(super) fn next(&self) -> Option<usize> {
        /// How much larger than those before the next messages may be.
        const MARGIN: usize = 4;
        let room = RESPONSE_BYTES_MAX.checked_sub(self.bytes)?;
        let each = match self.bytes.checked_div(self.taken) {
            None => usize::try_from(self.message_bytes_max).unwrap_or(usize::MAX),
            Some(average) => average.saturating_mul(MARGIN),
        };
        (self.left > 0 && room > 0).then(|| self.left.min((room / each.max(1)).max(1)))
    }

    /// Counts a message of `bytes`.
    pub(super) fn took(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(1);
        self.taken += 1;
        self.bytes += bytes;
    }

    /// Forgets the sizes of what was let go of again, but for the average.
    pub(super) fn let_go(&mut self) {
        self.bytes = self.bytes.checked_div(self.taken).unwrap_or_default();
        self.taken = self.taken.min(1);
    }
}

impl Fill {
    pub(super) fn new(max: usize, message_bytes_max: u64) -> Self {
        Self { text: b"{\"messages\":[".to_vec(), steps: Steps::new(max, message_bytes_max) }
    }

    /// See [`Steps::next`].
    pub(super) fn next_step(&self) -> Option<usize> {
        self.steps.next()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.taken == 0
    }

    pub(super) fn push(&mut self, item: &impl Serialize) -> Result<(), Problem> {
        if !self.is_empty() {
            self.text.push(b',');
        }
        let before = self.text.len();
        write(&mut self.text, item)?;
        self.steps.took(self.text.len() - before);
        Ok(())
    }

    /// The answer; `next` is where a further call goes on.
    pub(super) fn finish(mut self, next: Option<&Cursor>) -> Result<Response, Problem> {
        self.text.push(b']');
        if let Some(Cursor(next)) = next {
            self.text.extend_from_slice(b",\"next\":");
            write(&mut self.text, next)?;
        }
        self.text.push(b'}');
        Ok(respond(self.text))
    }

    /// The text of the answer, where there is nothing to go on with.
    pub(super) fn into_text(mut self) -> Vec<u8> {
        self.text.extend_from_slice(b"]}");
        self.text
    }
}

/// The answer 200 with `text`, which is JSON.
pub(super) fn respond(text: impl Into<Bytes>) -> Response {
    ([(CONTENT_TYPE, JSON)], text.into()).into_response()
}

fn write(text: &mut Vec<u8>, item: &impl Serialize) -> Result<(), Problem> {
    // Only a map with keys that are no text could fail, and there is none.
    serde_json::to_writer(text, item)
        .map_err(|error| Problem::new(Code::Corrupt, format!("the answer can't be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps that it takes to fetch `max` messages of `bytes` each, where the largest allowed has `bytes_max`.
    fn steps(max: usize, bytes: usize, bytes_max: u64) -> Vec<usize> {
        let mut steps = Steps::new(max, bytes_max);
        let mut taken = Vec::new();
        while let Some(step) = steps.next() {
            taken.push(step);
            (0..step).for_each(|_| steps.took(bytes));
        }
        taken
    }

    #[test]
    fn small_messages_come_in_two_steps() {
        assert_eq!(steps(1000, 256, 1 << 20), [16, 984]);
        assert_eq!(steps(10, 256, 1 << 20), [10]);
    }

    #[test]
    fn large_messages_end_the_response() {
        let taken: usize = steps(1000, 1 << 20, 1 << 20).iter().sum();
        assert_eq!(taken, 16);
        assert_eq!(steps(1000, 64 << 20, 64 << 20), [1]);
    }
}
