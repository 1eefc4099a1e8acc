//! Seeded simulation of the store on a disk that loses, tears and refuses: everything that was answered must be so.
//!
//! A failure prints its seed; `PELTON_SIM_SEED=N cargo test -p pelton-engine-redb simulation` runs that one alone, and
//! `PELTON_SIM_RUNS=N` runs N of them, from `PELTON_SIM_FROM` on: it goes on after a failure, and tells what it has seen in all.
//! With `PELTON_SIM_TRACE` set it tells every request, answer and change.

mod admit;
mod ask;
mod check;
mod disk;
mod finish;
mod grants;
mod model;
mod observe;
mod operate;
mod plan;
mod recover;
mod shell;
mod system;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

const RUNS: u64 = 90;
const STEPS: usize = 150;
/// Failures after which a long run ends.
const FAILURES_MAX: usize = 10;
/// A long run tells how it goes after each so many seeds.
const TOLD_EVERY: u64 = 1000;

/// What happened, and a number that stands for every answer.
type Outcome = Result<(BTreeMap<&'static str, u64>, u64), String>;

fn run(seed: u64, lies: bool) -> Outcome {
    let simulate = || {
        let mut world = World::new(seed, lies)?;
        (0..STEPS).try_for_each(|_| world.step())?;
        world.finish()?;
        Ok((world.seen.clone(), world.trace()))
    };
    catch_unwind(AssertUnwindSafe(simulate)).unwrap_or_else(|_| Err("something panicked".to_owned()))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// What all runs have seen, and the seeds that failed.
#[expect(clippy::print_stderr, reason = "whoever runs many wants to know what they came to")]
fn run_all(seeds: Range<u64>, tells: bool) -> (BTreeMap<&'static str, u64>, Vec<String>) {
    let (mut seen, mut failed) = (BTreeMap::new(), Vec::new());
    let first = seeds.start;
    for seed in seeds {
        match run(seed, false) {
            Ok((of_run, _)) => of_run.into_iter().for_each(|(what, count)| *seen.entry(what).or_insert(0) += count),
            Err(wrong) => failed.push(format!("PELTON_SIM_SEED={seed}: {wrong}")),
        }
        if failed.len() >= FAILURES_MAX {
            break;
        }
        let done = seed + 1 - first;
        if tells && done.is_multiple_of(TOLD_EVERY) {
            eprintln!("{done} seeds from {first} on, {} failed: {seen:?}", failed.len());
        }
    }
    if tells {
        failed.iter().for_each(|wrong| eprintln!("{wrong}"));
    }
    (seen, failed)
}

#[test]
fn what_was_answered_is_so_whatever_the_disk_does() {
    let only = number("PELTON_SIM_SEED");
    let runs = number("PELTON_SIM_RUNS");
    let first = only.or(number("PELTON_SIM_FROM")).unwrap_or(0);
    let count = if only.is_some() { 1 } else { runs.unwrap_or(RUNS) };
    let (seen, failed) = run_all(first..first + count, only.is_none() && runs.is_some());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let reached = [
        "power cut",
        "reopened",
        "reopened while full",
        "append unknown",
        "settle unknown",
        "lease expired",
        "settled twice",
        "bulk",
        "bulk by positions",
        "bulk by filter",
        "cancelled",
        "defined",
        "paused",
        "parked",
        "marked head after a restart",
        "key freed",
        "retry blocks key after restart",
        "expired on lease",
        "expired by sweep",
        "duplicate",
        "duplicate within one batch",
        "id reused",
        "dropped oldest",
        "overflow to dead letters",
        "queue full refused",
        "tick refused",
        "live/behind switch",
        "references to zero",
        "promote",
        "retime",
        "lost",
        "leased alone",
        "clock stepped by hours",
    ];
    for what in reached {
        assert!(only.is_some() || seen.contains_key(what), "no run ever came to '{what}': {seen:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_answers() {
    for seed in 0..3 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}

#[test]
fn a_disk_that_ignores_syncs_is_noticed() {
    assert!((0..20).any(|seed| run(seed, true).is_err()), "the simulation can't see lost data");
}
