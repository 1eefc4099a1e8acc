//! `[[routes]]`: patterns and expressions compiled, targets found.

use std::collections::BTreeSet;
use std::ops::Range;

use super::defaults;
use super::problems::Problems;
use super::queues::Queues;
use super::section::{Entry, Placed, Section, describe};
use super::toml_text;
use crate::plan::QueueIndex;
use crate::route::{Filter, Pattern, Problem, Route, Transform};

/// Reads all of `[[routes]]`.
pub(super) fn read(entry: Option<Entry<'_>>, queues: &Queues, problems: &Problems<'_>) -> Vec<Route> {
    let Some(entry) = entry else { return Vec::new() };
    let Some(list) = entry.value.get_ref().as_array() else {
        let message = format!("`routes` is {}; a list of tables was expected", describe(entry.value.get_ref()));
        problems.error(entry.span(), message, "start every route with [[routes]]".to_owned());
        return Vec::new();
    };
    let mut routes = Vec::new();
    for (at, item) in list.iter().enumerate() {
        if at == defaults::ROUTES_MAX {
            problems.error(item.span(), format!("there are more than {} routes", defaults::ROUTES_MAX), None);
            break;
        }
        let number = at + 1;
        let entry = Entry { value: item, ..entry };
        routes.extend(route(Section::of(format!("route {number}"), entry, problems), entry, queues));
    }
    routes
}

fn route(section: Section<'_, '_>, entry: Entry<'_>, queues: &Queues) -> Option<Route> {
    let problems = section.problems();
    let from = section.text("from");
    let filter = section.text("when").map(|source| compiled(&source, Filter::new(source.value), problems));
    let transform = section.text("transform").map(|source| compiled(&source, Transform::new(source.value), problems));
    let to = section.texts("to");
    for (key, help) in [("from", "from = \"orders.*\""), ("to", "to = [\"queue:NAME\"]")] {
        if entry.value.get_ref().is_table() && !section.entries().any(|entry| entry.key == key) {
            problems.error(
                header(entry.span(), problems.text()),
                format!("{} has no `{key}`", section.name()),
                format!("add {help}"),
            );
        }
    }
    let pattern = from.and_then(|from| pattern(&from, problems));
    let targets = to.map(|to| targets(&to, queues, problems));
    section.finish(&["filter", "name", "order", "priority", "delay"]);
    Some(Route { pattern: pattern?, filter: present(filter)?, transform: present(transform)?, targets: targets? })
}

/// None if something is there and could not be compiled.
fn present<T>(compiled: Option<Option<T>>) -> Option<Option<T>> {
    match compiled {
        Some(None) => None,
        Some(Some(compiled)) => Some(Some(compiled)),
        None => Some(None),
    }
}

/// The first line of a table: markers over all of it would hide the place.
fn header(span: Range<usize>, text: &str) -> Range<usize> {
    let end = text[span.start..].find('\n').map_or(text.len(), |at| span.start + at);
    span.start..span.end.min(end)
}

/// Where the bytes `part` of `text` are written.
fn place(text: &Placed<&str>, part: &Range<usize>, problems: &Problems<'_>) -> Range<usize> {
    toml_text::place(&problems.text()[text.span.clone()], text.span.start, text.value, part)
}

fn pattern(from: &Placed<&str>, problems: &Problems<'_>) -> Option<Pattern> {
    Pattern::new(from.value)
        .map_err(|error| problems.error(place(from, &error.span, problems), error.reason, error.help))
        .ok()
}

fn compiled<T>(source: &Placed<&str>, result: Result<T, Vec<Problem>>, problems: &Problems<'_>) -> Option<T> {
    let report = |found: Vec<Problem>| {
        for problem in found {
            problems.error(place(source, &problem.span, problems), problem.message, problem.help);
        }
    };
    result.map_err(report).ok()
}

fn targets(to: &Placed<Vec<Placed<&str>>>, queues: &Queues, problems: &Problems<'_>) -> Vec<QueueIndex> {
    if to.value.is_empty() {
        problems.error(to.span.clone(), "a route needs a target", "write to = [\"queue:NAME\"]".to_owned());
    }
    let mut targets = Vec::new();
    let mut seen = BTreeSet::new();
    for target in &to.value {
        match find(target.value, queues) {
            Ok(queue) if !seen.insert(queue) => {
                let message =
                    format!("'{}' stands twice: the route puts each message into this queue twice", target.value);
                problems.warning(target.span.clone(), message, "leave one out".to_owned());
                targets.push(queue);
            }
            Ok(queue) => targets.push(queue),
            Err((message, help)) => problems.error(target.span.clone(), message, help),
        }
    }
    targets
}

fn find(target: &str, queues: &Queues) -> Result<QueueIndex, (String, String)> {
    let write = || "write \"queue:NAME\"".to_owned();
    match target.split_once(':') {
        Some(("queue", "")) => Err((format!("'{target}' does not say which queue"), write())),
        Some(("queue", name)) => queues.find(name).map_err(|help| (format!("the queue '{name}' does not exist"), help)),
        Some(("stream", _)) => Err((format!("'{target}': streams are not supported by this version yet"), write())),
        Some((kind, _)) => Err((format!("'{target}': there are no targets of the kind '{kind}'"), write())),
        None => {
            let help = if queues.find(target).is_ok() { format!("write \"queue:{target}\"") } else { write() };
            Err((format!("'{target}' does not say what kind of target it is"), help))
        }
    }
}
