//! When and in which order a message is delivered: what it says itself, what its request asks for, and what its queue
//! keeps, as one pure rule.
//!
//! What a message says are CloudEvents extension attributes, read under the names below. What a plan's queues look at is
//! settled when it is loaded ([`QueueTarget`]): a message without extensions costs nothing here, nor do queues with every default.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::WallMs;
use crate::engine::{EntryOptions, OrderKey, PRIORITY_MAX, QueueId};
use crate::message::Message;
use crate::name::Topic;
use crate::plan::QueuePlan;

/// The attribute before whose time a message is not delivered. RFC 3339.
pub const DELIVERY_TIME: &str = "deliverytime";
/// The attribute from whose time on a message is not delivered. RFC 3339.
pub const EXPIRY_TIME: &str = "expirytime";
/// The attribute that says how urgent a message is, 0 to 9; only queues with `priority = true` look at it.
pub const PRIORITY: &str = "priority";

/// What a publish request, or an emit, asks for beside what its messages say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishOptions {
    /// Not delivered before; a time that has come means at once. Not together with the attribute [`DELIVERY_TIME`].
    pub due: Option<WallMs>,
    /// How long a message may wait for its delivery, from when it is available first: accepted, or due.
    pub ttl: Option<Duration>,
}

/// What a message says about its delivery can't be met. The text names the attribute, what is wrong, and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attribute '{attribute}' {reason}")]
pub struct InvalidAttribute {
    /// As CloudEvents spells it.
    pub attribute: Box<str>,
    /// What is wrong with it.
    pub reason: String,
}

fn invalid(attribute: &str, reason: impl Into<String>) -> InvalidAttribute {
    InvalidAttribute { attribute: attribute.into(), reason: reason.into() }
}

/// A queue as routing needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueTarget {
    /// Its id in the engine.
    pub id: QueueId,
    /// The attribute that it keeps messages in order by; none where it keeps them in order of arrival.
    pub key: Option<Arc<str>>,
    /// Whether it looks at [`PRIORITY`].
    pub priority: bool,
    /// How long a message may wait in it.
    pub ttl: Option<Duration>,
}

impl QueueTarget {
    /// What is looked at for `queue`, whose id is `id`.
    #[must_use]
    pub fn new(queue: &QueuePlan, id: QueueId) -> Self {
        let key = (queue.order == crate::engine::Order::Key).then(|| queue.key.clone());
        Self { id, key, priority: queue.priority, ttl: queue.ttl }
    }
}

/// The times of one message, the same for all queues that it goes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    now: WallMs,
    /// Ahead of `now`.
    due: Option<WallMs>,
    expires: Option<WallMs>,
    ttl: Option<Duration>,
}

impl Times {
    /// What `message` and its request say at `now`, where a delivery may be put off by `delay_max`.
    pub(super) fn of(
        message: &Message,
        asked: PublishOptions,
        now: WallMs,
        delay_max: Duration,
    ) -> Result<Self, InvalidAttribute> {
        let (due, expires) = if message.has_extensions() { said(message)? } else { (None, None) };
        if due.is_some() && asked.due.is_some() {
            let reason = "stands beside the time that the request itself asks for; only one of them is allowed";
            return Err(invalid(DELIVERY_TIME, reason));
        }
        let due = due.or(asked.due).filter(|due| *due > now);
        if due.is_some_and(|due| due > now.plus(delay_max)) {
            let by = if asked.due.is_some() { "is set by the request and " } else { "" };
            return Err(invalid(DELIVERY_TIME, format!("{by}{}", too_far(delay_max))));
        }
        if let (Some(due), Some(expires)) = (due, expires)
            && expires <= due
        {
            let reason = "lies before the time that the message is to be delivered at, so it never could be";
            return Err(invalid(EXPIRY_TIME, reason));
        }
        Ok(Self { now, due, expires, ttl: asked.ttl })
    }

