//! A disk that is full: nothing more is accepted, what was accepted is handled all the same, and with room again all is as before.

use serde_json::{Value, json};

use crate::support::{
    Api, BOUND, Fate, Ledger, Reply, SmallDisk, TestBroker, event, eventually, ids, send, subjects, tally, text_event,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

const QUEUES: &str = r#"
[broker]
min-free-disk = "24MiB"

[queues.inbox]
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
"#;

/// A broker on a disk that holds a few thousand messages; none where this machine lets nobody mount one.
#[expect(clippy::print_stderr, reason = "whoever runs the tests should know what they did not show")]
async fn start() -> Option<(TestBroker, SmallDisk)> {
    let started = TestBroker::start_on_small_disk(QUEUES, 96 * MIB).await;
    if started.is_none() {
        eprintln!("not shown: this user may not mount a disk (user namespaces are off)");
    }
    started
}

/// Publishes messages of 16 KiB to `inbox` until one is not accepted; what it was answered.
async fn publish_until_refused(broker: &Api, name: &str, ledger: &Ledger) -> Reply {
    let body = "x".repeat(16 * 1024);
    for number in 0..100_000 {
        let request = format!("{name}-{number}");
        let reply = send(broker.batch("inbox", &[event(&format!("{request}-0"), json!(body))])).await;
        let fate = match reply.status {
            200 => Fate::Accepted,
            507 => Fate::Refused,
            _ => Fate::Unknown,
        };
        ledger.enter(request, 1, fate);
        if fate != Fate::Accepted {
            return reply;
        }
    }
    panic!("the disk is never full");
}

fn is_disk_full(reply: &Reply) -> bool {
    reply.status == 507 && reply.json()["code"] == "disk-full"
}

/// Waits until publishing is refused for the right reason; until the broker has noticed, other refusals may come before.
async fn is_refused(broker: &Api, ledger: &Ledger) {
    let mut number = 0;
    eventually("publishing is refused with 507", BOUND, async || {
        number += 1;
        match publish_until_refused(broker, &format!("refused{number}"), ledger).await {
            reply if is_disk_full(&reply) => Ok(()),
            reply => Err(reply),
        }
    })
    .await;
}

/// Handles `count` messages of `inbox`.
async fn consume(broker: &Api, count: usize, consumed: &mut Vec<String>) {
    let aim = consumed.len() + count;
    while consumed.len() < aim {
        for leased in broker.lease("inbox", 20.min(aim - consumed.len()), "10m").await {
            broker.settle("inbox", &leased["token"], "ack").await.ok();
            consumed.push(leased["message"]["id"].as_str().expect("an id").to_owned());
        }
    }
}

/// Asserts that what was consumed and what is left together are what was accepted.
async fn account(broker: &Api, ledger: &Ledger, consumed: &[String]) {
    let left: Vec<Value> = broker.messages("inbox").await;
    ledger.agrees_with(&tally(ids(&left).into_iter().chain(consumed.iter().map(String::as_str))));
}

#[tokio::test]
async fn below_the_floor_nothing_is_accepted_and_consuming_makes_room() {
    let Some((mut broker, disk)) = start().await else { return };
    let (ledger, mut consumed) = (Ledger::new(), Vec::new());
    let refused = publish_until_refused(&broker, "a", &ledger).await;
    assert!(is_disk_full(&refused), "{refused}");
    assert!(refused.text.contains("min-free-disk"), "it says by which setting: {refused}");
    assert!(disk.free() > MIB, "something is left: {}", disk.free());
    assert!(ledger.accepted() > 100);
    let ready = broker.get("/readyz").await;
    assert_eq!((ready.status, ready.json()), (200, json!({"status": "full"})), "{ready}");

    consume(&broker, usize::try_from(ledger.accepted()).expect("few") * 3 / 4, &mut consumed).await;
    eventually("what was consumed has made room", BOUND, async || match broker.get("/readyz").await {
        reply if reply.json() == json!({"status": "ready"}) => Ok(()),
        reply => Err(reply),
    })
    .await;
    let before = ledger.accepted();
    let refused = publish_until_refused(&broker, "b", &ledger).await;
    assert!(is_disk_full(&refused), "{refused}");
    assert!(ledger.accepted() > before, "there was room again");
    broker.kill_9();
    broker.restart().await;
    is_refused(&broker, &ledger).await;
    account(&broker, &ledger, &consumed).await;
}

#[tokio::test]
async fn on_a_disk_that_somebody_else_fills_consuming_goes_on() {
    let Some((mut broker, disk)) = start().await else { return };
    let (ledger, mut consumed) = (Ledger::new(), Vec::new());
    for number in 0..300 {
        let request = format!("a-{number}");
        send(broker.batch("inbox", &[event(&format!("{request}-0"), json!("x".repeat(4096)))])).await.ok();
        ledger.enter(request, 1, Fate::Accepted);
    }
    disk.fill(0);
    assert_eq!(disk.free(), 0);
    is_refused(&broker, &ledger).await;
    consume(&broker, 100, &mut consumed).await;
    account(&broker, &ledger, &consumed).await;

    broker.kill_9();
    broker.restart().await;
    is_refused(&broker, &ledger).await;
    consume(&broker, 100, &mut consumed).await;
    assert!(broker.runs());
    disk.clear();
    eventually("publishing works again", BOUND, async || {
        match send(broker.batch("inbox", &[event("again-0", json!(1))])).await {
            reply if reply.status == 200 => Ok(()),
            reply => Err(reply),
        }
    })
    .await;
    ledger.enter("again".to_owned(), 1, Fate::Accepted);
    account(&broker, &ledger, &consumed).await;
    broker.kill_9();
    broker.restart().await;
    account(&broker, &ledger, &consumed).await;
    let left = usize::try_from(broker.depth("inbox").await).expect("few");
    consume(&broker, left, &mut consumed).await;
    account(&broker, &ledger, &consumed).await;
}

#[tokio::test]
async fn components_go_on_when_the_disk_is_full_and_their_emits_fit() {
    let Some((broker, disk)) = start().await else { return };
    let scripts: Vec<Value> = (0..200).map(|number| text_event(&format!("m-{number}"), "sleep:1")).collect();
    for script in scripts.chunks(20) {
        send(broker.batch("work", script)).await.ok();
    }
    disk.fill(0);
    broker.holds("work", 0).await;
    let sink = broker.messages("sink").await;
    assert_eq!(tally(subjects(&sink)).len() + broker.dead("work").await.len(), 200);
    assert_eq!(sink.len(), 200, "each emitted once");
}
