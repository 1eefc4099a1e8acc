//! What is known about an expression's types before it runs: kinds, operators and the functions there are.
//!
//! The table of functions is a list of what is allowed. What it leaves out on purpose: `replace`, `join` and `format`, whose
//! results can be far longer than what they are made of, so that a hostile message could fill the memory.

use std::fmt;

use cel::common::ast::operators;

/// The kind of a value, as far as it can be told without a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything: what comes out of a message's body.
    Any,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Null,
    List,
    Map,
    Timestamp,
    Duration,
    Type,
    Optional,
}

use Kind::{Any, Bool, Bytes, Double, Duration, Int, List, Map, Null, Optional, Text, Timestamp, Type, Uint};

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Any => "any value",
            Bool => "a bool",
            Int => "an int",
            Uint => "a uint",
            Double => "a double",
            Text => "a string",
            Bytes => "bytes",
            Null => "null",
            List => "a list",
            Map => "a map",
            Timestamp => "a timestamp",
            Duration => "a duration",
            Type => "a type",
            Optional => "an optional value",
        })
    }
}

impl Kind {
    /// Whether a value of this kind could be one of `other`.
    pub(crate) fn can_be(self, other: Self) -> bool {
        self == Any || other == Any || self == other
    }

    fn is_number(self) -> bool {
        matches!(self, Int | Uint | Double)
    }

    /// What one of two values is.
    pub(crate) fn either(self, other: Self) -> Self {
        if self == other { self } else { Any }
    }
}

/// The symbol of an operator that takes two values, by CEL's name for it.
pub(crate) fn symbol(operator: &str) -> Option<&'static str> {
    Some(match operator {
        operators::ADD => "+",
        operators::SUBSTRACT => "-",
        operators::MULTIPLY => "*",
        operators::DIVIDE => "/",
        operators::MODULO => "%",
        operators::EQUALS => "==",
        operators::NOT_EQUALS => "!=",
        operators::LESS => "<",
        operators::LESS_EQUALS => "<=",
        operators::GREATER => ">",
        operators::GREATER_EQUALS => ">=",
        operators::IN => "in",
        _ => return None,
    })
}

/// The kind of `left operator right`; none: the operator does not take these.
pub(crate) fn operate(symbol: &str, left: Kind, right: Kind) -> Option<Kind> {
    /// Operator, left, right, result.
    const ARITHMETIC: [(&str, Kind, Kind, Kind); 25] = [
        ("+", Int, Int, Int),
        ("+", Uint, Uint, Uint),
        ("+", Double, Double, Double),
        ("+", Text, Text, Text),
        ("+", Bytes, Bytes, Bytes),
        ("+", List, List, List),
        ("+", Timestamp, Duration, Timestamp),
        ("+", Duration, Timestamp, Timestamp),
        ("+", Duration, Duration, Duration),
        ("-", Int, Int, Int),
        ("-", Uint, Uint, Uint),
        ("-", Double, Double, Double),
        ("-", Timestamp, Timestamp, Duration),
        ("-", Timestamp, Duration, Timestamp),
        ("-", Duration, Duration, Duration),
        ("*", Int, Int, Int),
        ("*", Uint, Uint, Uint),
        ("*", Double, Double, Double),
        ("/", Int, Int, Int),
        ("/", Uint, Uint, Uint),
        ("/", Double, Double, Double),
        ("%", Int, Int, Int),
        ("%", Uint, Uint, Uint),
        ("in", Any, List, Bool),
        ("in", Any, Map, Bool),
    ];
    let same = left.can_be(right) || left.is_number() && right.is_number();
    match symbol {
        "==" | "!=" => (same || left == Null || right == Null).then_some(Bool),
        "<" | "<=" | ">" | ">=" => {
            let ordered = |kind| !matches!(kind, Null | List | Map | Type | Optional);
            (same && ordered(left) && ordered(right)).then_some(Bool)
        }
        _ => {
            let rows =
                ARITHMETIC.iter().filter(|(name, l, r, _)| *name == symbol && left.can_be(*l) && right.can_be(*r));
            rows.map(|(.., result)| *result).reduce(Kind::either)
        }
    }
}

