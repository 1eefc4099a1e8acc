//! JSON lines to messages: topic templates such as `github.{event}`, and the field that is the body.
//!
//! Bodies are passed on byte for byte as they stand in their line, never parsed and printed again.

use std::collections::HashMap;
use std::io::{BufRead, Read as _};

use pelton_core::name::Topic;
use serde_json::value::RawValue;

/// The longest line that is read, in bytes.
pub(crate) const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A topic with `{field}` for fields of a line; `{a.b}` looks into an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    given: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Vec<String>),
}

type Fields<'a> = HashMap<String, &'a RawValue>;

impl Template {
    /// Reads a template; the error says what is wrong with it.
    pub(crate) fn parse(given: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = given;
        while let Some(open) = rest.find('{') {
            let (text, behind) = rest.split_at(open);
            let close = behind.find('}').ok_or_else(|| format!("the topic '{given}' has a '{{' without its '}}'"))?;
            let path: Vec<String> = behind[1..close].split('.').map(|word| word.trim().to_owned()).collect();
            if path.iter().any(String::is_empty) {
                return Err(format!("the topic '{given}' has braces without a field's name; write {{field}}"));
            }
            parts.push(Part::Text(text.to_owned()));
            parts.push(Part::Field(path));
            rest = &behind[close + 1..];
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self { given: given.to_owned(), parts })
    }

    /// Whether it names no field, so that it needs no line.
    pub(crate) fn is_plain(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The topic for a line with these fields.
    fn fill(&self, fields: &Fields<'_>) -> Result<Topic, String> {
        let mut topic = String::with_capacity(self.given.len());
        for part in &self.parts {
            match part {
                Part::Text(text) => topic.push_str(text),
                Part::Field(path) => topic.push_str(&word_at(fields, path)?),
            }
        }
        Topic::new(&topic).map_err(|error| error.to_string())
    }

    /// The topic of a template without fields.
    pub(crate) fn plain(&self) -> Result<Topic, String> {
        if self.is_plain() {
            self.fill(&Fields::new())
        } else {
            Err(format!("the topic '{}' has fields, which only --jsonl can fill", self.given))
        }
    }
}

/// The value at `path` as a word of a topic or an id: a text, a number or a boolean.
fn word_at(fields: &Fields<'_>, path: &[String]) -> Result<String, String> {
    let name = path.join(".");
    let (first, rest) = path.split_first().expect("a path has a word");
    let value = *fields.get(first).ok_or_else(|| format!("it has no field '{name}'"))?;
    if !rest.is_empty() {
        let inner: Fields<'_> = serde_json::from_str(value.get())
            .map_err(|_| format!("its field '{first}' is no object, so '{name}' is not there"))?;
        return word_at(&inner, rest);
    }
    match serde_json::from_str(value.get()) {
        Ok(serde_json::Value::String(text)) => Ok(text),
        Ok(scalar @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => Ok(scalar.to_string()),
        _ => Err(format!("its field '{name}' is neither a text nor a number nor a boolean")),
    }
}

/// What to take from each line.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) topic: Template,
    /// The field that is the body; none: the whole line.
    pub(crate) body: Option<String>,
    /// The field that is the message's id.
    pub(crate) id: Option<String>,
    /// The field that is the key that messages are kept in order by.
    pub(crate) key: Option<String>,
}

/// One message, as read from a line.
#[derive(Debug)]
pub(crate) struct Record {
    /// From 1.
    pub(crate) line: u64,
    pub(crate) topic: Topic,
    pub(crate) id: Option<String>,
    pub(crate) key: Option<String>,
    /// JSON, byte for byte.
    pub(crate) body: String,
}

impl Shape {
    /// The message in `text`, line number `line`; the error names the line.
    pub(crate) fn record(&self, line: u64, text: &str) -> Result<Record, String> {
        let at = |problem: String| format!("line {line}: {problem}");
        // A line's end is none of JSON's: errors at the end of the text would count it as a line.
        let text = text.trim_end();
        let needs_fields = !self.topic.is_plain() || self.body.is_some() || self.id.is_some() || self.key.is_some();
        if !needs_fields {
            let whole: &RawValue =
                serde_json::from_str(text).map_err(|error| at(format!("it is not JSON: {}", told(&error))))?;
            let topic = self.topic.plain().map_err(at)?;
            return Ok(Record { line, topic, id: None, key: None, body: whole.get().to_owned() });
        }
        let fields: Fields<'_> =
            serde_json::from_str(text).map_err(|error| at(format!("it is not a JSON object: {}", told(&error))))?;
        let topic = self.topic.fill(&fields).map_err(at)?;
        let body = match &self.body {
            None => text.trim().to_owned(),
            Some(name) => {
                let value = fields.get(name).ok_or_else(|| at(format!("it has no field '{name}' for the body")))?;
                value.get().to_owned()
            }
        };
        let word = |name: &Option<String>| name.as_ref().map(|name| word_at(&fields, std::slice::from_ref(name)));
        let id = word(&self.id).transpose().map_err(at)?;
        let key = word(&self.key).transpose().map_err(at)?;
        Ok(Record { line, topic, id, key, body })
    }
}

/// What is wrong with a line and at which of its columns; that it is line 1 of itself is known.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    match error.column() {
        0 => what.to_owned(),
        column => format!("{what} (column {column})"),
    }
}