    /// When and in which order `queue` delivers `message`, which is, or was made of, the one that these times are of.
    pub(super) fn in_queue(
        &self,
        queue: &QueueTarget,
        topic: &Topic,
        message: &Message,
    ) -> Result<EntryOptions, InvalidAttribute> {
        let mut options = EntryOptions { due: self.due, expires: self.expires, ..EntryOptions::default() };
        if let Some(ttl) = self.ttl.into_iter().chain(queue.ttl).min() {
            let until = self.due.unwrap_or(self.now).plus(ttl);
            options.expires = Some(self.expires.map_or(until, |expires| expires.min(until)));
        }
        if queue.priority
            && let Some(text) = message.extension(PRIORITY)
        {
            options.priority = priority(text)?;
        }
        if let Some(name) = &queue.key {
            let value = if &**name == "topic" { Some(topic.as_str()) } else { message.attribute(name) };
            options.key = value.map(|value| order_key(name, value)).transpose()?;
        }
        Ok(options)
    }
}

/// Checks what an emit says about its times, which no plan has a say in.
///
/// # Errors
/// [`InvalidAttribute`], as routing it would answer.
pub fn check_times(
    message: &Message,
    asked: PublishOptions,
    now: WallMs,
    delay_max: Duration,
) -> Result<(), InvalidAttribute> {
    Times::of(message, asked, now, delay_max).map(drop)
}

/// From when on it is delivered, and from when on no more, by the message's own word. Parts of a millisecond don't let it out early, or late.
fn said(message: &Message) -> Result<(Option<WallMs>, Option<WallMs>), InvalidAttribute> {
    let (mut due, mut expires) = (None, None);
    for (name, value) in message.extensions() {
        match name {
            DELIVERY_TIME => due = Some(wall(time(name, value)?, true)),
            EXPIRY_TIME => expires = Some(wall(time(name, value)?, false)),
            _ => {}
        }
    }
    Ok((due, expires))
}

fn time(name: &str, value: &str) -> Result<Timestamp, InvalidAttribute> {
    const SHOWN_CHARS_MAX: usize = 40;
    value.parse().map_err(|_| {
        let shown: String = value.chars().take(SHOWN_CHARS_MAX).collect();
        invalid(name, format!("is '{shown}', which is not RFC 3339, such as 2026-01-31T12:00:00Z"))
    })
}

/// The millisecond of `at`; a started one counts where `up`. What lies before 1970 has long come.
fn wall(at: Timestamp, up: bool) -> WallMs {
    let nanoseconds = u128::try_from(at.as_nanosecond()).unwrap_or_default();
    let ms = if up { nanoseconds.div_ceil(1_000_000) } else { nanoseconds / 1_000_000 };
    WallMs(u64::try_from(ms).unwrap_or(u64::MAX))
}

fn priority(text: &str) -> Result<u8, InvalidAttribute> {
    match text.as_bytes() {
        [digit @ b'0'..=b'9'] => Ok(digit - b'0'),
        _ => {
            let shown: String = text.chars().take(20).collect();
            Err(invalid(PRIORITY, format!("is '{shown}'; write one digit, 0 to {PRIORITY_MAX}, the highest first")))
        }
    }
}

fn order_key(name: &str, value: &str) -> Result<OrderKey, InvalidAttribute> {
    if value.is_empty() {
        return Err(invalid(
            name,
            "is empty, and its queue keeps order by it; leave it out of a message without an order",
        ));
    }
    Ok(OrderKey(value.into()))
}

