//! From publish to settled, and what is refused at the door.

use std::sync::{Arc, Mutex};

use super::{ONE, Rig, message};
use crate::broker::{Publish, PublishError, PublishOptions, Published, RefusalCode};
use crate::engine::DeadCode;
use crate::name::Topic;
use crate::runtime::Delivery;
use crate::testing::{FakeRuntime, done};

#[tokio::test]
async fn what_is_published_is_handled_and_gone() {
    let delivered: Arc<Mutex<Vec<Delivery>>> = Arc::default();
    let into = delivered.clone();
    let runtime = FakeRuntime::new().handler("worker", move |delivery| {
        into.lock().expect("nobody panicked").push(delivery.clone());
        done()
    });
    let rig = Rig::start(ONE, runtime).await;
    let published = rig.publish("work.new", &["1"]).await;
    assert_eq!(published, [Published { id: "1".into(), targets: 1, duplicate: false, scheduled: None }]);
    rig.until_invoked(1).await;
    rig.until("work", (0, 0, 0)).await;
    let delivered = std::mem::take(&mut *delivered.lock().expect("nobody panicked"));
    let Delivery { consumer, source, topic, message, attempt, .. } = &delivered[0];
    assert_eq!((consumer.as_str(), &**source, topic.as_str(), *attempt), ("worker", "queue:work", "work.new", 1));
    assert_eq!((message.id(), message.data()), ("1", &b"{}"[..]));
    let (routed, unrouted) = (Topic::new("work.x").expect("a topic"), Topic::new("play").expect("a topic"));
    assert!(delivered[0].gate.routes(&routed) && !delivered[0].gate.routes(&unrouted), "the gate knows the routes");
    assert_eq!(rig.seen(), ["worker/1#1 done -> done, 0 emitted"]);
    assert_eq!(rig.ids("work.dead").await, [""; 0]);
}

#[tokio::test]
async fn one_worker_handles_messages_in_order() {
    const MESSAGES: usize = 1000;
    let config = format!("{ONE}concurrency = 1\n");
    let rig = Rig::start(&config, FakeRuntime::new().handler("worker", |_| done())).await;
    let ids: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    for batch in ids.chunks(7) {
        rig.publish("work.new", &batch.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let calls = rig.until_invoked(MESSAGES).await;
    let called: Vec<_> = calls.iter().map(|call| call.message_id.as_str()).collect();
    assert_eq!(called, ids);
    rig.until("work", (0, 0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_counted() {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done())).await;
    rig.publish("work.new", &["1", "2"]).await;
    rig.try_publish("play", &["3"]).await.expect_err("nobody routes it");
    rig.until("work", (0, 0, 0)).await;
    rig.until_invoked(2).await;
    assert_eq!(rig.metric("pelton_accepted_total", ""), 2.0);
    assert_eq!(rig.metric("pelton_routed_total", ""), 2.0);
    assert_eq!(rig.metric("pelton_unroutable_total", ""), 1.0);
    assert_eq!(rig.metric("pelton_delivered_total", "outcome=\"done\""), 2.0);
    assert_eq!(rig.metric("pelton_delivered_total", "outcome=\"trap\""), 0.0);
    assert_eq!(rig.metric("pelton_invoke_seconds_count", "consumer=\"worker\""), 2.0);
}

#[tokio::test]
async fn a_request_is_refused_whole() {
    let config = format!("[broker]\nmax-message = \"1KiB\"\n{ONE}");
    let rig = Rig::start(&config, FakeRuntime::new().handler("worker", |_| done())).await;
    let publish = |topic: &str, id, data: &[u8]| {
        let topic = Topic::new(topic).expect("a topic");
        Publish { topic, message: message(id, data) }
    };
    let batch = vec![
        publish("work.new", "1", &[b'x'; 1024]),
        publish("play", "2", b"{}"),
        publish("work.new", "3", &[b'x'; 1025]),
        publish("work.new", "4", b"{}"),
    ];
    let Err(PublishError::Refused(refusals)) = rig.broker.publish(batch, PublishOptions::default()).await else {
        panic!("it is not refused")
    };
    let refusals: Vec<_> = refusals.iter().map(|refusal| (refusal.index, refusal.code)).collect();
    assert_eq!(refusals, [(1, RefusalCode::Unroutable), (2, RefusalCode::TooLarge)], "every one of them");
    rig.publish("work.new", &["5"]).await;
    let calls = rig.until_invoked(1).await;
    assert_eq!(calls[0].message_id, "5", "nothing of the refused request was stored");
}

#[tokio::test]
async fn what_every_route_filters_out_is_accepted_for_nobody() {
    let config = ONE.replace("to = ", "when = 'data.size > 1'\nto = ");
    let rig = Rig::start(&config, FakeRuntime::new().handler("worker", |_| done())).await;
    let topic = Topic::new("work.new").expect("a topic");
    let sized = |id, data| Publish { topic: topic.clone(), message: message(id, data) };
    let batch = vec![sized("1", br#"{"size": 1}"#), sized("2", br#"{"size": 2}"#)];
    let published = rig.broker.publish(batch, PublishOptions::default()).await.expect("both match the route's pattern");
    let targets: Vec<_> = published.iter().map(|published| published.targets).collect();
    assert_eq!(targets, [0, 1]);
    let calls = rig.until_invoked(1).await;
    assert_eq!(calls[0].message_id, "2");
}

#[tokio::test]
async fn a_failed_transform_is_a_dead_letter_not_a_loss() {
    let config = ONE.replace("to = ", "transform = '{\"half\": data.size / data.parts}'\nto = ");
    let rig = Rig::start(&config, FakeRuntime::new().handler("worker", |_| done())).await;
    let topic = Topic::new("work.new").expect("a topic");
    let publish = Publish { topic, message: message("1", br#"{"size": 4, "parts": 0}"#) };
    let published = rig.broker.publish(vec![publish], PublishOptions::default()).await.expect("it is accepted");
    assert_eq!(published[0].targets, 1, "its dead letters");
    let dead = rig.browse("work.dead").await.remove(0);
    assert_eq!(dead.message.data(), br#"{"size": 4, "parts": 0}"#, "the message as it came");
    let letter = dead.dead.expect("it is a dead letter");
    assert_eq!((letter.origin.as_str(), letter.reason.code), ("work", DeadCode::RouteFailed));
    assert!(letter.reason.detail.contains("route 1 (work.#): transform:"), "{}", letter.reason.detail);
    assert_eq!(rig.runtime.invocations(), []);
}
