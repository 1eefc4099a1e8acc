//! Pull consumers: lease, settle, extend; and leases that run out.

use serde_json::{Value, json};

use crate::support::{TestBroker, ids, send};

const INBOX: &str = r##"
[queues.inbox]
max-attempts = 2
backoff = { initial = "10ms", jitter = 0.0 }

[[routes]]
from = "#"
to = ["queue:inbox"]
"##;

#[tokio::test]
async fn messages_come_in_order_and_are_hidden_while_leased() {
    let broker = TestBroker::start(INBOX).await;
    let mut published = Vec::new();
    for body in ["a", "b", "c"] {
        published.push(broker.publish("x.y", body).await);
    }
    let first = broker.lease("inbox", 2, "60s").await;
    assert_eq!(ids(&first), published[..2]);
    assert_eq!(first[0]["message"]["data"], "a");
    assert_eq!((&first[0]["topic"], &first[0]["attempt"]), (&json!("x.y"), &json!(1)));
    let second = broker.lease("inbox", 10, "60s").await;
    assert_eq!(ids(&second), published[2..]);
    assert_eq!(broker.queue("inbox").await["leased"], 3);
    for leased in first.iter().chain(&second) {
        broker.settle("inbox", &leased["token"], "ack").await.ok();
    }
    assert_eq!(broker.depth("inbox").await, 0);
}

#[tokio::test]
async fn retry_comes_back_with_its_attempt_counted_and_reject_is_final() {
    let broker = TestBroker::start(INBOX).await;
    let id = broker.publish("x", "a").await;
    let lease = broker.lease("inbox", 1, "60s").await.remove(0);
    broker.settle("inbox", &lease["token"], "retry").await.ok();
    let lease = broker.lease("inbox", 1, "60s").await.remove(0);
    assert_eq!((&lease["message"]["id"], &lease["attempt"]), (&json!(id), &json!(2)));
    let body = json!({"settlements": [{"token": lease["token"], "outcome": "reject", "reason": "no use"}]});
    send(broker.post("/v1/queues/inbox/settle").json(&body)).await.ok();
    let dead = broker.only_dead("inbox").await;
    assert_eq!((&dead["dead"]["code"], &dead["dead"]["detail"]), (&json!("rejected"), &json!("no use")));
    let outcomes: Vec<&Value> =
        dead["history"].as_array().expect("a history").iter().map(|attempt| &attempt["outcome"]).collect();
    assert_eq!(outcomes, [&json!("retry"), &json!("reject")]);
}

#[tokio::test]
async fn the_cli_names_every_lease_that_it_could_not_settle() {
    let broker = TestBroker::start(INBOX).await;
    let output = broker.cli(["publish", "x", "a"]).await.ok();
    assert!(!output.stdout.is_empty());
    let time = broker.messages("inbox").await[0]["message"]["time"].clone();
    assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "a message of the CLI has a time: {time}");
    let none = broker.cli(["settle", "inbox", "one", "two", "--ack"]).await;
    assert_eq!(none.status, 8, "{none}");
    assert!(none.stderr.contains("one: ") && none.stderr.contains("two: "), "{none}");
    let leased = broker.cli(["lease", "inbox"]).await.ok().json();
    let token = leased["token"].as_str().expect("a lease has a token");
    let some = broker.cli(["settle", "inbox", token, "two", "--ack"]).await;
    assert_eq!(some.status, 9, "{some}");
    assert!(some.stderr.contains("two: ") && some.stderr.contains("1 of 2"), "{some}");
}

#[tokio::test]
async fn a_lease_that_runs_out_counts_as_an_attempt() {
    let broker = TestBroker::start(INBOX).await;
    let id = broker.publish("x", "a").await;
    let first = broker.lease("inbox", 1, "1s").await.remove(0);
    let second = broker.lease("inbox", 1, "1s").await.remove(0);
    assert_eq!(
        (ids(std::slice::from_ref(&second))[0], &second["attempt"]),
        (id.as_str(), &json!(2)),
        "after the first ran out"
    );
    let late = broker.settle("inbox", &first["token"], "ack").await;
    assert_eq!((late.status, &late.json()["code"]), (409, &json!("lease-lost")), "{late}");
    let dead = broker.only_dead("inbox").await;
    assert_eq!((&dead["dead"]["code"], &dead["message"]["id"]), (&json!("max-attempts"), &json!(id)), "{dead:#}");
    assert_eq!(dead["history"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn an_extended_lease_lasts_longer() {
    let broker = TestBroker::start(INBOX).await;
    broker.publish("x", "a").await;
    broker.publish("x", "b").await;
    let leases = broker.lease("inbox", 2, "1s").await;
    let body = json!({"leases": [{"token": leases[0]["token"], "ttl": "1h"}]});
    send(broker.post("/v1/queues/inbox/extend").json(&body)).await.ok();
    // The second ran out; by then the first would have, too.
    let again = broker.lease("inbox", 2, "60s").await;
    assert_eq!(ids(&again), ids(&leases[1..]));
    broker.settle("inbox", &leases[0]["token"], "ack").await.ok();
}
