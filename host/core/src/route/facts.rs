//! What an expression can know about a message: the variables, by the names that CloudEvents gives them.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use cel::common::types::{CelBool, CelBytes, CelInt, CelMap, CelMapKey, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;

use super::body::{self, BoxedVal, Parsed, Want};
use super::shared::Shared;
use crate::message::Message;
use crate::name::Topic;

/// Every variable. All but `extensions` (a map) and `data` (whatever the body holds) are strings.
pub(crate) const VARIABLES: [&str; 10] =
    ["data", "datacontenttype", "dataschema", "extensions", "id", "source", "subject", "time", "topic", "type"];

/// Read once per loop step of an instrumented expression: it is there as long as the evaluation may go on.
pub(crate) const STEP: &str = "@step";

/// Like [`STEP`], for loops whose steps take longer, or make more, the larger the values in the message are.
pub(crate) const HEAVY_STEP: &str = "@heavy_step";

/// How long the body of a message may be that a transform makes, in bytes.
pub(crate) const BYTES_MAX: &str = "@bytes_max";

/// Most work of one evaluation, in loop steps. A heavy step counts as one more for every [`WEIGHT_PER_STEP`] that the
/// message weighs: no body can make an expression run for more than about a second, or fill the memory.
pub(crate) const WORK_MAX: u64 = 100_000;

/// See [`WORK_MAX`] and [`body::Parsed::weight`].
const WEIGHT_PER_STEP: u64 = 256;

/// The variables of one message. The body is parsed when an expression first looks at it, once for all expressions.
pub(crate) struct Facts<'m> {
    topic: &'m Topic,
    message: &'m Message,
    want: Option<&'m Want>,
    message_bytes_max: u64,
    data: OnceLock<Data<'m>>,
    work: AtomicU64,
}

enum Data<'m> {
    Value(Parsed<'m>),
    /// There is no body at all.
    Missing,
    Unreadable(String),
}

/// A body that is no JSON.
pub(crate) struct Opaque<'m> {
    /// CEL's name for the type of `data`.
    pub(crate) kind: &'m str,
    pub(crate) content_type: &'m str,
}

impl<'m> Facts<'m> {
    /// The facts about `message`, published to `topic`, for expressions that look at `want` and make messages with bodies of
    /// at most `message_bytes_max`.
    pub(crate) fn new(topic: &'m Topic, message: &'m Message, want: Option<&'m Want>, message_bytes_max: u64) -> Self {
        Self { topic, message, want, message_bytes_max, data: OnceLock::new(), work: AtomicU64::new(0) }
    }

    /// Starts another evaluation with its full share of work.
    pub(crate) fn restart(&self) {
        self.work.store(0, Ordering::Relaxed);
    }

    /// Whether the evaluation used up its share of work.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.work.load(Ordering::Relaxed) > WORK_MAX
    }

    /// Why an expression could not read `data`, if one tried.
    pub(crate) fn unreadable(&self) -> Option<&str> {
        match self.data.get() {
            Some(Data::Unreadable(reason)) => Some(reason),
            _ => None,
        }
    }

    /// What `data` is and why, if an expression read it and it is no JSON: what cannot be looked into.
    pub(crate) fn opaque(&self) -> Option<Opaque<'_>> {
        let Some(Data::Value(Parsed { value, .. })) = self.data.get() else { return None };
        let content_type = self.message.content_type().filter(|_| !self.message.is_json())?;
        Some(Opaque { kind: value.get_type().name(), content_type })
    }

    /// The message.
    pub(crate) fn message(&self) -> &'m Message {
        self.message
    }

    fn data(&self) -> &Data<'m> {
        self.data.get_or_init(|| {
            let body = self.message.data();
            if self.message.is_json() {
                if body.is_empty() {
                    return Data::Missing;
                }
                return match body::parse(body, self.want.unwrap_or(&Want::All)) {
                    Ok(parsed) => Data::Value(parsed),
                    Err(reason) => Data::Unreadable(reason),
                };
            }
            let content_type = self.message.content_type().unwrap_or_default();
            let is_text = content_type.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"));
            let value: BoxedVal<'m> = match std::str::from_utf8(body) {
                Ok(text) if is_text => Box::new(CelString::from(text)),
                _ => Box::new(CelBytes::from(body)),
            };
            Data::Value(Parsed { value, weight: body.len() as u64 })
        })
    }

    fn extensions(&self) -> Shared<CelMap<'m>> {
        let value = |text: &'m str| Box::new(CelString::from(text)) as BoxedVal<'m>;
        let map: HashMap<_, _> = self
            .message
            .extensions()
            .map(|(name, text)| (CelMapKey::String(CelString::from(name)), value(text)))
            .collect();
        Shared::new(CelMap::from(map))
    }

    fn weight(&self) -> u64 {
        let body = match self.data.get() {
            Some(Data::Value(parsed)) => parsed.weight,
            _ => 0,
        };
        body + self.message.head().len() as u64
    }

    /// `true` as long as the evaluation may go on.
    fn step(&self, cost: u64) -> Option<CowVal<'_, '_>> {
        let before = self.work.fetch_add(cost, Ordering::Relaxed);
        (before + cost <= WORK_MAX).then_some(CowVal::Borrowed(&CelBool::TRUE))
    }
}

impl VariableResolver for Facts<'_> {
    // An attribute that the message does not have is an unknown name to the interpreter; `Expression` tells the two apart.
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let text = match variable {
            "data" => {
                return match self.data() {
                    Data::Value(Parsed { value, .. }) => Some(CowVal::Borrowed(value.as_ref() as &(dyn Val + 'b))),
                    Data::Missing | Data::Unreadable(_) => None,
                };
            }
            "extensions" => return Some(CowVal::owned(self.extensions())),
            BYTES_MAX => {
                return Some(CowVal::owned(CelInt::from(i64::try_from(self.message_bytes_max).unwrap_or(i64::MAX))));
            }
            STEP => return self.step(1),
            HEAVY_STEP => return self.step(1 + self.weight() / WEIGHT_PER_STEP),
            "datacontenttype" => self.message.content_type()?,
            "dataschema" => self.message.data_schema()?,
            "id" => self.message.id(),
            "source" => self.message.source(),
            "subject" => self.message.subject()?,
            "time" => self.message.time()?,
            "topic" => self.topic.as_str(),
            "type" => self.message.kind(),
            _ => return None,
        };
        Some(CowVal::owned(CelString::from(text)))
    }
}
