//! Emits: what a delivery publishes, checked at the call and held back until the delivery has settled.
//!
//! Invariants: what is kept stays within the delivery's limits, however often the guest calls; the n-th emit of a message
//! gets the same id in every attempt; an emit that is kept is valid and has somewhere to go.

use std::sync::Arc;

use bytes::Bytes;
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

    /// Keeps `event` for `topic` and returns its id.
    fn push(&mut self, topic: &str, event: Event, gate: &dyn EmitGate) -> Result<String, Refused> {
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
        check(&id, &topic, &event)?;
        if !gate.routes(&topic) {
            return Err(Refused::Invalid(format!("unroutable: no route matches topic '{topic}'")));
        }
        let Event { type_, subject, content_type, data_schema, extensions, data } = event;
        let data = Bytes::from(data);
        self.kept.push(Emit {
            id: id.clone(),
            topic,
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
fn check(id: &str, topic: &Topic, event: &Event) -> Result<(), Refused> {
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
    Message::new(&attributes, b"").map(drop).map_err(|error| Refused::Invalid(error.to_string()))
}

impl emit::Host for Sandbox {
    fn emit(&mut self, topic: String, event: Event) -> wasmtime::Result<Result<String, Refused>> {
        Ok(self.emits.push(&topic, event, self.gate.as_ref()))
    }

    fn emit_at(
        &mut self,
        _topic: String,
        _event: Event,
        _not_before: u64,
    ) -> wasmtime::Result<Result<String, Refused>> {
        let remedy = "emit-at is not available in this version of Pelton; use emit";
        Ok(Err(Refused::Other(remedy.to_owned())))
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
        pushes.into_iter().map(|(topic, event)| emits.push(topic, event, &Orders).map_err(text)).collect()
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
