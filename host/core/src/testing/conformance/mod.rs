//! The contract of [`Engine`] as tests: every engine passes them, whatever it stores things in.
//!
//! A case asserts one clause of [`crate::engine`] and runs on a harness of its own; it is skipped where the engine does
//! not claim the clause (`Guarantees`) or can't be reopened. All cases run; the failures are reported together, by name.
//! Invariants: the test clock moves only through the harness, so that an engine's threads are told; nothing waits by
//! sleeping for a guessed time, but polls for a condition with a bound.
//!
//! An engine's own test is:
//!
//! ```ignore
//! #[tokio::test]
//! async fn conforms() {
//!     let report = conformance::run(|| Box::pin(open_in_a_temporary_folder())).await;
//!     assert_eq!(report.skipped, [""; 0]);
//! }
//! ```

mod append;
mod bounds;
mod browse;
mod bulk;
mod close;
mod counts;
mod dead;
mod dedup;
mod dedup_window;
mod define;
mod delay;
mod disk;
mod drop_oldest;
mod expiry;
mod filter;
mod harness;
mod key_delay;
mod key_order;
mod key_restart;
mod key_retry;
mod lease;
mod lost;
mod made;
mod pause;
mod priority;
mod read;
mod restart;
mod scheduled;
mod schedules;
mod settings;
mod settle;
mod ttl;
mod wait;
mod wrong_clock;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt as _;

pub use self::harness::{Harness, MANY_MIN, eventually};
#[cfg(doc)]
use crate::engine::Engine;
use crate::engine::{Fut, Guarantees};

/// Real time that one case may take before it counts as stuck: plenty for thousands of messages on a busy machine.
const CASE_MAX: Duration = Duration::from_secs(60);
/// After so many stuck cases the rest is not tried: the engine hangs, and the report should not take an hour.
const STUCK_MAX: usize = 3;

/// What a case asserts something about; without it the case is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// `Guarantees::effects_with_settlement`
    Effects,
    /// `Guarantees::leases_fenced`
    Fenced,
    /// `Guarantees::append_atomic`
    Atomic,
    /// `Guarantees::history`
    History,
    /// `Guarantees::longest_delay`: there are delays.
    Delay,
    /// `Guarantees::expiry`
    Expiry,
    /// `Guarantees::priorities`
    Priorities,
    /// `Guarantees::key_order`
    KeyOrder,
    /// `Guarantees::dedup`
    Dedup,
    /// `Guarantees::exact_bounds`
    Bounds,
    /// `Guarantees::schedules`
    Schedules,
    /// The harness can reopen its store.
    Reopen,
}

struct Case {
    name: &'static str,
    needs: &'static [Need],
    run: fn(Harness) -> Pin<Box<dyn Future<Output = ()>>>,
}

/// The cases of a module: `name;` or `name: Need, Need;`, where `name` is an `async fn(Harness)`.
macro_rules! cases {
    ($($name:ident $(: $($need:ident),+)?;)*) => {
        pub(super) const CASES: &[super::Case] = &[$(super::Case {
            name: concat!(module_path!(), "::", stringify!($name)),
            needs: &[$($(super::Need::$need),+)?],
            run: |harness| Box::pin($name(harness)),
        }),*];
    };
}
use cases;

const MODULES: &[&[Case]] = &[
    define::CASES,
    append::CASES,
    lease::CASES,
    wait::CASES,
    expiry::CASES,
    settle::CASES,
    dead::CASES,
    bulk::CASES,
    browse::CASES,
    counts::CASES,
    close::CASES,
    restart::CASES,
    delay::CASES,
    disk::CASES,
    ttl::CASES,
    priority::CASES,
    key_order::CASES,
    key_retry::CASES,
    key_delay::CASES,
    key_restart::CASES,
    bounds::CASES,
    drop_oldest::CASES,
    dedup::CASES,
    dedup_window::CASES,
    schedules::CASES,
    pause::CASES,
    lost::CASES,
    filter::CASES,
    read::CASES,
    scheduled::CASES,
    settings::CASES,
    wrong_clock::CASES,
];

/// What a run of the suite came to when nothing failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The cases that passed.
    pub passed: Vec<&'static str>,
    /// The cases about what the engine does not claim.
    pub skipped: Vec<&'static str>,
}

/// Runs every case, each on a harness of its own from `make`; must be called on a tokio runtime with time enabled.
///
/// # Panics
/// When any case failed, after all have run, with the names of those that did and what they said.
pub async fn run(make: impl Fn() -> Fut<'static, Harness>) -> Report {
    run_matching(make, |_| true).await
}

/// The same for the cases whose name (`append::order_of_acceptance`) is `wanted`: to look into one of them.
///
/// # Panics
/// Like [`run`].
pub async fn run_matching(make: impl Fn() -> Fut<'static, Harness>, wanted: impl Fn(&str) -> bool) -> Report {
    let mut report = Report { passed: Vec::new(), skipped: Vec::new() };
    let mut failures = Vec::new();
    let mut stuck = 0;
    for case in MODULES.iter().copied().flatten() {
        let name = short_name(case.name);
        if !wanted(name) {
            continue;
        }
        let harness = make().await;
        if !case.needs.iter().all(|need| is_met(*need, &harness)) {
            report.skipped.push(name);
            continue;
        }
        let outcome = tokio::time::timeout(CASE_MAX, AssertUnwindSafe((case.run)(harness)).catch_unwind()).await;
        match outcome {
            Ok(Ok(())) => report.passed.push(name),
            Ok(Err(panic)) => failures.push(format!("{name}: {}", said(&*panic))),
            Err(_) => {
                failures.push(format!("{name}: stuck for {} s", CASE_MAX.as_secs()));
                stuck += 1;
            }
        }
        if stuck == STUCK_MAX {
            failures.push("gave up: too many cases are stuck".to_owned());
            break;
        }
    }
    let all = failures.len() + report.passed.len();
    assert!(failures.is_empty(), "{} of {all} cases failed:\n{}", failures.len(), failures.join("\n"));
    report
}

fn short_name(name: &'static str) -> &'static str {
    name.split_once("conformance::").map_or(name, |(_, name)| name)
}

fn is_met(need: Need, harness: &Harness) -> bool {
    let claimed: &Guarantees = harness.engine.guarantees();
    match need {
        Need::Effects => claimed.effects_with_settlement,
        Need::Fenced => claimed.leases_fenced,
        Need::Atomic => claimed.append_atomic,
        Need::History => claimed.history,
        Need::Delay => !claimed.longest_delay.is_zero(),
        Need::Expiry => claimed.expiry,
        Need::Priorities => claimed.priorities,
        Need::KeyOrder => claimed.key_order,
        Need::Dedup => claimed.dedup,
        Need::Bounds => claimed.exact_bounds,
        Need::Schedules => claimed.schedules,
        Need::Reopen => harness.reopen.is_some(),
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked without a text")
}
