//! `[queues.NAME]`, and the dead-letter queues that follow from them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::problems::Problems;
use super::section::{Entry, Section};
use super::{defaults, nearest};
use crate::engine::{Bounds, Expired, Order};
use crate::name::{NAME_BYTES_MAX, QueueName};
use crate::plan::{KEY_DEFAULT, QueueIndex, QueuePlan};
use crate::retry::{Backoff, RetryPolicy};

/// What the name of a dead-letter queue ends with, unless it is given.
pub(super) const DEAD_SUFFIX: &str = ".dead";

/// All queues, and where the declared ones stand.
pub(super) struct Queues {
    pub(super) plans: Vec<QueuePlan>,
    /// Of declared queues only.
    places: BTreeMap<QueueName, Range<usize>>,
}

/// One `[queues.NAME]` as it stands there.
struct Declared {
    place: Range<usize>,
    retry: RetryPolicy,
    dead_letter: Option<(QueueName, Range<usize>)>,
}

impl Queues {
    /// Reads all of `[queues]`.
    pub(super) fn read(section: &Section<'_, '_>) -> Self {
        let problems = section.problems();
        let mut declared = BTreeMap::new();
        for (at, entry) in section.entries().enumerate() {
            if at == defaults::QUEUES_MAX {
                problems.error(entry.key_span(), format!("there are more than {} queues", defaults::QUEUES_MAX), None);
                break;
            }
            match QueueName::new(entry.key) {
                Ok(name) => {
                    let queue = queue(Section::of(format!("[queues.{}]", entry.key), entry, problems), entry);
                    declared.insert(name, queue);
                }
                Err(error) => problems.error(entry.key_span(), error.to_string(), None),
            }
        }
        let dead_letters = dead_letters(&declared, problems);
        Self::link(declared, &dead_letters)
    }

    fn link(declared: BTreeMap<QueueName, Declared>, dead_letters: &BTreeMap<QueueName, QueueName>) -> Self {
        let names: BTreeSet<&QueueName> = declared.keys().chain(dead_letters.values()).collect();
        let index: BTreeMap<&QueueName, QueueIndex> =
            names.iter().enumerate().map(|(at, name)| (*name, QueueIndex(at))).collect();
        let plan = |name: &QueueName| QueuePlan {
            name: name.clone(),
            retry: declared.get(name).map(|queue| queue.retry.clone()).unwrap_or_default(),
            dead_letter: dead_letters.get(name).map(|dead| index[dead]),
            order: Order::Arrival,
            key: KEY_DEFAULT.into(),
            priority: false,
            ttl: None,
            expired: Expired::default(),
            bounds: Bounds::default(),
        };
        let plans = names.iter().map(|name| plan(name)).collect();
        Self { plans, places: declared.into_iter().map(|(name, queue)| (name, queue.place)).collect() }
    }

    /// The queue that is called `name`.
    ///
    /// # Errors
    /// What to do about it that there is none.
    pub(super) fn find(&self, name: &str) -> Result<QueueIndex, String> {
        if let Some(at) = self.plans.iter().position(|plan| plan.name.as_str() == name) {
            return Ok(QueueIndex(at));
        }
        Err(missing(name, self.plans.iter().map(|plan| plan.name.as_str())))
    }

    /// Warns of declared queues that nothing is routed to and that hold no dead letters.
    pub(super) fn warn_of_unused(&self, routed: &BTreeSet<QueueIndex>, problems: &Problems<'_>) {
        for (at, plan) in self.plans.iter().enumerate() {
            let index = QueueIndex(at);
            let is_dead_letters = self.plans.iter().any(|other| other.dead_letter == Some(index));
            if let Some(place) = self.places.get(&plan.name)
                && !routed.contains(&index)
                && !is_dead_letters
            {
                let help = format!("add \"queue:{}\" to the `to` of a route", plan.name);
                problems.warning(place.clone(), format!("nothing is routed to the queue '{}'", plan.name), help);
            }
        }
    }
}

/// What to do when there is no queue `name`.
fn missing<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let declare = format!("declare it with [queues.{}]", key(name));
    match nearest(name, known) {
        Some(near) => format!("did you mean '{near}'? Otherwise {declare}"),
        None => declare,
    }
}

/// `name` as a key of TOML.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { name.to_owned() } else { format!("{name:?}") }
}

