//! `[consumers.NAME]`: which component handles which queue, and within which limits.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::DeValue;

use super::defaults;
use super::queues::Queues;
use super::retry;
use super::section::{Entry, Section, describe, integer_value};
use crate::name::ConsumerName;
use crate::plan::{ConsumerCode, ConsumerPlan};
use crate::runtime::Limits;

/// Reads all of `[consumers]`; no consumer may want more than `slots` deliveries at once.
pub(super) fn read(section: &Section<'_, '_>, queues: &Queues, slots: usize, folder: &Path) -> Vec<ConsumerPlan> {
    let problems = section.problems();
    let mut consumers = Vec::new();
    for (at, entry) in section.entries().enumerate() {
        if at == defaults::CONSUMERS_MAX {
            problems.error(
                entry.key_span(),
                format!("there are more than {} consumers", defaults::CONSUMERS_MAX),
                None,
            );
            break;
        }
        let name =
            ConsumerName::new(entry.key).map_err(|error| problems.error(entry.key_span(), error.to_string(), None));
        let section = Section::of(format!("[consumers.{}]", entry.key), entry, problems);
        consumers.extend(consumer(section, entry, name.ok(), queues, slots, folder));
    }
    consumers
}

fn consumer(
    section: Section<'_, '_>,
    entry: Entry<'_>,
    name: Option<ConsumerName>,
    queues: &Queues,
    slots: usize,
    folder: &Path,
) -> Option<ConsumerPlan> {
    let problems = section.problems();
    let queue = section.text("queue");
    if entry.value.get_ref().is_table() && queue.is_none() && !section.has("queue") && !section.has("stream") {
        problems.error(
            entry.key_span(),
            format!("{} has no `queue`", section.name()),
            "add queue = \"NAME\"".to_owned(),
        );
    }
    let queue = queue.and_then(|text| {
        let report =
            |help| problems.error(text.span.clone(), format!("the queue '{}' does not exist", text.value), Some(help));
        queues.find(text.value).map_err(report).ok()
    });
    let code = code(&section, entry, folder);
    let most = u64::try_from(slots).unwrap_or(u64::MAX);
    let concurrency = section.integer("concurrency", &(1..=most)).and_then(|wanted| usize::try_from(wanted).ok());
    let limits = limits(&section);
    let config = section.get("config").map(|entry| config(entry, &section)).unwrap_or_default();
    let default = queue.map(|queue| queues.plans[queue.0].retry.clone()).unwrap_or_default();
    let retry = retry::policy(&section, &default);
    let breaker = retry::breaker(&section);
    section.finish(&["allow-hosts", "batch", "instances", "priority", "secrets", "state", "stream"]);
    let concurrency = concurrency.unwrap_or(defaults::CONCURRENCY.min(slots));
    Some(ConsumerPlan { name: name?, queue: queue?, code: code?, concurrency, limits, config, retry, breaker })
}

fn code(section: &Section<'_, '_>, entry: Entry<'_>, folder: &Path) -> Option<ConsumerCode> {
    let problems = section.problems();
    let component = section.filled_text("component");
    let source = section.filled_text("source");
    match (component, source) {
        (Some(_), Some(source)) => {
            let help = "`component` is a .wasm file, `source` a folder that is compiled; leave one out";
            problems.error(
                source.span,
                format!("{} has both `component` and `source`", section.name()),
                help.to_owned(),
            );
            None
        }
        (Some(component), None) => Some(ConsumerCode::Component(folder.join(component.value))),
        (None, Some(source)) => Some(ConsumerCode::Source(folder.join(source.value))),
        (None, None) => {
            if entry.value.get_ref().is_table() && !section.has("component") && !section.has("source") {
                let message = format!("{} has neither `component` nor `source`", section.name());
                let help = "add component = \"FILE.wasm\", or source = \"FOLDER\" of a cargo package";
                problems.error(entry.key_span(), message, help.to_owned());
            }
            None
        }
    }
}

fn limits(section: &Section<'_, '_>) -> Limits {
    let narrow = |wide: u64| u32::try_from(wide).ok();
    Limits {
        memory_bytes: section.size("memory", &defaults::MEMORY_BYTES_RANGE).unwrap_or(defaults::MEMORY_BYTES),
        timeout: section.duration("timeout", &defaults::TIMEOUT_RANGE).unwrap_or(defaults::TIMEOUT),
        emits_max: section.integer("max-emits", &defaults::EMITS_RANGE).and_then(narrow).unwrap_or(defaults::EMITS),
        emit_bytes_max: section.size("max-emit-bytes", &defaults::EMIT_BYTES_RANGE).unwrap_or(defaults::EMIT_BYTES),
        log_bytes_max: section
            .size("max-log", &defaults::LOG_BYTES_RANGE)
            .and_then(narrow)
            .unwrap_or(defaults::LOG_BYTES),
    }
}

/// `config`: text, and numbers and bools as text.
fn config(entry: Entry<'_>, parent: &Section<'_, '_>) -> BTreeMap<String, String> {
    let section = Section::of(format!("{} config", parent.name()), entry, parent.problems());
    let mut config = BTreeMap::new();
    for entry in section.entries() {
        let text = match entry.value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => {
                integer_value(number).map_or_else(|| number.to_string(), |value| value.to_string())
            }
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(truth) => truth.to_string(),
            other => {
                let message = format!("`{}` is {}; configuration values are text", entry.key, describe(other));
                parent.problems().error(entry.span(), message, "write a string, a number or a bool".to_owned());
                continue;
            }
        };
        config.insert(entry.key.to_owned(), text);
    }
    config
}
