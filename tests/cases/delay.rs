//! Messages for later: not delivered before their time, kept over crashes, and cancelled by the handle that publishing returned.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::{BOUND, TestBroker, event, eventually, ids, send, subjects, text_event, with};

const REMINDERS: &str = r#"
[queues.inbox]
[queues.copy]
[queues.work]
[queues.sink]

[[routes]]
from = "inbox"
to = ["queue:inbox"]
[[routes]]
from = "both"
to = ["queue:inbox", "queue:copy"]
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
"#;

/// This moment and some, as RFC 3339.
fn moment_in(time: Duration) -> String {
    (Timestamp::now() + time).to_string()
}

#[tokio::test]
async fn nothing_is_delivered_before_its_time_however_it_is_said() {
    let broker = TestBroker::start(REMINDERS).await;
    let delay = Duration::from_millis(1500);
    let start = Instant::now();
    broker.accept("inbox?delay=1500ms", &[event("delay", json!(1))]).await;
    broker.accept(&format!("inbox?at={}", moment_in(delay)), &[event("at", json!(1))]).await;
    let attribute = with(event("attribute", json!(1)), &json!({"deliverytime": moment_in(delay)}));
    broker.accept("inbox", &[attribute, event("now", json!(1))]).await;
    assert_eq!(ids(&broker.lease("inbox", 10, "10m").await), ["now"], "the others hold nobody up");
    let queue = broker.queue("inbox").await;
    assert_eq!((&queue["scheduled"], &queue["ready"], &queue["leased"]), (&json!(3), &json!(0), &json!(1)), "{queue}");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for leased in broker.lease("inbox", 10, "10m").await {
            assert!(start.elapsed() >= delay, "{leased} after {:?}", start.elapsed());
            assert_eq!(leased["attempt"], 1, "waiting is no attempt");
            seen.push(ids(std::slice::from_ref(&leased))[0].to_owned());
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ["at", "attribute", "delay"]);
}

#[tokio::test]
async fn a_component_gets_it_when_it_is_due() {
    let broker = TestBroker::start(REMINDERS).await;
    let start = Instant::now();
    broker.accept("work?delay=1s", &[text_event("later", "done")]).await;
    broker.accept("work", &[text_event("now", "done")]).await;
    broker.holds("sink", 2).await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(subjects(&broker.messages("sink").await), ["now", "later"]);
}

#[tokio::test]
async fn a_time_outlives_crashes_and_its_order_is_that_of_the_times() {
    let (mut broker, faults) = TestBroker::start_faulty(REMINDERS).await;
    for hours in [3, 1, 2] {
        broker.accept(&format!("inbox?delay={hours}h"), &[event(&format!("in-{hours}h"), json!(1))]).await;
    }
    broker.accept("inbox?delay=366days", &[event("in-a-year", json!(1))]).await;
    let before = broker.messages("inbox").await;
    assert_eq!(ids(&before), ["in-1h", "in-2h", "in-3h", "in-a-year"]);
    let due = |stored: &Value| stored["due"].as_str().and_then(|due| due.parse::<Timestamp>().ok()).expect("a time");
    assert!(due(&before[0]) > Timestamp::now() + Duration::from_secs(3500));
    broker.kill_9();
    broker.restart().await;
    assert_eq!(broker.messages("inbox").await, before);
    faults.clock_ahead(Duration::from_secs(4 * 3600));
    broker.counts("inbox", "ready", 3).await;
    assert_eq!(ids(&broker.lease("inbox", 10, "10m").await), ["in-1h", "in-2h", "in-3h"]);
    assert_eq!(broker.queue("inbox").await["scheduled"], 1);
}

