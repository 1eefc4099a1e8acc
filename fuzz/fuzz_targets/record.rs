//! The small records: a queue's counters, what is global, a queue's name and settings, an attempt at a message.
//!
//! Asserts, of arbitrary bytes, and of the same with the version that belongs to them: nothing panics; what decodes is encoded
//! to bytes that decode to the same. Asserts, of records made of arbitrary parts: they decode to what was encoded, a queue's
//! rules included; cut short, they are refused. Flipped bits are found before, by the checksum of their table.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use pelton_core::engine::{Attempt, Bounds, Expired, Order, Overflow, QueueDefinition};
use pelton_core::name::QueueName;
use pelton_core::retry::{Backoff, RetryPolicy};
use pelton_engine_redb::fuzzing::{Kind, Record};

/// Of the layout that `records.rs` of the engine describes.
const VERSION: u8 = 2;
const ATTEMPT_VERSION: u8 = 1;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    made: Made<'a>,
    cut: u32,
}

#[derive(Debug, Arbitrary)]
enum Made<'a> {
    Counters([u64; 7]),
    Global(u64, u64, u64, u32),
    Queue(Queue),
    Attempt { numbers: (u32, u64, u64), texts: [&'a str; 3], digest: Option<&'a str> },
}

#[derive(Debug, Arbitrary)]
struct Queue {
    id: u32,
    paused: bool,
    dead_letter: Option<u32>,
    max_attempts: u32,
    max_age_ms: Option<u64>,
    /// First and longest.
    backoff_ms: (u64, u64),
    factor: f64,
    jitter: f64,
    by_key: bool,
    priority: bool,
    max_messages: Option<u64>,
    max_bytes: Option<u64>,
    overflow: u8,
    drop: bool,
}

fuzz_target!(|bytes: &[u8]| {
    for kind in [Kind::Counters, Kind::Global, Kind::Queue, Kind::Attempt] {
        check_any(kind, bytes);
        let version = if kind == Kind::Attempt { ATTEMPT_VERSION } else { VERSION };
        check_any(kind, &[&[version], bytes].concat());
    }
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) {
        check_made(&input);
    }
});

fn check_any(kind: Kind, bytes: &[u8]) {
    let Some(record) = Record::decode(kind, bytes) else { return };
    assert_eq!(Record::decode(kind, &record.encode()), Some(record));
}

fn check_made(input: &Input<'_>) {
    let (kind, record) = match &input.made {
        Made::Counters(numbers) => (Kind::Counters, Record::counters(*numbers)),
        Made::Global(position, epoch, commit, queue) => {
            (Kind::Global, Record::global(*position, *epoch, *commit, *queue))
        }
        Made::Queue(queue) => (Kind::Queue, record_of(queue)),
        Made::Attempt { numbers: (number, at_ms, duration_us), texts, digest } => {
            let [outcome, reason, log_tail] = texts.map(str::to_owned);
            let (number, at_ms, duration_us) = (*number, *at_ms, *duration_us);
            let digest = digest.map(str::to_owned);
            let attempt = Attempt { number, at_ms, outcome, reason, duration_us, digest, log_tail };
            (Kind::Attempt, Record::attempt(attempt))
        }
    };
    let bytes = record.encode();
    assert_eq!(Record::decode(kind, &bytes), Some(record));
    let cut = input.cut as usize % bytes.len();
    assert_eq!(Record::decode(kind, &bytes[..cut]), None, "{cut} bytes are left");
}

/// The record of a queue, which says what its definition said.
fn record_of(queue: &Queue) -> Record {
    // JSON has no others, and no configuration has.
    let finite = |number: f64| if number.is_finite() { number } else { 1.0 };
    let retry = RetryPolicy {
        max_attempts: queue.max_attempts,
        max_age: queue.max_age_ms.map(Duration::from_millis),
        backoff: Backoff {
            initial: Duration::from_millis(queue.backoff_ms.0),
            factor: finite(queue.factor),
            max: Duration::from_millis(queue.backoff_ms.1),
            jitter: finite(queue.jitter),
        },
    };
    let overflow = [Overflow::Refuse, Overflow::DropOldest, Overflow::DeadLetter][usize::from(queue.overflow) % 3];
    let bounds = Bounds { messages_max: queue.max_messages, bytes_max: queue.max_bytes, overflow };
    let definition = QueueDefinition {
        retry,
        order: if queue.by_key { Order::Key } else { Order::Arrival },
        priority: queue.priority,
        bounds,
        expired: if queue.drop { Expired::Drop } else { Expired::DeadLetter },
        ..QueueDefinition::new(QueueName::new("q").expect("a name"))
    };
    let record = Record::queue(queue.id, queue.paused, queue.dead_letter, &definition);
    assert_eq!(record.rules(), Some((definition.retry, definition.bounds)));
    record
}
