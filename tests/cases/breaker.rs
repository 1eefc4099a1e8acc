//! The breaker: a consumer that fails whatever it gets is paused, and its queue is not emptied into its dead letters.

use serde_json::{Value, json};

use crate::support::{BOUND, TestBroker, eventually, text_event, with_guests};

const QUEUES: &str = r#"
[queues.work]
max-attempts = 3
backoff = { initial = "10ms", max = "20ms" }
[queues.sink]
[queues.brave]
max-attempts = 1

[[routes]]
from = "work"
to = ["queue:work"]
[[routes]]
from = "brave"
to = ["queue:brave"]
[[routes]]
from = "done"
to = ["queue:sink"]

[consumers.fragile]
queue = "work"
component = "guest:script"
config = { topic = "done" }
concurrency = 1
breaker = { failures = 5, probe = "200ms", max = "400ms" }

[consumers.brave]
queue = "brave"
component = "guest:trap"
breaker = false
"#;

const MESSAGES: usize = 40;

async fn consumer(broker: &TestBroker, name: &str) -> Value {
    let all = broker.get("/v1/consumers").await.ok();
    let found = all["consumers"].as_array().expect("consumers").iter().find(|consumer| consumer["name"] == name);
    found.expect("it is listed").clone()
}

async fn is(broker: &TestBroker, state: &str) -> Value {
    eventually(&format!("the breaker is {state}"), BOUND, async || match consumer(broker, "fragile").await {
        consumer if consumer["breaker"]["state"] == state => Ok(consumer),
        consumer => Err(consumer),
    })
    .await
}

/// A broker whose consumer has failed on one message after another.
async fn broken() -> TestBroker {
    let broker = TestBroker::start(QUEUES).await;
    let events: Vec<Value> = (0..MESSAGES).map(|number| text_event(&format!("m-{number}"), "trap")).collect();
    broker.accept("work", &events).await;
    is(&broker, "open").await;
    broker
}

async fn attempts(broker: &TestBroker) -> u64 {
    broker.messages("work").await.iter().map(|stored| stored["attempts"].as_u64().expect("a number")).sum()
}

#[tokio::test]
async fn an_outage_does_not_empty_a_queue_into_its_dead_letters() {
    let broker = broken().await;
    let open = is(&broker, "open").await;
    assert!(open["breaker"]["last_reason"].as_str().is_some_and(|reason| reason.contains("trap")), "{open}");
    let before = attempts(&broker).await;
    assert!(before >= 5, "{before} attempts made it open");
    // Probe after probe fails, and none counts.
    let trapped = r#"pelton_delivered_total{consumer="fragile",queue="work",outcome="trap"}"#;
    let failed = broker.metric(trapped).await;
    eventually("it is probed five times", BOUND, async || match broker.metric(trapped).await {
        count if count >= failed + 5.0 => Ok(()),
        count => Err(count),
    })
    .await;
    assert_eq!(attempts(&broker).await, before, "uncounted");
    let queue = broker.queue("work").await;
    assert_eq!((broker.depth("work").await, &queue["dead"]), (MESSAGES as u64, &json!(0)), "{queue}");
    let shown = broker.cli(["consumers"]).await.ok().stdout;
    assert!(shown.contains("open") || shown.contains("probing"), "{shown}");
}

#[tokio::test]
async fn when_the_outage_is_over_everything_is_handled() {
    let broker = broken().await;
    let (script, echo) = (with_guests("\"guest:script\""), with_guests("\"guest:echo\""));
    broker.rewrite(|toml| toml.replace(&script, &echo));
    broker.cli(["reload"]).await.ok();
    broker.holds("sink", MESSAGES as u64).await;
    is(&broker, "closed").await;
    assert_eq!(broker.queue("work").await["dead"], 0);
}

#[tokio::test]
async fn somebody_who_knows_better_closes_it_by_hand() {
    let broker = broken().await;
    let trapped = r#"pelton_delivered_total{consumer="fragile",queue="work",outcome="trap"}"#;
    let before = broker.metric(trapped).await;
    let answer = broker.cli(["reset", "fragile", "--json"]).await.ok().json();
    assert_eq!(answer, json!({"consumer": "fragile", "breaker": "closed"}));
    // It gets messages again, fails five times more, and is open again.
    eventually("it fails again", BOUND, async || match broker.metric(trapped).await {
        count if count >= before + 5.0 => Ok(()),
        count => Err(count),
    })
    .await;
    is(&broker, "open").await;
}

#[tokio::test]
async fn without_one_every_failure_counts() {
    let broker = TestBroker::start(QUEUES).await;
    let events: Vec<Value> = (0..MESSAGES).map(|number| text_event(&format!("m-{number}"), "x")).collect();
    broker.accept("brave", &events).await;
    broker.counts("brave", "dead", MESSAGES as u64).await;
    assert_eq!(consumer(&broker, "brave").await["breaker"], Value::Null);
}

/// The same message over and over is that message's fault, not the consumer's.
#[tokio::test]
async fn one_bad_message_does_not_open_it() {
    let broker = TestBroker::start(QUEUES).await;
    let toml = |toml: &str| toml.replace("max-attempts = 3", "max-attempts = 12");
    broker.rewrite(toml);
    broker.cli(["reload"]).await.ok();
    broker.accept("work", &[text_event("bad", "trap")]).await;
    let dead = broker.only_dead("work").await;
    assert_eq!((&dead["attempts"], &dead["dead"]["code"]), (&json!(12), &json!("max-attempts")), "{dead:#}");
    is(&broker, "closed").await;
}
