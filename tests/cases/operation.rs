//! Operation: pausing, purging, changing settings in place, queues that the file no longer names.

use serde_json::{Value, json};

use crate::support::{BOUND, TestBroker, event, eventually, ids, send, text_event};

const QUEUES: &str = r#"
[queues.work]
[queues.sink]
[queues.inbox]

[[routes]]
from = "work"
to = ["queue:work"]
[[routes]]
from = "inbox"
to = ["queue:inbox"]
[[routes]]
from = "done"
to = ["queue:sink"]

[consumers.script]
queue = "work"
component = "guest:script"
config = { topic = "done" }
concurrency = 2
"#;

fn scripts(name: &str, count: usize, script: &str) -> Vec<Value> {
    (0..count).map(|number| text_event(&format!("{name}-{number}"), script)).collect()
}

#[tokio::test]
async fn a_paused_queue_takes_messages_and_delivers_none_until_it_is_resumed() {
    let mut broker = TestBroker::start(QUEUES).await;
    let answer = send(broker.post("/v1/queues/inbox/pause")).await.ok();
    assert_eq!(answer, json!({"queue": "inbox", "paused": true}));
    broker.cli(["pause", "queue", "work"]).await.ok();
    broker.accept("work", &scripts("a", 5, "done")).await;
    broker.accept("inbox", &[event("b", json!(1))]).await;
    broker.kill_9();
    broker.restart().await;
    assert_eq!(broker.queue("work").await["paused"], true, "a restart keeps it");
    broker.cli(["reload"]).await.ok();
    let nothing = send(broker.post("/v1/queues/inbox/lease").json(&json!({"wait": "300ms"}))).await.ok();
    assert_eq!(nothing, json!({"messages": []}));
    let queue = broker.queue("work").await;
    assert_eq!((&queue["paused"], &queue["ready"], &queue["leased"]), (&json!(true), &json!(5), &json!(0)), "{queue}");
    let shown = broker.cli(["queues"]).await.ok().stdout;
    assert!(shown.contains("paused"), "{shown}");
    // Somebody who waits already hears of it at once.
    let api = broker.api();
    let waiting = tokio::spawn(async move { api.lease("inbox", 1, "10m").await });
    send(broker.post("/v1/queues/inbox/resume")).await.ok();
    assert_eq!(ids(&waiting.await.expect("it is answered")), ["b"]);
    broker.cli(["resume", "queue", "work"]).await.ok();
    broker.holds("sink", 5).await;
}

#[tokio::test]
async fn a_paused_consumer_ends_what_it_does_and_gets_nothing_new() {
    let mut broker = TestBroker::start(QUEUES).await;
    broker.accept("work", &scripts("slow", 2, "sleep:700")).await;
    broker.counts("work", "leased", 2).await;
    broker.cli(["pause", "consumer", "script"]).await.ok();
    broker.accept("work", &scripts("later", 5, "done")).await;
    broker.counts("sink", "ready", 2).await;
    broker.counts("work", "leased", 0).await;
    assert_eq!(broker.depth("work").await, 5);
    broker.kill_9();
    broker.restart().await;
    let consumers = broker.get("/v1/consumers").await.ok();
    assert_eq!(consumers["consumers"][0]["paused"], true, "a restart keeps it: {consumers}");
    assert_eq!(ids(&broker.lease("work", 1, "10m").await), ["later-0"], "pull consumers go on");
    send(broker.post("/v1/consumers/script/resume")).await.ok();
    broker.holds("sink", 6).await;
}

#[tokio::test]
async fn a_purge_wants_the_queues_name_and_spares_what_is_handled() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("inbox", &scripts("a", 2500, "x")).await;
    broker.accept("inbox?delay=1h", &scripts("delayed", 5, "x")).await;
    let leased = broker.lease("inbox", 1, "10m").await.remove(0);
    let refused = send(broker.delete("/v1/queues/inbox/messages")).await;
    assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("confirmation-required")), "{refused}");
    let refused = broker.cli(["purge", "inbox", "--confirm", "inbx"]).await;
    assert_ne!(refused.status, 0, "{refused}");
    assert_eq!(broker.depth("inbox").await, 2505);
    let purged = broker.cli(["purge", "inbox", "--confirm", "inbox", "--json"]).await.ok().json();
    assert_eq!(purged["changed"], 2504, "{purged}");
    assert_eq!(ids(&broker.messages("inbox").await), ["a-0"]);
    broker.settle("inbox", &leased["token"], "ack").await.ok();
    assert_eq!(broker.depth("inbox").await, 0);
}

