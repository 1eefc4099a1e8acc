//! The examples, as a newcomer runs them: `pelton dev` builds them, feeds their sample, and takes changes over.
//!
//! They run on copies below the target folder, so that what they build is kept from run to run and nothing in the
//! repository changes; one after another, because they share a folder that cargo builds in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::webhooks::{Expected, check_webhooks, sample_of};
use crate::support::{BOUND, TestBroker, command, eventually, example_target, finish, ids, root, send, tally};

/// Cargo, of a changed consumer and all that it depends on.
const BUILD_BOUND: Duration = Duration::from_secs(240);

/// A copy of the example `name` for the case `case`.
pub(super) struct Example {
    pub(super) home: PathBuf,
    _one_at_a_time: MutexGuard<'static, ()>,
}

pub(super) async fn example(name: &str, case: &str) -> Example {
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let home = root().join("target/example-copies").join(case);
    copy(&root().join("examples").join(name), &home);
    Example { home, _one_at_a_time: turn }
}

/// Makes `to` like `from`, without what was built or stored there; files that are the same stay untouched, so that cargo
/// has less to do.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the target folder is writable");
    for entry in std::fs::read_dir(from).expect("the example is there") {
        let path = entry.expect("a folder can be read to its end").path();
        let name = path.file_name().expect("an entry has a name");
        if path.is_dir() {
            if name != "target" && name != "data" {
                copy(&path, &to.join(name));
            }
            continue;
        }
        let sdk = root().join("guests/sdk");
        let content = std::fs::read_to_string(&path).expect("an example's files are text");
        let content = content.replace("../../guests/sdk", &sdk.to_string_lossy());
        write(&to.join(name), &content);
    }
}

fn write(path: &Path, content: &str) {
    if std::fs::read_to_string(path).is_ok_and(|before| before == content) {
        return;
    }
    std::fs::write(path, content).expect("the target folder is writable");
}

/// Replaces `old`, which occurs, by `new` in `file`.
fn edit(file: &Path, old: &str, new: &str) {
    let text = std::fs::read_to_string(file).expect("it is there");
    assert!(text.contains(old), "{} contains {old:?}", file.display());
    std::fs::write(file, text.replace(old, new)).expect("it is writable");
}

#[tokio::test]
async fn the_sample_of_github_webhooks_goes_by() {
    let example = example("github-webhooks", "webhooks").await;
    let lines = sample_of(&example.home.join("events.jsonl"));
    let broker = TestBroker::dev(&example.home, &[]).await;
    check_webhooks(&broker, &Expected::of(&lines)).await;
}

#[tokio::test]
async fn dev_once_shows_the_deliveries_and_ends() {
    let example = example("github-webhooks", "webhooks").await;
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut dev = command(&example.home);
    dev.args(["dev", "--once", "--listen", "127.0.0.1:0", "--data"])
        .arg(data.path())
        .env("CARGO_TARGET_DIR", example_target());
    let output = finish(dev, BUILD_BOUND).await.ok();
    let lines: Vec<&str> = output.stdout.lines().filter(|line| !line.starts_with(' ')).collect();
    let of_queue =
        |queue: &str| lines.iter().filter(|line| line.split_whitespace().next() == Some(queue)).count() as u64;
    let expected = Expected::of(&sample_of(&example.home.join("events.jsonl")));
    assert_eq!(of_queue("triage"), expected.triage, "{output}");
    assert_eq!(of_queue("notify"), expected.notify, "{output}");
    assert!(lines.iter().all(|line| line.contains("  attempt 1  ") && line.contains(" us")), "{output}");
    let logs: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("    ")).collect();
    assert!(
        logs.iter().any(|line| line.contains("#maintainers: ")),
        "a guest's log stands under its delivery: {output}"
    );
}

/// The walk through the example's README: some orders are tried again, three die, the bank is mended, two come back.
#[tokio::test]
async fn orders_are_retried_given_up_and_redriven() {
    let example = example("orders", "orders").await;
    let broker = TestBroker::dev(&example.home, &[]).await;
    check_orders(&broker, 5, 3).await;
    let deliveries = broker.deliveries();
    let outcomes = tally(deliveries.iter().map(|delivery| delivery["outcome"].as_str().expect("a word")));
    // Five are paid and shipped; 1 + 2 stumbles and 2 x 3 outages; one is rejected.
    assert_eq!(outcomes, [("done".into(), 10), ("reject".into(), 1), ("retry".into(), 9)].into(), "{deliveries:#?}");

    edit(&example.home.join("broker.toml"), "outage = \"northbank\"", "outage = \"\"");
    eventually("the bank is mended", BOUND, async || match broker.said() {
        said if said.contains("Swapped in") => Ok(()),
        said => Err(said),
    })
    .await;
    let redriven = broker.cli(["dead", "redrive", "payments.dead", "--all", "--json"]).await.ok().json();
    assert_eq!(redriven["changed"], 3, "{redriven}");
    check_orders(&broker, 7, 1).await;
    let dead = broker.only_dead("payments").await;
    assert_eq!((&dead["message"]["data"]["id"], &dead["dead"]["code"]), (&json!(1005), &json!("rejected")));
    let paid = done(&broker, "payment");
    assert_eq!((paid.len(), paid.values().max()), (7, Some(&1)), "nobody paid twice");
}

