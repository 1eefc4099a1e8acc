//! `max-attempts`, `max-age` and `backoff`, of queues and of consumers, and the `breaker` of consumers.

use toml::de::DeValue;

use super::defaults;
use super::section::{Entry, Section};
use crate::plan::BreakerPlan;
use crate::retry::{Backoff, RetryPolicy};

/// The policy that `section` says; what it leaves out is `default`'s.
pub(super) fn policy(section: &Section<'_, '_>, default: &RetryPolicy) -> RetryPolicy {
    let attempts = section.integer("max-attempts", &defaults::ATTEMPTS_RANGE);
    let backoff = section.get("backoff").map(|entry| {
        let name = format!("{} backoff", section.name());
        backoff(Section::of(name, entry, section.problems()), entry, &default.backoff)
    });
    RetryPolicy {
        max_attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(default.max_attempts),
        max_age: section.duration("max-age", &defaults::AGE_RANGE).or(default.max_age),
        backoff: backoff.unwrap_or_else(|| default.backoff.clone()),
    }
}

fn backoff(section: Section<'_, '_>, entry: Entry<'_>, default: &Backoff) -> Backoff {
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

/// The `breaker` of a consumer; none where it is `false`.
pub(super) fn breaker(parent: &Section<'_, '_>) -> Option<BreakerPlan> {
    let default = BreakerPlan::default();
    let Some(entry) = parent.get("breaker") else { return Some(default) };
    match entry.value.get_ref() {
        DeValue::Boolean(false) => return None,
        DeValue::Boolean(true) => {
            let help = "leave it out for the default, or write { failures = 20, probe = \"1s\", max = \"1m\" }";
            parent.problems().error(entry.span(), "`breaker` is true; a table or false was expected", help.to_owned());
            return Some(default);
        }
        _ => {}
    }
    let section = Section::of(format!("{} breaker", parent.name()), entry, parent.problems());
    let failures = section.integer("failures", &defaults::FAILURES_RANGE);
    let probe = section.duration("probe", &defaults::PROBE_RANGE);
    let max = section.duration("max", &defaults::PROBE_RANGE);
    let breaker = BreakerPlan {
        failures: failures.and_then(|failures| u32::try_from(failures).ok()).unwrap_or(default.failures),
        probe: probe.unwrap_or(default.probe),
        max: max.unwrap_or(default.max.max(probe.unwrap_or_default())),
    };
    if breaker.probe > breaker.max {
        let show = humantime::format_duration;
        let message =
            format!("the first pause ({}) is longer than the longest ({})", show(breaker.probe), show(breaker.max));
        section.problems().error(entry.span(), message, "raise `max` or lower `probe`".to_owned());
    }
    section.finish(&[]);
    Some(breaker)
}
