//! What differs between two versions of broker.toml, a line for each thing, as somebody wrote it.
//!
//! The text is compared and not the plan: so a setting that is new to this program needs nothing here, and values are shown as they
//! stand in the file. What a consumer is configured with is not shown, only that it changed.

use std::collections::BTreeSet;

use toml::{Table, Value};

/// Sections whose keys are names.
const NAMED: [&str; 3] = ["queues", "consumers", "topics"];
/// Keys whose values stay out of logs.
const UNSHOWN: [&str; 3] = ["config", "secrets", "token"];
/// Characters of a value that are shown.
const VALUE_SHOWN: usize = 60;

/// A line for each difference, in the order of names. Both texts are valid, or nothing is said.
pub(crate) fn changes(before: &str, after: &str) -> Vec<String> {
    let (Ok(before), Ok(after)) = (before.parse::<Table>(), after.parse::<Table>()) else { return Vec::new() };
    let mut lines = Vec::new();
    let empty = Table::new();
    for section in keys(&before, &after) {
        match (before.get(section), after.get(section)) {
            (Some(Value::Array(before)), Some(Value::Array(after))) => lists(section, before, after, &mut lines),
            (Some(Value::Array(before)), None) => lists(section, before, &[], &mut lines),
            (None, Some(Value::Array(after))) => lists(section, &[], after, &mut lines),
            (before, after) => {
                let table = |value: Option<&'_ Value>| value.and_then(Value::as_table).cloned();
                let (before, after) = (table(before).unwrap_or(empty.clone()), table(after).unwrap_or(empty.clone()));
                if NAMED.contains(&section) {
                    named(&|name| in_section(section, name), &before, &after, &mut lines);
                } else {
                    settings(&format!("[{section}]"), &before, &after, &mut lines);
                }
            }
        }
    }
    lines
}

fn keys<'a>(before: &'a Table, after: &'a Table) -> BTreeSet<&'a str> {
    before.keys().chain(after.keys()).map(String::as_str).collect()
}

/// `[queues.orders]`
fn in_section(section: &str, name: &str) -> String {
    let is_bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if is_bare { format!("[{section}.{name}]") } else { format!("[{section}.\"{name}\"]") }
}

/// Things that have names, each at its place.
fn named(place: &dyn Fn(&str) -> String, before: &Table, after: &Table, lines: &mut Vec<String>) {
    for name in keys(before, after) {
        match (before.get(name), after.get(name)) {
            (Some(Value::Table(before)), Some(Value::Table(after))) => settings(&place(name), before, after, lines),
            (None, _) => lines.push(format!("{} is new", place(name))),
            _ => lines.push(format!("{} is gone", place(name))),
        }
    }
}

fn settings(place: &str, before: &Table, after: &Table, lines: &mut Vec<String>) {
    for key in keys(before, after) {
        let (old, new) = (before.get(key), after.get(key));
        if old == new {
            continue;
        }
        let what = match (old, new) {
            _ if UNSHOWN.contains(&key) => "has changed".to_owned(),
            (Some(old), Some(new)) => format!("= {}, was {}", shown(new), shown(old)),
            (None, Some(new)) => format!("= {}, was not set", shown(new)),
            (Some(old), None) => format!("is not set, was {}", shown(old)),
            (None, None) => continue,
        };
        lines.push(format!("{place} {key} {what}"));
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// `[[schedules]]`, whose items have names, and `[[routes]]`, which have none: of those, the ones on one side only are counted.
fn lists(section: &str, before: &[Value], after: &[Value], lines: &mut Vec<String>) {
    if before == after {
        return;
    }
    if let (Some(before), Some(after)) = (by_name(before), by_name(after)) {
        return named(&|name| format!("[[{section}]] {name}"), &before, &after, lines);
    }
    let only_in = |one: &[Value], other: &[Value]| one.iter().filter(|item| !other.contains(item)).count();
    let (new, gone) = (only_in(after, before), only_in(before, after));
    lines.push(match (new, gone) {
        (0, 0) => format!("[[{section}]] stand in another order, or another number of times"),
        _ => format!("[[{section}]]: {new} new, {gone} gone, {} in all", after.len()),
    });
}

/// The items by their names, where all have one.
fn by_name(items: &[Value]) -> Option<Table> {
    items.iter().map(|item| Some((item.get("name")?.as_str()?.to_owned(), item.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r##"
[broker]
max-hops = 16
[queues.a]
max-attempts = 3
[queues.b]
[topics."orders.#"]
dedup = "10m"
[[routes]]
from = "a"
to = ["queue:a"]
[[routes]]
from = "b"
to = ["queue:b"]
[[schedules]]
name = "s"
cron = "@daily"
[consumers.c]
queue = "a"
config = { password = "one" }
"##;

    fn check(old: &str, new: &str, expected: &[&str]) {
        assert!(BEFORE.contains(old), "{old}");
        assert_eq!(changes(BEFORE, &BEFORE.replace(old, new)), expected, "{old} -> {new}");
    }

    #[test]
    fn each_difference_has_its_line() {
        check("max-hops = 16", "max-hops = 8", &["[broker] max-hops = 8, was 16"]);
        check("max-hops = 16", "", &["[broker] max-hops is not set, was 16"]);
        check("max-attempts = 3", "max-attempts = 3\nttl = \"1h\"", &["[queues.a] ttl = \"1h\", was not set"]);
        check("[queues.b]", "[queues.d]", &["[queues.b] is gone", "[queues.d] is new"]);
        check("[topics.\"orders.#\"]\ndedup = \"10m\"\n", "", &["[topics.\"orders.#\"] is gone"]);
        check("from = \"b\"", "from = \"b.*\"", &["[[routes]]: 1 new, 1 gone, 2 in all"]);
        check("@daily", "@hourly", &["[[schedules]] s cron = \"@hourly\", was \"@daily\""]);
        check("name = \"s\"", "name = \"t\"", &["[[schedules]] s is gone", "[[schedules]] t is new"]);
        check("[[schedules]]\nname = \"s\"\ncron = \"@daily\"\n", "", &["[[schedules]] s is gone"]);
        check("one", "two", &["[consumers.c] config has changed"]);
        check("queue = \"a\"", "queue = \"a\" # as before", &[]);
        let long = format!("queue = \"{}\"", "x".repeat(100));
        let expected = format!("[consumers.c] queue = \"{}..., was \"a\"", "x".repeat(59));
        check("queue = \"a\"", &long, &[&expected]);
    }
}
