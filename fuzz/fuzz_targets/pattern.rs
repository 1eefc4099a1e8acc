//! Topic patterns and the table of routes.
//!
//! Asserts: a text is a pattern exactly when a naive reading of the rules says so, and an error's span lies in the text;
//! `Pattern::matches` agrees with a naive matcher; the router's table, asked twice since it remembers answers, finds a
//! route exactly when any pattern matches.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pelton_core::message::{Attributes, Message};
use pelton_core::name::{TOPIC_BYTES_MAX, Topic};
use pelton_core::plan::QueueIndex;
use pelton_core::route::{Pattern, Route, Router};

/// Few words, so that patterns and topics have a chance to match.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Word {
    A,
    B,
    Ab,
    One,
    Any,
}

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    text: &'a str,
    patterns: Vec<Vec<Word>>,
    topic: Vec<bool>,
}

fuzz_target!(|input: Input<'_>| {
    check_syntax(input.text);
    let words: Vec<_> = input.topic.iter().map(|a| if *a { "a" } else { "b" }).collect();
    let Ok(topic) = Topic::new(&words.join(".")) else { return };
    let mut routes = Vec::new();
    let mut expected = Vec::new();
    for (at, words) in input.patterns.iter().enumerate() {
        let text = words.iter().map(|word| spelled(*word)).collect::<Vec<_>>().join(".");
        check_syntax(&text);
        let Ok(pattern) = Pattern::new(&text) else { continue };
        let matches = naive_match(pattern.as_str(), topic.as_str());
        assert_eq!(pattern.matches(topic.as_str()), matches, "{pattern} and {topic}");
        assert_eq!(pattern.exact().is_some(), !text.contains(['*', '#']), "{pattern}");
        expected.extend(matches.then_some(QueueIndex(at)));
        routes.push(Route { pattern, filter: None, transform: None, targets: vec![QueueIndex(at)] });
    }
    let router = Router::new(routes, 1024);
    let attributes = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
    let message = Message::new(&attributes, b"").expect("a message");
    for _ in 0..2 {
        let routed = router.route(&topic, &message);
        let queues: Vec<_> = routed.entries.iter().map(|entry| entry.queue).collect();
        assert_eq!(queues, expected, "{topic}");
        assert_eq!(routed.matched, !expected.is_empty(), "{topic}");
    }
});

fn spelled(word: Word) -> &'static str {
    match word {
        Word::A => "a",
        Word::B => "b",
        Word::Ab => "ab",
        Word::One => "*",
        Word::Any => "#",
    }
}

fn check_syntax(text: &str) {
    let is_word = |word: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        word == "*" || word == "#" || !word.is_empty() && word.chars().all(is_plain)
    };
    let valid = text.len() <= TOPIC_BYTES_MAX && text.split('.').all(is_word);
    match Pattern::new(text) {
        Ok(pattern) => {
            assert!(valid, "{text:?} passed");
            assert_eq!(pattern.as_str(), text);
        }
        Err(error) => {
            assert!(!valid, "{text:?} was refused: {error}");
            assert!(text.get(error.span.clone()).is_some(), "{:?} is no place in {text:?}", error.span);
        }
    }
}

/// One row of a table per pattern word: `row[n]` says whether the pattern so far matches the first `n` words.
fn naive_match(pattern: &str, topic: &str) -> bool {
    let topic: Vec<_> = topic.split('.').collect();
    let mut row = vec![false; topic.len() + 1];
    row[0] = true;
    for word in pattern.split('.') {
        let next = (0..=topic.len()).map(|n| match word {
            "#" => row[..=n].contains(&true),
            _ => n > 0 && row[n - 1] && (word == "*" || word == topic[n - 1]),
        });
        row = next.collect();
    }
    row[topic.len()]
}
