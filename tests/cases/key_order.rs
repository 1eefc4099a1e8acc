//! Order by key: one message of a key at a time, in order, whatever fails and crashes; and no key waits for another.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{TestBroker, event, ids, send, subjects, tally, text_event, with};

const QUEUES: &str = r#"
[queues.work]
order = "key"
max-attempts = 100
backoff = { initial = "5ms", max = "20ms" }
[queues.slow]
order = "key"
backoff = { initial = "1h", max = "1h" }
[queues.inbox]
order = "key"
key = "subject"
backoff = { initial = "10ms", jitter = 0.0 }
[queues.sink]

[[routes]]
from = "work"
to = ["queue:work"]
[[routes]]
from = "slow"
to = ["queue:slow"]
[[routes]]
from = "inbox"
to = ["queue:inbox"]
[[routes]]
from = "done"
to = ["queue:sink"]

[consumers.work]
queue = "work"
component = "guest:script"
config = { topic = "done" }
concurrency = 8
breaker = false

[consumers.slow]
queue = "slow"
component = "guest:script"
config = { topic = "done" }
concurrency = 4
"#;

fn keyed(id: &str, key: &str, script: &str) -> Value {
    with(text_event(id, script), &json!({"partitionkey": key}))
}

const KEYS: usize = 25;
const PER_KEY: usize = 24;

#[tokio::test]
async fn order_is_kept_through_failures_and_crashes() {
    let mut broker = TestBroker::start(QUEUES).await;
    // With the scripts shifted from key to key, at any time some fail while others go on.
    let scripts = ["done", "retry done", "done", "trap retry done", "done"];
    let mut sent = BTreeMap::<usize, Vec<String>>::new();
    for number in 0..PER_KEY {
        let events: Vec<Value> = (0..KEYS)
            .map(|key| {
                let id = format!("{key}-{number}");
                sent.entry(key).or_default().push(id.clone());
                keyed(&id, &format!("key {key}"), scripts[(number + key) % scripts.len()])
            })
            .collect();
        broker.accept("work", &events).await;
        if number % 8 == 4 {
            broker.kill_9();
            broker.restart().await;
        }
    }
    broker.holds("work", 0).await;
    let sink = broker.messages("sink").await;
    for (key, sent) in sent {
        let of_key = |id: &&str| id.split('-').next() == Some(key.to_string().as_str());
        let handled: Vec<&str> = subjects(&sink).into_iter().filter(of_key).collect();
        assert_eq!(handled, sent, "key {key}: each once, in order");
    }
    assert_eq!(broker.queue("work").await["dead"], 0);
}

#[tokio::test]
async fn a_key_that_backs_off_holds_up_its_own_and_nobody_else() {
    let mut broker = TestBroker::start(QUEUES).await;
    let mut events = vec![keyed("stuck-0", "stuck", "retry"), keyed("stuck-1", "stuck", "done")];
    events.extend((0..300).map(|number| keyed(&format!("free-{number}"), &format!("free {}", number % 7), "done")));
    events.extend((0..50).map(|number| text_event(&format!("keyless-{number}"), "done")));
    broker.accept("slow", &events).await;
    broker.holds("sink", 350).await;
    assert_eq!(ids(&broker.messages("slow").await), ["stuck-1", "stuck-0"], "the younger waits for the older");
    broker.kill_9();
    broker.restart().await;
    broker.accept("slow", &[keyed("stuck-2", "stuck", "done"), keyed("last", "free 0", "done")]).await;
    broker.holds("sink", 351).await;
    let queue = broker.queue("slow").await;
    assert_eq!((&queue["scheduled"], &queue["ready"], &queue["leased"]), (&json!(1), &json!(2), &json!(0)), "{queue}");
}

fn of(subject: &str, id: &str) -> Value {
    with(event(id, json!(1)), &json!({"subject": subject}))
}