#[tokio::test]
async fn settings_change_in_place_by_command_and_by_signal() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("inbox", &scripts("a", 3, "x")).await;
    broker.rewrite(|toml| toml.replace("[queues.inbox]\n", "[queues.inbox]\nmax-messages = 3\nmax-attempts = 1\n"));
    let changes = broker.cli(["reload", "--json"]).await.ok().json();
    let said = changes["changes"].to_string();
    assert!(said.contains("inbox") && said.contains("max-messages"), "{changes}");
    assert_eq!(broker.queue("inbox").await["settings"]["max_messages"], 3);
    assert_eq!(send(broker.batch("inbox", &scripts("b", 1, "x"))).await.status, 429, "the bound holds at once");
    let leased = broker.lease("inbox", 1, "10m").await.remove(0);
    broker.settle("inbox", &leased["token"], "retry").await.ok();
    assert_eq!(broker.only_dead("inbox").await["dead"]["code"], "max-attempts");

    broker.rewrite(|toml| toml.replace("max-messages = 3\n", "priority = true\n"));
    broker.sighup();
    eventually("the bound is gone", BOUND, async || match broker.queue("inbox").await {
        queue if queue["settings"]["max_messages"].is_null() => Ok(()),
        queue => Err(queue),
    })
    .await;
    let mut urgent = text_event("urgent", "x");
    urgent["priority"] = json!("9");
    broker.accept("inbox", &[urgent]).await;
    assert_eq!(ids(&broker.lease("inbox", 10, "10m").await), ["urgent", "a-1", "a-2"]);
}

#[tokio::test]
async fn a_reload_that_can_not_be_taken_over_changes_nothing_and_says_all_that_is_wrong() {
    let broker = TestBroker::start(QUEUES).await;
    broker
        .rewrite(|toml| toml.replace("[queues.inbox]\n", "[queues.inbox]\nmax-messages = 0\noverflow = \"explode\"\n"));
    let refused = send(broker.post("/v1/reload")).await;
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("invalid-configuration")), "{refused}");
    assert_eq!(refused.json()["problems"].as_array().map(Vec::len), Some(2), "{refused}");
    let output = broker.cli(["reload"]).await;
    assert_eq!(output.status, 3, "{output}");
    assert!(output.stderr.contains("max-messages") && output.stderr.contains("explode"), "{output}");
    broker.accept("work", &scripts("a", 1, "done")).await;
    broker.holds("sink", 1).await;
    broker.rewrite(|toml| toml.replace("[queues.sink]\n", "[queues.sink]\n[queues.more]\n"));
    broker.rewrite(|toml| toml.replace("max-messages = 0\noverflow = \"explode\"\n", ""));
    broker.cli(["reload"]).await.ok();
    assert_eq!(broker.queue("more").await["declared"], true);
}

#[tokio::test]
async fn a_queue_that_is_left_out_keeps_its_messages_and_is_shown() {
    let broker = TestBroker::start(QUEUES).await;
    broker.accept("inbox", &scripts("a", 3, "x")).await;
    let leased = broker.lease("inbox", 1, "10m").await.remove(0);
    let route = "[[routes]]\nfrom = \"inbox\"\nto = [\"queue:inbox\"]\n";
    broker.rewrite(|toml| toml.replace("[queues.inbox]\n", "").replace(route, ""));
    broker.cli(["reload"]).await.ok();
    let queue = broker.queue("inbox").await;
    assert_eq!((&queue["declared"], &queue["settings"]), (&json!(false), &Value::Null), "{queue}");
    assert_eq!(send(broker.batch("inbox", &scripts("b", 1, "x"))).await.status, 404, "nothing goes there any more");
    broker.settle("inbox", &leased["token"], "ack").await.ok();
    let rest = broker.lease("inbox", 10, "10m").await;
    assert_eq!(ids(&rest), ["a-1", "a-2"], "but what is there can be handled");
}
