//! Bounds of queues that make room by deleting what is next in line.

use super::bounds::{at_most, is_full, offer};
use super::cases;
use super::harness::{BACKOFF, Harness, Queues, TTL, entry, ids, message_with, rejected, stored_ids};
use super::key_order::drain;
use super::made::{all_keyed, keyed, names, prior};
use crate::engine::{Bounds, NewEntry, Order, Overflow, QueueDefinition, RequestError};

cases! {
    the_oldest_makes_room: Bounds;
    what_is_dropped_is_counted: Bounds;
    what_is_dropped_is_nowhere: Bounds;
    several_make_room_for_several: Bounds;
    several_make_room_for_a_large_one: Bounds;
    leased_messages_stay: Bounds;
    a_queue_with_only_leased_messages_refuses: Bounds;
    an_append_of_more_than_its_bound_is_refused: Bounds;
    the_lowest_priority_makes_room_first: Bounds, Priorities;
    what_waits_for_its_time_makes_room_last: Bounds, Delay;
    a_dropped_retry_does_not_come: Bounds;
    what_was_released_can_be_dropped: Bounds;
    a_refused_append_drops_nothing: Bounds;
    a_refused_append_drops_nothing_elsewhere: Bounds;
    an_append_that_fits_drops_nothing: Bounds;
    what_is_dead_on_arrival_drops_nothing: Bounds;
    a_backlog_is_cut_to_its_newest: Bounds;
    messages_of_a_key_stay_in_order: Bounds, KeyOrder;
    a_dropped_retry_frees_its_key: Bounds, KeyOrder;
    the_count_of_dropped_starts_anew_at_a_restart: Bounds, Reopen;
    what_is_dropped_stays_dropped_over_a_restart: Bounds, Reopen;
}

async fn dropping(h: &Harness, messages: u64) -> Queues {
    h.standard_but(|a| a.bounds = at_most(messages, Overflow::DropOldest)).await
}

/// Waits until so many messages of `a` were dropped.
async fn dropped(h: &Harness, q: Queues, count: u64) {
    super::eventually("so many are counted as dropped", async || {
        h.figures(q.a).is_some_and(|figures| figures.dropped == count)
    })
    .await;
}

async fn the_oldest_makes_room(h: Harness) {
    let q = dropping(&h, 2).await;
    h.append(q.a, &["1", "2"]).await;
    for (id, left) in [("3", ["2", "3"]), ("4", ["3", "4"])] {
        h.append(q.a, &[id]).await;
        assert_eq!(stored_ids(&h.browse(q.a).await), left);
    }
    assert_eq!(ids(&h.take(q.a, 2).await), ["3", "4"]);
}

async fn what_is_dropped_is_counted(h: Harness) {
    let q = dropping(&h, 2).await;
    h.append(q.a, &["1", "2"]).await;
    dropped(&h, q, 0).await;
    h.append(q.a, &["3"]).await;
    dropped(&h, q, 1).await;
    h.append(q.a, &["4", "5"]).await;
    dropped(&h, q, 3).await;
    h.settles_at(q.a, (2, 0, 0)).await;
    assert!(is_full(&h, q.a), "one more would not fit by itself");
}

async fn what_is_dropped_is_nowhere(h: Harness) {
    let q = dropping(&h, 1).await;
    h.append(q.a, &["1"]).await;
    h.append(q.a, &["2"]).await;
    h.settles_at(q.a, (1, 0, 0)).await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0], "it is no dead letter");
    assert_eq!(h.figures(q.a).map(|figures| figures.expired), Some(0));
    assert_eq!(ids(&h.take(q.a, 1).await), ["2"]);
    h.assert_none(q.a, "the other was dropped").await;
}

async fn several_make_room_for_several(h: Harness) {
    let q = dropping(&h, 4).await;
    h.append(q.a, &["1", "2", "3"]).await;
    h.append(q.a, &["4", "5", "6"]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["3", "4", "5", "6"]);
}

async fn several_make_room_for_a_large_one(h: Harness) {
    let bounds = Bounds { messages_max: None, bytes_max: Some(50_000), overflow: Overflow::DropOldest };
    let q = h.standard_but(|a| a.bounds = bounds).await;
    let sized = |id: &str, bytes: usize| NewEntry { message: message_with(id, &vec![7; bytes]), ..entry(q.a, id) };
    h.store(vec![sized("1", 10_000), sized("2", 10_000), sized("3", 10_000), sized("4", 10_000)]).await;
    h.store(vec![sized("5", 25_000)]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["3", "4", "5"], "as many as need be");
    h.store(vec![sized("6", 100_000)]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["6"], "an empty queue takes any");
}

