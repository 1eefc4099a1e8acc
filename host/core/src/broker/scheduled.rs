//! The handle of a message that waits for its time: what its publish answers, and what cancels it.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::Broker;
use crate::clock::WallMs;
use crate::engine::{Bulk, BulkAction, EngineError, Filter, Position, QueueId, RequestError, Select};

/// Most messages that one bulk step looks for.
const STEP_MAX: usize = 1000;

/// Names a message that waits for its time, in all queues that it went to.
///
/// As text, `DUE.QUEUE-POSITION.QUEUE-POSITION.CHECK` in hexadecimal, with a queue and position for each target. The check
/// is a digest of what stands before it: a text with a slip in it names nothing, rather than another message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledHandle {
    due: WallMs,
    /// Not empty.
    places: Vec<(QueueId, Position)>,
}

impl ScheduledHandle {
    /// The handle of a message that is due at `due` in these places; none without places.
    pub(crate) fn new(due: WallMs, places: Vec<(QueueId, Position)>) -> Option<Self> {
        (!places.is_empty()).then_some(Self { due, places })
    }

    /// When the message may be delivered, if it is not cancelled before.
    #[must_use]
    pub fn due(&self) -> WallMs {
        self.due
    }

    /// To how many queues it went.
    #[must_use]
    pub fn targets(&self) -> usize {
        self.places.len()
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |part: &str| u64::from_str_radix(part, 16).ok();
        let (rest, _check) = text.rsplit_once('.')?;
        let mut parts = rest.split('.');
        let due = WallMs(number(parts.next()?)?);
        let place = |part: &str| {
            let (queue, position) = part.split_once('-')?;
            Some((QueueId(u32::try_from(number(queue)?).ok()?), Position(number(position)?)))
        };
        Self::new(due, parts.map(place).collect::<Option<_>>()?)
    }
}

impl fmt::Display for ScheduledHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut text = format!("{:x}", self.due.0);
        for (queue, position) in &self.places {
            write!(text, ".{:x}-{:x}", queue.0, position.0)?;
        }
        let digest = Sha256::digest(text.as_bytes());
        write!(f, "{text}.{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
    }
}

/// The text is no handle of a scheduled message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the handle of a scheduled message; use the text that its publish returned, unchanged")]
pub struct InvalidHandle(String);

impl FromStr for ScheduledHandle {
    type Err = InvalidHandle;

    fn from_str(text: &str) -> Result<Self, InvalidHandle> {
        // One spelling per handle, its check included.
        let handle = Self::parse(text).filter(|handle| handle.to_string() == text);
        handle.ok_or_else(|| InvalidHandle(text.chars().take(80).collect()))
    }
}

/// What cancelling came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled {
    /// In so many of its queues the message is gone, undelivered.
    pub cancelled: u64,
    /// Out of so many. Where the others are fewer than these, it was too late for them: delivered, being delivered,
    /// cancelled before, or moved by an operator.
    pub of: u64,
}

impl Cancelled {
    /// Whether it was too late in any queue.
    #[must_use]
    pub fn is_too_late(&self) -> bool {
        self.cancelled < self.of
    }
}

impl Broker {
    /// Deletes a scheduled message for good, wherever it still waits. `Ok` means durable; one queue after the other, so that
    /// an error may leave some done. Asking again is safe.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn cancel(&self, handle: &ScheduledHandle) -> Result<Cancelled, EngineError> {
        let mut places = handle.places.clone();
        places.sort_unstable();
        places.dedup();
        let of = places.len() as u64;
        let mut cancelled = 0;
        for in_one_queue in places.chunk_by(|(one, _), (other, _)| one == other) {
            for some in in_one_queue.chunks(STEP_MAX) {
                cancelled += self.cancel_in(some[0].0, handle.due, some).await?;
            }
        }
        Ok(Cancelled { cancelled, of })
    }

    async fn cancel_in(&self, queue: QueueId, due: WallMs, places: &[(QueueId, Position)]) -> Result<u64, EngineError> {
        let select = Select::Scheduled(places.iter().map(|(_, position)| (due, *position)).collect());
        let mut cancelled = 0;
        let mut after = None;
        loop {
            let (filter, action) = (Filter::default(), BulkAction::Discard);
            let step = Bulk { queue, select: select.clone(), filter, action, after, max: STEP_MAX };
            let progress = match self.inner.engine.bulk(step).await {
                Ok(progress) => progress,
                // Of another store: nothing of it waits here.
                Err(RequestError::UnknownQueue(_)) => return Ok(cancelled),
                Err(RequestError::Engine(error)) => return Err(error),
                Err(other) => return Err(EngineError::Corrupt(format!("a cancellation was answered: {other}"))),
            };
            cancelled += progress.changed;
            after = progress.next;
            if after.is_none() {
                return Ok(cancelled);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> ScheduledHandle {
        let places = vec![(QueueId(3), Position(42)), (QueueId(17), Position(43))];
        ScheduledHandle::new(WallMs(1_767_225_600_000), places).expect("it has places")
    }

    #[test]
    fn a_handle_comes_back_from_its_text() {
        let text = handle().to_string();
        insta::assert_snapshot!(text, @"19b76daa800.3-2a.11-2b.805c2fe5");
        assert_eq!(text.parse(), Ok(handle()));
        assert_eq!((handle().due(), handle().targets()), (WallMs(1_767_225_600_000), 2));
        assert_eq!(ScheduledHandle::new(WallMs(1), Vec::new()), None, "a handle of nothing");
    }

    #[test]
    fn a_slip_names_nothing() {
        let text = handle().to_string();
        for at in 0..text.len() {
            for other in ["", "0", "7", "f", "F", ".", "-", "+", " "] {
                let mut slipped = text.clone();
                slipped.replace_range(at..=at, other);
                if slipped != text {
                    assert!(slipped.parse::<ScheduledHandle>().is_err(), "{slipped}");
                }
            }
        }
        for wrong in ["", ".", "1.2-3", "19b75a49400.c0ffee00", "1-2-3-4-5-0000000000000006"] {
            assert!(wrong.parse::<ScheduledHandle>().is_err(), "{wrong}");
        }
        let error = "nonsense".parse::<ScheduledHandle>().expect_err("it is none").to_string();
        assert_eq!(
            error,
            "'nonsense' is not the handle of a scheduled message; use the text that its publish returned, unchanged"
        );
    }
}
