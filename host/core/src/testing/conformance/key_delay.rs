//! Order by key together with delays and expiry: a delayed message joins when it is due, an expired one is in nobody's way.

use std::time::Duration;

use futures_util::poll;

use super::cases;
use super::harness::{BACKOFF, Harness, TTL, ids, soon, want};
use super::key_order::{by_key, drain};
use super::made::{all_keyed, keyed};
use crate::engine::{NewEntry, QueueId};

cases! {
    a_delayed_message_blocks_nobody: KeyOrder, Delay;
    a_delayed_message_joins_at_the_end_when_it_is_due: KeyOrder, Delay;
    those_that_come_due_together_join_by_their_times: KeyOrder, Delay;
    a_delayed_message_waits_for_its_key: KeyOrder, Delay;
    a_delayed_message_that_joined_is_ordered: KeyOrder, Delay;
    a_delayed_message_joins_while_its_key_backs_off: KeyOrder, Delay;
    a_waiting_lease_gets_what_joins: KeyOrder, Delay;
    an_expired_message_frees_its_key: KeyOrder, Expiry;
    an_expired_message_in_the_middle_is_passed_over: KeyOrder, Expiry;
    an_expired_retry_frees_its_key: KeyOrder, Expiry;
    a_waiting_lease_gets_what_expiry_frees: KeyOrder, Expiry;
}

fn delayed_by(h: &Harness, queue: QueueId, id: &str, wait: Duration) -> NewEntry {
    let mut new = keyed(queue, id);
    new.options.due = Some(h.after(wait));
    new
}

async fn a_delayed_message_blocks_nobody(h: Harness) {
    let q = by_key(&h).await;
    h.store(vec![delayed_by(&h, q.a, "k/1", BACKOFF)]).await;
    h.store(all_keyed(q.a, &["k/2", "k/3"])).await;
    assert_eq!(drain(&h, q, 2).await, ["k/2", "k/3"], "it has not joined yet");
    h.assert_none(q.a, "it is delayed").await;
}

async fn a_delayed_message_joins_at_the_end_when_it_is_due(h: Harness) {
    let q = by_key(&h).await;
    h.store(vec![delayed_by(&h, q.a, "k/4", BACKOFF * 2), delayed_by(&h, q.a, "k/3", BACKOFF)]).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (3, 0, 1)).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (4, 0, 0)).await;
    h.store(all_keyed(q.a, &["k/5"])).await;
    assert_eq!(drain(&h, q, 5).await, ["k/1", "k/2", "k/3", "k/4", "k/5"]);
}

async fn those_that_come_due_together_join_by_their_times(h: Harness) {
    let q = by_key(&h).await;
    let delayed = [("k/3", 3), ("k/1", 1), ("k/2", 2)];
    h.store(delayed.map(|(id, wait)| delayed_by(&h, q.a, id, BACKOFF * wait)).to_vec()).await;
    h.advance(BACKOFF * 3);
    h.settles_at(q.a, (3, 0, 0)).await;
    assert_eq!(drain(&h, q, 3).await, ["k/1", "k/2", "k/3"]);
}

async fn a_delayed_message_waits_for_its_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(vec![delayed_by(&h, q.a, "k/2", BACKOFF)]).await;
    h.store(all_keyed(q.a, &["k/1"])).await;
    let first = h.take_one(q.a).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (1, 1, 0)).await;
    h.assert_none(q.a, "its key is busy").await;
    h.done(&first).await.expect("it is leased");
    assert_eq!(h.take_one(q.a).await.message.id(), "k/2");
}

async fn a_delayed_message_that_joined_is_ordered(h: Harness) {
    let q = by_key(&h).await;
    h.store(vec![delayed_by(&h, q.a, "k/1", BACKOFF)]).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (1, 0, 0)).await;
    h.store(all_keyed(q.a, &["k/2"])).await;
    let first = h.take_one(q.a).await;
    assert_eq!((first.message.id(), first.attempt()), ("k/1", 1));
    h.again(&first).await;
    h.assert_none(q.a, "it backs off like any other").await;
    h.advance(BACKOFF);
    assert_eq!(drain(&h, q, 2).await, ["k/1", "k/2"]);
}

async fn a_delayed_message_joins_while_its_key_backs_off(h: Harness) {
    let q = by_key(&h).await;
    h.store(vec![delayed_by(&h, q.a, "k/3", BACKOFF / 2)]).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.again(&h.take_one(q.a).await).await;
    h.advance(BACKOFF / 2);
    h.settles_at(q.a, (2, 0, 1)).await;
    h.assert_none(q.a, "the first backs off").await;
    h.advance(BACKOFF / 2);
    assert_eq!(drain(&h, q, 3).await, ["k/1", "k/2", "k/3"]);
}

async fn a_waiting_lease_gets_what_joins(h: Harness) {
    let q = by_key(&h).await;
    h.store(vec![delayed_by(&h, q.a, "k/1", BACKOFF)]).await;
    let mut waiting = h.engine.lease(want(q.a, 1, TTL * 1000));
    assert!(poll!(&mut waiting).is_pending(), "it is delayed");
    h.advance(BACKOFF);
    let leased = soon("the waiting lease gets the message", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["k/1"]);
}

fn mortal(h: &Harness, queue: QueueId, id: &str, ttl: Duration) -> NewEntry {
    let mut new = keyed(queue, id);
    new.options.expires = Some(h.after(ttl));
    new
}

async fn an_expired_message_frees_its_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(vec![mortal(&h, q.a, "k/1", BACKOFF), keyed(q.a, "k/2")]).await;
    h.advance(BACKOFF * 2);
    assert_eq!(h.take_one(q.a).await.message.id(), "k/2");
}

async fn an_expired_message_in_the_middle_is_passed_over(h: Harness) {
    let q = by_key(&h).await;
    h.store(vec![keyed(q.a, "k/1"), mortal(&h, q.a, "k/2", BACKOFF), keyed(q.a, "k/3")]).await;
    let first = h.take_one(q.a).await;
    h.advance(BACKOFF * 2);
    h.assert_none(q.a, "the key is busy").await;
    h.done(&first).await.expect("it is leased");
    assert_eq!(h.take_one(q.a).await.message.id(), "k/3");
}

async fn an_expired_retry_frees_its_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(vec![mortal(&h, q.a, "k/1", BACKOFF / 2), keyed(q.a, "k/2")]).await;
    h.again(&h.take_one(q.a).await).await;
    h.advance(BACKOFF);
    let next = h.take_one(q.a).await;
    assert_eq!((next.message.id(), next.attempt()), ("k/2", 1));
}

async fn a_waiting_lease_gets_what_expiry_frees(h: Harness) {
    let q = by_key(&h).await;
    h.store(vec![mortal(&h, q.a, "k/1", BACKOFF / 2), keyed(q.a, "k/2")]).await;
    h.again(&h.take_one(q.a).await).await;
    let mut waiting = h.engine.lease(want(q.a, 1, TTL * 1000));
    assert!(poll!(&mut waiting).is_pending(), "the first backs off");
    h.advance(BACKOFF);
    let leased = soon("the waiting lease gets the next", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["k/2"]);
}
