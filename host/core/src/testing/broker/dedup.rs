//! Doubles: recognised within their topic's window, stored once, answered as the first was.

use std::time::Duration;

use super::{ONE, Rig, extended, message, queue, refusals};
use crate::broker::{Cancelled, PublishOptions, Published, RefusalCode};
use crate::testing::{FakeRuntime, emit, emitting};

const MINUTE: Duration = Duration::from_secs(60);

fn config() -> String {
    format!("{}[topics.\"work.once\"]\ndedup = \"10m\"\n", queue(""))
}

fn short(published: &[Published]) -> Vec<(&str, usize, bool)> {
    published.iter().map(|published| (published.id.as_str(), published.targets, published.duplicate)).collect()
}

#[tokio::test]
async fn a_double_is_answered_like_the_first_and_stored_once() {
    let rig = Rig::start(&config(), FakeRuntime::new()).await;
    assert_eq!(short(&rig.publish("work.once", &["1", "2"]).await), [("1", 1, false), ("2", 1, false)]);
    assert_eq!(
        short(&rig.publish("work.once", &["3", "2", "3"]).await),
        [("3", 1, false), ("2", 1, true), ("3", 1, true)]
    );
    assert_eq!(rig.ids("work").await, ["1", "2", "3"]);
    assert_eq!(rig.metric("pelton_accepted_total", ""), 3.0);
    assert_eq!(rig.metric("pelton_duplicates_total", ""), 2.0);
    assert_eq!(rig.metric("pelton_routed_total", ""), 3.0);
}

#[tokio::test]
async fn only_topics_with_a_window_and_only_as_long_as_it_lasts() {
    let rig = Rig::start(&config(), FakeRuntime::new()).await;
    for _ in 0..2 {
        assert_eq!(short(&rig.publish("work.often", &["1"]).await), [("1", 1, false)]);
    }
    rig.publish("work.once", &["1"]).await;
    rig.clock.advance(9 * MINUTE);
    assert_eq!(short(&rig.publish("work.once", &["1"]).await), [("1", 1, true)]);
    rig.clock.advance(30 * MINUTE);
    assert_eq!(short(&rig.publish("work.once", &["1"]).await), [("1", 1, false)], "long over");
}

#[tokio::test]
async fn the_same_id_with_another_body_is_refused() {
    let rig = Rig::start(&config(), FakeRuntime::new()).await;
    rig.publish("work.once", &["1"]).await;
    let filtered =
        rig.publish_all("work.once", vec![message("0", b"{}"), message("1", b"{\"a\":1}")], PublishOptions::default());
    let refused = refusals(filtered.await);
    assert_eq!((refused.len(), refused[0].index, refused[0].code), (1, 1, RefusalCode::IdReused));
    assert_eq!(
        refused[0].detail,
        "a message with id '1' and source '/tests' was published to 'work.once' within 10m with another body; give every \
         message an id of its own"
    );
    assert_eq!(rig.ids("work").await, ["1"], "nothing of the request was stored");
}

#[tokio::test]
async fn the_message_at_fault_is_named_though_others_have_no_identity() {
    let config = config().replace("to = ", "when = 'data.size > 1'\nto = ");
    let rig = Rig::start(&config, FakeRuntime::new()).await;
    let sized = |id, size: u32| message(id, format!("{{\"size\": {size}}}").as_bytes());
    let batch = |third| vec![sized("nobody's", 1), sized("1", 2), third];
    let options = PublishOptions::default();
    let published = rig.publish_all("work.once", batch(sized("2", 3)), options).await.expect("it is routed");
    assert_eq!(short(&published), [("nobody's", 0, false), ("1", 1, false), ("2", 1, false)]);
    let published = rig.publish_all("work.once", batch(sized("2", 3)), options).await.expect("it is routed");
    assert_eq!(short(&published), [("nobody's", 0, false), ("1", 1, true), ("2", 1, true)]);
    let refused = refusals(rig.publish_all("work.once", batch(sized("2", 4)), options).await);
    assert_eq!((refused[0].index, refused[0].code), (2, RefusalCode::IdReused));
}

#[tokio::test]
async fn a_double_has_the_handle_of_the_first_and_does_not_change_it() {
    let rig = Rig::start(&config(), FakeRuntime::new()).await;
    let later = |minutes| PublishOptions { due: Some(rig.in_time(minutes * MINUTE)), ttl: None };
    let first = rig.publish_all("work.once", vec![message("1", b"{}")], later(1)).await.expect("it is routed");
    let handle = first[0].scheduled.clone().expect("it waits for its time");
    let again = rig.publish_all("work.once", vec![message("1", b"{}")], later(2)).await.expect("it is routed");
    assert_eq!((again[0].duplicate, again[0].scheduled.as_ref()), (true, Some(&handle)));
    let at_once = rig.publish_all("work.once", vec![message("1", b"{}")], PublishOptions::default());
    let at_once = at_once.await.expect("it is routed");
    assert_eq!((at_once[0].duplicate, at_once[0].scheduled.as_ref()), (true, Some(&handle)));
    let stored = rig.browse("work").await;
    assert_eq!(stored.iter().map(|stored| stored.due).collect::<Vec<_>>(), [later(1).due]);
    // Whoever lost the first answer can cancel it by the second.
    let again = again[0].scheduled.as_ref().expect("it has one");
    assert_eq!(rig.broker.cancel(again).await, Ok(Cancelled { cancelled: 1, of: 1 }));
    assert_eq!(rig.ids("work").await, [""; 0]);
}

#[tokio::test]
async fn attributes_beside_id_and_source_make_no_other_message() {
    let rig = Rig::start(&config(), FakeRuntime::new()).await;
    rig.publish("work.once", &["1"]).await;
    let traced = extended("1", &[("traceparent", "00-x")], b"{}");
    let published = rig.publish_all("work.once", vec![traced], PublishOptions::default()).await.expect("it is routed");
    assert_eq!(short(&published), [("1", 1, true)]);
}

#[tokio::test]
async fn emits_are_no_doubles() {
    let runtime = FakeRuntime::new().handler("worker", |_| emitting(vec![emit("same", "once.next", b"")]));
    let next = "[queues.next]\n[[routes]]\nfrom = \"once.#\"\nto = [\"queue:next\"]\n[topics.\"#\"]\ndedup = \"10m\"\n";
    let rig = Rig::start(&format!("{ONE}{next}"), runtime).await;
    rig.publish("work.new", &["1", "2"]).await;
    rig.until("work", (0, 0, 0)).await;
    assert_eq!(rig.ids("next").await, ["same", "same"]);
}
