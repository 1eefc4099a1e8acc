//! What handlers emit: routed, bounded in hops, and there only if their delivery is done.

use super::{ONE, Rig, distinct};
use crate::engine::DeadCode;
use crate::runtime::{Emit, FaultKind, Invoked};
use crate::testing::{FakeRuntime, done, emit, emitting, fault, reject, retry};

const CHAIN: &str = r#"
[broker]
max-hops = 3

[queues.first]
[queues.second]
[queues.third]

[[routes]]
from = "first"
to = ["queue:first"]

[[routes]]
from = "second"
to = ["queue:second", "queue:third"]

[consumers.one]
queue = "first"
component = "one.wasm"

[consumers.two]
queue = "second"
component = "two.wasm"
"#;

#[tokio::test]
async fn emits_go_where_the_routes_say() {
    let runtime = FakeRuntime::new()
        .handler("one", |delivery| {
            let full = Emit {
                kind: Some("shop.sorted".into()),
                subject: Some("order/7".into()),
                content_type: Some("text/plain".into()),
                extensions: vec![("traceparent".into(), "00-x".into())],
                ..emit(&format!("{}-a", delivery.idempotency_key), "second", b"body")
            };
            emitting(vec![full, emit("b", "second", b"")])
        })
        .handler("two", |_| done());
    let rig = Rig::start(CHAIN, runtime).await;
    rig.publish("first", &["1"]).await;
    rig.until_invoked(3).await;
    for queue in ["first", "second"] {
        rig.until(queue, (0, 0, 0)).await;
    }
    let stored = rig.browse("third").await;
    assert_eq!(stored.len(), 2, "in the order of emitting");
    let (full, plain) = (&stored[0].message, &stored[1].message);
    assert!(full.id().ends_with("-a"), "{}", full.id());
    assert_eq!((full.source(), full.kind(), full.subject()), ("/pelton/consumers/one", "shop.sorted", Some("order/7")));
    assert_eq!(
        (full.content_type(), full.extension("traceparent"), full.data()),
        (Some("text/plain"), Some("00-x"), &b"body"[..])
    );
    assert_eq!(full.time(), Some("2026-01-01T00:00:00Z"), "when its handler ended");
    assert_eq!((plain.id(), plain.kind(), plain.subject()), ("b", "second", None), "the topic is the type");
    assert_eq!(stored[0].topic.as_str(), "second");
    assert!(rig.seen().contains(&"one/1#1 done -> done, 4 emitted".to_owned()), "{:?}", rig.seen());
}

#[tokio::test]
async fn what_is_not_done_emits_nothing() {
    let runtime = FakeRuntime::new().handler("worker", |delivery| {
        let end = match delivery.message.id() {
            "retry" => retry("no"),
            "reject" => reject("no"),
            _ => fault(FaultKind::Trap, "no"),
        };
        // Not looked at either: what is wrong with them is not what became of the delivery.
        let nonsense = Emit { subject: Some("a\nb".into()), ..emit("y", "work.emitted", b"") };
        Invoked { emits: vec![emit("x", "work.emitted", b""), nonsense], ..end }
    });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["retry", "reject", "trap"]).await;
    rig.until("work", (0, 0, 2)).await;
    rig.until("work.dead", (1, 0, 0)).await;
    rig.until_invoked(3).await;
    for word in ["retry", "reject", "trap"] {
        assert_eq!(rig.metric("pelton_delivered_total", &format!("outcome=\"{word}\"")), 1.0, "{word}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_of_emits_ends_as_a_dead_letter() {
    let runtime = FakeRuntime::new()
        .handler("one", |delivery| emitting(vec![emit(&format!("{}'", delivery.message.id()), "first", b"")]))
        .handler("two", |_| done());
    let rig = Rig::start(CHAIN, runtime).await;
    rig.publish("first", &["1"]).await;
    rig.until("first.dead", (1, 0, 0)).await;
    rig.until("first", (0, 0, 0)).await;
    let calls = rig.until_invoked(4).await;
    assert_eq!(distinct(&calls).into_iter().collect::<Vec<_>>(), ["1", "1'", "1''", "1'''"], "three hops");
    let dead = rig.browse("first.dead").await.remove(0);
    assert_eq!(dead.message.id(), "1'''", "the one that emitted too far, with none of its emits");
    let letter = dead.dead.expect("it is a dead letter");
    assert_eq!(letter.reason.code, DeadCode::TooManyHops);
    assert!(letter.reason.detail.contains("consumer 'one'") && letter.reason.detail.contains("max-hops"), "{letter:?}");
    assert_eq!(dead.history.len(), 1, "with the attempt that did it: {:?}", dead.history);
}

#[tokio::test]
async fn the_last_hop_may_end_without_emitting() {
    let runtime = FakeRuntime::new()
        .handler("one", |delivery| match delivery.message.id() {
            "1'''" => done(),
            id => emitting(vec![emit(&format!("{id}'"), "first", b"")]),
        })
        .handler("two", |_| done());
    let rig = Rig::start(CHAIN, runtime).await;
    rig.publish("first", &["1"]).await;
    rig.until_invoked(4).await;
    rig.until("first", (0, 0, 0)).await;
    assert_eq!(rig.ids("first.dead").await, [""; 0]);
}

#[tokio::test]
async fn an_emit_that_is_no_message_is_the_handlers_fault() {
    let runtime = FakeRuntime::new().handler("worker", |_| {
        let nonsense = Emit { subject: Some("a\nb".into()), ..emit("x", "work.emitted", b"") };
        emitting(vec![emit("y", "work.emitted", b""), nonsense])
    });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["1"]).await;
    rig.until("work", (0, 0, 1)).await;
    let stored = rig.browse("work").await.remove(0);
    assert_eq!(stored.message.id(), "1", "and the good emit is not stored either");
    assert_eq!(stored.history[0].outcome, "malformed");
    assert!(stored.history[0].reason.contains("control character"), "{}", stored.history[0].reason);
    assert_eq!(rig.metric("pelton_delivered_total", "outcome=\"malformed\""), 1.0);
}
