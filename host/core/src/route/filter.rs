//! `when`: whether a message that a route's pattern matched takes the route.

use cel::objects::Value;

use super::analysis::Problem;
use super::body::Want;
use super::expression::{Evaluated, Expression, type_name};
use super::facts::Facts;
use super::types::Kind;

/// A compiled `when`.
#[derive(Debug)]
pub struct Filter(Expression);

impl Filter {
    /// The filter that the CEL expression `source` spells.
    ///
    /// # Errors
    /// Every mistake in it that can be seen without a message, at least one.
    pub fn new(source: &str) -> Result<Self, Vec<Problem>> {
        let expression = Expression::new(source)?;
        let kind = expression.kind();
        if kind.can_be(Kind::Bool) {
            return Ok(Self(expression));
        }
        let help = match kind {
            Kind::Optional => "end it with .orValue(false)",
            Kind::Map => "a filter says yes or no; a new message is made by 'transform'",
            _ => "compare it with something: ... == ...",
        };
        let message = format!("a filter is a condition, and this is {kind}");
        Err(vec![Problem { span: 0..source.len(), message, help: Some(help.into()) }])
    }

    pub(crate) fn want(&self) -> Option<&Want> {
        self.0.want()
    }

    /// Whether the message passes. If something that the filter looks at is not there, it does not.
    ///
    /// # Errors
    /// Why that can't be told of this message.
    pub(crate) fn passes(&self, facts: &Facts<'_>) -> Result<bool, String> {
        match self.0.evaluate(facts) {
            Evaluated::Value(Value::Bool(passes)) => Ok(passes),
            Evaluated::Value(other) => Err(format!("it is of the type {}, not a bool", type_name(&other))),
            Evaluated::Missing(_) => Ok(false),
            Evaluated::Failed(reason) => Err(reason),
        }
    }
}
