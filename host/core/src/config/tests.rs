//! What configurations come to, and what is said about those with mistakes.
//!
//! Long because it is tables: each mistake stands beside the whole message that people get for it.

mod delivery;
mod schedules;

use std::path::Path;
use std::time::Duration;

use insta::assert_snapshot;

use super::{check, defaults, nearest};
use crate::engine::{Bounds, Expired, Order, Overflow};
use crate::message::{Attributes, Message};
use crate::name::Topic;
use crate::plan::{BreakerPlan, ConsumerCode, Plan, QueueIndex, SamplePlan, SecretSource};
use crate::retry::{Backoff, RetryPolicy};

fn plan(text: &str) -> Plan {
    check(text, Path::new("conf/broker.toml")).unwrap_or_else(|error| panic!("{error}"))
}

/// Everything that is said about a configuration with mistakes.
fn errors(text: &str) -> String {
    check(text, Path::new("broker.toml")).expect_err("it has mistakes").to_string()
}

fn warnings(text: &str) -> String {
    let plan = check(text, Path::new("broker.toml")).unwrap_or_else(|error| panic!("{error}"));
    plan.warnings.join("\n\n")
}

const FULL: &str = r#"
[broker]
data = "store"
max-message = "2MiB"
min-free-disk = "0"
max-hops = 3

[http]
listen = "0.0.0.0:80"
token = { env = "PELTON_TOKEN" }
max-request = "4MiB"

[sandbox]
slots = 8

[queues.reviews]
order = "arrival"
max-attempts = 7
backoff = { initial = "250ms", factor = 3, max = "1h30m", jitter = 0.5 }
dead-letter = "trash"
max-age = "2h"
ttl = "1d"
expired = "drop"
priority = true
max-messages = 1_000_000
max-bytes = "2TiB"
overflow = "drop-oldest"

[queues.trash]

[queues.plain]
order = "key"
key = "subject"

[topics."github.#"]
dedup = "10m"

[topics.'#']
dedup = "7d"

[[schedules]]
name = "nightly"
cron = "30 2 * * *"
time-zone = "Europe/Berlin"
topic = "github.pull_request.nightly"
type = "report.due"
source = "https://example.com/reports"
content-type = "application/vnd.example+json"
data = { day = 2026-01-31, parts = [1, 0x10, 2.5, true], deep = { text = "x" } }
missed = "all"

[[schedules]]
name = "hourly"
cron = "@hourly"
topic = "github.pull_request.hourly"
body = "go"

[[routes]]
from = "github.pull_request.*"
when = 'data.action == "opened"'
transform = '{"id": data.id}'
to = ["queue:reviews", "queue:plain"]

[consumers.reviewer]
queue = "reviews"
component = "reviewer.wasm"
concurrency = 4
timeout = "30s"
memory = "128 MB"
max-emits = 5
max-emit-bytes = "1KiB"
max-log = "2KiB"
max-attempts = 3
backoff = { initial = "2s" }
breaker = { failures = 3, probe = "2m" }
config = { name = "x", number = 0x10, ratio = 1.5, on = true }

[consumers.other]
queue = "trash"
source = "/src/other"
max-age = "1m"
breaker = false

[dev]
sample = { file = "events.jsonl", topic = "github.{event}.{action}", body = "payload" }
"#;

