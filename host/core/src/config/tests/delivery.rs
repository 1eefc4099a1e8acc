//! What is said about how messages are delivered: order, time to live, bounds, doubles, retries.

use std::path::Path;
use std::time::Duration;

use insta::assert_snapshot;

use super::{FULL, check, errors, plan, warnings};
use crate::engine::Guarantees;

#[test]
fn queue_keys_of_delivery() {
    let text = r#"
[queues.a]
order = "random"
priority = 3
ttl = "0s"
expired = "dropp"
max-messages = 0
max-bytes = "1B"
overflow = "block"
max-age = "11years"
[queues.b]
order = "key"
key = "Partition Key"
priority = true
[queues.c]
key = "subject"
dedup = "1m"
[queues.d]
order = "key"
key = "data"
[queues.e]
dead-letter = "f"
[queues.f]
overflow = "dead-letter"
max-messages = 5
"#;
    assert_snapshot!(errors(text), @r#"
    error: `order` is "random"; it may be "arrival" or "key"
     --> broker.toml:3:9
      |
    3 | order = "random"
      |         ^^^^^^^^

    error: `priority` is a whole number; true or false was expected
     --> broker.toml:4:12
      |
    4 | priority = 3
      |            ^

    error: `ttl` is 0s; it may be 1ms to 10years
     --> broker.toml:5:7
      |
    5 | ttl = "0s"
      |       ^^^^

    error: `expired` is "dropp"; it may be "dead-letter" or "drop"
     --> broker.toml:6:11
      |
    6 | expired = "dropp"
      |           ^^^^^^^
      |
      = help: did you mean "drop"?

    error: `max-messages` is 0; it may be 1 to 1000000000000
     --> broker.toml:7:16
      |
    7 | max-messages = 0
      |                ^

    error: `max-bytes` is 1B; it may be 1KiB to 1024TiB
     --> broker.toml:8:13
      |
    8 | max-bytes = "1B"
      |             ^^^^

    error: `overflow` is "block"; it may be "refuse", "drop-oldest" or "dead-letter"
     --> broker.toml:9:12
      |
    9 | overflow = "block"
      |            ^^^^^^^

    error: `max-age` is 11years; it may be 1ms to 10years
      --> broker.toml:10:11
       |
    10 | max-age = "11years"
       |           ^^^^^^^^^

    error: no message has an attribute 'Partition Key'
      --> broker.toml:13:7
       |
    13 | key = "Partition Key"
       |       ^^^^^^^^^^^^^^^
       |
       = help: write the name of an attribute, such as "partitionkey" or "subject": a-z and 0-9

    error: there are no priorities with `order = "key"`
      --> broker.toml:14:12
       |
    14 | priority = true
       |            ^^^^
       |
       = help: a later message of a key can't overtake an earlier one; leave out `priority` or `order`

    error: `key` says nothing without `order = "key"`
      --> broker.toml:16:7
       |
    16 | key = "subject"
       |       ^^^^^^^^^
       |
       = help: add order = "key", or leave `key` out

    error: unknown key `dedup` in [queues.c]
      --> broker.toml:17:1
       |
    17 | dedup = "1m"
       | ^^^^^
       |
       = help: known keys are backoff, dead-letter, expired, key, max-age, max-attempts, max-bytes, max-messages, order, overflow, priority, ttl

    error: no message has an attribute 'data'
      --> broker.toml:20:7
       |
    20 | key = "data"
       |       ^^^^^^
       |
       = help: write the name of an attribute, such as "partitionkey" or "subject": a-z and 0-9

    error: 'f' holds dead letters and has no queue for its own
      --> broker.toml:24:12
       |
    24 | overflow = "dead-letter"
       |            ^^^^^^^^^^^^^
       |
       = help: write "refuse" or "drop-oldest"
    "#);
}

#[test]
fn retries_and_breakers_of_consumers() {
    let text = r#"
[queues.a]
[consumers.c]
queue = "a"
component = "c.wasm"
max-attempts = 0
max-age = 3
backoff = { initial = "1h", max = "1m", jiter = 1 }
breaker = true
[consumers.d]
queue = "a"
component = "d.wasm"
breaker = { failures = 0, probe = "1m", max = "1s", reset = 3 }
[consumers.e]
queue = "a"
component = "e.wasm"
breaker = "off"
"#;
    assert_snapshot!(errors(text), @r#"
    error: `max-attempts` is 0; it may be 1 to 1000
     --> broker.toml:6:16
      |
    6 | max-attempts = 0
      |                ^

    error: `max-age` is a whole number; a duration was expected
     --> broker.toml:7:11
      |
    7 | max-age = 3
      |           ^
      |
      = help: write it like "250ms", "30s", "5m" or "1h30m"

    error: the first wait (1h) is longer than the longest (1m)
     --> broker.toml:8:11
      |
    8 | backoff = { initial = "1h", max = "1m", jiter = 1 }
      |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: raise `max` or lower `initial`

    error: unknown key `jiter` in [consumers.c] backoff
     --> broker.toml:8:41
      |
    8 | backoff = { initial = "1h", max = "1m", jiter = 1 }
      |                                         ^^^^^
      |
      = help: did you mean `jitter`? known keys are factor, initial, jitter, max

    error: `breaker` is true; a table or false was expected
     --> broker.toml:9:11
      |
    9 | breaker = true
      |           ^^^^
      |
      = help: leave it out for the default, or write { failures = 20, probe = "1s", max = "1m" }

    error: the first pause (1m) is longer than the longest (1s)
      --> broker.toml:13:11
       |
    13 | breaker = { failures = 0, probe = "1m", max = "1s", reset = 3 }
       |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: raise `max` or lower `probe`

    error: `failures` is 0; it may be 1 to 10000
      --> broker.toml:13:24
       |
    13 | breaker = { failures = 0, probe = "1m", max = "1s", reset = 3 }
       |                        ^

    error: unknown key `reset` in [consumers.d] breaker
      --> broker.toml:13:53
       |
    13 | breaker = { failures = 0, probe = "1m", max = "1s", reset = 3 }
       |                                                     ^^^^^
       |
       = help: known keys are failures, max, probe

    error: [consumers.e] breaker is a string; a table was expected
      --> broker.toml:17:11
       |
    17 | breaker = "off"
       |           ^^^^^
    "#);
}

#[test]
fn topics() {
    let text = r#"
[queues.a]
[[routes]]
from = "orders.*"
to = ["queue:a"]
[topics."orders..x"]
dedup = "1m"
[topics."orders.#"]
dedup = "8d"
[topics.orders.created]
dedup = "1m"
[topics."a"]
[topics."b"]
dedupe = "1m"
[topics]
c = "1m"
"#;
    assert_snapshot!(errors(text), @r#"
    error: the topic pattern 'orders..x' has an empty word
     --> broker.toml:6:17
      |
    6 | [topics."orders..x"]
      |                 ^
      |
      = help: leave out the dot, or write '*' for any one word

    error: `dedup` is 8d; it may be 1s to 7days
     --> broker.toml:9:9
      |
    9 | dedup = "8d"
      |         ^^^^

    error: a pattern with dots stands in quotes: `created` is another key
      --> broker.toml:10:16
       |
    10 | [topics.orders.created]
       |                ^^^^^^^
       |
       = help: write [topics."orders.created"]

    error: [topics."a"] has no `dedup`
      --> broker.toml:12:9
       |
    12 | [topics."a"]
       |         ^^^
       |
       = help: add dedup = "10m"

    error: [topics."b"] has no `dedup`
      --> broker.toml:13:9
       |
    13 | [topics."b"]
       |         ^^^
       |
       = help: add dedup = "10m"

    error: unknown key `dedupe` in [topics."b"]
      --> broker.toml:14:1
       |
    14 | dedupe = "1m"
       | ^^^^^^
       |
       = help: did you mean `dedup`? known keys are dedup

    error: [topics."c"] is a string; a table was expected
      --> broker.toml:16:5
       |
    16 | c = "1m"
       |     ^^^^
    "#);
    let text = r#"
[queues.a]
[[routes]]
from = "orders.*"
to = ["queue:a"]
[topics."orders.created"]
dedup = "1m"
[topics."*.created"]
dedup = "1m"
[topics."order.#"]
dedup = "1m"
"#;
    assert_snapshot!(warnings(text), @r#"
    warning: no route is for a topic that matches 'order.#'
      --> broker.toml:10:9
       |
    10 | [topics."order.#"]
       |         ^^^^^^^^^
       |
       = help: mend the pattern, or add a route
    "#);
}

#[test]
fn bounds_that_are_probably_not_meant() {
    let text = r#"
[queues.a]
max-messages = 5
[queues.b]
max-bytes = "1MiB"
[queues.c]
max-messages = 5
overflow = "drop-oldest"
[queues.d]
overflow = "refuse"
[queues.e]
max-messages = 5
dead-letter = "f"
[queues.f]
max-messages = 5
ttl = "1h"
expired = "dead-letter"
[[routes]]
from = "orders.*"
to = ["queue:a", "queue:c"]
[[routes]]
from = "orders.created"
to = ["queue:a", "queue:b"]
[[routes]]
from = "orders.*"
to = ["queue:b", "queue:d"]
[[routes]]
from = "others.#"
to = ["queue:e"]
"#;
    assert_snapshot!(warnings(text), @r#"
    warning: `overflow` says nothing about a queue without bounds
      --> broker.toml:10:12
       |
    10 | overflow = "refuse"
       |            ^^^^^^^^
       |
       = help: add max-messages or max-bytes, or leave it out

    warning: `max-messages` has no effect: nothing comes into 'f' but dead letters
      --> broker.toml:15:16
       |
    15 | max-messages = 5
       |                ^
       |
       = help: they always fit; leave it out

    warning: `ttl` has no effect: nothing comes into 'f' but dead letters
      --> broker.toml:16:7
       |
    16 | ttl = "1h"
       |       ^^^^
       |
       = help: they don't expire; leave it out

    warning: 'f' holds dead letters and has no queue for its own: what expires in it is deleted
      --> broker.toml:17:11
       |
    17 | expired = "dead-letter"
       |           ^^^^^^^^^^^^^
       |
       = help: write expired = "drop", which says so

    warning: a message can go to several queues that refuse what does not fit: 'a', 'b'
      --> broker.toml:23:6
       |
    23 | to = ["queue:a", "queue:b"]
       |      ^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: while one of them is full, none of them gets it; set `overflow` of all but one, if that is not meant
    "#);
}

#[test]
fn what_expires_among_dead_letters_is_told_without_a_word_about_it() {
    let text = r#"
[queues.a]
[queues."a.dead"]
ttl = "1h"
[[routes]]
from = "a"
to = ["queue:a", "queue:a.dead"]
"#;
    assert_snapshot!(warnings(text), @r#"
    warning: 'a.dead' holds dead letters and has no queue for its own: what expires in it is deleted
     --> broker.toml:4:7
      |
    4 | ttl = "1h"
      |       ^^^^
      |
      = help: write expired = "drop", which says so
    "#);
    assert_snapshot!(warnings(&text.replace("\"1h\"", "\"1h\"\nexpired = \"drop\"")), @"");
}

#[test]
fn what_an_engine_does_not_promise() {
    let plan = plan(&FULL.replace("order = \"arrival\"\nmax", "max"));
    assert_eq!(plan.unmet(&Guarantees::ALL), Vec::<String>::new());
    let nothing = Guarantees {
        effects_with_settlement: false,
        leases_fenced: false,
        append_atomic: false,
        history: false,
        longest_delay: Duration::ZERO,
        expiry: false,
        priorities: false,
        key_order: false,
        dedup: false,
        exact_bounds: false,
        schedules: false,
    };
    assert_snapshot!(plan.unmet(&nothing).join("\n"), @r##"
    [queues.plain] order: the engine keeps no order by key; leave it out, or use another engine
    [queues.reviews] priority: the engine keeps no priorities; leave it out, or use another engine
    [queues.reviews] ttl: the engine lets no messages expire; leave it out, or use another engine
    [queues.reviews] max-messages: the engine keeps no exact bounds; leave it out, or use another engine
    [queues.reviews] max-bytes: the engine keeps no exact bounds; leave it out, or use another engine
    [topics."github.#"] dedup: the engine recognises no doubles; leave it out, or use another engine
    [topics."#"] dedup: the engine recognises no doubles; leave it out, or use another engine
    [[schedules]] nightly: the engine can't publish exactly once per tick; leave it out, or use another engine
    [[schedules]] hourly: the engine can't publish exactly once per tick; leave it out, or use another engine
    "##);
    let plain = check("[queues.a]\n", Path::new("broker.toml")).expect("it is right");
    assert_eq!(plain.unmet(&nothing), Vec::<String>::new());
}
