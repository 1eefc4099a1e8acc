//! A disk that fails: the broker says so, comes back by itself when the disk does, and has lost and doubled nothing.

use serde_json::json;

use crate::support::{Api, BOUND, Calls, CarriedOut, Fault, Reply, TestBroker, event, eventually, ids, send};

const INBOX: &str = "[queues.inbox]\n[[routes]]\nfrom = \"a\"\nto = [\"queue:inbox\"]\n";

/// Waits until `/readyz` answers `status`.
pub(super) async fn readiness(broker: &Api, status: u16) -> Reply {
    eventually(&format!("/readyz answers {status}"), BOUND, async || match broker.get("/readyz").await {
        reply if reply.status == status => Ok(reply),
        reply => Err(reply),
    })
    .await
}

/// The answer to publishing one message with this id.
async fn publish(broker: &Api, id: &str) -> Reply {
    send(broker.batch("a", &[event(id, json!(1))])).await
}

/// The code of a problem, which has to be a 503 with `Retry-After`'s advice to come again.
fn code(reply: &Reply) -> String {
    assert_eq!(reply.status, 503, "{reply}");
    reply.json()["code"].as_str().expect("a problem has a code").to_owned()
}

/// Whatever fails when messages are stored: nobody is told that they are, the broker is not ready but alive, and it comes back by itself.
async fn check(fault: Fault) {
    let (mut broker, faults) = TestBroker::start_faulty(INBOX).await;
    publish(&broker, "before").await.ok();
    publish(&broker, "leased").await.ok();
    let leased = broker.lease("inbox", 1, "10m").await.remove(0);

    faults.begin(fault);
    let refused = publish(&broker, "during").await;
    assert_eq!(code(&refused), "unknown", "{refused}");
    assert!(faults.failed() > 0);
    assert_eq!(code(&readiness(&broker, 503).await), "not-ready");
    let refused = publish(&broker, "refused").await;
    assert_eq!(code(&refused), "unavailable", "{refused}");
    let refused = send(broker.post("/v1/queues/inbox/lease").json(&json!({}))).await;
    assert_eq!(code(&refused), "unavailable", "{refused}");
    let refused = broker.settle("inbox", &leased["token"], "ack").await;
    assert_eq!(code(&refused), "unavailable", "{refused}");
    assert_eq!(broker.get("/healthz").await.status, 200, "it is alive");

    faults.end();
    readiness(&broker, 200).await;
    publish(&broker, "after").await.ok();
    let lost = broker.settle("inbox", &leased["token"], "ack").await;
    assert_eq!((lost.status, &lost.json()["code"]), (409, &json!("lease-lost")), "reopening ends leases: {lost}");
    let stored = broker.messages("inbox").await;
    let found = ids(&stored);
    assert!(stored.iter().all(|message| message["attempts"] == 0), "no attempt is counted");
    // Of the one in doubt, both may be true.
    let known: Vec<&str> = found.iter().copied().filter(|id| *id != "during").collect();
    assert_eq!(known, ["before", "leased", "after"], "all found: {found:?}");
    assert!(broker.runs());

    broker.kill_9();
    broker.restart().await;
    assert_eq!(broker.messages("inbox").await, stored, "what it said then was on disk");
}

#[tokio::test]
async fn writing_fails() {
    check(Fault::lasting(Calls::Write)).await;
}

#[tokio::test]
async fn writing_fails_halfway() {
    check(Fault { carried_out: CarriedOut::Half, ..Fault::lasting(Calls::Write) }).await;
}

#[tokio::test]
async fn syncing_fails() {
    check(Fault::lasting(Calls::Sync)).await;
}

#[tokio::test]
async fn syncing_fails_after_it_was_done() {
    check(Fault { carried_out: CarriedOut::All, ..Fault::lasting(Calls::Sync) }).await;
}

/// What is in memory need not be read: so much that it can't be.
#[tokio::test]
async fn reading_fails() {
    let (mut broker, faults) = TestBroker::start_faulty(INBOX).await;
    let body = "0123456789abcdef".repeat(60_000);
    for _ in 0..60 {
        broker.publish("a", body.clone()).await;
    }
    broker.kill_9();
    broker.restart().await;
    faults.begin(Fault::lasting(Calls::Read));
    let mut path = "/v1/queues/inbox/messages?max=1000".to_owned();
    let refused = loop {
        let reply = broker.get(&path).await;
        if reply.status != 200 {
            break reply;
        }
        let next = reply.json()["next"].as_str().expect("not all of it is in memory").to_owned();
        path = format!("/v1/queues/inbox/messages?max=1000&after={next}");
    };
    assert_eq!(code(&refused), "unavailable", "{refused}");
    faults.end();
    // redb refuses everything after a failed read; who writes next finds that out, and reopens the store.
    eventually("the broker writes and reads again", BOUND, async || {
        let (written, read) = (publish(&broker, "again").await, broker.get(&path).await);
        if written.status == 200 && read.status == 200 { Ok(()) } else { Err(read) }
    })
    .await;
    let mut count = 0;
    while count < 60 {
        for leased in broker.lease("inbox", 10, "10m").await {
            broker.settle("inbox", &leased["token"], "ack").await.ok();
            assert_eq!(leased["attempt"], 1, "no attempt is counted");
            if leased["message"]["id"] != "again" {
                assert!(leased["message"]["data"] == body, "it is whole");
                count += 1;
            }
        }
    }
    assert!(broker.runs());
}