#[test]
fn every_key_is_read() {
    let plan = plan(FULL);
    assert_eq!(plan.warnings, Vec::<String>::new());
    assert_eq!(plan.broker.data, Path::new("conf/store"));
    assert_eq!((plan.broker.message_bytes_max, plan.broker.hops_max, plan.broker.free_disk_min), (2 << 20, 3, 0));
    assert_eq!(plan.http.listen.to_string(), "0.0.0.0:80");
    assert_eq!(plan.http.token, Some(SecretSource::Env("PELTON_TOKEN".into())));
    assert_eq!((plan.http.request_bytes_max, plan.sandbox.slots), (4 << 20, 8));

    let names: Vec<_> = plan.queues.iter().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, ["plain", "plain.dead", "reviews", "trash"]);
    let dead: Vec<_> = plan.queues.iter().map(|queue| queue.dead_letter.map(|dead| dead.0)).collect();
    assert_eq!(dead, [Some(1), None, Some(3), None]);
    let [plain, _, reviews, _] = plan.queues.as_slice() else { panic!("{:?}", plan.queues) };
    let retry = &reviews.retry;
    assert_eq!((retry.max_attempts, retry.backoff.factor, retry.backoff.jitter), (7, 3.0, 0.5));
    assert_eq!((retry.backoff.initial, retry.backoff.max), (Duration::from_millis(250), Duration::from_secs(5400)));
    assert_eq!(retry.max_age, Some(Duration::from_secs(7200)));
    assert_eq!((reviews.order, reviews.priority, reviews.expired), (Order::Arrival, true, Expired::Drop));
    assert_eq!((reviews.ttl, &*reviews.key), (Some(Duration::from_secs(86_400)), "partitionkey"));
    let bounds = Bounds { messages_max: Some(1_000_000), bytes_max: Some(2 << 40), overflow: Overflow::DropOldest };
    assert_eq!(reviews.bounds, bounds);
    assert_eq!((plain.order, &*plain.key, plain.priority, plain.ttl), (Order::Key, "subject", false, None));
    assert_eq!((&plain.retry, plain.expired), (&RetryPolicy::default(), Expired::DeadLetter));
    assert_eq!(plain.bounds, Bounds::default());

    let [other, reviewer] = plan.consumers.as_slice() else { panic!("{:?}", plan.consumers) };
    assert_eq!((other.name.as_str(), other.queue, other.concurrency), ("other", QueueIndex(3), 8));
    assert_eq!(other.code, ConsumerCode::Source("/src/other".into()));
    assert_eq!(other.limits.timeout, defaults::TIMEOUT);
    assert_eq!((reviewer.queue, reviewer.concurrency), (QueueIndex(2), 4));
    assert_eq!(reviewer.code, ConsumerCode::Component("conf/reviewer.wasm".into()));
    let limits = &reviewer.limits;
    assert_eq!((limits.memory_bytes, limits.timeout), (128_000_000, Duration::from_secs(30)));
    assert_eq!((limits.emits_max, limits.emit_bytes_max, limits.log_bytes_max), (5, 1 << 10, 2 << 10));
    let Backoff { initial, factor, max, .. } = reviewer.retry.backoff;
    assert_eq!(
        (reviewer.retry.max_attempts, reviewer.retry.max_age),
        (3, retry.max_age),
        "the queue's, but for its own"
    );
    assert_eq!((initial, factor, max), (Duration::from_secs(2), 3.0, retry.backoff.max));
    let breaker = BreakerPlan { failures: 3, probe: Duration::from_secs(120), max: Duration::from_secs(120) };
    assert_eq!((reviewer.breaker.as_ref(), other.breaker.as_ref()), (Some(&breaker), None));
    assert_eq!((other.retry.max_attempts, other.retry.max_age), (5, Some(Duration::from_secs(60))));
    let config: Vec<_> = reviewer.config.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(config, ["name=x", "number=16", "on=true", "ratio=1.5"]);
    let sample = SamplePlan {
        file: "conf/events.jsonl".into(),
        topic: "github.{event}.{action}".into(),
        body: Some("payload".into()),
    };
    assert_eq!(plan.dev.sample, Some(sample));

    let attributes = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
    let message = Message::new(&attributes, br#"{"action": "opened", "id": 7}"#).expect("a message");
    let topic = Topic::new("github.pull_request.opened").expect("a topic");
    let routed = plan.router.route(&topic, &message);
    let entries: Vec<_> = routed.entries.iter().map(|entry| (entry.queue.0, entry.message.data())).collect();
    assert_eq!(entries, [(2, br#"{"id":7}"#.as_slice()), (0, br#"{"id":7}"#)]);
}

#[test]
fn what_the_reference_shows_in_comments_is_right() {
    const REFERENCE: &str = include_str!("../../../../broker.toml");
    // Each stands beside another one that it can't be used with.
    const OTHERS: [&str; 3] = ["token = { file", "key = ", "body = \"go\""];
    let is_key = |line: &str| {
        let key = line.split(" = ").next().unwrap_or_default();
        line.starts_with('[') || key.len() < line.len() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
    };
    let mut shown = 0;
    let uncommented = |line: &str| match line.strip_prefix("# ") {
        Some(key) if is_key(key) && !OTHERS.iter().any(|other| key.starts_with(other)) => {
            shown += 1;
            format!("{key}\n")
        }
        _ => format!("{line}\n"),
    };
    let text: String = REFERENCE.lines().map(uncommented).collect();
    let plan = check(&text, Path::new("broker.toml")).unwrap_or_else(|error| panic!("{error}"));
    assert!(shown > 30, "{shown} keys in comments");
    let triage = plan.consumers.iter().find(|consumer| consumer.name.as_str() == "triage").expect("it is there");
    assert_eq!(triage.breaker, Some(BreakerPlan::default()));
    assert_eq!((plan.dedup.len(), plan.schedules.len()), (1, 1));
    let reference = check(REFERENCE, Path::new("broker.toml")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(reference.broker, plan.broker, "they are the defaults");
    assert_eq!(reference.warnings, Vec::<String>::new());
}

#[test]
fn an_empty_file_is_a_plan_with_a_warning() {
    let plan = plan("");
    assert_eq!(plan.broker.data, Path::new("conf/data"));
    assert_eq!((plan.broker.message_bytes_max, plan.broker.hops_max), (1 << 20, 16));
    assert_eq!(plan.broker.free_disk_min, 128 << 20);
    assert!(plan.dedup.is_empty() && plan.schedules.is_empty());
    assert_eq!(plan.http.listen, defaults::LISTEN);
    assert_eq!((plan.http.token, plan.http.request_bytes_max, plan.sandbox.slots), (None, 16 << 20, 256));
    assert!(plan.queues.is_empty() && plan.consumers.is_empty() && plan.dev.sample.is_none());
    assert_snapshot!(warnings(""), @r#"
    warning: there are no routes, so nothing can be published
     --> broker.toml:1:1
      |
    1 |
      | ^
      |
      = help: add [[routes]]
    "#);
}

#[test]
fn dead_letter_queues_follow_from_the_others() {
    let check = |text: &str, expected: &[&str]| {
        let plan = plan(&format!("{text}\n[[routes]]\nfrom = '#'\nto = ['queue:a']"));
        let show = |queue: &crate::plan::QueuePlan| match queue.dead_letter {
            Some(dead) => format!("{} -> {}", queue.name, plan.queue(dead).name),
            None => queue.name.to_string(),
        };
        assert_eq!(plan.queues.iter().map(show).collect::<Vec<_>>(), expected, "{text}");
    };
    check("[queues.a]", &["a -> a.dead", "a.dead"]);
    check("[queues.a]\n[queues.'a.dead']", &["a -> a.dead", "a.dead"]);
    check("[queues.a]\ndead-letter = 'a.dead'", &["a -> a.dead", "a.dead"]);
    check("[queues.a]\ndead-letter = 'x'\n[queues.x]", &["a -> x", "x"]);
    check(
        "[queues.a]\ndead-letter = 'x'\n[queues.x]\n[queues.'x.dead']",
        &["a -> x", "x", "x.dead -> x.dead.dead", "x.dead.dead"],
    );
    check("[queues.a]\n[queues.b]\ndead-letter = 'a.dead'", &["a -> a.dead", "a.dead", "b -> a.dead"]);
    check("[queues.z]\ndead-letter = 'a'\n[queues.a]", &["a", "z -> a"]);
}

#[test]
fn malformed_toml() {
    assert_snapshot!(errors("[broker\ndata = \"d\"\n\n[queues.a]\nmax-attempts = = 3\n"), @r#"
    error: this is not TOML: unclosed table, expected `]`
     --> broker.toml:1:8
      |
    1 | [broker
      |        ^

    error: this is not TOML: extra `=`, expected nothing
     --> broker.toml:5:16
      |
    5 | max-attempts = = 3
      |                ^

    error: this is not TOML: unexpected key or value, expected newline, `#`
     --> broker.toml:5:18
      |
    5 | max-attempts = = 3
      |                  ^
    "#);
    assert_snapshot!(errors("[queues.a]\n[queues.a]\n"), @r#"
    error: this is not TOML: duplicate key
     --> broker.toml:2:9
      |
    2 | [queues.a]
      |         ^
    "#);
    assert_snapshot!(errors("[queues.a]\norder = 'arrival"), @r#"
    error: this is not TOML: invalid literal string, expected `'`
     --> broker.toml:2:17
      |
    2 | order = 'arrival
      |                 ^
    "#);
}

#[test]
fn unknown_keys() {
    let text = r#"
[brokre]
[broker]
max-mesage = "1MiB"
[queues.a]
max-attemps = 3
backoff = { inital = "1s" }
[[routes]]
form = "a"
from = "a"
to = ["queue:a"]
[consumers.c]
queue = "a"
component = "c.wasm"
memory-limit = "1MiB"
"#;
    assert_snapshot!(errors(text), @r#"
    error: unknown key `brokre` in this file
     --> broker.toml:2:2
      |
    2 | [brokre]
      |  ^^^^^^
      |
      = help: did you mean `broker`? known keys are broker, consumers, dev, http, queues, routes, sandbox, schedules, topics

    error: unknown key `max-mesage` in [broker]
     --> broker.toml:4:1
      |
    4 | max-mesage = "1MiB"
      | ^^^^^^^^^^
      |
      = help: did you mean `max-message`? known keys are data, max-hops, max-message, min-free-disk

    error: unknown key `max-attemps` in [queues.a]
     --> broker.toml:6:1
      |
    6 | max-attemps = 3
      | ^^^^^^^^^^^
      |
      = help: did you mean `max-attempts`? known keys are backoff, dead-letter, expired, key, max-age, max-attempts, max-bytes, max-messages, order, overflow, priority, ttl

    error: unknown key `inital` in [queues.a] backoff
     --> broker.toml:7:13
      |
    7 | backoff = { inital = "1s" }
      |             ^^^^^^
      |
      = help: did you mean `initial`? known keys are factor, initial, jitter, max

    error: unknown key `form` in route 1
     --> broker.toml:9:1
      |
    9 | form = "a"
      | ^^^^
      |
      = help: did you mean `from`? known keys are from, to, transform, when

    error: unknown key `memory-limit` in [consumers.c]
      --> broker.toml:15:1
       |
    15 | memory-limit = "1MiB"
       | ^^^^^^^^^^^^
       |
       = help: known keys are backoff, breaker, component, concurrency, config, max-age, max-attempts, max-emit-bytes, max-emits, max-log, memory, queue, source, timeout
    "#);
}

#[test]
fn keys_of_later_versions() {
    let text = r#"
[streams.audit]
retain = { age = "7d" }
[queues.a]
retain = { age = "7d" }
[[routes]]
from = "a"
to = ["queue:a", "stream:audit"]
[consumers.c]
queue = "a"
component = "c.wasm"
allow-hosts = ["https://api.github.com"]
secrets = { token = { env = "GITHUB_TOKEN" } }
"#;
    assert_snapshot!(errors(text), @r#"
    error: `streams` is not supported by this version yet
     --> broker.toml:2:2
      |
    2 | [streams.audit]
      |  ^^^^^^^
      |
      = help: leave it out

    error: `retain` is not supported by this version yet
     --> broker.toml:5:1
      |
    5 | retain = { age = "7d" }
      | ^^^^^^
      |
      = help: leave it out

    error: 'stream:audit': streams are not supported by this version yet
     --> broker.toml:8:18
      |
    8 | to = ["queue:a", "stream:audit"]
      |                  ^^^^^^^^^^^^^^
      |
      = help: write "queue:NAME"

    error: `allow-hosts` is not supported by this version yet
      --> broker.toml:12:1
       |
    12 | allow-hosts = ["https://api.github.com"]
       | ^^^^^^^^^^^
       |
       = help: leave it out

    error: `secrets` is not supported by this version yet
      --> broker.toml:13:1
       |
    13 | secrets = { token = { env = "GITHUB_TOKEN" } }
       | ^^^^^^^
       |
       = help: leave it out
    "#);
}

#[test]
fn values_of_the_wrong_type() {
    let text = r#"
queues = 3
routes = "x"
[broker]
data = 3
max-message = 1000
max-hops = "3"
[http]
token = "s3cret"
[sandbox]
slots = 1.5
[consumers]
c = "x"
"#;
    assert_snapshot!(errors(text), @r#"
    error: [queues] is a whole number; a table was expected
     --> broker.toml:2:10
      |
    2 | queues = 3
      |          ^

    error: `routes` is a string; a list of tables was expected
     --> broker.toml:3:10
      |
    3 | routes = "x"
      |          ^^^
      |
      = help: start every route with [[routes]]

    error: `data` is a whole number; a string was expected
     --> broker.toml:5:8
      |
    5 | data = 3
      |        ^

    error: `max-message` is a whole number; a size was expected
     --> broker.toml:6:15
      |
    6 | max-message = 1000
      |               ^^^^
      |
      = help: write it like "512KiB", "64MiB" or "1GiB"

    error: `max-hops` is a string; a whole number was expected
     --> broker.toml:7:12
      |
    7 | max-hops = "3"
      |            ^^^

    error: `token` is read when the broker starts; a secret can't stand in this file
     --> broker.toml:9:9
      |
    9 | token = "s3cret"
      |         ^^^^^^^^
      |
      = help: write { env = "NAME" } or { file = "path" }

    error: `slots` is a number; a whole number was expected
      --> broker.toml:11:9
       |
    11 | slots = 1.5
       |         ^^^

    error: [consumers.c] is a string; a table was expected
      --> broker.toml:13:5
       |
    13 | c = "x"
       |     ^^^
    "#);
}

#[test]
fn values_out_of_bounds() {
    let text = r#"
[broker]
max-message = "1GiB"
max-hops = 0
data = ""
[sandbox]
slots = 99999999999999999999999
[queues.a]
max-attempts = -1
backoff = { initial = "10m", factor = 0.5, max = "1m", jitter = 2 }
[queues.b]
backoff = { initial = "fast" }
[[routes]]
from = "a"
to = ["queue:a", "queue:b"]
[consumers.c]
queue = "a"
component = "c.wasm"
concurrency = 1000
timeout = "2h"
memory = "1MiB"
max-log = "much"
"#;
    assert_snapshot!(errors(text), @r#"
    error: `max-message` is 1GiB; it may be 1KiB to 64MiB
     --> broker.toml:3:15
      |
    3 | max-message = "1GiB"
      |               ^^^^^^

    error: `max-hops` is 0; it may be 1 to 255
     --> broker.toml:4:12
      |
    4 | max-hops = 0
      |            ^

    error: `data` is empty
     --> broker.toml:5:8
      |
    5 | data = ""
      |        ^^

    error: `slots` is 99999999999999999999999; it may be 1 to 4096
     --> broker.toml:7:9
      |
    7 | slots = 99999999999999999999999
      |         ^^^^^^^^^^^^^^^^^^^^^^^

    error: `max-attempts` is -1; it may be 1 to 1000
     --> broker.toml:9:16
      |
    9 | max-attempts = -1
      |                ^^

    error: the first wait (10m) is longer than the longest (1m)
      --> broker.toml:10:11
       |
    10 | backoff = { initial = "10m", factor = 0.5, max = "1m", jitter = 2 }
       |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: raise `max` or lower `initial`

    error: `factor` is 0.5; it may be 1 to 1000
      --> broker.toml:10:39
       |
    10 | backoff = { initial = "10m", factor = 0.5, max = "1m", jitter = 2 }
       |                                       ^^^

    error: `jitter` is 2; it may be 0 to 1
      --> broker.toml:10:65
       |
    10 | backoff = { initial = "10m", factor = 0.5, max = "1m", jitter = 2 }
       |                                                                 ^

    error: 'fast' is not a duration
      --> broker.toml:12:23
       |
    12 | backoff = { initial = "fast" }
       |                       ^^^^^^
       |
       = help: write it like "250ms", "30s", "5m" or "1h30m"

    error: `concurrency` is 1000; it may be 1 to 256
      --> broker.toml:19:15
       |
    19 | concurrency = 1000
       |               ^^^^

    error: `timeout` is 2h; it may be 1ms to 1h
      --> broker.toml:20:11
       |
    20 | timeout = "2h"
       |           ^^^^

    error: `memory` is 1MiB; it may be 2MiB to 1GiB
      --> broker.toml:21:10
       |
    21 | memory = "1MiB"
       |          ^^^^^^

    error: 'much' is not a size
      --> broker.toml:22:11
       |
    22 | max-log = "much"
       |           ^^^^^^
       |
       = help: write it like "512KiB", "64MiB" or "1GiB"
    "#);
}

#[test]
fn names() {
    let long = "x".repeat(125);
    let text =
        format!("[queues.'a b']\n[queues.'']\n[queues.{long}]\n[consumers.'-x']\nqueue = 'a'\ncomponent = 'c.wasm'\n");
    assert_snapshot!(errors(&text), @r#"
    error: 'a b' is not a queue name: it contains ' '; letters a-z and A-Z, digits, '.', '_' and '-' are allowed
     --> broker.toml:1:9
      |
    1 | [queues.'a b']
      |         ^^^^^

    error: '' is not a queue name: it is empty
     --> broker.toml:2:9
      |
    2 | [queues.'']
      |         ^^

    error: with '.dead' behind it, this name is too long for the dead-letter queue
     --> broker.toml:3:9
      |
    3 | [queues.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx]
      |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: use at most 123 bytes, or set `dead-letter`

    error: '-x' is not a consumer name: it must start with a letter a-z, A-Z or a digit
     --> broker.toml:4:12
      |
    4 | [consumers.'-x']
      |            ^^^^

    error: the queue 'a' does not exist
     --> broker.toml:5:9
      |
    5 | queue = 'a'
      |         ^^^
      |
      = help: declare it with [queues.a]
    "#);
}

#[test]
fn dead_letter_mistakes() {
    let text = r#"
[queues.a]
dead-letter = "a"
[queues.b]
dead-letter = "c"
[queues.c]
dead-letter = "b"
[queues.d]
dead-letter = "trahs"
[queues.trash]
[queues.e]
dead-letter = "a/b"
[[routes]]
from = "a"
to = ["queue:a", "queue:d", "queue:e", "queue:trash"]
"#;
    assert_snapshot!(errors(text), @r#"
    error: 'a' can't be its own dead-letter queue
     --> broker.toml:3:15
      |
    3 | dead-letter = "a"
      |               ^^^

    error: 'b' holds the dead letters of 'c', so it can't have a dead-letter queue
     --> broker.toml:5:15
      |
    5 | dead-letter = "c"
      |               ^^^
      |
      = help: dead letters stay where they are until somebody acts; leave it out

    error: 'c' holds the dead letters of 'b', so it can't have a dead-letter queue
     --> broker.toml:7:15
      |
    7 | dead-letter = "b"
      |               ^^^
      |
      = help: dead letters stay where they are until somebody acts; leave it out

    error: the dead-letter queue 'trahs' does not exist
     --> broker.toml:9:15
      |
    9 | dead-letter = "trahs"
      |               ^^^^^^^
      |
      = help: did you mean 'trash'? Otherwise declare it with [queues.trahs]

    error: 'a/b' is not a queue name: it contains '/'; letters a-z and A-Z, digits, '.', '_' and '-' are allowed
      --> broker.toml:12:15
       |
    12 | dead-letter = "a/b"
       |               ^^^^^
    "#);
}

#[test]
fn routes() {
    let text = r#"
[queues.reviews]
[[routes]]
from = "github.pull_request*"
to = ["queue:revews", "reviews", "topic:x", "queue:", 3]
[[routes]]
from = "a..b"
to = []
[[routes]]
to = "queue:reviews"
[[routes]]
from = "a"
when = 3
"#;
    assert_snapshot!(errors(text), @r#"
    error: '*' stands for one whole word; it can't be part of the word 'pull_request*'
     --> broker.toml:4:28
      |
    4 | from = "github.pull_request*"
      |                            ^
      |
      = help: write '*' between dots

    error: the queue 'revews' does not exist
     --> broker.toml:5:7
      |
    5 | to = ["queue:revews", "reviews", "topic:x", "queue:", 3]
      |       ^^^^^^^^^^^^^^
      |
      = help: did you mean 'reviews'? Otherwise declare it with [queues.revews]

    error: 'reviews' does not say what kind of target it is
     --> broker.toml:5:23
      |
    5 | to = ["queue:revews", "reviews", "topic:x", "queue:", 3]
      |                       ^^^^^^^^^
      |
      = help: write "queue:reviews"

    error: 'topic:x': there are no targets of the kind 'topic'
     --> broker.toml:5:34
      |
    5 | to = ["queue:revews", "reviews", "topic:x", "queue:", 3]
      |                                  ^^^^^^^^^
      |
      = help: write "queue:NAME"

    error: 'queue:' does not say which queue
     --> broker.toml:5:45
      |
    5 | to = ["queue:revews", "reviews", "topic:x", "queue:", 3]
      |                                             ^^^^^^^^
      |
      = help: write "queue:NAME"

    error: `to` holds a whole number; strings were expected
     --> broker.toml:5:55
      |
    5 | to = ["queue:revews", "reviews", "topic:x", "queue:", 3]
      |                                                       ^

    error: the topic pattern 'a..b' has an empty word
     --> broker.toml:7:11
      |
    7 | from = "a..b"
      |           ^
      |
      = help: leave out the dot, or write '*' for any one word

    error: a route needs a target
     --> broker.toml:8:6
      |
    8 | to = []
      |      ^^
      |
      = help: write to = ["queue:NAME"]

    error: route 3 has no `from`
     --> broker.toml:9:1
      |
    9 | [[routes]]
      | ^^^^^^^^^^
      |
      = help: add from = "orders.*"

    error: `to` is a string; a list of strings was expected
      --> broker.toml:10:6
       |
    10 | to = "queue:reviews"
       |      ^^^^^^^^^^^^^^^
       |
       = help: write a list: to = ["queue:reviews"]

    error: route 4 has no `to`
      --> broker.toml:11:1
       |
    11 | [[routes]]
       | ^^^^^^^^^^
       |
       = help: add to = ["queue:NAME"]

    error: `when` is a whole number; a string was expected
      --> broker.toml:13:8
       |
    13 | when = 3
       |        ^
    "#);
}

#[test]
fn expressions() {
    let text = r#"
[queues.q]
[[routes]]
from = "a"
when = 'dta.action == "opened"'
to = ["queue:q"]
[[routes]]
from = "a"
when = "data.action == \"opened\" && tpye > 3"
to = ["queue:q"]
[[routes]]
from = "a"
when = '''
data.action == "opened"
  && data.number + "1" == 2
  && size(data.labels) = 3
'''
to = ["queue:q"]
[[routes]]
from = "a"
transform = """
{
  "id": data.id,
  "title": data.title.lower(),
  "first": data.labels.filter(l, l.name == labl)
}"""
to = ["queue:q"]
[[routes]]
from = "a"
when = "data.n + 1"
transform = 'data.x == 1'
to = ["queue:q"]
"#;
    assert_snapshot!(errors(text), @r#"
    error: unknown name 'dta'
     --> broker.toml:5:9
      |
    5 | when = 'dta.action == "opened"'
      |         ^^^
      |
      = help: did you mean 'data'?

    error: unknown name 'tpye'
     --> broker.toml:9:38
      |
    9 | when = "data.action == \"opened\" && tpye > 3"
      |                                      ^^^^
      |
      = help: did you mean 'type'?

    error: this is not CEL: '=' does not belong here
      --> broker.toml:16:24
       |
    16 |   && size(data.labels) = 3
       |                        ^
       |
       = help: compare with '=='

    error: unknown function .lower()
      --> broker.toml:24:23
       |
    24 |   "title": data.title.lower(),
       |                       ^^^^^
       |
       = help: did you mean .lowerAscii()?

    error: unknown name 'labl'
      --> broker.toml:25:44
       |
    25 |   "first": data.labels.filter(l, l.name == labl)
       |                                            ^^^^
       |
       = help: there are l, data, datacontenttype, dataschema, extensions, id, source, subject, time, topic, type; text stands in quotes: "labl"

    error: a filter is a condition, and this is an int
      --> broker.toml:30:9
       |
    30 | when = "data.n + 1"
       |         ^^^^^^^^^^
       |
       = help: compare it with something: ... == ...

    error: a transform is a map, a list of maps or null, and this is a bool
      --> broker.toml:31:14
       |
    31 | transform = 'data.x == 1'
       |              ^^^^^^^^^^^
       |
       = help: a condition belongs into 'when'
    "#);
}

#[test]
fn consumers() {
    let text = r#"
[queues.reviews]
[consumers.a]
component = "a.wasm"
[consumers.b]
queue = "revews"
component = "b.wasm"
source = "b"
[consumers.c]
queue = "reviews"
[consumers.d]
queue = "reviews"
component = ""
config = { list = [1], when = 2026-01-31 }
"#;
    assert_snapshot!(errors(text), @r#"
    error: [consumers.a] has no `queue`
     --> broker.toml:3:12
      |
    3 | [consumers.a]
      |            ^
      |
      = help: add queue = "NAME"

    error: the queue 'revews' does not exist
     --> broker.toml:6:9
      |
    6 | queue = "revews"
      |         ^^^^^^^^
      |
      = help: did you mean 'reviews'? Otherwise declare it with [queues.revews]

    error: [consumers.b] has both `component` and `source`
     --> broker.toml:8:10
      |
    8 | source = "b"
      |          ^^^
      |
      = help: `component` is a .wasm file, `source` a folder that is compiled; leave one out

    error: [consumers.c] has neither `component` nor `source`
     --> broker.toml:9:12
      |
    9 | [consumers.c]
      |            ^
      |
      = help: add component = "FILE.wasm", or source = "FOLDER" of a cargo package

    error: `component` is empty
      --> broker.toml:13:13
       |
    13 | component = ""
       |             ^^

    error: `list` is a list; configuration values are text
      --> broker.toml:14:19
       |
    14 | config = { list = [1], when = 2026-01-31 }
       |                   ^^^
       |
       = help: write a string, a number or a bool

    error: `when` is a date; configuration values are text
      --> broker.toml:14:31
       |
    14 | config = { list = [1], when = 2026-01-31 }
       |                               ^^^^^^^^^^
       |
       = help: write a string, a number or a bool
    "#);
}

#[test]
fn the_http_door() {
    assert_snapshot!(errors("[http]\nlisten = \"0.0.0.0:7656\"\n"), @r#"
    error: 0.0.0.0:7656 can be reached from other machines, and there is no token
     --> broker.toml:2:10
      |
    2 | listen = "0.0.0.0:7656"
      |          ^^^^^^^^^^^^^^
      |
      = help: add `token = { env = "PELTON_TOKEN" }` to [http], or listen on 127.0.0.1
    "#);
    assert_snapshot!(errors("[http]\nlisten = \"localhost\"\ntoken = { env = \"A\", file = \"b\" }\n"), @r#"
    error: 'localhost' is not an address
     --> broker.toml:2:10
      |
    2 | listen = "localhost"
      |          ^^^^^^^^^^^
      |
      = help: write an IP address and a port: "127.0.0.1:7656" or "[::1]:7656"

    error: `token` needs either `env` or `file`, and nothing else
     --> broker.toml:3:9
      |
    3 | token = { env = "A", file = "b" }
      |         ^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write { env = "NAME" } or { file = "path" }
    "#);
    for open in ["127.0.0.1:0", "[::1]:7656"] {
        assert_eq!(plan(&format!("[http]\nlisten = \"{open}\"")).http.listen.to_string(), open);
    }
    let token = plan("[http]\nlisten = \"[::]:1\"\ntoken = { file = \"secret\" }").http.token;
    assert_eq!(token, Some(SecretSource::File("conf/secret".into())));
}

#[test]
fn samples() {
    assert_snapshot!(errors("[dev]\nsample = { topic = \"a.{}\" }\n"), @r#"
    error: `sample` needs `file`
     --> broker.toml:2:10
      |
    2 | sample = { topic = "a.{}" }
      |          ^^^^^^^^^^^^^^^^^^
      |
      = help: write { file = "events.jsonl", topic = "github.{event}", body = "payload" }

    error: 'a.{}' has '{}' without the name of a field
     --> broker.toml:2:20
      |
    2 | sample = { topic = "a.{}" }
      |                    ^^^^^^
      |
      = help: write a topic, with {field} for fields of a line
    "#);
    assert_snapshot!(errors("[dev]\nsample = { file = \"a\", topic = \"a b.{c}\" }\n"), @r#"
    error: 'a b.{c}' makes no topic: it contains ' '; words have letters a-z and A-Z, digits, '_' and '-', with dots between them
     --> broker.toml:2:32
      |
    2 | sample = { file = "a", topic = "a b.{c}" }
      |                                ^^^^^^^^^
      |
      = help: write a topic, with {field} for fields of a line
    "#);
    assert_snapshot!(errors("[dev]\nsample = \"a.jsonl\"\n"), @r#"
    error: [dev] sample is a string; a table was expected
     --> broker.toml:2:10
      |
    2 | sample = "a.jsonl"
      |          ^^^^^^^^^
    "#);
}

#[test]
fn what_is_probably_not_meant() {
    let text = r#"
[broker]
max-message = "8MiB"
[http]
max-request = "1MiB"
[queues.a]
[queues.lonely]
[queues.trash]
[[routes]]
from = "a"
to = ["queue:a", "queue:a"]
[consumers.c]
queue = "a.dead"
component = "c.wasm"
"#;
    assert_snapshot!(warnings(text), @r#"
    warning: `max-request` is smaller than a message may be
     --> broker.toml:5:15
      |
    5 | max-request = "1MiB"
      |               ^^^^^^
      |
      = help: messages that don't fit into a request can't be published; lower [broker] max-message, or raise this

    warning: nothing is routed to the queue 'lonely'
     --> broker.toml:7:9
      |
    7 | [queues.lonely]
      |         ^^^^^^
      |
      = help: add "queue:lonely" to the `to` of a route

    warning: nothing is routed to the queue 'trash'
     --> broker.toml:8:9
      |
    8 | [queues.trash]
      |         ^^^^^
      |
      = help: add "queue:trash" to the `to` of a route

    warning: 'queue:a' stands twice: the route puts each message into this queue twice
      --> broker.toml:11:18
       |
    11 | to = ["queue:a", "queue:a"]
       |                  ^^^^^^^^^
       |
       = help: leave one out
    "#);
}

#[test]
fn a_flood_of_problems_is_cut() {
    let text: String = (0..100).map(|n| format!("[nope{n}]\n")).collect();
    let error = check(&text, Path::new("broker.toml")).expect_err("unknown tables");
    assert_eq!(error.problems.len(), super::problems::PROBLEMS_MAX + 1);
    assert_eq!(error.problems.last().map(String::as_str), Some("and 70 more"));
}

#[test]
fn too_large_files_are_refused_unread() {
    let text = "#".repeat(super::FILE_BYTES_MAX + 1);
    let error = check(&text, Path::new("broker.toml")).expect_err("too large");
    assert_eq!(error.problems.len(), 1);
    assert!(error.problems[0].starts_with("error: the file has 4194305 bytes; at most 4194304 are allowed"));
}

#[test]
fn the_nearest_word_is_a_slip_away() {
    let words = ["queue", "component", "id", "data"];
    for (word, expected) in
        [("qeue", Some("queue")), ("dta", Some("data")), ("componnet", Some("component")), ("xy", None)]
    {
        assert_eq!(nearest(word, words), expected, "{word}");
    }
    assert_eq!(nearest("a", words), None);
}

#[test]
fn no_prefix_of_a_configuration_panics() {
    for end in (0..FULL.len()).step_by(7) {
        if let Err(error) = check(&FULL[..end], Path::new("broker.toml")) {
            assert!(!error.problems.is_empty(), "{end}");
        }
    }
}