fn queue(section: Section<'_, '_>, entry: Entry<'_>) -> Declared {
    let problems = section.problems();
    if let Some(order) = section.text("order") {
        match order.value {
            "arrival" => {}
            "key" => problems.error(
                order.span,
                "`order = \"key\"` is not supported by this version yet",
                "leave it out".to_owned(),
            ),
            other => {
                let help = "write \"arrival\", which is the default".to_owned();
                problems.error(order.span, format!("'{other}' is not an order"), help);
            }
        }
    }
    let default = RetryPolicy::default();
    let retry = RetryPolicy {
        max_attempts: section
            .integer("max-attempts", &defaults::ATTEMPTS_RANGE)
            .and_then(|attempts| u32::try_from(attempts).ok())
            .unwrap_or(default.max_attempts),
        max_age: None,
        backoff: section.get("backoff").map_or(default.backoff, |entry| {
            backoff(Section::of(format!("{} backoff", section.name()), entry, problems), entry)
        }),
    };
    let dead_letter = section.text("dead-letter").and_then(|text| match QueueName::new(text.value) {
        Ok(name) => Some((name, text.span)),
        Err(error) => {
            problems.error(text.span, error.to_string(), None);
            None
        }
    });
    section.finish(&["delay", "dedup", "max-bytes", "max-messages", "priority", "retain", "ttl"]);
    Declared { place: entry.key_span(), retry, dead_letter }
}

fn backoff(section: Section<'_, '_>, entry: Entry<'_>) -> Backoff {
    let default = Backoff::default();
    let initial = section.duration("initial", &defaults::BACKOFF_RANGE);
    let max = section.duration("max", &defaults::BACKOFF_RANGE);
    let backoff = Backoff {
        initial: initial.unwrap_or(default.initial),
        factor: section.number("factor", &defaults::FACTOR_RANGE).unwrap_or(default.factor),
        // Without a word about it, the longest wait follows a first one that is longer than the default.
        max: max.unwrap_or(default.max.max(initial.unwrap_or_default())),
        jitter: section.number("jitter", &defaults::JITTER_RANGE).unwrap_or(default.jitter),
    };
    if backoff.initial > backoff.max {
        let show = humantime::format_duration;
        let message =
            format!("the first wait ({}) is longer than the longest ({})", show(backoff.initial), show(backoff.max));
        section.problems().error(entry.span(), message, "raise `max` or lower `initial`".to_owned());
    }
    section.finish(&[]);
    backoff
}

/// Which queue each declared queue's dead letters go to. Queues that hold dead letters have none themselves.
fn dead_letters(declared: &BTreeMap<QueueName, Declared>, problems: &Problems<'_>) -> BTreeMap<QueueName, QueueName> {
    let mut by_default = BTreeMap::new();
    for (name, queue) in declared {
        match QueueName::new(&format!("{name}{DEAD_SUFFIX}")) {
            Ok(dead) => drop(by_default.insert(name, dead)),
            // Its own dead-letter queue would have too long a name.
            Err(_) if queue.dead_letter.is_none() => {
                let bytes = NAME_BYTES_MAX - DEAD_SUFFIX.len();
                let message =
                    format!("with '{DEAD_SUFFIX}' behind it, this name is too long for the dead-letter queue");
                problems.error(
                    queue.place.clone(),
                    message,
                    format!("use at most {bytes} bytes, or set `dead-letter`"),
                );
            }
            Err(_) => {}
        }
    }
    // A queue that holds dead letters is one that another names as its own, or one that is another's by default. In the
    // order of names `a` comes before `a.dead`, so that `a.dead` is known to be one before it is asked for its own.
    let named = declared.values().filter_map(|queue| queue.dead_letter.as_ref());
    let mut holders: BTreeSet<QueueName> = named.map(|(dead, _)| dead.clone()).collect();
    let mut chosen: BTreeMap<&QueueName, QueueName> = BTreeMap::new();
    for (name, queue) in declared {
        if let Some((dead, _)) = &queue.dead_letter {
            chosen.insert(name, dead.clone());
        } else if !holders.contains(name)
            && let Some(dead) = by_default.get(name)
        {
            holders.insert(dead.clone());
            chosen.insert(name, dead.clone());
        }
    }
    for (name, queue) in declared {
        let Some((dead, place)) = &queue.dead_letter else { continue };
        if dead == name {
            problems.error(place.clone(), format!("'{name}' can't be its own dead-letter queue"), None);
        } else if !declared.contains_key(dead) && !by_default.values().any(|known| known == dead) {
            let known =
                declared.keys().chain(by_default.values()).filter(|other| *other != name).map(QueueName::as_str);
            let help = missing(dead.as_str(), known);
            problems.error(place.clone(), format!("the dead-letter queue '{dead}' does not exist"), help);
        } else if holders.contains(name) {
            let whose: Vec<_> =
                chosen.iter().filter(|(_, dead)| *dead == name).map(|(whose, _)| format!("'{whose}'")).collect();
            let message = format!(
                "'{name}' holds the dead letters of {}, so it can't have a dead-letter queue",
                whose.join(", ")
            );
            problems.error(
                place.clone(),
                message,
                "dead letters stay where they are until somebody acts; leave it out".to_owned(),
            );
        }
    }
    chosen.into_iter().filter(|(name, _)| !holders.contains(*name)).map(|(name, dead)| (name.clone(), dead)).collect()
}
