//! Seeded simulation of the whole: the real broker with its dispatch loop, settle rules, routes and schedules over the real store, on a
//! disk that loses, tears and refuses, in processes that are stopped, killed, or lose their power.
//!
//! A failure prints its seed; `PELTON_SYSTEM_SEED=N cargo test -p pelton-engine-redb system` runs that one alone, and
//! `PELTON_SYSTEM_RUNS=N` runs more of them. Beside it, `simulation` asks the store alone for more than a broker ever would.
//!
//! What is checked: every accepted message is in exactly one place (see [`ledger`]), in each queue that it went to; what was refused is
//! nowhere; what nobody knows about happened wholly or not at all; effects are there if and only if their message is gone; messages of a
//! key are handled one at a time and in order; ticks come once; doubles are stored once; nothing is leased before it is due, or when it
//! expired. And when nothing fails any more, everything is handled.

mod actors;
mod clock;
mod engine;
mod handlers;
mod ledger;
mod life;
mod look;
mod plan;
mod ticks;
mod world;

use std::collections::BTreeMap;

use life::Machine;
use world::World;

const RUNS: u64 = 120;
/// Last processes that may end before everything is handled, since the start of each may lose its power.
const LAST_TRIES: usize = 20;

/// What happened, how many messages were accounted for at the end, and a number that stands for every answer.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    seen: BTreeMap<&'static str, u64>,
    accounted: u64,
    trace: u64,
}

fn run(seed: u64, lies: bool) -> Result<Run, String> {
    // The broker's jitter.
    fastrand::seed(seed);
    let world = World::new(seed);
    let mut machine = Machine::new(&world);
    let lives = 2 + world.below(6);
    let mut drained = false;
    for life in 0..lives {
        machine.live(&world, false)?;
        // The file is whole before the faults begin: it is created under another name and renamed.
        if life == 0 {
            world.disk.set_lies(lies);
        }
    }
    for _ in 0..LAST_TRIES {
        drained = drained || machine.live(&world, true)?;
    }
    if !drained {
        return Err("the broker never ran until everything was handled".to_owned());
    }
    let state = world.state();
    Ok(Run { seen: state.seen.clone(), accounted: state.ledger.accounted, trace: state.trace_number() })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// All that a run may come to; that some run comes to each shows that the runs try what they should.
const REACHED: [&str; 20] = [
    "power cut",
    "power cut at start",
    "killed",
    "stopped",
    "storage failed",
    "publish accepted",
    "publish doubled",
    "publish refused",
    "publish unknown",
    "acknowledged",
    "lease lost",
    "lease forgotten",
    "host panicked",
    "outage",
    "reloaded",
    "paused or resumed",
    "redriven",
    "cancelled",
    "clock set",
    "delivered",
];

#[test]
fn every_message_is_accounted_for_whatever_fails() {
    let only = number("PELTON_SYSTEM_SEED");
    let seeds = only.map_or(0..number("PELTON_SYSTEM_RUNS").unwrap_or(RUNS), |seed| seed..seed + 1);
    let (mut seen, mut accounted) = (BTreeMap::new(), 0);
    for seed in seeds {
        match run(seed, false) {
            Ok(of_run) => {
                accounted += of_run.accounted;
                of_run.seen.into_iter().for_each(|(what, count)| *seen.entry(what).or_insert(0) += count);
            }
            Err(wrong) => panic!("PELTON_SYSTEM_SEED={seed}: {wrong}"),
        }
    }
    let missing: Vec<_> = REACHED.iter().filter(|what| !seen.contains_key(*what)).collect();
    assert!(only.is_some() || missing.is_empty(), "no run ever came to {missing:?}; {accounted} messages: {seen:?}");
}

#[test]
fn the_same_seed_gives_the_same_answers() {
    for seed in 0..2 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}

#[test]
fn a_disk_that_ignores_syncs_is_noticed() {
    assert!((0..20).any(|seed| run(seed, true).is_err()), "the simulation can't see lost data");
}
