//! Emits: what a delivery publishes, checked at the call and held back until the delivery has settled.
//!
//! Invariants: what is kept stays within the delivery's limits, however often the guest calls; the n-th emit of a message
//! gets the same id in every attempt; an emit that is kept is valid, but for what only the queues that it goes to look at
//! (priority, order), and has somewhere to go.

use std::sync::Arc;

use bytes::Bytes;
use pelton_core::broker::{PublishOptions, check_times};
use pelton_core::clock::{Clock as _, SystemClock, WallMs};
use pelton_core::engine::DELAY_MAX;
use pelton_core::message::{Attributes, Message};
use pelton_core::name::Topic;
use pelton_core::runtime::{Emit, EmitGate, Limits};
use uuid::Uuid;

use crate::bindings::pelton::broker::emit;
use crate::bindings::pelton::broker::types::{Event, Refused};
use crate::sandbox::Sandbox;

/// The namespace of the ids of emits, drawn once at random. It never changes: ids must be the same in later versions.
const EMIT_IDS: Uuid = Uuid::from_u128(0x7ad0_1c5e_3f92_4c1b_9d6e_52b8_e4a7_0f31);

/// What one delivery has emitted so far.
pub(crate) struct Emits {
    idempotency_key: Arc<str>,
    count_max: u32,
    bytes_max: u64,
    kept: Vec<Emit>,
    bytes: u64,
    exceeded: Option<String>,
}

impl Emits {
    /// None yet, for the message behind `idempotency_key`.
    pub(crate) fn new(idempotency_key: Arc<str>, limits: &Limits) -> Self {
        let (count_max, bytes_max) = (limits.emits_max, limits.emit_bytes_max);
        Self { idempotency_key, count_max, bytes_max, kept: Vec::new(), bytes: 0, exceeded: None }
    }

    /// Which limit the delivery ran into, if it did.
    pub(crate) fn exceeded(&self) -> Option<&str> {
        self.exceeded.as_deref()
    }

    /// Everything kept, in order.
    pub(crate) fn into_kept(self) -> Vec<Emit> {
        self.kept
    }

    /// Keeps `event` for `topic`, to be delivered no earlier than `due`, and returns its id. `now` is asked only about times.
    fn push(
        &mut self,
        topic: &str,
        event: Event,
        due: Option<WallMs>,
        gate: &dyn EmitGate,
        now: impl Fn() -> WallMs,
    ) -> Result<String, Refused> {
        let bytes = self.bytes.saturating_add(size_of_event(topic, &event));
        if self.kept.len() >= self.count_max as usize {
            return Err(self.exceed(|emits| format!("a delivery may emit {} messages", emits.count_max)));
        }
        if bytes > self.bytes_max {
            return Err(
                self.exceed(|emits| format!("the emits of a delivery may have {} bytes in all", emits.bytes_max))
            );
        }
        let topic = Topic::new(topic).map_err(|error| Refused::Invalid(error.to_string()))?;
        let id =
            Uuid::new_v5(&EMIT_IDS, format!("{}/{}", self.idempotency_key, self.kept.len()).as_bytes()).to_string();
        let message = check(&id, &topic, &event)?;
        if due.is_some() || message.has_extensions() {
            check_time(&message, due, now())?;
        }
        if !gate.routes(&topic) {
            return Err(Refused::Invalid(format!("unroutable: no route matches topic '{topic}'")));
        }
        let Event { type_, subject, content_type, data_schema, extensions, data } = event;
        let data = Bytes::from(data);
        self.kept.push(Emit {
            id: id.clone(),
            topic,
            due,
            kind: type_,
            subject,
            content_type,
            data_schema,
            extensions,
            data,
        });
        self.bytes = bytes;
        Ok(id)
    }

    fn exceed(&mut self, limit: impl Fn(&Self) -> String) -> Refused {
        if self.exceeded.is_none() {
            self.exceeded = Some(limit(self));
        }
        Refused::Limit(self.exceeded.clone().unwrap_or_default())
    }
}