async fn leased_messages_stay(h: Harness) {
    let q = dropping(&h, 3).await;
    h.append(q.a, &["1", "2", "3"]).await;
    let first = h.take_one(q.a).await;
    h.append(q.a, &["4"]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "3", "4"]);
    assert_eq!(h.done(&first).await, Ok(()));
}

async fn a_queue_with_only_leased_messages_refuses(h: Harness) {
    let q = dropping(&h, 2).await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take(q.a, 2).await;
    assert_eq!(offer(&h, vec![entry(q.a, "3")]).await, Err(RequestError::QueueFull(q.a)));
    dropped(&h, q, 0).await;
    h.all_done(&leased).await;
    assert_eq!(offer(&h, vec![entry(q.a, "3")]).await, Ok(()));
}

async fn an_append_of_more_than_its_bound_is_refused(h: Harness) {
    let q = dropping(&h, 2).await;
    h.append(q.a, &["1"]).await;
    let more = ["2", "3", "4"].map(|id| entry(q.a, id)).to_vec();
    assert_eq!(offer(&h, more).await, Err(RequestError::QueueFull(q.a)), "its own messages are not dropped for it");
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"], "nothing was done");
    dropped(&h, q, 0).await;
}

async fn the_lowest_priority_makes_room_first(h: Harness) {
    let q = h
        .standard_but(|a| {
            a.priority = true;
            a.bounds = at_most(4, Overflow::DropOldest);
        })
        .await;
    h.store(vec![prior(q.a, "1", 9), prior(q.a, "2", 3), prior(q.a, "3", 0), prior(q.a, "4", 3)]).await;
    for (id, left) in [("5", ["1", "5", "2", "4"]), ("6", ["1", "5", "6", "4"]), ("7", ["1", "5", "6", "7"])] {
        h.store(vec![prior(q.a, id, 5)]).await;
        assert_eq!(stored_ids(&h.browse(q.a).await), left);
    }
}

