//! Doubles: what was published before, within its topic's window, is answered like the first and stored once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{TestBroker, event, ids, send, subjects, text_event, with};

const QUEUES: &str = r#"
[topics."orders.*"]
dedup = "10m"

[queues.inbox]
[queues.copy]
[queues.sink]
max-messages = 3

[[routes]]
from = "orders.*"
to = ["queue:inbox", "queue:copy"]
[[routes]]
from = "plain"
to = ["queue:inbox"]
[[routes]]
from = "orders.bounded"
to = ["queue:sink"]
"#;

#[tokio::test]
async fn a_double_is_answered_like_the_first_and_stored_once() {
    let mut broker = TestBroker::start(QUEUES).await;
    let one = [event("one", json!({"n": 1}))];
    let first = broker.accept("orders.a", &one).await;
    assert_eq!(first, [json!({"id": "one", "targets": 2})]);
    let double = [json!({"id": "one", "targets": 2, "duplicate": true})];
    assert_eq!(broker.accept("orders.a", &one).await, double);
    broker.kill_9();
    broker.restart().await;
    assert_eq!(broker.accept("orders.a", &one).await, double, "a restart forgets nothing");
    let answers = broker.accept("orders.a", &[event("two", json!(1)), one[0].clone(), event("two", json!(1))]).await;
    let doubles: Vec<bool> = answers.iter().map(|answer| answer["duplicate"] == true).collect();
    assert_eq!(doubles, [false, true, true], "within one request too");
    assert_eq!(ids(&broker.messages("inbox").await), ["one", "two"]);
    assert_eq!(ids(&broker.messages("copy").await), ["one", "two"]);
}

#[tokio::test]
async fn identity_is_topic_source_and_id() {
    let broker = TestBroker::start(QUEUES).await;
    let one = [event("one", json!(1))];
    broker.accept("orders.a", &one).await;
    broker.accept("orders.b", &one).await;
    broker.accept("orders.a", &[with(one[0].clone(), &json!({"source": "/elsewhere"}))]).await;
    broker.accept("plain", &one).await;
    broker.accept("plain", &one).await;
    assert_eq!(broker.depth("inbox").await, 5, "none of them is a double");
}

#[tokio::test]
async fn an_id_that_is_used_again_for_something_else_is_refused() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("orders.a", &[event("one", json!(1))]).await;
    let events = [event("new", json!(1)), event("one", json!(2))];
    let refused = send(broker.batch("orders.a", &events)).await;
    let problem = refused.json();
    assert_eq!(
        (refused.status, &problem["code"], &problem["items"][0]["index"]),
        (409, &json!("id-reused"), &json!(1)),
        "{refused}"
    );
    assert_eq!(ids(&broker.messages("inbox").await), ["one"], "nothing of the request is stored");
    broker.accept("orders.a", &events[..1]).await;
}

#[tokio::test]
async fn what_was_refused_is_not_known() {
    let broker = TestBroker::start(QUEUES).await;
    let events: Vec<Value> = (0..4).map(|number| event(&format!("m-{number}"), json!(1))).collect();
    assert_eq!(send(broker.batch("orders.bounded", &events)).await.status, 429);
    let answers = broker.accept("orders.bounded", &events[..3]).await;
    assert!(answers.iter().all(|answer| answer.get("duplicate").is_none()), "{answers:?}");
}

#[tokio::test]
async fn a_double_leaves_when_the_window_is_over() {
    let (broker, faults) = TestBroker::start_faulty(QUEUES).await;
    let one = [event("one", json!(1))];
    broker.accept("orders.a", &one).await;
    faults.clock_ahead(Duration::from_secs(9 * 60));
    assert_eq!(broker.accept("orders.a", &one).await[0]["duplicate"], true);
    faults.clock_ahead(Duration::from_secs(30 * 60));
    assert_eq!(broker.accept("orders.a", &one).await, [json!({"id": "one", "targets": 2})]);
    assert_eq!(broker.depth("inbox").await, 2);
}

/// Many producers publish the same at the same time: exactly one of them is the first.
#[tokio::test]
async fn of_doubles_at_the_same_time_one_is_stored() {
    let broker = TestBroker::start(QUEUES).await;
    let same = |_| {
        let api = broker.api();
        tokio::spawn(async move { api.accept("orders.a", &[event("same", json!(1))]).await.remove(0) })
    };
    let mut firsts = 0;
    for task in (0..20).map(same).collect::<Vec<_>>() {
        firsts += u64::from(task.await.expect("it is accepted").get("duplicate").is_none());
    }
    assert_eq!((firsts, broker.depth("inbox").await, broker.depth("copy").await), (1, 1, 1));
}

/// Ids that a component emits are no publisher's: the same may come twice.
#[tokio::test]
async fn emits_are_not_looked_up() {
    let toml = format!(
        "{QUEUES}[queues.work]\n[[routes]]\nfrom = \"work\"\nto = [\"queue:work\"]\n\
         [consumers.script]\nqueue = \"work\"\ncomponent = \"guest:script\"\nconfig = {{ topic = \"orders.done\" }}\n"
    );
    let broker = TestBroker::start(&toml).await;
    broker.accept("work", &[text_event("a", "done"), text_event("b", "done")]).await;
    broker.holds("inbox", 2).await;
    let mut emitted = broker.messages("inbox").await;
    emitted.sort_by_key(|stored| stored["message"]["subject"].to_string());
    assert_eq!(subjects(&emitted), ["a", "b"]);
}
