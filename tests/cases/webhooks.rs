//! Real webhooks through the real example: every one is accounted for, wherever the routes send it.

use std::path::Path;

use serde_json::Value;

use super::examples::example;
use crate::support::{TestBroker, root};

/// Where the collection of real webhooks lies, if this machine has it.
const COLLECTION: &str = "../shared/data/github-webhooks.jsonl";

/// The lines of a file of webhooks: `{"event": .., "payload": {..}}`.
pub(super) fn sample_of(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("the file is there");
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    text.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
}

/// What the routes and consumers of examples/github-webhooks make of webhooks, by rules written a second time.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Expected {
    archive: u64,
    pub(super) triage: u64,
    /// What triage emits: drafts excepted, one for each.
    pub(super) notify: u64,
    pushes: u64,
    stars: u64,
}

impl Expected {
    pub(super) fn of(lines: &[Value]) -> Self {
        let mut expected = Self { archive: lines.len() as u64, ..Self::default() };
        for line in lines {
            let payload = &line["payload"];
            let action = payload["action"].as_str().unwrap_or_default();
            match line["event"].as_str().expect("a webhook has an event") {
                "issues" if ["opened", "reopened"].contains(&action) => {
                    expected.triage += 1;
                    expected.notify += 1;
                }
                "pull_request" if ["opened", "reopened", "ready_for_review", "synchronize"].contains(&action) => {
                    expected.triage += 1;
                    expected.notify += u64::from(payload["pull_request"]["draft"] != Value::Bool(true));
                }
                "push" => expected.pushes += 1,
                "star" => expected.stars += 1,
                _ => {}
            }
        }
        expected
    }
}

/// Waits until all is through, and asserts that it is where it was expected, once.
pub(super) async fn check_webhooks(broker: &TestBroker, expected: &Expected) {
    broker.holds("archive", expected.archive).await;
    for queue in ["triage", "pushes", "notify"] {
        broker.holds(queue, 0).await;
    }
    let mut found = Expected { archive: expected.archive, ..Expected::default() };
    found.triage = settled(broker, "triage", "triage").await;
    found.notify = settled(broker, "notify", "notify").await;
    found.pushes = settled(broker, "push-stats", "pushes").await;
    found.stars = broker.depth("stars").await + broker.queue("stars").await["dead"].as_u64().expect("a count");
    assert_eq!(found, *expected);
}

/// Messages of `queue` that `consumer` is through with: done, or dead.
async fn settled(broker: &TestBroker, consumer: &str, queue: &str) -> u64 {
    let series = format!("pelton_delivered_total{{consumer=\"{consumer}\",queue=\"{queue}\",outcome=\"done\"}}");
    let done = broker.metric(&series).await as u64;
    done + broker.queue(queue).await["dead"].as_u64().expect("a count")
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "whoever runs the tests should know what was not run")]
async fn every_one_of_329_real_webhooks_is_accounted_for() {
    let collection = root().join(COLLECTION);
    if !collection.is_file() {
        eprintln!("skipped: there is no {}", collection.display());
        return;
    }
    let example = example("github-webhooks", "webhooks").await;
    let broker = TestBroker::dev(&example.home, &["--no-sample"]).await;
    let file = collection.to_str().expect("paths are UTF-8");
    let args = ["publish", "github.{event}", "--jsonl", file, "--body", "payload", "--json"];
    let summary = broker.cli(args).await.ok().json();
    let lines = sample_of(&collection);
    assert_eq!(summary["accepted"].as_u64(), Some(lines.len() as u64), "{summary}");
    assert_eq!(lines.len(), 329);
    check_webhooks(&broker, &Expected::of(&lines)).await;

    let listed = broker.cli(["queues", "--json"]).await.ok().json_lines();
    let dead: u64 = listed.iter().map(|queue| queue["dead"].as_u64().expect("a count")).sum();
    let letters = broker.cli(["dead", "list", "--max", "0", "--json"]).await.ok().json_lines();
    assert_eq!(letters.len() as u64, dead, "`dead list` shows what `queues` counts");
    assert!(letters.iter().all(|letter| letter["dead"]["code"] == "rejected"), "{letters:#?}");
}
