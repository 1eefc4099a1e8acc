//! Dead letters: where they go, what they carry, and where they stay when there is nowhere to go.

use std::time::Duration;

use super::cases;
use super::harness::{
    ATTEMPTS_MAX, BACKOFF, HELD, Harness, attempt, done, entry, message, queue, queue_name, rejected, stored_ids, topic,
};
use crate::clock::Clock as _;
use crate::engine::{DeadCode, DeadReason, Definitions, NewEntry, QueueId, SettleError};

cases! {
    a_dead_message_goes_to_the_dead_letters;
    it_carries_origin_time_and_reason;
    its_attempts_start_anew;
    it_keeps_its_identity;
    it_keeps_its_history: History;
    it_is_gone_from_its_queue;
    dead_letters_are_leased_like_messages;
    a_queue_without_dead_letters_holds_its_own;
    what_is_held_stays_for_ever;
    what_is_dead_on_arrival_goes_there_at_once;
    what_is_dead_on_arrival_is_held_where_there_are_no_dead_letters;
    dead_and_living_entries_of_one_append;
    an_emit_may_be_dead_on_arrival: Effects;
    queues_may_share_their_dead_letters;
}

fn route_failed() -> DeadReason {
    DeadReason { code: DeadCode::RouteFailed, detail: "route 3: transform: no such key".to_owned() }
}

fn dead_entry(queue: QueueId, id: &str) -> NewEntry {
    NewEntry { dead: Some(route_failed()), ..entry(queue, id) }
}

async fn a_dead_message_goes_to_the_dead_letters(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    h.dead(&leased).await;
    let stored = h.browse(q.a_dead).await;
    assert_eq!(stored_ids(&stored), ["1"]);
    assert_eq!((stored[0].message.clone(), stored[0].topic.clone()), (message("1"), topic()));
    assert_eq!(h.done(&leased).await, Err(SettleError::AlreadySettled));
}

async fn it_carries_origin_time_and_reason(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let accepted = h.clock.wall();
    h.advance(Duration::from_secs(5));
    h.dead(&h.take_one(q.a).await).await;
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!(stored.accepted, accepted);
    let dead = stored.dead.expect("it is a dead letter");
    assert_eq!((dead.origin, dead.at, dead.reason), (queue_name("a"), h.clock.wall(), rejected()));
}

async fn it_keeps_its_identity(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let before = h.browse(q.a).await.remove(0).entry;
    h.again(&h.take_one(q.a).await).await;
    assert_eq!(h.browse(q.a).await[0].entry, before, "over a retry");
    h.advance(BACKOFF);
    let leased = h.take_one(q.a).await;
    assert_eq!(leased.token.entry, before);
    h.dead(&leased).await;
    assert_eq!(h.browse(q.a_dead).await[0].entry, before, "over dying");
}

async fn it_keeps_its_history(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.advance(BACKOFF);
    h.dead(&h.take_one(q.a).await).await;
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!(stored.history, [attempt(1), attempt(2)]);
    h.again(&h.take_one(q.a_dead).await).await;
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!(stored.history, [attempt(1), attempt(2), attempt(1)], "its consumer's attempts follow");
}

async fn its_attempts_start_anew(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    for _ in 1..ATTEMPTS_MAX {
        h.again(&h.take_one(q.a).await).await;
        h.advance(BACKOFF);
    }
    h.dead(&h.take_one(q.a).await).await;
    assert_eq!(h.browse(q.a_dead).await[0].attempts, 0, "the attempts in the queue that it left are its history");
    for attempt in 1..=2 {
        let leased = h.take_one(q.a_dead).await;
        assert_eq!(leased.attempt(), attempt, "a consumer of dead letters has all attempts");
        h.again(&leased).await;
        assert_eq!(h.browse(q.a_dead).await[0].attempts, attempt);
        h.advance(BACKOFF);
    }
    h.dead(&h.take_one(q.a_dead).await).await;
    assert_eq!(h.browse(q.a_dead).await[0].attempts, 3, "held where it is, it keeps them");
}

async fn it_is_gone_from_its_queue(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.dead(&h.take_one(q.a).await).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), [""; 0]);
    h.settles_at(q.a, (0, 0, 0)).await;
    h.settles_at(q.a_dead, (1, 0, 0)).await;
    h.advance(Duration::from_secs(3600));
    h.assert_none(q.a, "it died").await;
}

