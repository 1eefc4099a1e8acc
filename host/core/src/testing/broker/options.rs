//! When and in which order messages are delivered, as they, their request and their queue say.

use std::time::Duration;

use super::{ONE, Rig, extended, leased_ids, message, queue, refusals};
use crate::broker::{PublishOptions, PullOutcome, RefusalCode};
use crate::clock::WallMs;
use crate::engine::{DeadCode, OrderKey};
use crate::runtime::{Emit, FaultKind};
use crate::testing::{FakeRuntime, done, emit, emitting};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_request_puts_all_its_messages_off() {
    let rig = Rig::start(&queue(""), FakeRuntime::new()).await;
    let later = PublishOptions { due: Some(rig.in_time(60 * SECOND)), ttl: None };
    let published = rig.publish_all("work.new", vec![message("1", b""), message("2", b"")], later).await;
    let published = published.expect("it is routed");
    assert!(published.iter().all(|published| published.targets == 1 && published.scheduled.is_some()), "{published:?}");
    rig.publish("work.new", &["3"]).await;
    rig.until("work", (1, 0, 2)).await;
    let leased = rig.lease("work", 10).await;
    assert_eq!(leased_ids(&leased), ["3"]);
    assert_eq!(rig.broker.settle(vec![(leased[0].token, PullOutcome::Ack)]).await, [Ok(())]);
    rig.clock.advance(Duration::from_millis(59_999));
    assert!(rig.lease("work", 10).await.is_empty(), "a millisecond to go");
    rig.clock.advance(Duration::from_millis(1));
    assert_eq!(leased_ids(&rig.lease("work", 10).await), ["1", "2"]);
}

#[tokio::test]
async fn a_message_says_by_itself_when() {
    let rig = Rig::start(&queue("ttl = \"1h\""), FakeRuntime::new()).await;
    let times = [("deliverytime", "2026-01-01T00:01:00Z"), ("expirytime", "2026-01-01T00:03:00Z")];
    let batch = vec![extended("both", &times, b""), extended("late", &times[..1], b""), message("plain", b"")];
    let published = rig.publish_all("work.new", batch, PublishOptions::default()).await.expect("it is routed");
    assert_eq!(
        published.iter().map(|published| published.scheduled.is_some()).collect::<Vec<_>>(),
        [true, true, false]
    );
    let stored = rig.browse("work").await;
    let options: Vec<_> = stored.iter().map(|stored| (stored.message.id(), stored.due, stored.expires)).collect();
    let (minute, hour) = (60 * SECOND, 3600 * SECOND);
    assert_eq!(
        options,
        [
            ("plain", None, Some(rig.in_time(hour))),
            ("both", Some(rig.in_time(minute)), Some(rig.in_time(3 * minute))),
            ("late", Some(rig.in_time(minute)), Some(rig.in_time(minute + hour))),
        ]
    );
}

#[tokio::test]
async fn a_time_that_has_come_means_now() {
    let rig = Rig::start(&queue(""), FakeRuntime::new()).await;
    let past = PublishOptions { due: Some(WallMs(1)), ttl: None };
    let published = rig.publish_all("work.new", vec![message("1", b"")], past).await.expect("it is routed");
    assert_eq!(published[0].scheduled, None, "there is nothing to cancel");
    assert_eq!(leased_ids(&rig.lease("work", 1).await), ["1"]);
}

#[tokio::test]
async fn what_waited_too_long_expires() {
    let rig = Rig::start(&queue(""), FakeRuntime::new()).await;
    let soon = PublishOptions { due: None, ttl: Some(5 * SECOND) };
    rig.publish_all("work.new", vec![message("1", b"")], soon).await.expect("it is routed");
    rig.publish("work.new", &["2"]).await;
    rig.clock.advance(5 * SECOND);
    rig.clock.advance(Duration::from_millis(1));
    assert_eq!(leased_ids(&rig.lease("work", 10).await), ["2"]);
    rig.until("work.dead", (1, 0, 0)).await;
    let dead = rig.browse("work.dead").await.remove(0);
    assert_eq!((dead.message.id(), dead.expires), ("1", None));
    assert_eq!(dead.dead.map(|dead| dead.reason.code), Some(DeadCode::Expired));
    assert_eq!(rig.broker.queue("work").expect("it exists").counts.expired, 1);
}

