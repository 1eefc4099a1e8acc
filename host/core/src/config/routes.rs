//! `[[routes]]`: patterns and expressions compiled, targets found.

use std::collections::BTreeSet;
use std::ops::Range;

use super::defaults;
use super::problems::Problems;
use super::queues::Queues;
use super::section::{self, Entry, Placed, Section};
use super::toml_text;
use crate::engine::{Bounds, Overflow};
use crate::plan::QueueIndex;
use crate::route::{Filter, Pattern, Problem, Route, Transform};

/// All routes that could be read.
pub(super) struct Routes {
    pub(super) routes: Vec<Route>,
    /// Whether these are all that there are.
    pub(super) is_whole: bool,
}

/// Reads all of `[[routes]]`.
pub(super) fn read(entry: Option<Entry<'_>>, queues: &Queues, problems: &Problems<'_>) -> Routes {
    let Some(entry) = entry else { return Routes { routes: Vec::new(), is_whole: true } };
    let items = section::list(entry, "route", defaults::ROUTES_MAX, problems);
    let mut routes = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let name = format!("route {}", at + 1);
        routes.extend(route(Section::of(name, *item, problems), *item, queues));
    }
    let is_whole = routes.len() == items.len() && entry.value.get_ref().is_array();
    warn_of_several_that_refuse(&routes, queues, problems);
    Routes { routes: routes.into_iter().map(|route| route.value).collect(), is_whole }
}

/// Warns where one full queue keeps a message from others: it refuses it for all that it goes to.
fn warn_of_several_that_refuse(routes: &[Placed<Route>], queues: &Queues, problems: &Problems<'_>) {
    let refuses = |queue: &QueueIndex| {
        let Bounds { overflow, .. } = queues.plans[queue.0].bounds;
        overflow == Overflow::Refuse && queues.plans[queue.0].bounds.are_set()
    };
    let mut told = BTreeSet::new();
    let mut before: Vec<(&Route, BTreeSet<QueueIndex>)> = Vec::new();
    for Placed { value: route, span } in routes {
        let own: BTreeSet<_> = route.targets.iter().copied().filter(refuses).collect();
        if own.is_empty() {
            continue;
        }
        let meeting = before.iter().filter(|(other, _)| other.pattern.meets(&route.pattern));
        let all: BTreeSet<_> = meeting.flat_map(|(_, queues)| queues).chain(&own).copied().collect();
        before.push((route, own));
        if all.len() > 1 && told.insert(all.clone()) {
            let names: Vec<_> = all.iter().map(|queue| format!("'{}'", queues.plans[queue.0].name)).collect();
            let message =
                format!("a message can go to several queues that refuse what does not fit: {}", names.join(", "));
            let help =
                "while one of them is full, none of them gets it; set `overflow` of all but one, if that is not meant";
            problems.warning(span.clone(), message, help.to_owned());
        }
    }
}

fn route(section: Section<'_, '_>, entry: Entry<'_>, queues: &Queues) -> Option<Placed<Route>> {
    let problems = section.problems();
    let from = section.text("from");
    let filter = section.text("when").map(|source| compiled(&source, Filter::new(source.value), problems));
    let transform = section.text("transform").map(|source| compiled(&source, Transform::new(source.value), problems));
    let to = section.texts("to");
    for (key, help) in [("from", "from = \"orders.*\""), ("to", "to = [\"queue:NAME\"]")] {
        if entry.value.get_ref().is_table() && !section.has(key) {
            problems.error(
                section::header(entry.span(), problems.text()),
                format!("{} has no `{key}`", section.name()),
                format!("add {help}"),
            );
        }
    }
    let pattern = from.and_then(|from| pattern(&from, problems));
    let span = to.as_ref().map_or(0..0, |to| to.span.clone());
    let targets = to.map(|to| targets(&to, queues, problems));
    section.finish(&["filter", "name", "order", "priority", "delay"]);
    let (filter, transform) = (present(filter)?, present(transform)?);
    Some(Placed { value: Route { pattern: pattern?, filter, transform, targets: targets? }, span })
}

/// None if something is there and could not be compiled.
fn present<T>(compiled: Option<Option<T>>) -> Option<Option<T>> {
    match compiled {
        Some(None) => None,
        Some(Some(compiled)) => Some(Some(compiled)),
        None => Some(None),
    }
}

/// Where the bytes `part` of `text` are written.
pub(super) fn place(text: &Placed<&str>, part: &Range<usize>, problems: &Problems<'_>) -> Range<usize> {
    toml_text::place(&problems.text()[text.span.clone()], text.span.start, text.value, part)
}

pub(super) fn pattern(from: &Placed<&str>, problems: &Problems<'_>) -> Option<Pattern> {
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
