//! broker.toml to a [`Plan`]: parsing, defaults, checks. Pure: it reads no file and no environment, but for the time zones that
//! schedules name.
//!
//! Every table is walked key by key ([`section`]) instead of being deserialized: so all mistakes are told at once, each
//! with its place, and a key that a later version will know is told from one that nobody knows. What holds where nothing
//! is said, and within which bounds, stands in [`defaults`].

mod consumers;
pub mod defaults;
mod problems;
mod queue;
mod queues;
mod retry;
mod routes;
mod schedules;
mod section;
mod settings;
mod toml_text;
mod topics;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use crate::plan::{Plan, QueueIndex};
use crate::route::{Route, Router};
use problems::Problems;
use queues::Queues;
use schedules::Door;
use section::Section;

/// Largest configuration, in bytes.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// Everything that is wrong with a configuration, each with its place and remedy, ready to print.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.join("\n\n"))]
pub struct ConfigError {
    /// In the order of the file, each like rustc's: `error: message`, ` --> broker.toml:12:8`, the line with a marker
    /// under the place, and mostly a `help:` line. No trailing newline.
    pub problems: Vec<String>,
}

/// Checks `text`, the content of the file `file`, and returns what it says. Paths in it are taken relative to `file`'s folder.
///
/// An empty text is a plan as well: a broker that accepts nothing. It comes with a warning.
///
/// # Errors
/// [`ConfigError`] with all problems that could be found in one go.
pub fn check(text: &str, file: &Path) -> Result<Plan, ConfigError> {
    let problems = Problems::new(text, file.display().to_string());
    let folder = file.parent().unwrap_or(Path::new(""));
    if text.len() > FILE_BYTES_MAX {
        problems.error(0..0, format!("the file has {} bytes; at most {FILE_BYTES_MAX} are allowed", text.len()), None);
        return Err(ConfigError { problems: problems.into_texts().0 });
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        problems.error(error.span().unwrap_or(0..0), format!("this is not TOML: {}", error.message()), None);
    }
    // After a mistake in the syntax, what was understood of the rest is a guess.
    let plan = errors.is_empty().then(|| plan(document.get_ref(), &problems, folder));
    let failed = problems.has_errors();
    let (errors, warnings) = problems.into_texts();
    match plan {
        Some(plan) if !failed => Ok(Plan { warnings, ..plan }),
        _ => Err(ConfigError { problems: errors }),
    }
}

/// What `document` says. Of use only if it has no problems.
fn plan(document: &DeTable<'_>, problems: &Problems<'_>, folder: &Path) -> Plan {
    let root = Section::new("this file", Some(document), problems);
    let broker = settings::broker(root.table("broker", "[broker]"), folder);
    let http = settings::http(root.table("http", "[http]"), folder, broker.message_bytes_max);
    let sandbox = settings::sandbox(root.table("sandbox", "[sandbox]"));
    let dev = settings::dev(root.table("dev", "[dev]"), folder);
    let queues = Queues::read(&root.table("queues", "[queues]"));
    let routes = routes::read(root.get("routes"), &queues, problems);
    let consumers = consumers::read(&root.table("consumers", "[consumers]"), &queues, sandbox.slots, folder);
    let dedup = topics::read(&root.table("topics", "[topics]"), &routes.routes);
    check_use(&queues, &routes.routes, problems);
    let router = Arc::new(Router::new(routes.routes, broker.message_bytes_max));
    let door = Door { router: &router, is_whole: routes.is_whole, message_bytes_max: broker.message_bytes_max };
    let schedules = schedules::read(root.get("schedules"), &door, problems);
    root.finish(&["amqp", "cluster", "kafka", "mqtt", "redis", "sqs", "stomp", "streams"]);
    let queues = queues.plans;
    Plan { broker, http, sandbox, queues, router, consumers, dedup, schedules, dev, warnings: Vec::new() }
}

/// Looks for queues that make no sense with these routes; where there are none at all, for that alone.
fn check_use(queues: &Queues, routes: &[Route], problems: &Problems<'_>) {
    let routed: BTreeSet<_> = if routes.is_empty() && !problems.has_errors() {
        problems.warning(0..0, "there are no routes, so nothing can be published", "add [[routes]]".to_owned());
        (0..queues.plans.len()).map(QueueIndex).collect()
    } else {
        routes.iter().flat_map(|route| route.targets.iter().copied()).collect()
    };
    queues.check(&routed, problems);
}

/// The one of `candidates` that `word` was probably meant to be, if one is near enough: a slip or two, not another word.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (word.len().max(candidate.len()) / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}