fn too_far(delay_max: Duration) -> String {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    match delay_max.as_secs() {
        0 => "lies ahead, and this broker's storage can't put a delivery off".to_owned(),
        seconds if seconds.is_multiple_of(DAY_SECONDS) => {
            format!("lies more than {} days ahead, the most that is allowed", seconds / DAY_SECONDS)
        }
        seconds => {
            let shown = humantime::format_duration(Duration::from_secs(seconds));
            format!("lies more than {shown} ahead, the most that is allowed")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::DELAY_MAX;
    use crate::message::Attributes;

    /// 2026-01-01T00:00:00Z
    const NOW: WallMs = WallMs(1_767_225_600_000);

    fn message(extensions: &[(&str, &str)]) -> Message {
        let attributes = Attributes {
            id: "1",
            source: "/s",
            kind: "k",
            subject: Some("seven"),
            extensions,
            ..Attributes::default()
        };
        Message::new(&attributes, b"").expect("the attributes are valid")
    }

    fn queue(key: Option<&str>, priority: bool, ttl_seconds: Option<u64>) -> QueueTarget {
        QueueTarget { id: QueueId(1), key: key.map(Arc::from), priority, ttl: ttl_seconds.map(Duration::from_secs) }
    }

    fn asked(due_seconds: Option<u64>, ttl_seconds: Option<u64>) -> PublishOptions {
        let due = due_seconds.map(|seconds| NOW.plus(Duration::from_secs(seconds)));
        PublishOptions { due, ttl: ttl_seconds.map(Duration::from_secs) }
    }

    /// The options in short, times in milliseconds from now: `due 1000, expires 2000, priority 4, key a`; or the refusal.
    fn check(extensions: &[(&str, &str)], asked: PublishOptions, queue: &QueueTarget, expected: &str) {
        let message = message(extensions);
        let topic = Topic::new("orders.new").expect("a topic");
        let options =
            Times::of(&message, asked, NOW, DELAY_MAX).and_then(|times| times.in_queue(queue, &topic, &message));
        let from_now = |at: WallMs| i128::from(at.0) - i128::from(NOW.0);
        let short = match options {
            Err(error) => error.to_string(),
            Ok(EntryOptions { due, expires, priority, key }) => {
                let due = due.map(|at| format!("due {}", from_now(at)));
                let expires = expires.map(|at| format!("expires {}", from_now(at)));
                let priority = (priority != crate::engine::PRIORITY_DEFAULT).then(|| format!("priority {priority}"));
                let key = key.map(|OrderKey(key)| format!("key {key}"));
                [due, expires, priority, key].into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
        };
        assert_eq!(short, expected, "{extensions:?}, {asked:?}, {queue:?}");
    }

    const NOTHING: PublishOptions = PublishOptions { due: None, ttl: None };

    #[test]
    fn a_plain_queue_looks_at_times_only() {
        let plain = queue(None, false, None);
        check(&[], NOTHING, &plain, "");
        check(&[("priority", "high"), ("partitionkey", "")], NOTHING, &plain, "");
        check(&[("deliverytime", "2026-01-01T00:00:01Z")], NOTHING, &plain, "due 1000");
        check(&[("deliverytime", "2026-01-01T01:00:01+01:00")], NOTHING, &plain, "due 1000");
        check(&[("expirytime", "2026-01-01T00:00:02Z")], NOTHING, &plain, "expires 2000");
    }

    #[test]
    fn times_that_have_come_mean_now() {
        let plain = queue(None, false, None);
        check(&[("deliverytime", "2026-01-01T00:00:00Z")], NOTHING, &plain, "");
        check(&[("deliverytime", "1969-12-31T23:59:59Z")], NOTHING, &plain, "");
        check(&[], asked(Some(0), None), &plain, "");
        check(&[("expirytime", "2025-12-31T23:59:59Z")], NOTHING, &plain, "expires -1000");
        check(&[("expirytime", "1969-12-31T23:59:59Z")], NOTHING, &plain, "expires -1767225600000");
    }

    #[test]
    fn parts_of_a_millisecond_are_neither_early_nor_late() {
        let plain = queue(None, false, None);
        check(&[("deliverytime", "2026-01-01T00:00:00.0001Z")], NOTHING, &plain, "due 1");
        check(&[("expirytime", "2026-01-01T00:00:00.0019Z")], NOTHING, &plain, "expires 1");
    }

    #[test]
    fn the_earliest_expiry_counts_and_waits_begin_when_it_is_due() {
        let ttl = queue(None, false, Some(10));
        check(&[], NOTHING, &ttl, "expires 10000");
        check(&[], asked(None, Some(3)), &ttl, "expires 3000");
        check(&[], asked(None, Some(30)), &ttl, "expires 10000");
        check(&[], asked(Some(60), Some(3)), &ttl, "due 60000, expires 63000");
        check(&[], asked(Some(60), None), &ttl, "due 60000, expires 70000");
        check(&[("expirytime", "2026-01-01T00:00:02Z")], asked(None, Some(3)), &ttl, "expires 2000");
        check(&[("expirytime", "2026-01-01T00:00:04Z")], asked(None, Some(3)), &ttl, "expires 3000");
        check(&[], asked(None, Some(u64::MAX)), &queue(None, false, None), "expires 18446742306483951615");
    }

    #[test]
    fn a_request_and_its_message_can_not_both_say_when() {
        let plain = queue(None, false, None);
        let at = [("deliverytime", "2026-01-01T00:00:01Z")];
        check(
            &at,
            asked(Some(1), None),
            &plain,
            "attribute 'deliverytime' stands beside the time that the request itself asks for; only one of them is allowed",
        );
        check(&at, asked(None, Some(1)), &plain, "due 1000, expires 2000");
    }

    #[test]
    fn what_could_never_be_delivered_is_refused() {
        let plain = queue(None, false, None);
        let expiry = [("expirytime", "2026-01-01T00:00:05Z")];
        let never =
            "attribute 'expirytime' lies before the time that the message is to be delivered at, so it never could be";
        check(&expiry, asked(Some(5), None), &plain, never);
        check(&expiry, asked(Some(4), None), &plain, "due 4000, expires 5000");
    }

    #[test]
    fn a_delivery_is_put_off_by_a_leap_year_at_most() {
        const DAY: u64 = 24 * 60 * 60;
        let plain = queue(None, false, None);
        check(&[], asked(Some(366 * DAY), None), &plain, "due 31622400000");
        check(
            &[],
            asked(Some(366 * DAY + 1), None),
            &plain,
            "attribute 'deliverytime' is set by the request and lies more than 366 days ahead, the most that is allowed",
        );
        check(
            &[("deliverytime", "2027-01-02T00:00:00.001Z")],
            NOTHING,
            &plain,
            "attribute 'deliverytime' lies more than 366 days ahead, the most that is allowed",
        );
        let never = Times::of(&message(&[]), asked(Some(1), None), NOW, Duration::ZERO).expect_err("it can't be kept");
        assert_eq!(
            never.to_string(),
            "attribute 'deliverytime' is set by the request and lies ahead, and this broker's storage can't put a delivery off"
        );
    }

    #[test]
    fn priorities_are_one_digit() {
        let urgent = queue(None, true, None);
        check(&[], NOTHING, &urgent, "");
        check(&[("priority", "0")], NOTHING, &urgent, "priority 0");
        check(&[("priority", "9")], NOTHING, &urgent, "priority 9");
        for wrong in ["10", "-1", "05", "+5", " 5", "high", ""] {
            let expected = format!("attribute 'priority' is '{wrong}'; write one digit, 0 to 9, the highest first");
            check(&[("priority", wrong)], NOTHING, &urgent, &expected);
        }
    }

    #[test]
    fn the_key_is_the_attribute_that_the_queue_names() {
        let ordered = queue(Some("partitionkey"), false, None);
        check(&[("partitionkey", "eu")], NOTHING, &ordered, "key eu");
        check(&[], NOTHING, &ordered, "");
        check(
            &[("partitionkey", "")],
            NOTHING,
            &ordered,
            "attribute 'partitionkey' is empty, and its queue keeps order by it; leave it out of a message without an order",
        );
        check(&[("partitionkey", "eu")], NOTHING, &queue(Some("subject"), false, None), "key seven");
        check(&[("partitionkey", "eu")], NOTHING, &queue(Some("topic"), false, None), "key orders.new");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let plain = queue(None, false, None);
        for name in ["deliverytime", "expirytime"] {
            let expected =
                format!("attribute '{name}' is 'tomorrow', which is not RFC 3339, such as 2026-01-31T12:00:00Z");
            check(&[(name, "tomorrow")], NOTHING, &plain, &expected);
        }
    }
}
