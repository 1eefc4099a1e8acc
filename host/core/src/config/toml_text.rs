//! Places inside TOML strings: from an offset in what a string says to the place in the file where that is written.

use std::ops::Range;

/// Where the bytes `part` of `value` stand in the file, if `token` is the source of the string and starts at `start`.
///
/// The whole token when the string is written in a way that this does not follow.
pub(super) fn place(token: &str, start: usize, value: &str, part: &Range<usize>) -> Range<usize> {
    let whole = start..start + token.len();
    let Some(offsets) = offsets(token, value) else { return whole };
    match (offsets.get(part.start), offsets.get(part.end)) {
        (Some(from), Some(to)) => start + from..start + to,
        _ => whole,
    }
}

/// For each byte of `value`, and its end, the offset in `token` where it is written.
fn offsets(token: &str, value: &str) -> Option<Vec<usize>> {
    let quotes = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quotes| token.starts_with(quotes))?;
    let is_literal = quotes.starts_with('\'');
    let mut at = quotes.len();
    if quotes.len() == 3 {
        let body = &token[at..];
        at += if body.starts_with("\r\n") { 2 } else { usize::from(body.starts_with('\n')) };
    }
    let end = token.len().checked_sub(quotes.len())?;
    let mut offsets = Vec::with_capacity(value.len() + 1);
    let mut said = value.chars();
    while at < end {
        let (shown, bytes) = match unescape(&token[at..end]) {
            Some(escape) if !is_literal => escape,
            _ => token[at..end].chars().next().map(|c| (Some(c), c.len_utf8()))?,
        };
        if let Some(shown) = shown {
            if said.next()? != shown {
                return None;
            }
            offsets.extend(std::iter::repeat_n(at, shown.len_utf8()));
        }
        at += bytes;
    }
    offsets.push(end);
    said.next().is_none().then_some(offsets)
}

/// The character that an escape at the start of `text` stands for, if any, and how long the escape is.
fn unescape(text: &str) -> Option<(Option<char>, usize)> {
    let rest = text.strip_prefix('\\')?;
    let kind = rest.chars().next()?;
    let hex = |digits: usize| {
        let code = u32::from_str_radix(rest.get(1..=digits)?, 16).ok()?;
        Some((Some(char::from_u32(code)?), digits + 2))
    };
    let single = |c| Some((Some(c), 2));
    match kind {
        'b' => single('\u{8}'),
        't' => single('\t'),
        'n' => single('\n'),
        'f' => single('\u{c}'),
        'r' => single('\r'),
        'e' => single('\u{1b}'),
        '"' => single('"'),
        '\\' => single('\\'),
        'x' => hex(2),
        'u' => hex(4),
        'U' => hex(8),
        _ if kind.is_whitespace() => Some((None, 1 + rest.len() - rest.trim_start().len())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part of `token` that writes the first `needle` in `value`.
    fn check(token: &str, value: &str, needle: &str, expected: &str) {
        let at = value.find(needle).expect("the value has it");
        let place = place(token, 100, value, &(at..at + needle.len()));
        assert_eq!(&token[place.start - 100..place.end - 100], expected, "{token}");
    }

    #[test]
    fn places_in_every_kind_of_string() {
        check(r#"'a == "b"'"#, r#"a == "b""#, "\"b\"", "\"b\"");
        check(r#""a == \"b\"""#, r#"a == "b""#, "\"b\"", r#"\"b\""#);
        check("'''\na\n  + b'''", "a\n  + b", "b", "b");
        check("\"\"\"\na \\\n   + b\"\"\"", "a + b", "+ b", "+ b");
        check(r#""\u00e9 x""#, "\u{e9} x", "x", "x");
        check("'\u{e9} x'", "\u{e9} x", "x", "x");
    }

    #[test]
    fn what_is_not_understood_is_marked_as_a_whole() {
        assert_eq!(place("'ab'", 10, "something else", &(1..2)), 10..14);
        assert_eq!(place("bare", 10, "bare", &(1..2)), 10..14);
    }
}
