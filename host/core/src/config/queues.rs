//! `[queues.NAME]`, and the dead-letter queues that follow from them.

use std::collections::{BTreeMap, BTreeSet};

use super::problems::Problems;
use super::queue::{self, Declared, Settings};
use super::section::Section;
use super::{defaults, nearest};
use crate::engine::{Expired, Overflow};
use crate::name::{NAME_BYTES_MAX, QueueName};
use crate::plan::{QueueIndex, QueuePlan};

/// What the name of a dead-letter queue ends with, unless it is given.
pub(super) const DEAD_SUFFIX: &str = ".dead";

/// All queues, and where the declared ones stand.
pub(super) struct Queues {
    pub(super) plans: Vec<QueuePlan>,
    declared: BTreeMap<QueueName, Declared>,
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
                    let queue = queue::read(Section::of(format!("[queues.{}]", entry.key), entry, problems), entry);
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
        let plan = |name: &QueueName| {
            let settings = declared.get(name).map(|queue| queue.settings.clone()).unwrap_or_default();
            let Settings { retry, order, key, priority, ttl, expired, bounds } = settings;
            let dead_letter = dead_letters.get(name).map(|dead| index[dead]);
            QueuePlan { name: name.clone(), retry, dead_letter, order, key, priority, ttl, expired, bounds }
        };
        let plans = names.iter().map(|name| plan(name)).collect();
        Self { plans, declared }
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

    /// Looks for what declared queues say that makes no sense among the others: `routed` are those that routes lead to.
    pub(super) fn check(&self, routed: &BTreeSet<QueueIndex>, problems: &Problems<'_>) {
        for (at, plan) in self.plans.iter().enumerate() {
            let Some(declared) = self.declared.get(&plan.name) else { continue };
            let index = QueueIndex(at);
            let is_routed = routed.contains(&index);
            if self.plans.iter().any(|other| other.dead_letter == Some(index)) {
                check_holder(plan, declared, is_routed, problems);
            } else if !is_routed {
                let help = format!("add \"queue:{}\" to the `to` of a route", plan.name);
                let message = format!("nothing is routed to the queue '{}'", plan.name);
                problems.warning(declared.place.clone(), message, help);
            }
        }
    }
}

/// Looks for what makes no sense for a queue that holds dead letters.
fn check_holder(plan: &QueuePlan, declared: &Declared, is_routed: bool, problems: &Problems<'_>) {
    let QueuePlan { name, bounds, expired, .. } = plan;
    let place = |key| declared.places.get(key).cloned();
    if let Some(place) = place("overflow").filter(|_| bounds.overflow == Overflow::DeadLetter) {
        let message = format!("'{name}' holds dead letters and has no queue for its own");
        problems.error(place, message, "write \"refuse\" or \"drop-oldest\"".to_owned());
    }
    let expires = place("expired").or_else(|| place("ttl").filter(|_| is_routed));
    if let Some(place) = expires.filter(|_| *expired == Expired::DeadLetter) {
        let message =
            format!("'{name}' holds dead letters and has no queue for its own: what expires in it is deleted");
        problems.warning(place, message, "write expired = \"drop\", which says so".to_owned());
    }
    for key in ["ttl", "max-messages", "max-bytes"] {
        if let Some(place) = place(key).filter(|_| !is_routed) {
            let message = format!("`{key}` has no effect: nothing comes into '{name}' but dead letters");
            let help = if key == "ttl" { "they don't expire; leave it out" } else { "they always fit; leave it out" };
            problems.warning(place, message, help.to_owned());
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
