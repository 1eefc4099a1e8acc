//! Schedules: messages that are published by the clock. When they tick, which missed ticks are made up for, and what a tick
//! publishes: pure rules.
//!
//! A tick is a moment, to the second, that a cron expression ([`cron`]) selects on the clocks of a time zone ([`Times`]).

mod cron;
mod times;

use bytes::Bytes;
use jiff::Timestamp;

pub use self::cron::{CRON_BYTES_MAX, CronError};
pub use self::times::{Due, LATE_MAX, MISSED_MAX, Times, time_zone};
use crate::clock::WallMs;
use crate::message::{Attributes, InvalidMessage, Message};
use crate::name::{ScheduleName, Topic};

/// `[[schedules]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulePlan {
    /// `name`: what its last tick is remembered under.
    pub name: ScheduleName,
    /// `cron` and `time-zone`: when it ticks.
    pub times: Times,
    /// `topic`: what it publishes to.
    pub topic: Topic,
    /// `type`, `source`, `content-type`, `body` or `data`: what it publishes.
    pub message: TickMessage,
    /// `missed`: what becomes of ticks that came while the broker was down.
    pub missed: Missed,
}

/// What becomes of ticks that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missed {
    /// Of all that are due the latest is published, however many were missed.
    #[default]
    Once,
    /// They are passed over.
    Skip,
    /// All are published, the latest [`MISSED_MAX`] at most.
    All,
}

/// What the ticks of a schedule publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickMessage {
    name: ScheduleName,
    source: Box<str>,
    kind: Box<str>,
    content_type: Option<Box<str>>,
    body: Bytes,
}

impl TickMessage {
    /// The message of the schedule `name`.
    ///
    /// # Errors
    /// [`InvalidMessage`] naming the attribute that breaks CloudEvents 1.0.
    pub fn new(
        name: ScheduleName,
        source: &str,
        kind: &str,
        content_type: Option<&str>,
        body: impl Into<Bytes>,
    ) -> Result<Self, InvalidMessage> {
        let content_type = content_type.map(Box::from);
        let message = Self { name, source: source.into(), kind: kind.into(), content_type, body: body.into() };
        message.build(WallMs(0)).map(|_| message)
    }

    /// The message of the tick at `at`. Its `id` is the schedule's name and the time, so that it is the same however often
    /// the tick is tried: `nightly/2026-01-31T03:00:00Z`. Its `time` is the tick's.
    #[must_use]
    pub fn at(&self, at: WallMs) -> Message {
        self.build(at).expect("`new` checked all but the time, which is no longer for a later one")
    }

    /// Bytes of its body.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body.len() as u64
    }

    fn build(&self, at: WallMs) -> Result<Message, InvalidMessage> {
        let time = moment(at).unwrap_or(Timestamp::MAX).to_string();
        let id = format!("{}/{time}", self.name);
        let attributes = Attributes {
            id: &id,
            source: &self.source,
            kind: &self.kind,
            time: Some(&time),
            content_type: self.content_type.as_deref(),
            ..Attributes::default()
        };
        Message::new(&attributes, &self.body)
    }
}

fn moment(at: WallMs) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ScheduleName {
        ScheduleName::new(name).expect("a name")
    }

    #[test]
    fn a_tick_makes_the_same_message_however_often_it_is_made() {
        let tick =
            TickMessage::new(name("nightly"), "/reports", "report.due", Some("text/plain"), "go").expect("valid");
        let message = tick.at(WallMs(1_769_828_400_000));
        assert_eq!(message, tick.at(WallMs(1_769_828_400_000)));
        assert_eq!(message.id(), "nightly/2026-01-31T03:00:00Z");
        assert_eq!(message.time(), Some("2026-01-31T03:00:00Z"));
        assert_eq!((message.source(), message.kind()), ("/reports", "report.due"));
        assert_eq!((message.content_type(), message.data()), (Some("text/plain"), b"go".as_slice()));
        assert_ne!(message.id(), tick.at(WallMs(1_769_828_401_000)).id());
    }

    #[test]
    fn the_longest_name_and_the_latest_time_make_a_message() {
        let longest = name(&"n".repeat(crate::name::NAME_BYTES_MAX));
        let tick = TickMessage::new(longest, "/s", "t", None, "").expect("valid");
        assert!(tick.at(WallMs(u64::MAX)).id().ends_with("/9999-12-30T22:00:00.999999999Z"));
    }

    #[test]
    fn attributes_are_checked_once() {
        let error = TickMessage::new(name("n"), "a b", "t", None, "").expect_err("no URI").to_string();
        assert!(error.starts_with("attribute 'source' is 'a b'"), "{error}");
    }
}