/// Waits until all is through, and asserts where the orders are.
async fn check_orders(broker: &TestBroker, shipped: u64, dead: u64) {
    broker.holds("shipped", shipped).await;
    broker.counts("payments", "dead", dead).await;
    for queue in ["payments", "shipping"] {
        broker.holds(queue, 0).await;
    }
}

/// How often each message of `consumer` was done, by id.
fn done(broker: &TestBroker, consumer: &str) -> std::collections::BTreeMap<String, u64> {
    let deliveries = broker.deliveries();
    let of_consumer = deliveries.iter().filter(|delivery| delivery["consumer"] == json!(consumer));
    let done = of_consumer.filter(|delivery| delivery["next"] == json!("gone"));
    tally(done.map(|delivery| delivery["id"].as_str().expect("a delivery has an id")))
}

/// An issue as GitHub announces it; `notify` logs its title.
fn issue(number: u64) -> String {
    json!({
        "action": "opened",
        "issue": {"number": number, "title": format!("Title {number}"), "body": null, "html_url": "https://example.test/1"},
        "repository": {"full_name": "octo/boat"},
    })
    .to_string()
}

/// Publishes issues from `numbers` until one of them is told about with `marker` in the log.
async fn publish_until(broker: &TestBroker, published: &mut u64, marker: &str) {
    eventually(&format!("a delivery logs {marker:?}"), BUILD_BOUND, async || {
        *published += 1;
        let body = issue(*published);
        let request = broker.post("/v1/topics/github.issues").header("content-type", "application/json").body(body);
        send(request).await.ok();
        let logged = |delivery: &Value| delivery["log"].to_string().contains(marker);
        if broker.deliveries().iter().any(logged) { Ok(()) } else { Err(broker.said()) }
    })
    .await;
}

#[tokio::test]
async fn dev_takes_changes_over_without_losing_or_repeating_a_message() {
    let example = example("github-webhooks", "reload").await;
    let source = example.home.join("consumers/notify/src/lib.rs");
    let config = example.home.join("broker.toml");
    let broker = TestBroker::dev(&example.home, &["--no-sample"]).await;
    let mut published = 0;
    publish_until(&broker, &mut published, "#maintainers: ").await;

    // broker.toml: the consumer's configuration.
    edit(&config, "#maintainers", "#crew");
    publish_until(&broker, &mut published, "#crew: ").await;

    // A mistake in it is shown; what runs goes on.
    edit(&config, "queue = \"notify\"", "queue = \"notfy\"");
    eventually("the mistake is shown", BOUND, async || match broker.said() {
        said if said.contains("notfy") => Ok(()),
        said => Err(said),
    })
    .await;
    let next = format!("Title {} <", published + 1);
    publish_until(&broker, &mut published, &next).await;
    edit(&config, "queue = \"notfy\"", "queue = \"notify\"");

    // A source that does not compile is shown; what runs goes on.
    edit(&source, "info!(\"{channel}: {line}\")", "info!(\"{channel}: {lin}\")");
    eventually("the compiler's error is shown", BUILD_BOUND, async || match broker.said() {
        said if said.contains("cannot find value `lin`") => Ok(()),
        said => Err(said),
    })
    .await;
    let next = format!("Title {} <", published + 1);
    publish_until(&broker, &mut published, &next).await;

    // And one that does is swapped in.
    edit(&source, "info!(\"{channel}: {lin}\")", "info!(\"second edition {channel}: {line}\")");
    publish_until(&broker, &mut published, "second edition #crew: ").await;

    for queue in ["triage", "notify"] {
        broker.holds(queue, 0).await;
        assert_eq!(broker.queue(queue).await["dead"], 0);
    }
    let archived = tally(ids(&broker.messages("archive").await));
    assert_eq!(archived.len() as u64, published);
    assert_eq!(done(&broker, "triage"), archived, "each is triaged once");
    let notified = done(&broker, "notify");
    assert_eq!((notified.len() as u64, notified.values().max()), (published, Some(&1)), "and told about once");
}