#[tokio::test]
async fn a_handle_cancels_in_all_queues_until_it_is_too_late() {
    let mut broker = TestBroker::start(REMINDERS).await;
    let publish = async |broker: &TestBroker, topic: &str, id: &str| {
        let answer = broker.accept(topic, &[event(id, json!(1))]).await.remove(0);
        answer["scheduled"].as_str().expect("a handle").to_owned()
    };
    let [first, second] =
        [publish(&broker, "both?delay=1h", "first").await, publish(&broker, "both?delay=1h", "second").await];
    let soon = publish(&broker, "inbox?delay=200ms", "soon").await;
    let cancel =
        async |broker: &TestBroker, handle: &str| send(broker.delete(&format!("/v1/scheduled/{handle}"))).await;

    assert_eq!(cancel(&broker, &first).await.ok(), json!({"cancelled": 2, "of": 2}));
    let again = cancel(&broker, &first).await;
    assert_eq!((again.status, &again.json()["code"]), (404, &json!("unknown-handle")), "{again}");
    assert_eq!(ids(&broker.lease("inbox", 1, "10m").await), ["soon"]);
    let late = cancel(&broker, &soon).await;
    assert_eq!((late.status, &late.json()["code"]), (409, &json!("too-late")), "{late}");
    let wrong = cancel(&broker, "no-handle").await;
    assert_eq!((wrong.status, &wrong.json()["code"]), (400, &json!("invalid-handle")), "{wrong}");

    broker.kill_9();
    broker.restart().await;
    assert_eq!((broker.depth("inbox").await, broker.depth("copy").await), (2, 1), "what was cancelled stays so");
    let output = broker.cli(["cancel", &second, "--json"]).await.ok().json();
    assert_eq!((&output["cancelled"], &output["of"]), (&json!(2), &json!(2)), "a handle outlives a restart");
    assert_eq!((broker.depth("inbox").await, broker.depth("copy").await), (1, 0));
}

#[tokio::test]
async fn the_cli_publishes_for_later() {
    let broker = TestBroker::start(REMINDERS).await;
    let printed = broker.cli(["publish", "inbox", "text", "--id", "one", "--delay", "1h"]).await.ok();
    let (id, handle) = printed.stdout.trim().split_once(' ').expect("an id and a handle");
    assert_eq!(id, "one");
    assert_eq!(broker.queue("inbox").await["scheduled"], 1);
    broker.cli(["cancel", handle]).await.ok();
    let late = broker.cli(["cancel", handle]).await;
    assert_eq!(late.status, 8, "{late}");
    assert_eq!(broker.depth("inbox").await, 0);
}

#[tokio::test]
async fn times_that_can_not_be_are_refused_and_nothing_is_stored() {
    let broker = TestBroker::start(REMINDERS).await;
    let year = Duration::from_secs(367 * 24 * 3600);
    let check = async |parameters: &str, attributes: Value, code: &str, said: &str| {
        let events = [event("fine", json!(1)), with(event("wrong", json!(1)), &attributes)];
        let reply = send(broker.batch(&format!("inbox{parameters}"), &events)).await;
        assert_eq!((reply.status, &reply.json()["code"]), (400, &json!(code)), "{parameters} {attributes}: {reply}");
        assert!(reply.text.contains(said), "{parameters} {attributes}: {reply}");
    };
    check("?delay=367days", json!({}), "invalid-request", "delay").await;
    check("?delay=soon", json!({}), "invalid-request", "delay").await;
    check("?delay=1s&at=2030-01-01T00:00:00Z", json!({}), "invalid-request", "at").await;
    check("?ttl=0s", json!({}), "invalid-request", "ttl").await;
    check(&format!("?at={}", moment_in(year)), json!({}), "invalid-request", "at").await;
    check("", json!({"deliverytime": moment_in(year)}), "invalid-attribute", "deliverytime").await;
    check("", json!({"deliverytime": "tomorrow"}), "invalid-attribute", "deliverytime").await;
    check("", json!({"expirytime": "12:00"}), "invalid-attribute", "expirytime").await;
    check("?delay=1s", json!({"deliverytime": moment_in(BOUND)}), "invalid-attribute", "deliverytime").await;
    eventually("nothing of them is stored", BOUND, async || match broker.depth("inbox").await {
        0 => Ok(()),
        count => Err(count),
    })
    .await;
}
