//! A message that brings the broker down: its delivery is known as lost, it is tried alone, and not for ever.

use serde_json::{Value, json};

use crate::support::{BOUND, TestBroker, eventually, ids, subjects, text_event};

const QUEUES: &str = r#"
[sandbox]
slots = 16

[queues.work]
max-attempts = 3
[queues.sink]

[[routes]]
from = "work"
to = ["queue:work"]
[[routes]]
from = "done"
to = ["queue:sink"]

[consumers.script]
queue = "work"
component = "guest:script"
config = { topic = "done" }
concurrency = 4
timeout = "1m"
"#;

/// Words of the record of running deliveries before its first slot, and of each slot. A slot begins with its checksum, or zero.
const HEAD_WORDS: usize = 16;
const SLOT_WORDS: usize = 32;

/// Waits until `count` messages of `work` are being handled. A message counts as leased a moment before its delivery begins.
async fn running(broker: &TestBroker, count: u64) {
    eventually(&format!("{count} deliveries run"), BOUND, async || {
        let queue = broker.queue("work").await;
        let record = std::fs::read(broker.folder().join("data/in-flight")).expect("the record is there");
        let begun = record.chunks_exact(8).skip(HEAD_WORDS).step_by(SLOT_WORDS).filter(|word| *word != [0; 8]).count();
        if queue["leased"] == json!(count) && begun as u64 == count {
            Ok(())
        } else {
            Err(format!("{queue}, begun: {begun}"))
        }
    })
    .await;
}

fn outcomes(stored: &Value) -> Vec<&str> {
    let history = stored["history"].as_array().expect("a history");
    history.iter().map(|attempt| attempt["outcome"].as_str().expect("a word")).collect()
}

#[tokio::test]
async fn a_message_that_kills_the_broker_each_time_becomes_a_dead_letter() {
    let mut broker = TestBroker::start(QUEUES).await;
    broker.accept("work", &[text_event("deadly", "sleep:50000")]).await;
    for attempt in 1..=3 {
        running(&broker, 1).await;
        broker.kill_9();
        broker.restart().await;
        if attempt < 3 {
            broker.counts("work", "leased", 1).await;
            assert_eq!(broker.messages("work").await[0]["attempts"], json!(attempt), "each counts");
        }
    }
    let dead = broker.only_dead("work").await;
    assert_eq!((&dead["message"]["id"], &dead["dead"]["code"]), (&json!("deadly"), &json!("max-attempts")), "{dead:#}");
    assert_eq!(outcomes(&dead), ["lost", "lost", "lost"]);
    let reason = dead["history"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("'script'"), "it names the consumer: {reason}");
    assert_eq!(broker.depth("work").await, 0);
    assert_eq!(broker.depth("sink").await, 0);
}

#[tokio::test]
async fn what_was_lost_is_tried_alone_before_the_rest() {
    let mut broker = TestBroker::start(QUEUES).await;
    let lost: Vec<Value> =
        (0..3).map(|number| text_event(&format!("lost-{number}"), "sleep:50000 sleep:700")).collect();
    broker.accept("work", &lost).await;
    running(&broker, 3).await;
    let waiting: Vec<Value> = (0..20).map(|number| text_event(&format!("m-{number}"), "done")).collect();
    broker.cli(["pause", "queue", "work"]).await.ok();
    broker.accept("work", &waiting).await;
    broker.kill_9();
    broker.restart().await;
    assert!(broker.messages("work").await.iter().take(3).all(|stored| stored["attempts"] == json!(1)));
    broker.cli(["resume", "queue", "work"]).await.ok();
    broker.holds("sink", 23).await;
    let sink = broker.messages("sink").await;
    let order = subjects(&sink);
    // Each sleeps for so long that others beside it would be done before.
    assert_eq!(order[..3], ["lost-0", "lost-1", "lost-2"], "{order:?}");
    let together = r#"pelton_delivered_total{consumer="script",queue="work",outcome="done"}"#;
    assert_eq!(broker.metric(together).await, 23.0);
}

#[tokio::test]
async fn an_orderly_end_loses_no_delivery() {
    let mut broker = TestBroker::start_with(QUEUES, &["--grace", "200ms"]).await;
    broker.accept("work", &[text_event("long", "sleep:50000 done")]).await;
    running(&broker, 1).await;
    broker.sigterm();
    assert_eq!(broker.ended().await.code(), Some(0), "{}", broker.said());
    broker.restart().await;
    broker.counts("work", "leased", 1).await;
    let stored = broker.messages("work").await;
    assert_eq!((ids(&stored), &stored[0]["attempts"]), (vec!["long"], &json!(0)), "cut off, and not counted");
}
