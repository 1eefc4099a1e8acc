//! Seeded simulation of the store on a disk that loses, tears and refuses: everything that was answered must be so.
//!
//! A failure prints its seed; `PELTON_SIM_SEED=N cargo test -p pelton-engine-redb simulation` runs that one alone, and
//! `PELTON_SIM_RUNS=N` runs N of them, from `PELTON_SIM_FROM` on: it goes on after a failure, and tells what it has seen in all.
//! With `PELTON_SIM_TRACE` set it tells every request, answer and change.

mod admit;
mod ask;
mod check;
mod compare;
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

const RUNS: u64 = 300;
const STEPS: usize = 150;
/// Failures after which a long run ends.
const FAILURES_MAX: usize = 10;
/// Cores that are used, but for a long run, which uses one.
const CORES_MAX: usize = 4;
/// A long run tells how it goes after each so many seeds.
const TOLD_EVERY: u64 = 500;
/// And repeats one of so many, which has to come to the same.
const REPEATED_EVERY: u64 = 100;

/// What happened, and a number that stands for every answer.
type Outcome = Result<(BTreeMap<&'static str, u64>, u64), String>;

fn run(seed: u64, lies: bool) -> Outcome {
    let simulate = || {
        let mut world = World::new(seed, lies)?;
        (0..STEPS).try_for_each(|_| world.step())?;
        world.finish()?;
        let mut seen = world.disk.struck();
        seen.append(&mut world.seen);
        Ok((seen, world.trace()))
    };
    catch_unwind(AssertUnwindSafe(simulate)).unwrap_or_else(|_| Err("something panicked".to_owned()))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// What runs have seen, and the seeds that failed.
type Outcomes = (BTreeMap<&'static str, u64>, Vec<String>);

#[expect(clippy::print_stderr, reason = "whoever runs many wants to know what they came to")]
fn run_all(seeds: impl Iterator<Item = u64>, tells: bool) -> Outcomes {
    let (mut seen, mut failed) = (BTreeMap::new(), Vec::new());
    for (seed, done) in seeds.zip(1u64..) {
        let outcome = run(seed, false);
        if tells && seed.is_multiple_of(REPEATED_EVERY) && run(seed, false) != outcome {
            failed.push(format!("PELTON_SIM_SEED={seed} does not come to the same twice"));
        }
        match outcome {
            Ok((of_run, _)) => of_run.into_iter().for_each(|(what, count)| *seen.entry(what).or_insert(0) += count),
            Err(wrong) => {
                let told = format!("PELTON_SIM_SEED={seed}: {wrong}");
                if tells {
                    eprintln!("{told}");
                }
                failed.push(told);
            }
        }
        if failed.len() >= FAILURES_MAX {
            break;
        }
        if tells && done.is_multiple_of(TOLD_EVERY) {
            eprintln!("{done} seeds up to {seed}, {} failed: {seen:?}", failed.len());
        }
    }
    (seen, failed)
}

fn run_on_all_cores(seeds: Range<u64>) -> Outcomes {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(CORES_MAX);
    let (mut seen, mut failed) = Outcomes::default();
    std::thread::scope(|scope| {
        let strand = |number| {
            let seeds = seeds.clone();
            scope.spawn(move || run_all(seeds.skip(number).step_by(cores), false))
        };
        let strands: Vec<_> = (0..cores).map(strand).collect();
        for strand in strands {
            let (of_strand, failures) = strand.join().expect("panics are caught");
            of_strand.into_iter().for_each(|(what, count)| *seen.entry(what).or_insert(0) += count);
            failed.extend(failures);
        }
    });
    (seen, failed)
}

#[test]
fn what_was_answered_is_so_whatever_the_disk_does() {
    let only = number("PELTON_SIM_SEED");
    let runs = number("PELTON_SIM_RUNS");
    let first = only.or(number("PELTON_SIM_FROM")).unwrap_or(0);
    let count = if only.is_some() { 1 } else { runs.unwrap_or(RUNS) };
    let (seen, failed) = match runs.filter(|_| only.is_none()) {
        Some(_) => run_all(first..first + count, true),
        None => run_on_all_cores(first..first + count),
    };
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let reached = [
        "power cut",
        "power cut at a call",
        "sync failed",
        "write failed",
        "write found no room",
        "read failed",
        "stopped",
        "start failed",
        "disk full refused",
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
        "aligned by a change of order",
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
        assert!(count < RUNS || seen.contains_key(what), "no run ever came to '{what}': {seen:?}");
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
