//! `counts`: the figures follow what happens, and end where they began.

use std::time::Duration;

use super::cases;
use super::harness::{BACKOFF, Harness, TTL, eventually};
use crate::clock::Clock as _;
use crate::engine::QueueId;

cases! {
    an_empty_store_counts_zeros;
    counts_follow_a_message_through_its_life;
    counts_follow_what_runs_out;
    what_is_due_counts_as_ready;
    bytes_grow_with_messages_and_shrink_with_them;
    the_oldest_is_what_waits_longest;
    the_oldest_is_known_of_what_died_or_is_due_again;
    the_oldest_is_known_after_a_restart: Reopen;
    queues_stand_in_the_order_of_names;
}

async fn an_empty_store_counts_zeros(h: Harness) {
    let q = h.standard().await;
    for id in [q.a, q.a_dead, q.b, q.b_dead] {
        let counts = h.figures(id).expect("a declared queue is listed though it is empty");
        assert!(counts.declared);
        assert_eq!((counts.ready, counts.leased, counts.scheduled, counts.bytes, counts.oldest), (0, 0, 0, 0, None));
    }
}

async fn counts_follow_a_message_through_its_life(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    h.settles_at(q.a, (3, 0, 0)).await;
    let leased = h.take(q.a, 2).await;
    h.settles_at(q.a, (1, 2, 0)).await;
    h.again(&leased[0]).await;
    h.settles_at(q.a, (1, 1, 1)).await;
    h.done(&leased[1]).await.expect("it is leased");
    h.settles_at(q.a, (1, 0, 1)).await;
    h.engine.release(vec![h.take_one(q.a).await.token]).await;
    h.settles_at(q.a, (1, 0, 1)).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (2, 0, 0)).await;
    h.bury(q.a, 2).await;
    h.settles_at(q.a, (0, 0, 0)).await;
    h.settles_at(q.a_dead, (2, 0, 0)).await;
}

async fn counts_follow_what_runs_out(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.take(q.a, 2).await;
    h.settles_at(q.a, (0, 2, 0)).await;
    h.advance(TTL);
    h.settles_at(q.a, (2, 0, 0)).await;
}

async fn what_is_due_counts_as_ready(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.settles_at(q.a, (0, 0, 1)).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (1, 0, 0)).await;
    h.take_one(q.a).await;
    h.settles_at(q.a, (0, 1, 0)).await;
}

async fn bytes_grow_with_messages_and_shrink_with_them(h: Harness) {
    let bytes = |queue: QueueId| h.figures(queue).map_or(0, |counts| counts.bytes);
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    eventually("the bytes of one message are counted", async || bytes(q.a) > 0).await;
    let one = bytes(q.a);
    h.append(q.a, &["2"]).await;
    eventually("the bytes of two messages are counted", async || bytes(q.a) > one).await;
    let leased = h.take(q.a, 2).await;
    h.done(&leased[0]).await.expect("it is leased");
    eventually("a settled message takes no bytes", async || bytes(q.a) == one).await;
    h.dead(&leased[1]).await;
    eventually("the bytes went with the dead letter", async || bytes(q.a) == 0 && bytes(q.a_dead) > 0).await;
    h.take_one(q.a_dead).await;
    h.advance(TTL);
    h.settles_at(q.a_dead, (1, 0, 0)).await;
    h.bulk_by(q.a_dead, crate::engine::BulkAction::Discard, 10).await;
    eventually("nothing is left", async || bytes(q.a_dead) == 0).await;
}

async fn the_oldest_is_what_waits_longest(h: Harness) {
    let oldest = |queue: QueueId| h.figures(queue).and_then(|counts| counts.oldest);
    let q = h.standard().await;
    let first = h.clock.wall();
    h.append(q.a, &["1"]).await;
    h.advance(Duration::from_secs(7));
    let second = h.clock.wall();
    h.append(q.a, &["2"]).await;
    eventually("the first is the oldest", async || oldest(q.a) == Some(first)).await;
    let leased = h.take_one(q.a).await;
    assert_eq!(oldest(q.a), Some(first), "leased or not");
    h.done(&leased).await.expect("it is leased");
    eventually("the second is the oldest", async || oldest(q.a) == Some(second)).await;
    let leased = h.take_one(q.a).await;
    h.done(&leased).await.expect("it is leased");
    eventually("there is none", async || oldest(q.a).is_none()).await;
}

async fn the_oldest_is_known_of_what_died_or_is_due_again(h: Harness) {
    let oldest = |queue: QueueId| h.figures(queue).and_then(|counts| counts.oldest);
    let q = h.standard().await;
    let first = h.clock.wall();
    h.append(q.a, &["1", "2"]).await;
    h.advance(Duration::from_secs(7));
    h.dead(&h.take_one(q.a).await).await;
    eventually("nobody has ever looked at the dead letter", async || oldest(q.a_dead) == Some(first)).await;
    h.again(&h.take_one(q.a).await).await;
    eventually("what waits for its time is not ready", async || oldest(q.a).is_none()).await;
    h.advance(BACKOFF);
    eventually("what is due again is", async || oldest(q.a) == Some(first)).await;
    let leased = h.take_one(q.a_dead).await;
    h.engine.release(vec![leased.token]).await;
    eventually("what was given back is", async || oldest(q.a_dead) == Some(first)).await;
}

async fn the_oldest_is_known_after_a_restart(h: Harness) {
    let q = h.standard().await;
    let first = h.clock.wall();
    h.append(q.a, &["1", "2", "3", "4", "5", "6"]).await;
    h.advance(Duration::from_secs(7));
    h.dead(&h.take_one(q.a).await).await;
    let h = h.reopened().await;
    let oldest = |queue: QueueId| h.figures(queue).and_then(|counts| counts.oldest);
    for queue in [q.a, q.a_dead] {
        eventually("it is known though nobody asks for messages", async || oldest(queue) == Some(first)).await;
    }
}

async fn queues_stand_in_the_order_of_names(h: Harness) {
    h.standard().await;
    let counts = h.engine.counts();
    let names: Vec<_> = counts.queues.iter().map(|counts| counts.name.as_str()).collect();
    assert_eq!(names, ["a", "a.dead", "b", "b.dead"]);
}
