//! The parser's complaints about an expression, in words that help.

use cel::{ParseError, ParseErrors};

use super::analysis::Problem;

/// What is wrong with `source`, which does not parse. One mistake makes the parser stumble over what follows: only the
/// first complaint is worth reading.
pub(crate) fn explain(source: &str, errors: &ParseErrors) -> Problem {
    let errors = &errors.errors;
    let is_first = |error: &&ParseError| error.msg.starts_with(SYNTAX) || error.msg.starts_with(RESERVED);
    let Some(error) = errors.iter().find(is_first).or(errors.first()) else {
        return Problem { span: 0..source.len(), message: "this is not CEL".into(), help: None };
    };
    let start = offset(source, error.pos);
    let rest = &source[start..];
    let Some(complaint) = error.msg.strip_prefix(SYNTAX) else { return other(error, start, rest) };
    let complaint = complaint.split(" expecting ").next().unwrap_or_default();
    let missing = complaint.strip_prefix("missing '").and_then(|tail| tail.split('\'').next());
    let (length, message, help) = if rest.starts_with(['"', '\'']) && complaint.starts_with(UNREADABLE) {
        let length = rest.chars().next().map_or(0, char::len_utf8);
        match rest.get(1..).is_some_and(|tail| tail.contains(&rest[..1])) {
            true => {
                (length, "the string has an escape that there is not".to_owned(), Some("write \\\\ for a backslash"))
            }
            false => (length, "the quote is not closed".to_owned(), None),
        }
    } else if let Some(missing) = missing {
        (0, format!("'{missing}' is missing"), None)
    } else if rest.trim().is_empty() {
        (0, "it ends too early".to_owned(), None)
    } else {
        let token = token(rest);
        (token.len(), format!("'{token}' does not belong here"), instead_of(token))
    };
    Problem {
        span: start..start + length,
        message: format!("this is not CEL: {message}"),
        help: help.map(str::to_owned),
    }
}

const SYNTAX: &str = "Syntax error: ";
const RESERVED: &str = "reserved identifier: ";
const UNREADABLE: &str = "token recognition error";

fn other(error: &ParseError, start: usize, rest: &str) -> Problem {
    let message: String = match error.msg.strip_prefix(RESERVED) {
        Some(word) => format!("'{word}' is a reserved word"),
        None => error.msg.chars().take(200).collect(),
    };
    Problem { span: start..start + token(rest).len(), message: format!("this is not CEL: {message}"), help: None }
}

/// The byte that stands at a line and column, both counted from 1, columns in characters.
fn offset(source: &str, (line, column): (isize, isize)) -> usize {
    let from_zero = |number: isize| usize::try_from(number - 1).unwrap_or(0);
    let before: usize = source.split_inclusive('\n').take(from_zero(line)).map(str::len).sum();
    let rest = &source[before..];
    before + rest.char_indices().nth(from_zero(column)).map_or(rest.len(), |(at, _)| at)
}

/// The word or the one character that `rest` starts with.
fn token(rest: &str) -> &str {
    let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let first = rest.chars().next().map_or(0, char::len_utf8);
    &rest[..word.max(first)]
}

fn instead_of(token: &str) -> Option<&'static str> {
    match token {
        "=" => Some("compare with '=='"),
        "&" | "and" | "AND" => Some("combine conditions with '&&'"),
        "|" | "or" | "OR" => Some("combine conditions with '||'"),
        "not" | "NOT" => Some("write '!' before a condition: !(x in list)"),
        "\u{201c}" | "\u{201d}" | "\u{2018}" | "\u{2019}" => Some("write straight quotes: \" or '"),
        ";" => Some("an expression ends without ';'"),
        _ => None,
    }
}