fn size_of_event(topic: &str, event: &Event) -> u64 {
    let optional = [&event.type_, &event.subject, &event.content_type, &event.data_schema];
    let texts: usize = optional.into_iter().flatten().map(String::len).sum();
    let extensions: usize = event.extensions.iter().map(|(name, value)| name.len() + value.len()).sum();
    (topic.len() + texts + extensions + event.data.len()) as u64
}

/// Checks the attributes by the rules that hold for every message; source and time will be the broker's.
fn check(id: &str, topic: &Topic, event: &Event) -> Result<Message, Refused> {
    let extensions: Vec<(&str, &str)> =
        event.extensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let attributes = Attributes {
        id,
        source: "/",
        kind: event.type_.as_deref().unwrap_or(topic.as_str()),
        subject: event.subject.as_deref(),
        time: None,
        content_type: event.content_type.as_deref(),
        data_schema: event.data_schema.as_deref(),
        extensions: &extensions,
    };
    Message::new(&attributes, b"").map_err(|error| Refused::Invalid(error.to_string()))
}

/// Checks when the emit is to be delivered, by the rule that holds for every message. A time that is too far ahead uses up
/// nothing: unlike the other limits, it is no sign of a handler that runs away.
fn check_time(message: &Message, due: Option<WallMs>, now: WallMs) -> Result<(), Refused> {
    if due.is_some_and(|due| due > now.plus(DELAY_MAX)) {
        const DAY_SECONDS: u64 = 24 * 60 * 60;
        let days = DELAY_MAX.as_secs() / DAY_SECONDS;
        return Err(Refused::Limit(format!("an emit may be put off by {days} days at most")));
    }
    let options = PublishOptions { due, ttl: None };
    check_times(message, options, now, DELAY_MAX).map_err(|error| Refused::Invalid(error.to_string()))
}

/// What the guest's own clock shows as well.
fn now() -> WallMs {
    SystemClock::new().wall()
}

impl emit::Host for Sandbox {
    fn emit(&mut self, topic: String, event: Event) -> wasmtime::Result<Result<String, Refused>> {
        Ok(self.emits.push(&topic, event, None, self.gate.as_ref(), now))
    }

