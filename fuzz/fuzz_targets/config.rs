//! broker.toml.
//!
//! Asserts: checking is deterministic; every problem and warning names a place that is in the text, and there is no error
//! without a problem; a plan's routes and consumers name queues that are there. That it takes bounded time is for
//! libFuzzer's `-timeout` to tell.
#![no_main]

use std::path::Path;

use libfuzzer_sys::{Corpus, fuzz_target};
use pelton_core::config;

const FILE: &str = "broker.toml";

fuzz_target!(init: survive_caught_panics(), |text: &str| -> Corpus {
    match (config::check(text, Path::new(FILE)), config::check(text, Path::new(FILE))) {
        (Ok(plan), Ok(again)) => {
            plan.warnings.iter().for_each(|warning| check_place(warning, text));
            assert_eq!(plan.warnings, again.warnings);
            assert_eq!(plan.queues.len(), again.queues.len());
            for target in plan.router.routes().iter().flat_map(|route| &route.targets) {
                assert!(target.0 < plan.queues.len(), "a route to a queue that is not there");
            }
            for consumer in &plan.consumers {
                assert!(consumer.queue.0 < plan.queues.len(), "a consumer of a queue that is not there");
            }
        }
        (Err(error), Err(again)) => {
            assert!(!error.problems.is_empty(), "an error without a problem");
            error.problems.iter().for_each(|problem| check_place(problem, text));
            assert_eq!(error, again);
        }
        _ => panic!("the same text was accepted once and refused once"),
    }
    Corpus::Keep
});

/// That one of the lines of `problem` is ` --> broker.toml:LINE:COLUMN`, and that `text` has that line.
fn check_place(problem: &str, text: &str) {
    assert!(!problem.is_empty() && !problem.ends_with('\n'), "{problem:?}");
    if problem.starts_with("and ") && problem.ends_with(" more") {
        return;
    }
    let place = |line: &str| {
        let (line, column) = line.trim_start().strip_prefix("--> ")?.strip_prefix(FILE)?[1..].split_once(':')?;
        Some((line.parse::<usize>().ok()?, column.parse::<usize>().ok()?))
    };
    let Some((line, column)) = problem.lines().find_map(place) else { panic!("no place: {problem}") };
    // A place at the very end may be shown on the line behind the last.
    let longest = text.len() + 2;
    assert!((1..=text.split('\n').count() + 1).contains(&line) && (1..=longest).contains(&column), "{problem}");
}

/// A panic in the compiler of expressions, which runs in a thread of its own, is caught there and becomes an error. Any
/// other ends the run, as libFuzzer's hook does.
fn survive_caught_panics() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("cel") {
            abort(panic);
        }
    }));
}
