//! Filters and transforms, compiled and evaluated. The input is an expression, a NUL, and the body of a message.
//!
//! Asserts: an expression that is refused has problems whose spans lie in it. Routing never panics, also on the stack of a
//! tokio worker (2 MiB); it gives the same twice; at most `RESULTS_MAX` entries, whose bodies are JSON objects within their
//! limits; or one with the message as it was and why, in bounded length and not quoting [`CANARY`] from the body. That it
//! takes bounded time is for libFuzzer's `-timeout` to tell.
#![no_main]

use std::thread;

use libfuzzer_sys::{Corpus, fuzz_target};
use pelton_core::message::{Attributes, Message};
use pelton_core::name::Topic;
use pelton_core::plan::QueueIndex;
use pelton_core::route::{
    FAILED_BYTES_MAX, Filter, Pattern, Problem, RESULTS_BYTES_MAX, RESULTS_MAX, Route, Router, Transform,
};

/// What the message is routed on in production: the stack of a tokio worker.
const STACK_BYTES: usize = 2 << 20;
const BODY_BYTES_MAX: usize = 64 << 10;
/// Stands in seeds' bodies.
const CANARY: &str = "canary";

fuzz_target!(init: survive_caught_panics(), |input: &[u8]| -> Corpus {
    let at = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (source, body) = (&input[..at], input.get(at + 1..).unwrap_or_default());
    let Ok(source) = std::str::from_utf8(source) else { return Corpus::Reject };
    let filter = checked(source, Filter::new(source));
    let transform = checked(source, Transform::new(source));
    thread::scope(|scope| {
        let routing = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || {
            if let Some(filter) = filter {
                check_route(source, body, Some(filter), None);
            }
            if let Some(transform) = transform {
                check_route(source, body, None, Some(transform));
            }
        });
        routing.expect("a thread").join().expect("routing does not panic");
    });
    Corpus::Keep
});

fn checked<T>(source: &str, result: Result<T, Vec<Problem>>) -> Option<T> {
    let Err(problems) = result else { return result.ok() };
    assert!(!problems.is_empty(), "refused without a problem");
    for problem in problems {
        assert!(source.get(problem.span.clone()).is_some(), "{problem:?} is at no place of {source:?}");
    }
    None
}

fn check_route(source: &str, body: &[u8], filter: Option<Filter>, transform: Option<Transform>) {
    let transforms = transform.is_some();
    let pattern = Pattern::new("#").expect("a pattern");
    let route = Route { pattern, filter, transform, targets: vec![QueueIndex(0)] };
    let router = Router::new(vec![route], BODY_BYTES_MAX as u64);
    let topic = Topic::new("orders.created").expect("a topic");
    let message = message(body);
    let routed = router.route(&topic, &message);
    assert!(routed.matched && routed.entries.len() <= RESULTS_MAX);
    let mut bytes = 0;
    for entry in &routed.entries {
        if let Some(failed) = &entry.failed {
            assert!(routed.entries.len() == 1 && failed.len() <= FAILED_BYTES_MAX, "{failed}");
            assert!(!failed.contains(CANARY) || source.contains(CANARY), "it quotes the body: {failed}");
        }
        if entry.failed.is_some() || !transforms {
            assert_eq!(entry.message, message);
            continue;
        }
        let made = entry.message.data();
        bytes += made.len();
        assert!(made.len() <= BODY_BYTES_MAX && entry.message.id().starts_with(message.id()));
        let json: serde_json::Value = serde_json::from_slice(made).expect("a made body is JSON");
        assert!(json.is_object(), "{json}");
    }
    assert!(bytes <= RESULTS_BYTES_MAX);
    let again = router.route(&topic, &message);
    assert_eq!(again.entries.len(), routed.entries.len());
    for (first, second) in routed.entries.iter().zip(&again.entries) {
        assert_eq!((&first.message, &first.failed), (&second.message, &second.failed), "it differs the second time");
    }
}

fn message(body: &[u8]) -> Message {
    let attributes = Attributes {
        id: "id-1",
        source: "/shop",
        kind: "order.created",
        subject: None,
        time: Some("2026-01-31T12:00:00Z"),
        content_type: Some("application/json"),
        data_schema: None,
        extensions: &[("tenant", "acme")],
    };
    Message::new(&attributes, body).expect("a message")
}

/// A panic in the compiler of expressions, which runs in a thread of its own, is caught there and becomes an error. Any
/// other ends the run, as libFuzzer's hook does.
fn survive_caught_panics() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if thread::current().name() != Some("cel") {
            abort(panic);
        }
    }));
}