    fn emit_at(&mut self, topic: String, event: Event, not_before: u64) -> wasmtime::Result<Result<String, Refused>> {
        Ok(self.emits.push(&topic, event, Some(WallMs(not_before)), self.gate.as_ref(), now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Orders;

    impl EmitGate for Orders {
        fn routes(&self, topic: &Topic) -> bool {
            topic.as_str().starts_with("orders.")
        }
    }

    fn emits(key: &str) -> Emits {
        let limits =
            Limits { memory_bytes: 0, timeout: Duration::ZERO, emits_max: 3, emit_bytes_max: 1000, log_bytes_max: 0 };
        Emits::new(key.into(), &limits)
    }

    fn event(data: usize) -> Event {
        Event {
            type_: None,
            subject: None,
            content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            data: vec![0; data],
        }
    }

    /// What becomes of each of `pushes`: the id, or the refusal in words.
    fn push_all(emits: &mut Emits, pushes: Vec<(&str, Event)>) -> Vec<Result<String, String>> {
        let text = |refused| match refused {
            Refused::Invalid(text) => format!("invalid: {text}"),
            Refused::Limit(text) => format!("limit: {text}"),
            Refused::Other(text) => format!("other: {text}"),
        };
        let push = |(topic, event)| emits.push(topic, event, None, &Orders, || NOW).map_err(text);
        pushes.into_iter().map(push).collect()
    }

    const NOW: WallMs = WallMs(1_767_225_600_000);

    #[test]
    fn an_emit_may_be_put_off_for_a_leap_year() {
        let mut emits = emits("m");
        let mut push = |due: Option<WallMs>, extension: Option<(&str, &str)>| {
            let mut event = event(0);
            event.extensions.extend(extension.map(|(name, value)| (name.to_owned(), value.to_owned())));
            let pushed = emits.push("orders.a", event, due, &Orders, || NOW);
            pushed.map(|_| emits.kept.pop().and_then(|emit| emit.due)).map_err(|refused| format!("{refused:?}"))
        };
        let latest = NOW.plus(DELAY_MAX);
        assert_eq!(push(Some(latest), None), Ok(Some(latest)));
        assert_eq!(push(Some(WallMs(0)), None), Ok(Some(WallMs(0))), "the past means now");
        let too_far = "Refused::Limit(\"an emit may be put off by 366 days at most\")".to_owned();
        assert_eq!(push(Some(WallMs(latest.0 + 1)), None), Err(too_far.clone()));
        assert_eq!(push(Some(WallMs(u64::MAX)), None), Err(too_far));
        assert_eq!(push(None, Some(("deliverytime", "2026-06-01T00:00:00Z"))), Ok(None), "read when it is routed");
        let both = push(Some(latest), Some(("deliverytime", "2026-06-01T00:00:00Z"))).expect_err("two times");
        assert!(both.contains("attribute 'deliverytime' stands beside"), "{both}");
        let odd = push(None, Some(("expirytime", "tomorrow"))).expect_err("no time");
        assert!(odd.contains("attribute 'expirytime' is 'tomorrow', which is not RFC 3339"), "{odd}");
        assert_eq!(emits.exceeded(), None);
    }

    #[test]
    fn ids_are_the_same_in_every_attempt_and_differ_between_emits_and_messages() {
        let two = || vec![("orders.a", event(1)), ("orders.b", event(2))];
        let first = push_all(&mut emits("message 1"), two());
        let again = push_all(&mut emits("message 1"), two());
        let other = push_all(&mut emits("message 2"), two());
        assert_eq!(first, again);
        assert_ne!(first[0], first[1]);
        assert_ne!(first[0], other[0]);
        assert_eq!(first[0], Ok("d33a3b00-3b53-5a49-9459-51b5d45ec677".to_owned()), "the same for all time");
    }

    #[test]
    fn refusals_name_what_is_wrong_and_use_up_nothing() {
        let mut emits = emits("m");
        let bad = |change: fn(&mut Event)| {
            let mut event = event(0);
            change(&mut event);
            ("orders.a", event)
        };
        let answers = push_all(
            &mut emits,
            vec![
                ("orders..a", event(0)),
                ("invoices.a", event(0)),
                bad(|event| event.subject = Some(String::new())),
                bad(|event| event.extensions = vec![("Upper".into(), "x".into())]),
                bad(|event| event.extensions = vec![("a".into(), "x".into()), ("a".into(), "y".into())]),
            ],
        );
        let expected = [
            "invalid: 'orders..a' is not a topic: a word between the dots is empty",
            "invalid: unroutable: no route matches topic 'invoices.a'",
            "invalid: attribute 'subject' must not be empty; leave it out instead",
            "invalid: attribute 'Upper' is no extension name: only a-z and 0-9 are allowed",
            "invalid: attribute 'a' stands twice",
        ];
        assert_eq!(answers, expected.map(|text| Err(text.to_owned())));
        assert!(emits.exceeded().is_none() && emits.kept.is_empty() && emits.bytes == 0);
    }

    #[test]
    fn limits_hold_and_are_remembered() {
        let mut count = emits("m");
        let answers = push_all(&mut count, vec![("orders.a", event(1)); 5]);
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
        assert_eq!(answers[4], Err("limit: a delivery may emit 3 messages".to_owned()));
        assert_eq!(count.exceeded(), Some("a delivery may emit 3 messages"));

        let mut bytes = emits("m");
        let answers = push_all(&mut bytes, vec![("orders.a", event(992)), ("orders.a", event(0))]);
        assert!(answers[0].is_ok(), "992 bytes and an 8 byte topic just fit");
        assert_eq!(answers[1], Err("limit: the emits of a delivery may have 1000 bytes in all".to_owned()));
        assert_eq!(bytes.into_kept().len(), 1);
    }
}
