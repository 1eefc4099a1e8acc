//! `transform`: the messages that a route makes of one message.
//!
//! The map that a transform evaluates to is the body of the new message, as JSON; all other attributes stay as they were.
//! The one result keeps the message's id. Of a list, result number `n` gets the id `ID-n`, from `ID-0` on, whatever the
//! number of results: so ids depend on nothing but the message and the place in the list.

use std::ops::Range;

use cel::ExecutionError;
use cel::common::types::{CelBytes, CelInt, CelList, CelMap, CelNull};
use cel::common::value::{CowVal, Val};
use cel::objects::Value;

use super::analysis::Problem;
use super::body::{BoxedVal, Want};
use super::expression::{Evaluated, Expression, bodies_error};
use super::facts::Facts;
use super::json;
use super::types::Kind;
use crate::message::{Attributes, Message};

/// Most messages that one transform makes of one message.
pub const RESULTS_MAX: usize = 1_000;

/// Most bytes of all bodies that one transform makes of one message, unless `max-message` allows one to be longer.
pub const RESULTS_BYTES_MAX: usize = 16 << 20;

/// A compiled `transform`.
#[derive(Debug)]
pub struct Transform(Expression);

impl Transform {
    /// The transform that the CEL expression `source` spells.
    ///
    /// # Errors
    /// Every mistake in it that can be seen without a message, at least one.
    pub fn new(source: &str) -> Result<Self, Vec<Problem>> {
        let expression = Expression::new(source)?;
        let kind = expression.kind();
        let odd = expression.elements().iter().filter(|(_, kind)| !kind.can_be(Kind::Map) && *kind != Kind::Optional);
        let odd: Vec<_> = odd.map(|(span, kind)| not_a_map(span.clone(), *kind)).collect();
        if !odd.is_empty() {
            return Err(odd);
        }
        if matches!(kind, Kind::Any | Kind::Map | Kind::List | Kind::Null) {
            return Ok(Self(expression.into_bodies()));
        }
        let help = match kind {
            Kind::Optional => "end it with .orValue(null), which drops the message, or .value()",
            Kind::Bool => "a condition belongs into 'when'",
            _ => "write the new body: {\"field\": ...}",
        };
        let message = format!("a transform is a map, a list of maps or null, and this is {kind}");
        Err(vec![Problem { span: 0..source.len(), message, help: Some(help.into()) }])
    }

    pub(crate) fn want(&self) -> Option<&Want> {
        self.0.want()
    }

    /// The messages that are made of the message; none if the transform is null or an empty list.
    ///
    /// # Errors
    /// Why there are none, when there should have been.
    pub(crate) fn apply(&self, facts: &Facts<'_>) -> Result<Vec<Message>, String> {
        let original = facts.message();
        match self.0.evaluate(facts) {
            Evaluated::Missing(reason) | Evaluated::Failed(reason) => Err(reason),
            Evaluated::Value(Value::Bytes(body)) => Ok(vec![with_body(original, original.id(), &body)?]),
            Evaluated::Value(Value::List(bodies)) => {
                let numbered = bodies.iter().enumerate();
                numbered.map(|(n, body)| with_body(original, &format!("{}-{n}", original.id()), bytes(body)?)).collect()
            }
            Evaluated::Value(other) => Err(format!("it made a {}", other.type_of())),
        }
    }
}

fn not_a_map(span: Range<usize>, kind: Kind) -> Problem {
    let message = format!("a message's body is a map, and this is {kind}");
    Problem { span, message, help: Some("write a map: {\"field\": value}".into()) }
}

fn bytes(body: &Value) -> Result<&[u8], String> {
    match body {
        Value::Bytes(bytes) => Ok(bytes),
        other => Err(format!("it made a {}", other.type_of())),
    }
}

/// The function that turns the value of a transform, and how long a body may be, into bodies: bytes for a map, a list of
/// bytes for everything else.
pub(crate) fn bodies<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [value, limit] = arguments.as_slice() else { return Err(ExecutionError::missing_argument_or_target()) };
    let limit = limit.downcast_ref::<CelInt>().and_then(|limit| usize::try_from(*limit.inner()).ok()).unwrap_or(0);
    if value.downcast_ref::<CelMap<'_>>().is_some() {
        let body = json::write(value.as_ref(), limit).map_err(bodies_error)?;
        return Ok(CowVal::owned(CelBytes::from(body)));
    }
    let bodies = list_bodies(value.as_ref(), limit).map_err(bodies_error)?;
    let bodies: Vec<BoxedVal<'v>> =
        bodies.into_iter().map(|body| Box::new(CelBytes::from(body)) as BoxedVal<'v>).collect();
    Ok(CowVal::owned(CelList::from(bodies)))
}

fn list_bodies(value: &dyn Val, limit: usize) -> Result<Vec<Vec<u8>>, String> {
    if value.downcast_ref::<CelNull>().is_some() {
        return Ok(Vec::new());
    }
    let Some(list) = value.downcast_ref::<CelList<'_>>() else {
        return Err(format!("it is of the type {}, not a map, a list of maps or null", value.get_type().name()));
    };
    if list.len() > RESULTS_MAX {
        return Err(format!("it is a list of {}; at most {RESULTS_MAX} messages can be made of one", list.len()));
    }
    let mut left = RESULTS_BYTES_MAX.max(limit);
    let mut bodies = Vec::with_capacity(list.len());
    for (at, item) in list.iter().enumerate() {
        if item.downcast_ref::<CelMap<'_>>().is_none() {
            return Err(format!("element {at} of its list is of the type {}, not a map", item.get_type().name()));
        }
        let body = json::write(item.as_ref(), limit)?;
        let Some(rest) = left.checked_sub(body.len()) else {
            return Err(format!("its messages have more than {RESULTS_BYTES_MAX} bytes in all"));
        };
        left = rest;
        bodies.push(body);
    }
    Ok(bodies)
}

fn with_body(original: &Message, id: &str, body: &[u8]) -> Result<Message, String> {
    let extensions: Vec<_> = original.extensions().collect();
    let attributes = Attributes {
        id,
        source: original.source(),
        kind: original.kind(),
        subject: original.subject(),
        time: original.time(),
        content_type: Some("application/json"),
        data_schema: original.data_schema(),
        extensions: &extensions,
    };
    Message::new(&attributes, body).map_err(|error| error.to_string())
}
