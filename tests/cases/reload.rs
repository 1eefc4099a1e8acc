//! A changed broker.toml: taken over whole by SIGHUP or a restart, or not at all; and no message is lost over it.

use serde_json::json;

use crate::support::{BOUND, TestBroker, eventually, ids, subjects, with_guests};

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
    said(&broker, "Not reloaded, what runs goes on: the queue 'wrok' does not exist").await;
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

/// What `dev` has said since `before`, once it says `what`.
async fn says(broker: &TestBroker, before: usize, what: &str) -> String {
    eventually(&format!("dev says {what:?}"), BOUND, async || match broker.said().split_off(before) {
        said if said.contains(what) => Ok(said),
        said => Err(said),
    })
    .await
}

/// A wrong `source` was answered with an error and "Swapped in"; and a component in a folder that did not exist yet was
/// never seen.
#[tokio::test]
async fn dev_keeps_the_version_before_and_sees_what_comes_later() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let config = home.path().join("broker.toml");
    std::fs::write(&config, with_guests(ECHO)).expect("the folder is writable");
    let broker = TestBroker::dev(home.path(), &[]).await;
    assert_eq!(std::fs::read_to_string(broker.folder().join("data/.gitignore")).expect("git is told"), "*\n");
    let component = with_guests("\"guest:echo\"");
    let change = |value: &str| {
        let line = |line: &str| if line.starts_with("component") { value.to_owned() } else { line.to_owned() };
        let text: Vec<String> = with_guests(ECHO).lines().map(line).collect();
        std::fs::write(&config, text.join("\n")).expect("the folder is writable");
    };

    change("source = \"nowhere\"");
    let heard = says(&broker, 0, "goes on").await;
    assert!(heard.contains("has no Cargo.toml") && !heard.contains("Swapped in"), "{heard}");
    broker.publish("work", "1").await;
    broker.holds("first", 1).await;

    let before = broker.said().len();
    change("component = \"later/parts/echo.wasm\"");
    let heard = says(&broker, before, "goes on").await;
    assert!(heard.contains("there is no such file") && !heard.contains("Swapped in"), "{heard}");
    let before = broker.said().len();
    let later = home.path().join("later/parts");
    std::fs::create_dir_all(&later).expect("the folder is writable");
    std::fs::copy(component.trim_matches('"'), later.join("echo.wasm")).expect("the folder is writable");
    says(&broker, before, "Swapped in").await;
    broker.publish("work", "2").await;
    broker.holds("first", 2).await;
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
