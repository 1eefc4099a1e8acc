//! Order by key over restarts: what was blocked stays so, what waited comes in its order.

use super::cases;
use super::harness::{BACKOFF, Harness, Queues};
use super::key_order::{by_key, chain, drain};
use super::made::{MS, all_keyed, keyed, names};
use crate::engine::{BulkAction, Select};

cases! {
    what_was_leased_comes_first_again: KeyOrder, Reopen;
    a_chain_comes_again_in_order: KeyOrder, Reopen;
    a_key_stays_blocked_behind_a_retry: KeyOrder, Reopen;
    a_key_is_free_when_its_retry_came_due: KeyOrder, Reopen;
    a_delayed_message_joins_after_a_restart: KeyOrder, Delay, Reopen;
    a_delayed_message_keeps_the_place_where_it_joined: KeyOrder, Delay, Reopen;
    a_redriven_message_keeps_the_place_where_it_joined: KeyOrder, Reopen;
    many_of_a_key_come_in_order: KeyOrder, Reopen;
    many_behind_a_retry_stay_blocked_and_in_order: KeyOrder, Reopen;
    many_parked_and_many_new_come_in_order: KeyOrder, Reopen;
    many_keys_stay_blocked_behind_their_retries: KeyOrder, Reopen;
}

async fn crash(h: Harness) -> (Harness, Queues) {
    let h = h.reopened().await;
    let q = by_key(&h).await;
    (h, q)
}

async fn what_was_leased_comes_first_again(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "j/1"])).await;
    h.take_one(q.a).await;
    let (h, q) = crash(h).await;
    let taken = h.take(q.a, 2).await;
    assert_eq!(super::key_order::sorted(&taken), ["j/1", "k/1"]);
    h.assert_none(q.a, "both keys are busy").await;
}

async fn a_chain_comes_again_in_order(h: Harness) {
    let q = by_key(&h).await;
    let all = ["k/1", "k/2", "k/3", "k/4"];
    h.store(all_keyed(q.a, &all)).await;
    let leased = chain(&h, q, 10).await;
    h.done(&leased[0]).await.expect("it is leased");
    let (h, q) = crash(h).await;
    assert_eq!(drain(&h, q, 3).await, all[1..]);
}

async fn a_key_stays_blocked_behind_a_retry(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "j/1"])).await;
    h.again(&h.take_one(q.a).await).await;
    let (h, q) = crash(h).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "j/1");
    h.store(all_keyed(q.a, &["k/3"])).await;
    h.advance(BACKOFF - MS);
    h.assert_none(q.a, "the first backs off, the other key is busy").await;
    h.advance(MS);
    assert_eq!(drain(&h, q, 3).await, ["k/1", "k/2", "k/3"]);
}

async fn a_key_is_free_when_its_retry_came_due(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.again(&h.take_one(q.a).await).await;
    h.clock.advance(BACKOFF);
    let (h, q) = crash(h).await;
    let first = h.take_one(q.a).await;
    assert_eq!((first.message.id(), first.attempt()), ("k/1", 2));
    h.assert_none(q.a, "its key is busy").await;
    h.done(&first).await.expect("it is leased");
    assert_eq!(h.take_one(q.a).await.message.id(), "k/2");
}

async fn a_delayed_message_joins_after_a_restart(h: Harness) {
    let q = by_key(&h).await;
    let mut new = keyed(q.a, "k/3");
    new.options.due = Some(h.after(BACKOFF));
    h.store(vec![new]).await;
    h.store(all_keyed(q.a, &["k/1"])).await;
    let (h, q) = crash(h).await;
    h.store(all_keyed(q.a, &["k/2"])).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (3, 0, 0)).await;
    h.store(all_keyed(q.a, &["k/4"])).await;
    assert_eq!(drain(&h, q, 4).await, ["k/1", "k/2", "k/3", "k/4"]);
}

async fn a_delayed_message_keeps_the_place_where_it_joined(h: Harness) {
    let q = by_key(&h).await;
    let mut new = keyed(q.a, "k/2");
    new.options.due = Some(h.after(BACKOFF));
    h.store(vec![new, keyed(q.a, "k/1")]).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (2, 0, 0)).await;
    h.store(all_keyed(q.a, &["k/3"])).await;
    let (h, q) = crash(h).await;
    assert_eq!(drain(&h, q, 3).await, ["k/1", "k/2", "k/3"]);
}