async fn dead_letters_are_leased_like_messages(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.bury(q.a, 2).await;
    let leased = h.take(q.a_dead, 2).await;
    assert_eq!(super::harness::ids(&leased), ["1", "2"], "in the order of their deaths");
    assert_eq!(leased[0].message, message("1"));
    assert_eq!(h.done(&leased[0]).await, Ok(()));
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["2"]);
}

async fn a_queue_without_dead_letters_holds_its_own(h: Harness) {
    let q = h.standard().await;
    h.append(q.a_dead, &["1", "2"]).await;
    h.dead(&h.take_one(q.a_dead).await).await;
    let stored = h.browse(q.a_dead).await;
    assert_eq!(stored_ids(&stored), ["2", "1"], "what is ready comes first");
    assert_eq!(stored[1].due, Some(HELD));
    let dead = stored[1].dead.clone().expect("it is a dead letter");
    assert_eq!((dead.origin, dead.reason), (queue_name("a.dead"), rejected()));
    h.settles_at(q.a_dead, (1, 0, 1)).await;
}

async fn what_is_held_stays_for_ever(h: Harness) {
    let q = h.standard().await;
    h.append(q.a_dead, &["1"]).await;
    h.dead(&h.take_one(q.a_dead).await).await;
    h.advance(Duration::from_secs(100 * 365 * 24 * 3600));
    h.assert_none(q.a_dead, "it is held").await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1"]);
}

async fn what_is_dead_on_arrival_goes_there_at_once(h: Harness) {
    let q = h.standard().await;
    let append = vec![dead_entry(q.a, "1")].into();
    assert_eq!(h.engine.append(append).await.expect("`append` works").positions.len(), 1);
    h.assert_none(q.a, "it was dead on arrival").await;
    assert_eq!(stored_ids(&h.browse(q.a).await), [""; 0]);
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!((stored.attempts, stored.message), (0, message("1")));
    let dead = stored.dead.expect("it is a dead letter");
    assert_eq!((dead.origin, dead.at, dead.reason), (queue_name("a"), h.clock.wall(), route_failed()));
}

async fn what_is_dead_on_arrival_is_held_where_there_are_no_dead_letters(h: Harness) {
    let q = h.standard().await;
    h.engine.append(vec![dead_entry(q.a_dead, "1")].into()).await.expect("`append` works");
    h.assert_none(q.a_dead, "it was dead on arrival").await;
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!(stored.due, Some(HELD));
    assert_eq!(stored.dead.map(|dead| (dead.origin, dead.reason)), Some((queue_name("a.dead"), route_failed())));
}

async fn dead_and_living_entries_of_one_append(h: Harness) {
    let q = h.standard().await;
    let entries = vec![entry(q.a, "1"), dead_entry(q.a, "2"), entry(q.a, "3"), dead_entry(q.b, "4")];
    let appended = h.engine.append(entries.into()).await.expect("`append` works");
    assert_eq!(appended.positions.len(), 4);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "3"]);
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["2"]);
    assert_eq!(stored_ids(&h.browse(q.b_dead).await), ["4"]);
}

async fn an_emit_may_be_dead_on_arrival(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    assert_eq!(h.settle(done(&leased, vec![dead_entry(q.b, "2"), entry(q.b, "3")])).await, Ok(()));
    assert_eq!(stored_ids(&h.browse(q.b).await), ["3"]);
    let dead = h.browse(q.b_dead).await.remove(0).dead.expect("it is a dead letter");
    assert_eq!((dead.origin, dead.reason), (queue_name("b"), route_failed()));
}

async fn queues_may_share_their_dead_letters(h: Harness) {
    let queues = vec![queue("one", Some("dead")), queue("other", Some("dead")), queue("dead", None)];
    let defined =
        h.engine.define(Definitions { queues, ..Definitions::default() }).await.expect("`define` works").queues;
    let id = |name| defined[&queue_name(name)];
    h.append(id("one"), &["1"]).await;
    h.append(id("other"), &["2"]).await;
    h.bury(id("other"), 1).await;
    h.bury(id("one"), 1).await;
    let stored = h.browse(id("dead")).await;
    let origins: Vec<_> =
        stored.iter().filter_map(|stored| stored.dead.as_ref()).map(|dead| dead.origin.as_str()).collect();
    assert_eq!((stored_ids(&stored), origins), (vec!["2", "1"], vec!["other", "one"]));
}
