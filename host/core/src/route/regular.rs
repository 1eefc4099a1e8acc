//! Regular expressions, compiled when their expression is loaded: the interpreter's own `matches()` compiles one per call.

use std::any::Any;

use cel::ExecutionError;
use cel::common::types::{CelBool, CelString, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use regex::Regex;

/// The function that calls of `matches()` are replaced by: a text and a [`Regular`].
pub(crate) const MATCHES: &str = "@matches";

/// What the variables start with that an expression's regular expressions are found under; their number follows.
const VARIABLE: &str = "@regular";

/// The variable for the regular expression number `at`.
pub(crate) fn variable(at: usize) -> String {
    format!("{VARIABLE}{at}")
}

/// The number of the regular expression that `variable` stands for, if it stands for one.
pub(crate) fn number(variable: &str) -> Option<usize> {
    variable.strip_prefix(VARIABLE)?.parse().ok()
}

/// A compiled regular expression as a value of the interpreter.
#[derive(Debug, Clone)]
pub(crate) struct Regular(Regex);

impl Regular {
    /// The regular expression that `pattern` spells. Matching takes time in proportion to the text, whatever it is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        Regex::new(pattern).map(Self).map_err(|error| {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            reason.trim().trim_start_matches("error: ").to_owned()
        })
    }
}

impl Val for Regular {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        static TYPE: Type = Type::new_unspecified_type("regular expression");
        &TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Regular {}

/// Whether a text, the first argument, matches a regular expression, the second.
pub(crate) fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [text, regular] = arguments.as_slice() else { return Err(ExecutionError::missing_argument_or_target()) };
    let (Some(text), Some(regular)) = (text.downcast_ref::<CelString<'_>>(), regular.downcast_ref::<Regular>()) else {
        return Err(ExecutionError::no_such_overload("matches", vec![text.get_type().name().to_owned()]));
    };
    Ok(CowVal::owned(CelBool::from(regular.0.is_match(text.inner()))))
}
