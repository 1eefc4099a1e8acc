//! Backup while it runs, restore, export, import, verify.

use serde_json::{Value, json};

use crate::support::{
    BOUND, Load, THREE_WAYS, TestBroker, event, eventually, ids, pelton, subjects, tally, text_event,
};

const QUEUES: &str = r#"
[queues.inbox]
max-attempts = 2
backoff = { initial = "2m", max = "4m" }
[queues.ranked]
priority = true

[[routes]]
from = "inbox"
to = ["queue:inbox"]
[[routes]]
from = "ranked"
to = ["queue:ranked"]
"#;

/// A broker with messages of every kind: plain, large, tried before, waiting, dead.
async fn filled() -> TestBroker {
    let broker = TestBroker::start(QUEUES).await;
    let events: Vec<Value> = (0..50).map(|number| event(&format!("m-{number}"), json!({"n": number}))).collect();
    broker.accept("inbox", &events).await;
    broker.accept("inbox", &[text_event("large", &"all of it ".repeat(30_000))]).await;
    broker.accept("inbox?delay=2h", &[event("waiting", json!(1))]).await;
    let mut urgent = event("urgent", json!(1));
    urgent["priority"] = json!("8");
    broker.accept("ranked?ttl=5h", &[event("usual", json!(1)), urgent]).await;
    for leased in broker.lease("inbox", 2, "10m").await {
        broker.settle("inbox", &leased["token"], "retry").await.ok();
    }
    let leased = broker.lease("inbox", 1, "10m").await.remove(0);
    broker.settle("inbox", &leased["token"], "reject").await.ok();
    broker
}

const PLACES: [&str; 3] = ["inbox", "inbox.dead", "ranked"];

/// All that can be seen of the messages, but for their positions.
async fn contents(broker: &TestBroker) -> Vec<Value> {
    let mut all = Vec::new();
    for queue in PLACES {
        let mut messages = broker.messages(queue).await;
        for message in &mut messages {
            let object = message.as_object_mut().expect("an object");
            object.remove("position");
            object.insert("queue".to_owned(), json!(queue));
        }
        all.append(&mut messages);
    }
    all
}

#[tokio::test]
async fn a_backup_is_restored_as_it_was() {
    let broker = filled().await;
    let before = contents(&broker).await;
    assert_eq!(before.len(), 54);
    let answer = broker.cli(["backup", "monday.backup", "--json"]).await.ok().json();
    assert!(answer["bytes"].as_u64().is_some_and(|bytes| bytes > 300_000), "{answer}");
    broker.accept("inbox", &[event("too late for it", json!(1))]).await;
    let report = pelton(broker.folder(), ["verify", "monday.backup", "--json"]).await.ok().json();
    assert_eq!(report["problems"], json!([]), "{report}");

    let mut restored = TestBroker::prepare(QUEUES);
    let backup = broker.folder().join("monday.backup");
    let backup = backup.to_str().expect("a path");
    pelton(restored.folder(), ["restore", backup, "--data", "data"]).await.ok();
    let again = pelton(restored.folder(), ["restore", backup, "--data", "data"]).await;
    assert_ne!(again.status, 0, "data that is there is never replaced: {again}");
    restored.restart().await;
    assert_eq!(contents(&restored).await, before);
    assert_eq!(outcome_of_dead(&restored).await, "reject");
    assert_eq!(contents(&broker).await.len(), 55, "the first goes on undisturbed");
}

async fn outcome_of_dead(broker: &TestBroker) -> String {
    let dead = broker.only_dead("inbox").await;
    dead["history"][0]["outcome"].as_str().expect("it has a history").to_owned()
}

#[tokio::test]
async fn an_export_is_imported_with_all_that_is_known() {
    let broker = filled().await;
    let before = contents(&broker).await;
    let answer = broker.cli(["export", "messages.jsonl", "--json"]).await.ok().json();
    assert_eq!(answer["messages"], 54, "{answer}");
    let file = broker.folder().join("messages.jsonl");
    let text = std::fs::read_to_string(&file).expect("it was written");
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line["queue"].is_string())));

    let mut other = TestBroker::prepare(QUEUES);
    let answer = pelton(other.folder(), ["import", file.to_str().expect("a path"), "--data", "data", "--json"])
        .await
        .ok()
        .json();
    assert_eq!(answer["messages"], 54, "{answer}");
    other.restart().await;
    assert_eq!(contents(&other).await, before);
    assert_eq!(outcome_of_dead(&other).await, "reject");
    assert_eq!(ids(&other.lease("ranked", 10, "10m").await), ["urgent", "usual"]);
}

/// Under load: what is in the copy is whole, and holds what was accepted before it was asked for.
#[tokio::test]
async fn a_backup_under_load_is_of_one_moment() {
    let broker = TestBroker::start(THREE_WAYS).await;
    let mut load = Load::new(7);
    load.begin(&broker.api());
    eventually("something is accepted", BOUND, async || match load.ledger().accepted() {
        count if count > 500 => Ok(()),
        count => Err(count),
    })
    .await;
    let before = tally(ids(&broker.messages("held").await));
    broker.cli(["backup", "copy"]).await.ok();
    load.end().await;
    let report = pelton(broker.folder(), ["verify", "copy", "--json"]).await.ok().json();
    assert_eq!(report["problems"], json!([]), "{report}");
    let mut restored = TestBroker::prepare(THREE_WAYS);
    let copy = broker.folder().join("copy");
    pelton(restored.folder(), ["restore", copy.to_str().expect("a path"), "--data", "data"]).await.ok();
    restored.restart().await;
    let after = tally(ids(&restored.messages("held").await));
    assert!(before.keys().all(|id| after.contains_key(id)), "it has all that was there when it was asked for");
    // What had not been handled then is handled there; each message came to exactly one of two ends.
    restored.holds("work", 0).await;
    let mut ends = tally(subjects(&restored.messages("sink").await));
    ends.append(&mut tally(ids(&restored.dead("work").await)));
    assert_eq!(ends, after);
    load.audit(&broker).await;
}

#[tokio::test]
async fn verify_finds_what_is_damaged_and_an_export_saves_the_rest() {
    let mut broker = filled().await;
    let busy = pelton(broker.folder(), ["verify", "--data", "data"]).await;
    assert_eq!(busy.status, 6, "the store of a running broker is in use: {busy}");
    broker.sigterm();
    assert_eq!(broker.ended().await.code(), Some(0));
    let report = pelton(broker.folder(), ["verify", "--data", "data", "--json"]).await.ok().json();
    assert_eq!((&report["problems"], &report["closed_in_order"]), (&json!([]), &json!(true)), "{report}");

    let file = broker.folder().join("data/pelton.redb");
    let mut bytes = std::fs::read(&file).expect("the store is there");
    let places: Vec<usize> =
        bytes.windows(10).enumerate().filter(|(_, window)| *window == b"all of it ").map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 1;
    }
    std::fs::write(&file, bytes).expect("the folder is writable");
    let output = pelton(broker.folder(), ["verify", "--data", "data", "--json"]).await;
    assert_eq!(output.status, 6, "{output}");
    assert!(!output.json()["problems"].as_array().expect("a list").is_empty(), "{output}");
    let output = pelton(broker.folder(), ["export", "rest.jsonl", "--data", "data", "--json"]).await;
    assert_eq!(output.status, 9, "{output}");
    assert_eq!(output.json()["messages"], 53, "all but the damaged one: {output}");
}
