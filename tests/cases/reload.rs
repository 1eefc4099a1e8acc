//! A changed broker.toml: taken over whole by SIGHUP or a restart, or not at all; and no message is lost over it.

use serde_json::json;

use crate::support::{BOUND, TestBroker, eventually, ids, subjects};

const ECHO: &str = r#"
[queues.work]
[queues.first]
[queues.second]

[[routes]]
from = "work"
to = ["queue:work"]

[[routes]]
from = "first"
to = ["queue:first"]

[[routes]]
from = "second"
to = ["queue:second"]

[consumers.echo]
queue = "work"
component = "guest:echo"
config = { topic = "first" }
"#;

#[tokio::test]
async fn sighup_takes_over_what_is_right_and_refuses_what_is_wrong() {
    let broker = TestBroker::start(ECHO).await;
    let one = broker.publish("work", "1").await;
    broker.holds("first", 1).await;

    broker.rewrite(|toml| toml.replace("topic = \"first\"", "topic = \"second\""));
    broker.sighup();
    said(&broker, "reloaded").await;
    let two = broker.publish("work", "2").await;
    broker.holds("second", 1).await;

    // Half of it is right; none of it is taken.
    broker.rewrite(|toml| {
        toml.replace("topic = \"second\"", "topic = \"first\"").replace("queue = \"work\"", "queue = \"wrok\"")
    });
    broker.sighup();
    said(&broker, "did you mean 'work'").await;
    let three = broker.publish("work", "3").await;
    broker.holds("second", 2).await;
    assert_eq!(subjects(&broker.messages("first").await), [one]);
    assert_eq!(subjects(&broker.messages("second").await), [two, three]);
}

async fn said(broker: &TestBroker, what: &str) {
    eventually(&format!("the broker says {what:?}"), BOUND, async || match broker.said() {
        said if said.contains(what) => Ok(()),
        said => Err(said),
    })
    .await;
}

#[tokio::test]
async fn a_queue_no_longer_in_the_file_keeps_its_messages() {
    let mut broker = TestBroker::start(ECHO).await;
    let id = broker.publish("second", "1").await;
    broker.sigterm();
    assert_eq!(broker.ended().await.code(), Some(0));
    let route = "[[routes]]\nfrom = \"second\"\nto = [\"queue:second\"]\n";
    broker.rewrite(|toml| toml.replace("[queues.second]\n", "").replace(route, ""));
    broker.restart().await;

    let queue = broker.queue("second").await;
    assert_eq!((&queue["declared"], &queue["ready"]), (&json!(false), &json!(1)));
    let lease = broker.lease("second", 1, "60s").await.remove(0);
    assert_eq!(ids(std::slice::from_ref(&lease)), [id]);
    broker.settle("second", &lease["token"], "ack").await.ok();
    assert_eq!(broker.depth("second").await, 0);
}