/// A function that expressions may call.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    /// Kinds of the value before the dot; empty: it is called without one.
    receivers: &'static [Kind],
    /// Each way to call it.
    arguments: &'static [&'static [Kind]],
    pub(crate) result: Kind,
    /// How it is called, for errors.
    pub(crate) usage: &'static str,
}

const fn function(
    name: &'static str,
    receivers: &'static [Kind],
    arguments: &'static [&'static [Kind]],
    result: Kind,
    usage: &'static str,
) -> Function {
    Function { name, receivers, arguments, result, usage }
}

const TEXT: &[Kind] = &[Text];
const SIZED: &[Kind] = &[Text, Bytes, List, Map];
const TIMES: &[Kind] = &[Timestamp, Duration];

/// Every function but macros (`has`, `all`, `exists`, `exists_one`, `filter`, `map`).
static FUNCTIONS: [Function; 50] = [
    function("bool", &[], &[&[Bool], &[Text]], Bool, "bool(value)"),
    function("bytes", &[], &[&[Text], &[Bytes]], Bytes, "bytes(value)"),
    function("double", &[], &[&[Int], &[Uint], &[Double], &[Text]], Double, "double(value)"),
    function("duration", &[], &[&[Text], &[Duration]], Duration, "duration(\"90s\")"),
    function("dyn", &[], &[&[Any]], Any, "dyn(value)"),
    function("int", &[], &[&[Int], &[Uint], &[Double], &[Text], &[Timestamp]], Int, "int(value)"),
    function("matches", &[], &[&[Text, Text]], Bool, "text.matches(\"regular expression\")"),
    function("size", &[], &[&[Text], &[Bytes], &[List], &[Map]], Int, "size(value)"),
    function(
        "string",
        &[],
        &[&[Text], &[Bool], &[Int], &[Uint], &[Double], &[Bytes], &[Timestamp], &[Duration]],
        Text,
        "string(value)",
    ),
    function("timestamp", &[], &[&[Text], &[Int], &[Timestamp]], Timestamp, "timestamp(\"2026-01-31T12:00:00Z\")"),
    function("type", &[], &[&[Any]], Type, "type(value)"),
    function("uint", &[], &[&[Int], &[Uint], &[Double], &[Text]], Uint, "uint(value)"),
    function("optional.none", &[], &[&[]], Optional, "optional.none()"),
    function("optional.of", &[], &[&[Any]], Optional, "optional.of(value)"),
    function("optional.ofNonZeroValue", &[], &[&[Any]], Optional, "optional.ofNonZeroValue(value)"),
    function("charAt", TEXT, &[&[Int]], Text, "text.charAt(index)"),
    function("contains", TEXT, &[&[Text]], Bool, "text.contains(part)"),
    function("endsWith", TEXT, &[&[Text]], Bool, "text.endsWith(part)"),
    function("indexOf", TEXT, &[&[Text], &[Text, Int]], Int, "text.indexOf(part)"),
    function("lastIndexOf", TEXT, &[&[Text], &[Text, Int]], Int, "text.lastIndexOf(part)"),
    function("lowerAscii", TEXT, &[&[]], Text, "text.lowerAscii()"),
    function("matches", TEXT, &[&[Text]], Bool, "text.matches(\"regular expression\")"),
    function("reverse", TEXT, &[&[]], Text, "text.reverse()"),
    function("size", SIZED, &[&[]], Int, "value.size()"),
    function("split", TEXT, &[&[Text], &[Text, Int]], List, "text.split(separator)"),
    function("startsWith", TEXT, &[&[Text]], Bool, "text.startsWith(part)"),
    function("substring", TEXT, &[&[Int], &[Int, Int]], Text, "text.substring(start, end)"),
    function("trim", TEXT, &[&[]], Text, "text.trim()"),
    function("upperAscii", TEXT, &[&[]], Text, "text.upperAscii()"),
    function("getDate", &[Timestamp], &[&[], &[Text]], Int, "timestamp.getDate()"),
    function("getDayOfMonth", &[Timestamp], &[&[], &[Text]], Int, "timestamp.getDayOfMonth()"),
    function("getDayOfWeek", &[Timestamp], &[&[], &[Text]], Int, "timestamp.getDayOfWeek()"),
    function("getDayOfYear", &[Timestamp], &[&[], &[Text]], Int, "timestamp.getDayOfYear()"),
    function("getFullYear", &[Timestamp], &[&[], &[Text]], Int, "timestamp.getFullYear()"),
    function("getHours", TIMES, &[&[], &[Text]], Int, "timestamp.getHours()"),
    function("getMilliseconds", TIMES, &[&[], &[Text]], Int, "timestamp.getMilliseconds()"),
    function("getMinutes", TIMES, &[&[], &[Text]], Int, "timestamp.getMinutes()"),
    function("getMonth", &[Timestamp], &[&[], &[Text]], Int, "timestamp.getMonth()"),
    function("getSeconds", TIMES, &[&[], &[Text]], Int, "timestamp.getSeconds()"),
    function("hasValue", &[Optional], &[&[]], Bool, "optional.hasValue()"),
    function("or", &[Optional], &[&[Optional]], Optional, "optional.or(other)"),
    function("orValue", &[Optional], &[&[Any]], Any, "data.?field.orValue(other)"),
    function("value", &[Optional], &[&[]], Any, "optional.value()"),
    // Macros: here only when they were called in a way that is not theirs.
    function("has", &[], &[], Bool, "has(data.field)"),
    function("all", &[List, Map], &[], Bool, "list.all(item, condition)"),
    function("exists", &[List, Map], &[], Bool, "list.exists(item, condition)"),
    function("exists_one", &[List, Map], &[], Bool, "list.exists_one(item, condition)"),
    function("existsOne", &[List, Map], &[], Bool, "list.existsOne(item, condition)"),
    function("filter", &[List, Map], &[], List, "list.filter(item, condition)"),
    function("map", &[List, Map], &[], List, "list.map(item, value)"),
];