#[tokio::test]
async fn the_highest_priority_comes_first_where_the_queue_keeps_it() {
    let urgent = |id, priority| extended(id, &[("priority", priority)], b"");
    let batch = || vec![urgent("a", "0"), message("b", b""), urgent("c", "9"), urgent("d", "9"), urgent("e", "5")];
    let rig = Rig::start(&queue("priority = true"), FakeRuntime::new()).await;
    rig.publish_all("work.new", batch(), PublishOptions::default()).await.expect("it is routed");
    assert_eq!(leased_ids(&rig.lease("work", 10).await), ["c", "d", "e", "b", "a"], "4 where nothing is said");

    let rig = Rig::start(&queue(""), FakeRuntime::new()).await;
    rig.publish_all("work.new", batch(), PublishOptions::default()).await.expect("it is routed");
    assert_eq!(leased_ids(&rig.lease("work", 10).await), ["a", "b", "c", "d", "e"], "others look at it nowhere");
}

#[tokio::test]
async fn one_message_of_a_key_is_handled_at_a_time() {
    let rig = Rig::start(&queue("order = \"key\"\nkey = \"account\""), FakeRuntime::new()).await;
    let of = |id, account| extended(id, &[("account", account)], b"");
    let batch = vec![of("a1", "a"), of("a2", "a"), of("b1", "b"), message("free", b""), of("a3", "a")];
    rig.publish_all("work.new", batch, PublishOptions::default()).await.expect("it is routed");
    let leased = rig.lease("work", 10).await;
    assert_eq!(leased_ids(&leased), ["a1", "b1", "free"]);
    assert_eq!(rig.broker.settle(vec![(leased[0].token, PullOutcome::Ack)]).await, [Ok(())]);
    assert_eq!(leased_ids(&rig.lease("work", 10).await), ["a2"]);
}

#[tokio::test]
async fn what_can_not_be_met_refuses_the_request() {
    let rig = Rig::start(&queue("priority = true"), FakeRuntime::new()).await;
    let batch = vec![
        message("0", b""),
        extended("1", &[("priority", "urgent")], b""),
        extended("2", &[("deliverytime", "tomorrow")], b""),
        extended("3", &[("deliverytime", "2028-01-01T00:00:00Z")], b""),
    ];
    let refused = refusals(rig.publish_all("work.new", batch, PublishOptions::default()).await);
    let at: Vec<_> =
        refused.iter().map(|refusal| (refusal.index, refusal.code, refusal.attribute.as_deref())).collect();
    let invalid = RefusalCode::InvalidAttribute;
    assert_eq!(
        at,
        [(1, invalid, Some("priority")), (2, invalid, Some("deliverytime")), (3, invalid, Some("deliverytime"))]
    );
    assert_eq!(refused[0].detail, "attribute 'priority' is 'urgent'; write one digit, 0 to 9, the highest first");
    let twice = PublishOptions { due: Some(rig.in_time(SECOND)), ttl: None };
    let timed = extended("4", &[("deliverytime", "2026-01-01T00:01:00Z")], b"");
    let refused = refusals(rig.publish_all("work.new", vec![timed], twice).await);
    assert_eq!((refused[0].index, refused[0].code), (0, invalid));
    rig.until("work", (0, 0, 0)).await;
}

