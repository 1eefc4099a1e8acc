//! SIGTERM: an orderly stop loses nothing, settles nothing twice, and waits for what runs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{BOUND, TestBroker, eventually, ids, try_send, without_consumers};

/// `slow` sleeps as many milliseconds as the body says, on a queue that its messages do not leave otherwise.
const SLOW: &str = r#"
[sandbox]
slots = 8

[queues.slow]
[queues.copy]

[[routes]]
from = "slow"
to = ["queue:slow", "queue:copy"]

[consumers.slow]
queue = "slow"
component = "guest:slow"
concurrency = 4
timeout = "20s"
"#;

/// Waits until `count` messages of `slow` are being handled. A message counts as leased a moment before its delivery begins,
/// and would then be given back; one that has been there for so long has begun.
async fn running(broker: &TestBroker, count: u64) {
    eventually(&format!("{count} deliveries run"), BOUND, async || {
        let queue = broker.queue("slow").await;
        let is_begun = queue["oldest_age_ms"].as_u64().is_some_and(|age| age >= 500);
        if queue["leased"] == json!(count) && is_begun { Ok(()) } else { Err(queue) }
    })
    .await;
}

#[tokio::test]
async fn sigterm_lets_running_deliveries_finish_and_keeps_the_rest() {
    let mut broker = TestBroker::start(SLOW).await;
    broker.publish_many("slow", 12, json!(2500)).await;
    running(&broker, 4).await;
    broker.sigterm();
    let status = broker.ended().await;
    assert_eq!(status.code(), Some(0), "{}", broker.said());

    broker.rewrite(without_consumers);
    broker.restart().await;
    let left = broker.messages("slow").await;
    let copies = broker.messages("copy").await;
    assert_eq!(copies.len(), 12);
    // The four that ran are through; none that waited was begun, and nobody has lost an attempt.
    assert_eq!(left.len(), 8, "{left:#?}");
    assert!(left.iter().all(|message| message["attempts"] == json!(0) && message["leased"] == json!(false)));
    let (left, all): (BTreeSet<_>, BTreeSet<_>) =
        (ids(&left).into_iter().collect(), ids(&copies).into_iter().collect());
    assert!(left.is_subset(&all));
}

#[tokio::test]
async fn while_it_stops_nothing_new_is_accepted() {
    let mut broker = TestBroker::start(SLOW).await;
    broker.publish("slow", "3000").await;
    running(&broker, 1).await;
    broker.sigterm();
    // A delivery runs for 3 s, so the process is there; publishes are answered no, or not at all, before it ends.
    let api = broker.api();
    let mut accepted = 1;
    loop {
        let request = api.post("/v1/topics/slow").body("1");
        match try_send(request).await {
            Ok(reply) if reply.status == 200 => accepted += 1,
            Ok(reply) => break assert_eq!(reply.status, 503, "{reply}"),
            Err(_) => break,
        }
    }
    assert!(broker.runs(), "it still waits for the delivery");
    assert_eq!(broker.ended().await.code(), Some(0), "{}", broker.said());

    broker.rewrite(without_consumers);
    broker.restart().await;
    assert_eq!(
        broker.messages("copy").await.len(),
        accepted,
        "what was accepted while it stopped is there, and no more"
    );
    let left: Vec<Value> = broker.messages("slow").await;
    assert!(left.len() < accepted, "the delivery that ran is through: {left:#?}");
}

#[tokio::test]
async fn a_delivery_that_does_not_end_in_time_is_cut_and_comes_back_uncounted() {
    let toml = SLOW.replace("\"guest:slow\"", "\"guest:spin\"").replace("\"20s\"", "\"1h\"");
    let mut broker = TestBroker::start_with(&toml, &["--grace", "300ms"]).await;
    broker.publish("slow", "1").await;
    broker.counts("slow", "leased", 1).await;
    broker.sigterm();
    assert_eq!(broker.ended().await.code(), Some(0), "{}", broker.said());

    broker.rewrite(without_consumers);
    broker.restart().await;
    let left = broker.messages("slow").await;
    assert_eq!((left.len(), &left[0]["attempts"], &left[0]["leased"]), (1, &json!(0), &json!(false)), "{left:#?}");
}