async fn what_waits_for_its_time_makes_room_last(h: Harness) {
    let q = dropping(&h, 4).await;
    h.append(q.a, &["1", "2"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.store(vec![h.delayed(q.a, "3", BACKOFF * 2), h.delayed(q.a, "4", BACKOFF / 2)]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2", "4", "1", "3"]);
    // What is ready makes room; where all of that is leased, what is due soonest does.
    for (id, left) in [("5", ["5", "4", "1", "3"]), ("6", ["5", "6", "1", "3"]), ("7", ["5", "6", "7", "3"])] {
        h.append(q.a, &[id]).await;
        assert_eq!(stored_ids(&h.browse(q.a).await), left);
        assert_eq!(h.take_one(q.a).await.message.id(), id);
    }
}

async fn a_dropped_retry_does_not_come(h: Harness) {
    let q = dropping(&h, 1).await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.append(q.a, &["2"]).await;
    h.advance(BACKOFF);
    assert_eq!(h.take_one(q.a).await.message.id(), "2");
    h.assert_none(q.a, "the retry was dropped").await;
    h.settles_at(q.a, (0, 1, 0)).await;
}

async fn what_was_released_can_be_dropped(h: Harness) {
    let q = dropping(&h, 2).await;
    h.append(q.a, &["1", "2"]).await;
    let first = h.take_one(q.a).await;
    h.engine.release(vec![first.token]).await;
    h.append(q.a, &["3"]).await;
    assert_eq!(ids(&h.take(q.a, 2).await), ["2", "3"]);
}

async fn a_refused_append_drops_nothing(h: Harness) {
    let q = dropping(&h, 3).await;
    h.append(q.a, &["1", "2", "3"]).await;
    h.take(q.a, 2).await;
    assert_eq!(offer(&h, vec![entry(q.a, "4"), entry(q.a, "5")]).await, Err(RequestError::QueueFull(q.a)));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2", "3"]);
    assert_eq!(h.take_one(q.a).await.message.id(), "3", "it can still be leased");
    dropped(&h, q, 0).await;
}

async fn a_refused_append_drops_nothing_elsewhere(h: Harness) {
    let bounded = |name, messages, overflow| QueueDefinition {
        bounds: at_most(messages, overflow),
        ..super::harness::queue(name, None)
    };
    for overflow in [Overflow::Refuse, Overflow::DropOldest] {
        let queues = vec![
            bounded("a", 2, Overflow::DropOldest),
            bounded("b", 2, overflow),
            bounded("a.dead", 9, Overflow::Refuse),
            bounded("b.dead", 9, Overflow::Refuse),
        ];
        let q = h.define(queues).await;
        h.append(q.a, &["1", "2"]).await;
        h.append(q.b, &["3", "4"]).await;
        let leased = h.take_one(q.b).await;
        // The first fits when another is dropped; of the others there is one too many, whatever is dropped.
        let append = vec![entry(q.a, "5"), entry(q.b, "6"), entry(q.b, "7")];
        assert_eq!(offer(&h, append).await, Err(RequestError::QueueFull(q.b)), "{overflow:?}");
        assert_eq!(ids(&h.take(q.a, 2).await), ["1", "2"], "{overflow:?}");
        assert_eq!(h.take_one(q.b).await.message.id(), "4", "{overflow:?}");
        dropped(&h, q, 0).await;
        assert_eq!(h.done(&leased).await, Ok(()));
        h.advance(TTL);
        h.settles_at(q.a, (2, 0, 0)).await;
        h.settles_at(q.b, (1, 0, 0)).await;
        for queue in [q.a, q.b] {
            h.bulk_by(queue, crate::engine::BulkAction::Discard, 10).await;
        }
    }
}

async fn an_append_that_fits_drops_nothing(h: Harness) {
    let q = dropping(&h, 3).await;
    h.append(q.a, &["1"]).await;
    h.append(q.a, &["2", "3"]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2", "3"]);
    dropped(&h, q, 0).await;
}

async fn what_is_dead_on_arrival_drops_nothing(h: Harness) {
    let q = dropping(&h, 1).await;
    h.append(q.a, &["1"]).await;
    h.store(vec![NewEntry { dead: Some(rejected()), ..entry(q.a, "2") }]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["2"]);
    dropped(&h, q, 0).await;
}

async fn a_backlog_is_cut_to_its_newest(h: Harness) {
    const BOUND: usize = 100;
    const EACH: usize = 50;
    let q = dropping(&h, BOUND as u64).await;
    let all = names("", h.many);
    for some in all.chunks(EACH) {
        h.store(some.iter().map(|id| entry(q.a, id)).collect()).await;
    }
    assert_eq!(ids(&h.take(q.a, BOUND).await), all[h.many - BOUND..]);
    h.assert_none(q.a, "all others were dropped").await;
    dropped(&h, q, (h.many - BOUND) as u64).await;
}

async fn dropping_by_key(h: &Harness, messages: u64) -> Queues {
    h.standard_but(|a| {
        a.order = Order::Key;
        a.bounds = at_most(messages, Overflow::DropOldest);
    })
    .await
}

async fn messages_of_a_key_stay_in_order(h: Harness) {
    let q = dropping_by_key(&h, 4).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "k/3", "k/4"])).await;
    let first = h.take_one(q.a).await;
    h.store(all_keyed(q.a, &["k/5", "k/6"])).await;
    h.assert_none(q.a, "the key is busy").await;
    dropped(&h, q, 2).await;
    h.done(&first).await.expect("it is leased");
    let left = drain(&h, q, 3).await;
    assert!(left.is_sorted() && left[1..] == ["k/5", "k/6"], "the new ones are there, in order: {left:?}");
}

async fn a_dropped_retry_frees_its_key(h: Harness) {
    let q = dropping_by_key(&h, 1).await;
    h.store(all_keyed(q.a, &["k/1"])).await;
    h.again(&h.take_one(q.a).await).await;
    h.store(vec![keyed(q.a, "k/2")]).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "k/2");
}

async fn the_count_of_dropped_starts_anew_at_a_restart(h: Harness) {
    let q = dropping(&h, 1).await;
    h.append(q.a, &["1"]).await;
    h.append(q.a, &["2"]).await;
    let h = h.reopened().await;
    let q = dropping(&h, 1).await;
    dropped(&h, q, 0).await;
}

async fn what_is_dropped_stays_dropped_over_a_restart(h: Harness) {
    let q = dropping(&h, 2).await;
    h.append(q.a, &["1", "2"]).await;
    h.append(q.a, &["3"]).await;
    let h = h.reopened().await;
    let q = dropping(&h, 2).await;
    h.settles_at(q.a, (2, 0, 0)).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2", "3"]);
    h.append(q.a, &["4"]).await;
    assert_eq!(ids(&h.take(q.a, 2).await), ["3", "4"]);
}