#[tokio::test]
async fn a_message_without_a_usable_body_is_dead_now_and_not_later() {
    let config = queue("ttl = \"1m\"").replace("to = ", "transform = '{\"half\": data.size / data.parts}'\nto = ");
    let rig = Rig::start(&config, FakeRuntime::new()).await;
    let later = PublishOptions { due: Some(rig.in_time(60 * SECOND)), ttl: None };
    let batch = vec![message("1", br#"{"size": 4, "parts": 0}"#), message("2", br#"{"size": 4, "parts": 2}"#)];
    let published = rig.publish_all("work.new", batch, later).await.expect("it is routed");
    assert_eq!(published.iter().map(|published| published.scheduled.is_some()).collect::<Vec<_>>(), [false, true]);
    rig.until("work", (0, 0, 1)).await;
    let dead = rig.browse("work.dead").await.remove(0);
    assert_eq!((dead.message.id(), dead.due, dead.expires), ("1", None, None));
}

const NEXT: &str =
    "[queues.next]\npriority = true\norder = \"arrival\"\n[[routes]]\nfrom = \"next\"\nto = [\"queue:next\"]\n";

#[tokio::test]
async fn emits_say_it_too() {
    let runtime = FakeRuntime::new().handler("worker", |delivery| {
        let time = delivery.message.extension("at").and_then(|at| at.parse().ok()).map(WallMs);
        let extension = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        emitting(vec![
            emit("plain", "next", b""),
            Emit { extensions: extension("priority", "7"), ..emit("urgent", "next", b"") },
            Emit { due: time, ..emit("later", "next", b"") },
            Emit { extensions: extension("deliverytime", "2026-01-01T00:02:00Z"), ..emit("latest", "next", b"") },
            Emit { extensions: extension("expirytime", "2026-01-01T00:03:00Z"), ..emit("short", "next", b"") },
        ])
    });
    let rig = Rig::start(&format!("{ONE}{NEXT}"), runtime).await;
    let minute = rig.in_time(60 * SECOND);
    let first = extended("1", &[("at", &minute.0.to_string())], b"");
    rig.publish_all("work.new", vec![first], PublishOptions::default()).await.expect("it is routed");
    rig.until("work", (0, 0, 0)).await;
    let stored = rig.browse("next").await;
    let options: Vec<_> =
        stored.iter().map(|stored| (stored.message.id(), stored.priority, stored.due, stored.expires)).collect();
    let in_minutes = |minutes: u32| Some(rig.in_time(60 * minutes * SECOND));
    assert_eq!(
        options,
        [
            ("urgent", 7, None, None),
            ("plain", 4, None, None),
            ("short", 4, None, in_minutes(3)),
            ("later", 4, in_minutes(1), None),
            ("latest", 4, in_minutes(2), None),
        ]
    );
}

#[tokio::test]
async fn an_emit_that_can_not_be_delivered_as_it_says_is_a_fault() {
    let runtime = FakeRuntime::new().handler("worker", |delivery| {
        if delivery.attempt > 1 {
            return done();
        }
        let extensions = vec![("priority".to_owned(), "urgent".to_owned())];
        emitting(vec![emit("fine", "next", b""), Emit { extensions, ..emit("odd", "next", b"") }])
    });
    let rig = Rig::start(&format!("{ONE}{NEXT}"), runtime).await;
    rig.publish("work.new", &["1"]).await;
    rig.until("work", (0, 0, 1)).await;
    let failed = rig.browse("work").await.remove(0);
    let attempt = &failed.history[0];
    assert_eq!(attempt.outcome, FaultKind::Malformed.word());
    assert_eq!(
        attempt.reason,
        "an emit to 'next' can't be delivered as it says: attribute 'priority' is 'urgent'; write one digit, 0 to 9, the \
         highest first"
    );
    assert_eq!(rig.ids("next").await, [""; 0], "none of them exists");
}

#[tokio::test]
async fn keys_reach_the_engine_as_they_were_written() {
    // What the engine is given, rather than what it makes of it.
    let plan = super::plan(&queue("order = \"key\""));
    let routing = crate::broker::Routing::new(&plan, &[crate::engine::QueueId(1); 2], &crate::engine::Guarantees::ALL);
    let topic = crate::name::Topic::new("work.new").expect("a topic");
    let incoming = crate::broker::Incoming { now: WallMs(1), hops: 3, options: PublishOptions::default() };
    let mut entries = Vec::new();
    let message = extended("1", &[("partitionkey", "Stra\u{df}e 7")], b"");
    assert_eq!(routing.entries(&topic, &message, incoming, &mut entries), Ok(true));
    assert_eq!(entries[0].options.key, Some(OrderKey("Stra\u{df}e 7".into())));
    assert_eq!(entries[0].hops, 3);
}