async fn a_redriven_message_keeps_the_place_where_it_joined(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.dead(&h.take_one(q.a).await).await;
    h.bulk(q.a_dead, Select::All, BulkAction::Redrive(None)).await.expect("`bulk` works");
    h.store(all_keyed(q.a, &["k/3"])).await;
    let (h, q) = crash(h).await;
    assert_eq!(drain(&h, q, 3).await, ["k/2", "k/1", "k/3"]);
}

async fn many_of_a_key_come_in_order(h: Harness) {
    let seen = h.many / 10;
    let q = by_key(&h).await;
    let all = names("k/", h.many);
    h.store(all.iter().map(|id| keyed(q.a, id)).collect()).await;
    h.take_one(q.a).await;
    h.assert_none(q.a, "the key is busy").await;
    let (h, q) = crash(h).await;
    h.settles_at(q.a, (h.many as u64, 0, 0)).await;
    assert!(drain(&h, q, seen).await == all[..seen], "in the order of acceptance");
    // Again, in the middle of them.
    let (h, q) = crash(h).await;
    assert!(drain(&h, q, seen).await == all[seen..2 * seen], "in the order of acceptance");
    let left = (h.many - 2 * seen) as u64;
    assert_eq!(h.bulk_by(q.a, BulkAction::Discard, 1000).await.changed, left, "none was lost");
}

async fn many_behind_a_retry_stay_blocked_and_in_order(h: Harness) {
    let seen = h.many / 20;
    let q = by_key(&h).await;
    let all = names("k/", h.many);
    h.store(all.iter().map(|id| keyed(q.a, id)).collect()).await;
    h.again(&h.take_one(q.a).await).await;
    h.assert_none(q.a, "the first backs off").await;
    let (h, q) = crash(h).await;
    h.assert_none(q.a, "the first backs off").await;
    h.store(all_keyed(q.a, &["j/1"])).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "j/1", "others go on");
    h.advance(BACKOFF);
    let first = h.take_one(q.a).await;
    assert_eq!((first.message.id(), first.attempt()), (all[0].as_str(), 2));
    h.assert_none(q.a, "the first is leased").await;
    h.done(&first).await.expect("it is leased");
    assert!(drain(&h, q, seen).await == all[1..=seen], "in the order of acceptance");
}

async fn many_parked_and_many_new_come_in_order(h: Harness) {
    let half = h.many / 2;
    let q = by_key(&h).await;
    let all = names("k/", h.many);
    h.store(all[..half].iter().map(|id| keyed(q.a, id)).collect()).await;
    h.take_one(q.a).await;
    h.assert_none(q.a, "the key is busy").await;
    let (h, q) = crash(h).await;
    h.store(all[half..].iter().map(|id| keyed(q.a, id)).collect()).await;
    h.store(all_keyed(q.a, &["j/1"])).await;
    let before = drain(&h, q, half + 2).await;
    let of_k: Vec<_> = before.iter().filter(|id| id.starts_with("k/")).collect();
    assert!(of_k.iter().copied().eq(&all[..of_k.len()]), "those of before and of after the restart, in order");
}

async fn many_keys_stay_blocked_behind_their_retries(h: Harness) {
    let half = h.many / 20;
    let q = by_key(&h).await;
    let keys = names("k", 2 * half);
    for round in ["1", "2"] {
        h.store(keys.iter().map(|key| keyed(q.a, &format!("{key}/{round}"))).collect()).await;
    }
    for leased in h.take(q.a, 2 * half).await.chunks(2) {
        h.again(&leased[0]).await;
        h.all_done(&leased[1..]).await;
    }
    let (h, q) = crash(h).await;
    let free = h.take(q.a, half).await;
    assert!(free.iter().all(|leased| leased.message.id().ends_with("/2")), "of keys without a retry");
    h.assert_none(q.a, "the others are behind retries").await;
    h.advance(BACKOFF);
    let again = h.take(q.a, half).await;
    assert!(again.iter().all(|leased| leased.attempt() == 2), "retries first");
    // Those of before are leased all the while: nothing of their keys is left.
    h.all_done(&again).await;
    assert_eq!(h.take(q.a, half).await.len(), half, "then those behind them");
}
