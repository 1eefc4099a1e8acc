//! A wall clock that jumps by hours, in both directions: what goes by the wall clock follows it, everything else notices
//! nothing, and no message is lost over it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{BOUND, TestBroker, event, eventually, ids, send, subjects};

const HOUR: Duration = Duration::from_secs(3600);

const QUEUES: &str = r#"
[queues.inbox]
backoff = { initial = "1s", max = "2s", jitter = 0.0 }
[queues.work]
[queues.sink]

[[routes]]
from = "inbox"
to = ["queue:inbox"]
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
timeout = "10s"
"#;

/// Publishes a message, leases it, and asks for another try `after` some time, or by the queue's backoff.
async fn retried(broker: &TestBroker, id: &str, after: Option<&str>) {
    send(broker.batch("inbox", &[event(id, json!(1))])).await.ok();
    let lease = broker.lease("inbox", 1, "10m").await.remove(0);
    let mut settlement = json!({"token": lease["token"], "outcome": "retry"});
    if let Some(after) = after {
        settlement["after"] = json!(after);
    }
    send(broker.post("/v1/queues/inbox/settle").json(&json!({"settlements": [settlement]}))).await.ok();
}

#[tokio::test]
async fn what_is_due_comes_at_once_when_the_clock_jumps_ahead() {
    let (broker, faults) = TestBroker::start_faulty(QUEUES).await;
    retried(&broker, "in-1h", Some("1h")).await;
    retried(&broker, "in-3h", Some("3h")).await;
    broker.counts("inbox", "scheduled", 2).await;
    faults.clock_ahead(2 * HOUR);
    assert_eq!(ids(&broker.lease("inbox", 10, "10m").await), ["in-1h"]);
    broker.counts("inbox", "scheduled", 1).await;
    faults.clock_ahead(4 * HOUR);
    assert_eq!(ids(&broker.lease("inbox", 10, "10m").await), ["in-3h"]);
}

#[tokio::test]
async fn a_time_that_somebody_chose_moves_away_when_the_clock_jumps_back_and_is_not_lost() {
    let (mut broker, faults) = TestBroker::start_faulty(QUEUES).await;
    retried(&broker, "chosen", Some("1s")).await;
    faults.clock_behind(5 * HOUR);
    retried(&broker, "later", Some("1s")).await;
    assert_eq!(ids(&broker.lease("inbox", 10, "10m").await), ["later"], "what is due by the new time is not held up");
    broker.kill_9();
    broker.restart().await;
    assert_eq!(ids(&broker.lease("inbox", 10, "10m").await), ["later"], "also after a restart");
    broker.counts("inbox", "scheduled", 1).await;
    faults.clock_ahead(Duration::ZERO);
    assert_eq!(ids(&broker.lease("inbox", 10, "10m").await), ["chosen"]);
}

#[tokio::test]
async fn backoff_lasts_no_longer_though_the_clock_jumps_back() {
    let (mut broker, faults) = TestBroker::start_faulty(QUEUES).await;
    faults.clock_ahead(9 * HOUR);
    retried(&broker, "a", None).await;
    faults.clock_behind(9 * HOUR);
    assert_eq!(ids(&broker.lease("inbox", 1, "10m").await), ["a"], "without a restart");
    broker.kill_9();

    faults.clock_ahead(9 * HOUR);
    broker.restart().await;
    let lease = broker.lease("inbox", 1, "10m").await.remove(0);
    broker.settle("inbox", &lease["token"], "retry").await.ok();
    broker.kill_9();
    faults.clock_behind(9 * HOUR);
    broker.restart().await;
    assert_eq!(ids(&broker.lease("inbox", 1, "10m").await), ["a"], "with a restart");
}

#[tokio::test]
async fn leases_and_waits_do_not_go_by_the_wall_clock() {
    let (broker, faults) = TestBroker::start_faulty(QUEUES).await;
    for id in ["long", "short"] {
        send(broker.batch("inbox", &[event(id, json!(1))])).await.ok();
    }
    let long = broker.lease("inbox", 1, "10m").await.remove(0);
    let short = broker.lease("inbox", 1, "2s").await.remove(0);
    faults.clock_ahead(5 * HOUR);
    // Were it the wall clock's, both would have run out.
    assert_eq!(broker.queue("inbox").await["leased"], 2);
    faults.clock_behind(5 * HOUR);
    let again = broker.lease("inbox", 1, "10m").await.remove(0);
    assert_eq!((&again["message"]["id"], &again["attempt"]), (&json!("short"), &json!(2)), "it runs out all the same");
    assert_eq!(broker.settle("inbox", &short["token"], "ack").await.status, 409);
    broker.settle("inbox", &long["token"], "ack").await.ok();
    let start = Instant::now();
    let nothing = send(broker.post("/v1/queues/inbox/lease").json(&json!({"wait": "1s"}))).await.ok();
    assert_eq!(nothing, json!({"messages": []}));
    assert!((Duration::from_secs(1)..BOUND).contains(&start.elapsed()), "it waited for {:?}", start.elapsed());
}

#[tokio::test]
async fn deliveries_do_not_go_by_the_wall_clock() {
    let (broker, faults) = TestBroker::start_faulty(QUEUES).await;
    for jump in [6 * HOUR, Duration::ZERO, 12 * HOUR] {
        let id = broker.publish("work", "sleep:1000").await;
        broker.counts("work", "leased", 1).await;
        faults.clock_ahead(jump);
        broker.counts("sink", "ready", 1).await;
        assert_eq!(subjects(&broker.messages("sink").await), [id]);
        broker.purge("sink").await;
    }
    let done = r#"pelton_delivered_total{consumer="script",queue="work",outcome="done"}"#;
    assert_eq!(broker.metric(done).await, 3.0, "each at its first attempt");
}

#[tokio::test]
async fn the_age_of_what_comes_from_the_future_is_nothing() {
    let (broker, faults) = TestBroker::start_faulty(QUEUES).await;
    faults.clock_ahead(5 * HOUR);
    let first = broker.publish("inbox", "1").await;
    faults.clock_behind(5 * HOUR);
    let second = broker.publish("inbox", "2").await;
    eventually("the figures have both", BOUND, async || {
        let queue = broker.queue("inbox").await;
        if queue["ready"] == 2 && queue["oldest_age_ms"] == 0 { Ok(()) } else { Err(queue) }
    })
    .await;
    assert_eq!(ids(&broker.lease("inbox", 2, "10m").await), [first, second], "as accepted, whatever the clock said");
}
