//! Guests that misbehave: each hurts only its own message, and the history says what happened.

use serde_json::{Value, json};

use crate::support::{BOUND, TestBroker, eventually};

/// A queue `NAME` with one try, fed by the topic `NAME`, consumed by the guest `NAME` under `settings`.
fn lane(name: &str, settings: &str) -> String {
    format!(
        r#"
[queues.{name}]
max-attempts = 1

[[routes]]
from = "{name}"
to = ["queue:{name}"]

[consumers.{name}]
queue = "{name}"
component = "guest:{name}"
concurrency = 2
{settings}
"#
    )
}

const SINK: &str = r#"
[sandbox]
slots = 16

[queues.sink]

[[routes]]
from = "done"
to = ["queue:sink"]
"#;

/// The dead letter that one message with `body` becomes in the lane of `guest`.
async fn dead_letter(guest: &str, settings: &str, body: &str) -> (TestBroker, Value) {
    let broker = TestBroker::start(&format!("{SINK}{}", lane(guest, settings))).await;
    broker.publish(guest, body.to_owned()).await;
    let dead = broker.only_dead(guest).await;
    assert_eq!(dead["history"].as_array().map(Vec::len), Some(1), "{dead:#}");
    assert_eq!(dead["dead"]["origin"], json!(guest));
    assert_eq!(broker.depth("sink").await, 0, "nothing is emitted");
    (broker, dead)
}

fn text<'a>(dead: &'a Value, name: &str) -> &'a str {
    dead["history"][0][name].as_str().unwrap_or_else(|| panic!("the attempt has a {name}: {dead:#}"))
}

/// Asserts that one delivery to `guest` ends with `outcome`, and that reason and log tail contain these texts.
async fn check(guest: &str, settings: &str, outcome: &str, reason: &str, log: &str) {
    let (_broker, dead) = dead_letter(guest, settings, "1").await;
    assert_eq!((text(&dead, "outcome"), &dead["dead"]["code"]), (outcome, &json!("max-attempts")), "{dead:#}");
    assert!(text(&dead, "reason").contains(reason), "{dead:#}");
    assert!(text(&dead, "log_tail").contains(log), "{dead:#}");
    assert_eq!(text(&dead, "digest").len(), 64, "which component it was");
}

#[tokio::test]
async fn a_panic_is_a_trap_with_its_message() {
    check("trap", "", "trap", "makes me panic", "makes me panic").await;
}

#[tokio::test]
async fn an_exit_is_a_trap() {
    check("exit", "", "trap", "exit", "").await;
}

#[tokio::test]
async fn endless_recursion_ends_at_the_stack() {
    check("recurse", "", "stack", "", "").await;
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_timeout() {
    check("spin", "timeout = \"300ms\"", "timeout", "300ms", "").await;
}

#[tokio::test]
async fn an_endless_sleep_ends_at_its_timeout() {
    check("sleep", "timeout = \"300ms\"", "timeout", "300ms", "").await;
}

#[tokio::test]
async fn a_memory_bomb_ends_at_its_limit() {
    check("grow", "memory = \"16MiB\"", "memory", "16", "").await;
}

#[tokio::test]
async fn emitting_without_end_ends_and_emits_nothing() {
    let settings = "timeout = \"2s\"\nmax-emits = 100\nconfig = { topic = \"done\" }";
    let (_broker, dead) = dead_letter("emit-forever", settings, "1").await;
    assert!(["emits", "timeout"].contains(&text(&dead, "outcome")), "{dead:#}");
}

#[tokio::test]
async fn a_rejected_message_is_dead_at_once_and_emits_nothing() {
    let (_broker, dead) = dead_letter("reject", "config = { topic = \"done\" }", "1").await;
    assert_eq!((text(&dead, "outcome"), &dead["dead"]["code"]), ("reject", &json!("rejected")), "{dead:#}");
    assert!(text(&dead, "reason").ends_with("is not for me"), "{dead:#}");
    assert!(text(&dead, "log_tail").ends_with("stdout: never mind"), "what is no whole line is kept, too: {dead:#}");
}

#[tokio::test]
async fn a_loop_of_emits_ends_at_the_bound_on_hops() {
    let toml = format!("[broker]\nmax-hops = 5\n{}", lane("loop-emit", ""));
    let broker = TestBroker::start(&toml).await;
    broker.publish("loop-emit", "round and round").await;
    let dead = broker.only_dead("loop-emit").await;
    assert_eq!(dead["dead"]["code"], "too-many-hops", "{dead:#}");
    let detail = dead["dead"]["detail"].as_str().expect("a text");
    assert!(detail.contains("'loop-emit'") && detail.contains("max-hops"), "{detail}");
    broker.holds("loop-emit", 0).await;
    let done = r#"pelton_delivered_total{consumer="loop-emit",queue="loop-emit",outcome="done"}"#;
    assert_eq!(broker.metric(done).await, 6.0, "five emits, and the one that was too many");
}

#[tokio::test]
async fn megabytes_of_output_are_cut_and_harm_nobody() {
    let toml = format!("{SINK}{}", lane("print-megabytes", "max-log = \"8KiB\"\ntimeout = \"30s\""));
    let broker = TestBroker::start(&toml).await;
    broker.publish("print-megabytes", "8").await;
    broker.holds("print-megabytes", 0).await;
    assert!(broker.dead("print-megabytes").await.is_empty(), "printing is no fault");
}

/// 32 endless loops at a time, for 20 s, beside a consumer that behaves.
const BURNING: &str = r#"
[sandbox]
slots = 48

[queues.work]
[queues.sink]
[queues.spin-a]
max-attempts = 1
[queues.spin-b]
max-attempts = 1

[[routes]]
from = "work"
to = ["queue:work"]
[[routes]]
from = "done"
to = ["queue:sink"]
[[routes]]
from = "spin"
to = ["queue:spin-a", "queue:spin-b"]

[consumers.echo]
queue = "work"
component = "guest:echo"
config = { topic = "done" }
concurrency = 4

[consumers.spin-a]
queue = "spin-a"
component = "guest:spin"
concurrency = 16
timeout = "2s"

[consumers.spin-b]
queue = "spin-b"
component = "guest:spin"
concurrency = 16
timeout = "2s"
"#;

#[tokio::test]
async fn endless_loops_do_not_slow_other_consumers_down() {
    let broker = TestBroker::start(BURNING).await;
    broker.publish_many("spin", 160, json!(1)).await;
    for queue in ["spin-a", "spin-b"] {
        broker.counts(queue, "leased", 16).await;
    }
    broker.publish_many("work", 200, json!(1)).await;
    broker.holds("sink", 200).await;
    for queue in ["spin-a", "spin-b"] {
        let left = broker.depth(queue).await;
        assert!(left > 0, "the 200 were through while the loops still ran: {}", broker.queue(queue).await);
    }
    let dead = eventually("a loop was ended", BOUND, async || broker.dead("spin-a").await.pop().ok_or("none")).await;
    let dead = broker.get(&format!("/v1/queues/spin-a/dead/{}", dead["position"])).await.ok();
    let took_us = dead["history"][0]["duration_us"].as_u64().expect("a time");
    assert!((2_000_000..6_000_000).contains(&took_us), "ended near its timeout of 2 s: {took_us} us");
}
