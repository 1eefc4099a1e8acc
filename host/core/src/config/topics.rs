//! `[topics."PATTERN"]`: what holds for all messages of these topics.

use super::problems::Problems;
use super::section::{Entry, Placed, Section};
use super::{defaults, routes};
use crate::plan::DedupPlan;
use crate::route::Route;

/// Reads all of `[topics]`, in the order of the file.
pub(super) fn read(section: &Section<'_, '_>, routed: &[Route]) -> Vec<DedupPlan> {
    let problems = section.problems();
    let mut entries: Vec<_> = section.entries().collect();
    entries.sort_by_key(|entry| entry.key_span);
    if let Some(entry) = entries.get(defaults::TOPICS_MAX) {
        let message = format!("there are more than {} patterns of topics", defaults::TOPICS_MAX);
        problems.error(entry.key_span(), message, None);
    }
    let entries = entries.into_iter().take(defaults::TOPICS_MAX);
    entries.filter_map(|entry| topics(entry, routed, problems)).collect()
}

fn topics(entry: Entry<'_>, routed: &[Route], problems: &Problems<'_>) -> Option<DedupPlan> {
    let section = Section::of(format!("[topics.{:?}]", entry.key), entry, problems);
    let topics = routes::pattern(&Placed { value: entry.key, span: entry.key_span() }, problems);
    let window = section.duration("dedup", &defaults::WINDOW_RANGE);
    // `[topics.orders.created]` is a table in a table.
    if let Some(inner) = section.entries().find(|inner| inner.value.get_ref().is_table()) {
        let message = format!("a pattern with dots stands in quotes: `{}` is another key", inner.key);
        let help = format!("write [topics.\"{}.{}\"]", entry.key, inner.key);
        problems.error(inner.key_span(), message, help);
        return None;
    }
    if entry.value.get_ref().is_table() && !section.has("dedup") {
        problems.error(
            entry.key_span(),
            format!("{} has no `dedup`", section.name()),
            "add dedup = \"10m\"".to_owned(),
        );
    }
    section.finish(&[]);
    let topics = topics?;
    if !routed.iter().any(|route| route.pattern.meets(&topics)) {
        let message = format!("no route is for a topic that matches '{topics}'");
        problems.warning(entry.key_span(), message, "mend the pattern, or add a route".to_owned());
    }
    Some(DedupPlan { topics, window: window? })
}