/// The lines of `reader` that are not blank, with their numbers from 1.
pub(crate) struct Lines<R> {
    reader: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, number: 0 }
    }

    fn next_line(&mut self) -> std::io::Result<Option<(u64, String)>> {
        loop {
            let mut bytes = Vec::new();
            let read = self.reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let invalid = |reason: String| std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
            if bytes.len() as u64 > LINE_BYTES_MAX {
                return Err(invalid(format!("line {} has more than {LINE_BYTES_MAX} bytes", self.number)));
            }
            let text = String::from_utf8(bytes).map_err(|_| invalid(format!("line {} is not UTF-8", self.number)))?;
            if !text.trim().is_empty() {
                return Ok(Some((self.number, text)));
            }
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = std::io::Result<(u64, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_line().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Topic, id and body of `text` under a template, a body field and an id field; or the error.
    fn check(template: &str, body: Option<&str>, id: Option<&str>, text: &str, expected: &str) {
        let shape = Shape {
            topic: Template::parse(template).expect("a template"),
            body: body.map(str::to_owned),
            id: id.map(str::to_owned),
            key: None,
        };
        let found = match shape.record(3, text) {
            Ok(record) => format!("{} {} {}", record.topic, record.id.unwrap_or("-".into()), record.body),
            Err(error) => error,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_become_messages() {
        check("a.b", None, None, r#"{"x": 1}"#, r#"a.b - {"x": 1}"#);
        check("a.b", None, None, "[1, 2]", "a.b - [1, 2]");
        check(
            "git.{event}",
            Some("payload"),
            None,
            r#"{"event":"push","payload":{"n": 1.0}}"#,
            r#"git.push - {"n": 1.0}"#,
        );
        check(
            "{a.b}.{c}",
            None,
            Some("n"),
            r#"{"a":{"b":"x"},"c":7,"n":12}"#,
            r#"x.7 12 {"a":{"b":"x"},"c":7,"n":12}"#,
        );
    }

    #[test]
    fn lines_have_keys() {
        let key = Some("account".to_owned());
        let shape = Shape { topic: Template::parse("a").expect("a template"), body: None, id: None, key };
        assert_eq!(shape.record(1, r#"{"account": 7}"#).expect("a line").key.as_deref(), Some("7"));
        assert_eq!(shape.record(1, "{}").expect_err("no key"), "line 1: it has no field 'account'");
    }

    #[test]
    fn bad_lines_name_their_place() {
        check("a", None, None, "{", "line 3: it is not JSON: EOF while parsing an object (column 1)");
        check("a", None, None, "{\"a\":\n", "line 3: it is not JSON: EOF while parsing a value (column 5)");
        check("{e}", None, None, "[1]\n", "line 3: it is not a JSON object: invalid type: sequence, expected a map");
        check("{e}", None, None, r#"{"x":1}"#, "line 3: it has no field 'e'");
        check("{e}", None, None, r#"{"e":null}"#, "line 3: its field 'e' is neither a text nor a number nor a boolean");
        check("{e.f}", None, None, r#"{"e":1}"#, "line 3: its field 'e' is no object, so 'e.f' is not there");
        check("a", Some("b"), None, r#"{"e":1}"#, "line 3: it has no field 'b' for the body");
        check(
            "{e}",
            None,
            None,
            r#"{"e":"a b"}"#,
            "line 3: 'a b' is not a topic: it contains ' '; words have letters a-z and A-Z, digits, '_' and '-', with dots between them",
        );
    }

    #[test]
    fn templates_are_checked() {
        assert!(Template::parse("a.{b").expect_err("open").contains("without its '}'"));
        assert!(Template::parse("a.{}").expect_err("empty").contains("without a field's name"));
        assert!(Template::parse("a.{b}").expect("fine").plain().expect_err("fields").contains("--jsonl"));
    }

    #[test]
    fn blank_lines_are_counted_and_skipped() {
        let lines: Vec<_> = Lines::new("a\n\n  \nb".as_bytes()).map(|line| line.expect("reads")).collect();
        assert_eq!(lines, [(1, "a\n".to_owned()), (4, "b".to_owned())]);
    }
}