/// Functions of CEL's string library that are not in the table.
pub(crate) const LEFT_OUT: [&str; 3] = ["format", "join", "replace"];

/// The function `name`, called on a value or not.
pub(crate) fn find(name: &str, on_value: bool) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name && function.receivers.is_empty() != on_value)
}

/// Whether it is a macro, which the parser replaces wherever it is called as it should be.
pub(crate) fn is_macro(function: &Function) -> bool {
    function.arguments.is_empty()
}

/// The names of all functions that are called like this one.
pub(crate) fn names(on_value: bool) -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().filter(move |function| function.receivers.is_empty() != on_value).map(|function| function.name)
}

impl Function {
    /// Whether it can be called on a value of kind `receiver`.
    pub(crate) fn takes_receiver(&self, receiver: Kind) -> bool {
        self.receivers.iter().any(|kind| receiver.can_be(*kind))
    }

    /// Whether it can be called with values of these kinds.
    pub(crate) fn takes(&self, given: &[Kind]) -> bool {
        let fits =
            |wanted: &&[Kind]| wanted.len() == given.len() && given.iter().zip(*wanted).all(|(g, w)| g.can_be(*w));
        self.arguments.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_know_their_operands() {
        let check = |left, symbol, right, expected| {
            assert_eq!(operate(symbol, left, right), expected, "{left} {symbol} {right}");
        };
        check(Int, "+", Int, Some(Int));
        check(Int, "+", Text, None);
        check(Int, "+", Double, None);
        check(Any, "+", Text, Some(Text));
        check(Any, "+", Any, Some(Any));
        check(Any, "+", Map, None);
        check(Timestamp, "-", Any, Some(Any));
        check(Text, "*", Any, None);
        check(Int, "==", Double, Some(Bool));
        check(Text, "==", Int, None);
        check(Text, "!=", Null, Some(Bool));
        check(Text, "<", Text, Some(Bool));
        check(Text, ">", Int, None);
        check(Any, "<", Map, None);
        check(Text, "in", List, Some(Bool));
        check(Text, "in", Text, None);
    }
}
