//! From a failing step over retries with backoff to a dead letter, and back, with the CLI's eyes and hands.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::TestBroker;

const JOBS: &str = r#"
[queues.jobs]
max-attempts = 3
backoff = { initial = "60ms", factor = 2.0, max = "1m", jitter = 0.0 }

[queues.aside]

[[routes]]
from = "job"
to = ["queue:jobs"]

[[routes]]
from = "aside"
to = ["queue:aside"]

[consumers.flaky]
queue = "jobs"
component = "guest:flaky"
"#;

/// A broker on whose queue `jobs` one message has just died after three attempts, and its id.
async fn with_dead_letter() -> (TestBroker, String) {
    let broker = TestBroker::start(JOBS).await;
    let id = broker.publish("job", "9").await;
    broker.counts("jobs", "dead", 1).await;
    (broker, id)
}

fn attempts(dead: &Value) -> Vec<(u64, &str, &str)> {
    let history = dead["history"].as_array().expect("a dead letter has a history");
    history
        .iter()
        .map(|attempt| {
            let text = |name: &str| attempt[name].as_str().expect("a text");
            (attempt["number"].as_u64().expect("a number"), text("outcome"), text("reason"))
        })
        .collect()
}

#[tokio::test]
async fn a_flaky_step_is_tried_again_until_it_succeeds() {
    let broker = TestBroker::start(JOBS).await;
    broker.publish("job", "3").await;
    broker.holds("jobs", 0).await;
    let delivered = async |outcome: &str| {
        let series = format!("pelton_delivered_total{{consumer=\"flaky\",queue=\"jobs\",outcome=\"{outcome}\"}}");
        broker.metric(&series).await
    };
    assert_eq!((delivered("retry").await, delivered("done").await), (2.0, 1.0));
    assert_eq!(broker.queue("jobs").await["dead"], 0);
}

#[tokio::test]
async fn the_history_has_every_attempt_and_the_waits_between_them_grow() {
    let (broker, _) = with_dead_letter().await;
    let dead = broker.only_dead("jobs").await;
    assert_eq!((&dead["dead"]["code"], &dead["attempts"]), (&json!("max-attempts"), &json!(3)));
    assert_eq!(
        attempts(&dead),
        [(1, "retry", "attempt 1 of 9"), (2, "retry", "attempt 2 of 9"), (3, "retry", "attempt 3 of 9")]
    );
    let time = |attempt: &Value| attempt["at"].as_str().and_then(|at| at.parse::<Timestamp>().ok()).expect("RFC 3339");
    let at: Vec<i64> =
        dead["history"].as_array().expect("a history").iter().map(|attempt| time(attempt).as_millisecond()).collect();
    // What is kept is when a delivery started, in whole milliseconds: so the waits may seem 1 ms short.
    assert!(at[1] - at[0] >= 59 && at[2] - at[1] >= 119, "{at:?}");
}

#[tokio::test]
async fn the_cli_lists_shows_and_redrives() {
    let (broker, id) = with_dead_letter().await;
    let listed = broker.cli(["dead", "list", "--json"]).await.ok().json_lines();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["message"]["id"], &listed[0]["dead"]["origin"]), (&json!(id), &json!("jobs")));
    let shown = broker.cli(["dead", "show", "jobs", &id, "--json"]).await.ok().json();
    assert_eq!(shown["message"], listed[0]["message"]);
    assert_eq!(attempts(&shown).len(), 3);
    let people = broker.cli(["dead", "show", "jobs", &id]).await.ok().stdout;
    assert!(people.contains("attempt 3 of 9") && people.contains("max-attempts"), "{people}");

    let redriven = broker.cli(["dead", "redrive", "jobs", "--all", "--json"]).await.ok().json();
    assert_eq!(redriven["changed"], 1, "{redriven}");
    broker.holds("jobs", 0).await;
    broker.counts("jobs", "dead", 1).await;
    let again = broker.only_dead("jobs").await;
    assert_eq!(again["message"], shown["message"]);
    let numbers: Vec<u64> = attempts(&again).iter().map(|attempt| attempt.0).collect();
    assert_eq!(numbers, [1, 2, 3, 1, 2, 3], "attempts start anew, the history stays");
}

#[tokio::test]
async fn a_dead_letter_can_go_to_another_queue_or_be_discarded() {
    let (broker, id) = with_dead_letter().await;
    broker.cli(["dead", "redrive", "jobs", &id, "--to", "aside"]).await.ok();
    let aside = broker.messages("aside").await;
    assert_eq!((aside.len(), &aside[0]["message"]["id"], &aside[0]["attempts"]), (1, &json!(id), &json!(0)));
    assert_eq!(broker.queue("jobs").await["dead"], 0);

    let second = broker.publish("job", "9").await;
    broker.counts("jobs", "dead", 1).await;
    let refused = broker.cli(["dead", "discard", "jobs", "--all"]).await;
    assert_ne!(refused.status, 0, "nobody confirmed it: {refused}");
    assert_eq!(broker.queue("jobs").await["dead"], 1);
    broker.cli(["dead", "discard", "jobs", &second]).await.ok();
    assert_eq!(broker.queue("jobs").await["dead"], 0);
}
