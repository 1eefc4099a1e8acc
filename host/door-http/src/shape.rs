//! What the JSON body of a command looks like, for telling a caller in plain words where theirs differs.
//!
//! Only errors come here: a body that deserializes is never looked at twice. The words are ours, since the deserializer's
//! speak of Rust's types.

use serde_json::Value;

/// A member of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
}

/// What a value has to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A whole number from 0.
    Whole,
    Bool,
    Text,
    /// One of these texts.
    Word(&'static [&'static str]),
    /// Whole numbers.
    Wholes,
    /// An object with any names, each with a text.
    Texts,
    /// Objects with these members.
    Objects(&'static [Member]),
}

/// A body of a command.
pub(crate) trait Shape {
    /// Its members.
    const MEMBERS: &'static [Member];
}

/// A member that may be left out.
pub(crate) const fn optional(name: &'static str, kind: Kind) -> Member {
    Member { name, kind, required: false }
}

/// A member that has to be there.
pub(crate) const fn required(name: &'static str, kind: Kind) -> Member {
    Member { name, kind, required: true }
}

/// The first place where `body` is not an object with these members: what was given there, and what is expected.
pub(crate) fn difference(body: &Value, members: &[Member]) -> Option<String> {
    let Value::Object(object) = body else {
        return Some(format!("the body is {}; an object is expected, with {}", shown(body), names(members)));
    };
    in_object(object, "", members)
}

fn in_object(object: &serde_json::Map<String, Value>, at: &str, members: &[Member]) -> Option<String> {
    let unknown = object.keys().find(|name| members.iter().all(|member| member.name != *name));
    if let Some(name) = unknown {
        let near = pelton_core::config::nearest(name, members.iter().map(|member| member.name));
        let near = near.map(|near| format!(" (did you mean '{near}'?)")).unwrap_or_default();
        return Some(format!("'{at}{}' is unknown{near}; known are {}", cut(name), names(members)));
    }
    members.iter().find_map(|member| match object.get(member.name) {
        None if member.required => {
            Some(format!("'{at}{}' is missing; {} is expected", member.name, member.kind.expected()))
        }
        // What is `null` is left out.
        Some(Value::Null) if !member.required => None,
        None => None,
        Some(value) => in_value(value, &format!("{at}{}", member.name), member.kind),
    })
}

fn in_value(value: &Value, at: &str, kind: Kind) -> Option<String> {
    let fits = match (kind, value) {
        (Kind::Whole, Value::Number(number)) => number.as_u64().is_some(),
        (Kind::Bool, Value::Bool(_)) | (Kind::Text, Value::String(_)) => true,
        (Kind::Word(words), Value::String(text)) => words.contains(&text.as_str()),
        (Kind::Wholes, Value::Array(items)) => return in_items(items, at, Kind::Whole),
        (Kind::Texts, Value::Object(object)) => {
            return object.iter().find_map(|(name, text)| in_value(text, &format!("{at}.{}", cut(name)), Kind::Text));
        }
        (Kind::Objects(_), Value::Array(items)) => return in_items(items, at, kind),
        _ => false,
    };
    (!fits).then(|| format!("'{at}' is {}; {} is expected", shown(value), kind.expected()))
}

fn in_items(items: &[Value], at: &str, kind: Kind) -> Option<String> {
    items.iter().enumerate().find_map(|(number, item)| {
        let at = format!("{at}[{number}]");
        match (kind, item) {
            (Kind::Objects(members), Value::Object(object)) => in_object(object, &format!("{at}."), members),
            (Kind::Objects(members), other) => {
                Some(format!("'{at}' is {}; an object is expected, with {}", shown(other), names(members)))
            }
            (kind, item) => in_value(item, &at, kind),
        }
    })
}

impl Kind {
    fn expected(self) -> String {
        match self {
            Self::Whole => "a whole number from 0".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Text => "a string".to_owned(),
            Self::Word(words) => format!("one of \"{}\"", words.join("\", \"")),
            Self::Wholes => "a list of whole numbers".to_owned(),
            Self::Texts => "an object of strings".to_owned(),
            Self::Objects(members) => format!("a list of objects with {}", names(members)),
        }
    }
}

fn names(members: &[Member]) -> String {
    let quoted: Vec<String> = members.iter().map(|member| format!("'{}'", member.name)).collect();
    quoted.join(", ")
}

/// The value as it was given, where it is short.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("the string \"{}\"", cut(text)),
        other => other.to_string(),
    }
}

fn cut(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 40;
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MEMBERS: &[Member] = &[
        optional("max", Kind::Whole),
        optional("all", Kind::Bool),
        optional("positions", Kind::Wholes),
        optional("attributes", Kind::Texts),
        optional(
            "leases",
            Kind::Objects(&[required("token", Kind::Text), optional("as", Kind::Word(&["one", "two"]))]),
        ),
    ];

    #[test]
    fn differences_name_the_member_what_it_is_and_what_it_should_be() {
        let check = |body: Value, expected: &str| {
            assert_eq!(difference(&body, MEMBERS).as_deref(), Some(expected), "{body}");
        };
        let members = "'max', 'all', 'positions', 'attributes', 'leases'";
        check(json!([1]), &format!("the body is a list; an object is expected, with {members}"));
        check(json!("x"), &format!("the body is the string \"x\"; an object is expected, with {members}"));
        check(json!({"maxx": 1}), &format!("'maxx' is unknown (did you mean 'max'?); known are {members}"));
        check(json!({"max": "10"}), "'max' is the string \"10\"; a whole number from 0 is expected");
        check(json!({"max": -1}), "'max' is -1; a whole number from 0 is expected");
        check(json!({"max": 1.5}), "'max' is 1.5; a whole number from 0 is expected");
        check(json!({"all": 1}), "'all' is 1; true or false is expected");
        check(json!({"positions": 7}), "'positions' is 7; a list of whole numbers is expected");
        check(json!({"positions": [7, "8"]}), "'positions[1]' is the string \"8\"; a whole number from 0 is expected");
        check(json!({"attributes": "a"}), "'attributes' is the string \"a\"; an object of strings is expected");
        check(json!({"attributes": {"a": "1", "b": 2}}), "'attributes.b' is 2; a string is expected");
        check(json!({"leases": {}}), "'leases' is an object; a list of objects with 'token', 'as' is expected");
        check(json!({"leases": ["t"]}), "'leases[0]' is the string \"t\"; an object is expected, with 'token', 'as'");
        check(json!({"leases": [{"token": "t"}, {}]}), "'leases[1].token' is missing; a string is expected");
        check(json!({"leases": [{"token": null}]}), "'leases[0].token' is null; a string is expected");
        check(
            json!({"leases": [{"token": "t", "as": "three"}]}),
            "'leases[0].as' is the string \"three\"; one of \"one\", \"two\" is expected",
        );
        assert_eq!(difference(&json!({"max": 1, "all": null, "leases": [{"token": "t", "as": "two"}]}), MEMBERS), None);
    }
}