#[tokio::test]
async fn pull_consumers_get_the_next_of_a_key_when_the_one_before_is_settled() {
    let broker = TestBroker::start(QUEUES).await;
    let events = [of("a", "a0"), of("a", "a1"), of("b", "b0"), event("free0", json!(1)), of("a", "a2"), of("b", "b1")];
    broker.accept("inbox", &events).await;
    let first = broker.lease("inbox", 10, "10m").await;
    assert_eq!(ids(&first), ["a0", "b0", "free0"]);
    let nothing = send(broker.post("/v1/queues/inbox/lease").json(&json!({"max": 10}))).await.ok();
    assert_eq!(nothing, json!({"messages": []}));
    broker.settle("inbox", &first[0]["token"], "ack").await.ok();
    let second = broker.lease("inbox", 10, "10m").await.remove(0);
    assert_eq!(second["message"]["id"], "a1");
    // A retry keeps its place before the rest of its key.
    broker.settle("inbox", &second["token"], "retry").await.ok();
    let again = broker.lease("inbox", 10, "10m").await.remove(0);
    assert_eq!((&again["message"]["id"], &again["attempt"]), (&json!("a1"), &json!(2)));
    // A dead letter frees its key; sent back it joins at the end.
    broker.settle("inbox", &again["token"], "reject").await.ok();
    let third = broker.lease("inbox", 10, "10m").await.remove(0);
    assert_eq!(third["message"]["id"], "a2");
    send(broker.post("/v1/queues/inbox/redrive").json(&json!({"all": true}))).await.ok();
    broker.accept("inbox", &[of("a", "a3")]).await;
    broker.settle("inbox", &third["token"], "ack").await.ok();
    for expected in ["a1", "a3"] {
        let next = broker.lease("inbox", 10, "10m").await.remove(0);
        assert_eq!(next["message"]["id"], expected);
        broker.settle("inbox", &next["token"], "ack").await.ok();
    }
}

#[tokio::test]
async fn a_lease_that_runs_out_keeps_its_key_in_order() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("inbox", &[of("a", "a0"), of("a", "a1")]).await;
    let first = broker.lease("inbox", 10, "1s").await;
    assert_eq!(ids(&first), ["a0"]);
    let again = broker.lease("inbox", 10, "10m").await;
    assert_eq!((ids(&again), &again[0]["attempt"]), (vec!["a0"], &json!(2)));
}

#[tokio::test]
async fn the_order_of_a_queue_can_be_changed_while_it_holds_messages() {
    let mut broker = TestBroker::start(QUEUES).await;
    let change = async |broker: &TestBroker, from: &str, to: &str| {
        broker.rewrite(|toml| toml.replace(from, to));
        broker.cli(["reload"]).await.ok();
    };
    let keyed_order = "[queues.inbox]\norder = \"key\"\nkey = \"subject\"\n";
    let arrival = "[queues.inbox]\norder = \"arrival\"\n";
    let events: Vec<Value> = (0..6).map(|number| of("same", &format!("m-{number}"))).collect();
    broker.accept("inbox", &events).await;
    let held = broker.lease("inbox", 10, "10m").await;
    assert_eq!(ids(&held), ["m-0"]);
    change(&broker, keyed_order, arrival).await;
    broker.settle("inbox", &held[0]["token"], "ack").await.ok();
    let all = broker.lease("inbox", 3, "10m").await;
    assert_eq!(ids(&all), ["m-1", "m-2", "m-3"], "several of a key at once");
    change(&broker, arrival, keyed_order).await;
    for leased in &all {
        broker.settle("inbox", &leased["token"], "ack").await.ok();
    }
    broker.kill_9();
    broker.restart().await;
    assert_eq!(ids(&broker.lease("inbox", 10, "10m").await), ["m-4"], "one at a time again");
    assert_eq!(tally(ids(&broker.messages("inbox").await)), tally(["m-4", "m-5"]));
}
