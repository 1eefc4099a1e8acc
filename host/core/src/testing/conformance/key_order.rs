//! Order by key: messages of one key strictly one after another, those of different keys side by side.

use std::time::Duration;

use futures_util::poll;

use super::cases;
use super::harness::{Harness, Queues, TTL, done, entry, ids, queue, soon, want};
use super::made::{all_keyed, keyed, names, sorted_ids};
use crate::engine::{BulkAction, LeaseRequest, Leased, Order};

cases! {
    messages_of_a_key_come_one_after_another: KeyOrder;
    messages_of_different_keys_come_side_by_side: KeyOrder;
    messages_without_a_key_have_no_order: KeyOrder;
    the_order_is_that_of_acceptance: KeyOrder;
    a_lease_with_an_end_gets_one_of_a_key: KeyOrder;
    a_lease_without_an_end_gets_a_key_in_order: KeyOrder;
    a_key_has_one_holder: KeyOrder;
    what_is_released_comes_before_what_is_younger: KeyOrder;
    a_chain_released_in_any_order_stays_in_order: KeyOrder;
    what_ran_out_comes_before_what_is_younger: KeyOrder;
    a_waiting_lease_gets_the_next_of_a_key: KeyOrder;
    a_waiting_lease_gets_what_a_release_frees: KeyOrder;
    emits_join_the_order_of_their_key: KeyOrder, Effects;
    a_key_in_another_queue_is_another_key: KeyOrder;
    the_same_key_has_the_same_number: KeyOrder;
    the_number_of_a_key_survives_a_restart: KeyOrder, Reopen;
    where_no_order_is_kept_there_is_no_number;
    what_waits_for_its_key_counts_as_ready: KeyOrder;
    what_waits_for_its_key_is_shown: KeyOrder;
    many_of_a_busy_key_do_not_stall_others: KeyOrder;
    many_of_several_busy_keys_do_not_stall_others: KeyOrder;
    many_of_a_busy_key_come_in_order: KeyOrder;
    many_keys_are_leased_at_once: KeyOrder;
    dead_letters_may_be_kept_in_order: KeyOrder;
}

/// The standard queues, `a` with its messages in order by key.
pub(super) async fn by_key(h: &Harness) -> Queues {
    h.standard_but(|a| a.order = Order::Key).await
}

/// One call for leases without an end.
pub(super) async fn chain(h: &Harness, q: Queues, max: usize) -> Vec<Leased> {
    let request = LeaseRequest { ttl: None, ..want(q.a, max, Duration::ZERO) };
    h.engine.lease(request).await.expect("`lease` works")
}

/// Leases and settles `count` messages, as many at a time as the engine gives; their ids in the order of their leases.
pub(super) async fn drain(h: &Harness, q: Queues, count: usize) -> Vec<String> {
    let mut drained: Vec<String> = Vec::new();
    super::eventually("all are leased", async || {
        while drained.len() < count {
            let leased = chain(h, q, 1000.min(count - drained.len())).await;
            if leased.is_empty() {
                return false;
            }
            drained.extend(ids(&leased).into_iter().map(str::to_owned));
            h.all_done(&leased).await;
        }
        true
    })
    .await;
    drained
}

async fn messages_of_a_key_come_one_after_another(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "k/3"])).await;
    for id in ["k/1", "k/2", "k/3"] {
        let leased = h.take_one(q.a).await;
        assert_eq!(leased.message.id(), id);
        h.assert_none(q.a, "one of its key is leased").await;
        assert_eq!(h.done(&leased).await, Ok(()));
    }
    h.settles_at(q.a, (0, 0, 0)).await;
}

async fn messages_of_different_keys_come_side_by_side(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["i/1", "i/2", "j/1", "k/1", "j/2", "k/2"])).await;
    let first = h.take(q.a, 3).await;
    assert_eq!(ids(&first), ["i/1", "j/1", "k/1"]);
    h.assert_none(q.a, "each key is busy").await;
    h.done(&first[1]).await.expect("it is leased");
    assert_eq!(h.take_one(q.a).await.message.id(), "j/2", "whatever others do");
    h.assert_none(q.a, "each key is busy again").await;
}

async fn messages_without_a_key_have_no_order(h: Harness) {
    let q = by_key(&h).await;
    h.append(q.a, &["1", "2"]).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.append(q.a, &["3"]).await;
    assert_eq!(ids(&h.take(q.a, 4).await), ["1", "2", "k/1", "3"]);
    h.assert_none(q.a, "the key is busy").await;
}

async fn the_order_is_that_of_acceptance(h: Harness) {
    let q = by_key(&h).await;
    let accepted = ["k/3", "k/1", "j/2", "k/2", "j/1", "k/4"];
    for id in accepted {
        h.store(vec![keyed(q.a, id)]).await;
    }
    let drained = drain(&h, q, accepted.len()).await;
    let of = |key: &str| drained.iter().filter(|id| id.starts_with(key)).map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("k"), ["k/3", "k/1", "k/2", "k/4"]);
    assert_eq!(of("j"), ["j/2", "j/1"]);
}

async fn a_lease_with_an_end_gets_one_of_a_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "j/1", "j/2", "k/3"])).await;
    let leased = h.lease(q.a, 10).await;
    assert!(!leased.is_empty() && leased.len() <= 2, "{:?}", ids(&leased));
    let more = h.lease(q.a, 10).await;
    let mut all = [ids(&leased), ids(&more)].concat();
    all.sort_unstable();
    assert_eq!(all, ["j/1", "k/1"]);
}

async fn a_lease_without_an_end_gets_a_key_in_order(h: Harness) {
    let q = by_key(&h).await;
    let all = ["k/1", "k/2", "k/3", "k/4"];
    h.store(all_keyed(q.a, &all)).await;
    let mut taken = 0;
    // A call may get fewer than there are, as every call; what it gets is the beginning of what is left.
    while taken < all.len() {
        let leased = chain(&h, q, 10).await;
        assert!(!leased.is_empty(), "the key is free");
        assert_eq!(ids(&leased), all[taken..taken + leased.len()]);
        taken += leased.len();
        h.all_done(&leased).await;
    }
}

async fn a_key_has_one_holder(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    let leased = chain(&h, q, 10).await;
    h.store(all_keyed(q.a, &["k/3"])).await;
    for (at, one) in leased.iter().enumerate() {
        h.assert_none(q.a, "the key is held").await;
        assert_eq!(ids(&chain(&h, q, 10).await), [""; 0], "by a lease call before, after {at} of it");
        h.done(one).await.expect("it is leased");
    }
    assert_eq!(h.take_one(q.a).await.message.id(), ["k/2", "k/3"][leased.len() - 1], "all that was held is settled");
}

async fn what_is_released_comes_before_what_is_younger(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "j/1"])).await;
    let first = h.take_one(q.a).await;
    h.engine.release(vec![first.token]).await;
    h.store(all_keyed(q.a, &["k/3"])).await;
    let taken = h.take(q.a, 2).await;
    assert_eq!(sorted(&taken), ["j/1", "k/1"]);
    assert!(taken.iter().all(|leased| leased.attempt() == 1), "a release counts nothing");
    h.all_done(&taken).await;
    assert_eq!(drain(&h, q, 2).await, ["k/2", "k/3"]);
}

pub(super) fn sorted(leased: &[Leased]) -> Vec<&str> {
    let mut ids = ids(leased);
    ids.sort_unstable();
    ids
}

async fn a_chain_released_in_any_order_stays_in_order(h: Harness) {
    let q = by_key(&h).await;
    let all = ["k/1", "k/2", "k/3", "k/4"];
    h.store(all_keyed(q.a, &all)).await;
    let mut tokens: Vec<_> = chain(&h, q, 10).await.iter().map(|leased| leased.token).collect();
    tokens.reverse();
    for token in tokens {
        h.engine.release(vec![token]).await;
    }
    assert_eq!(drain(&h, q, all.len()).await, all);
}

async fn what_ran_out_comes_before_what_is_younger(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.take_one(q.a).await;
    h.advance(TTL);
    h.settles_at(q.a, (2, 0, 0)).await;
    let again = h.take_one(q.a).await;
    assert_eq!((again.message.id(), again.attempt()), ("k/1", 2));
    h.assert_none(q.a, "its key is busy").await;
    h.done(&again).await.expect("it is leased");
    assert_eq!(h.take_one(q.a).await.message.id(), "k/2");
}

async fn a_waiting_lease_gets_the_next_of_a_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    let first = h.take_one(q.a).await;
    let mut waiting = h.engine.lease(want(q.a, 1, TTL * 1000));
    assert!(poll!(&mut waiting).is_pending(), "the key is busy");
    h.done(&first).await.expect("it is leased");
    let leased = soon("the waiting lease gets the next", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["k/2"]);
}

async fn a_waiting_lease_gets_what_a_release_frees(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    let first = h.take_one(q.a).await;
    let mut waiting = h.engine.lease(want(q.a, 1, TTL * 1000));
    assert!(poll!(&mut waiting).is_pending(), "the key is busy");
    h.engine.release(vec![first.token]).await;
    let leased = soon("the waiting lease gets it", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["k/1"]);
}

async fn emits_join_the_order_of_their_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    let first = h.take_one(q.a).await;
    h.settle(done(&first, all_keyed(q.a, &["k/3", "j/1"]))).await.expect("it is leased");
    assert_eq!(sorted(&h.take(q.a, 2).await), ["j/1", "k/2"]);
    h.assert_none(q.a, "the emit waits for its key").await;
}

async fn a_key_in_another_queue_is_another_key(h: Harness) {
    let by_key = |name, dead| {
        let mut queue = queue(name, dead);
        queue.order = Order::Key;
        queue
    };
    let queues = vec![by_key("a", None), by_key("b", None), queue("a.dead", None), queue("b.dead", None)];
    let q = h.define(queues).await;
    h.store([all_keyed(q.a, &["k/1", "k/2"]), all_keyed(q.b, &["k/3", "k/4"])].concat()).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "k/1");
    assert_eq!(h.take_one(q.b).await.message.id(), "k/3");
    h.assert_none(q.b, "its key is busy").await;
}

async fn the_same_key_has_the_same_number(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "j/1"])).await;
    h.append(q.a, &["x"]).await;
    let taken = h.take(q.a, 3).await;
    assert_eq!(ids(&taken), ["k/1", "j/1", "x"]);
    assert!(taken[0].key.is_some() && taken[1].key.is_some(), "they have keys");
    assert_ne!(taken[0].key, taken[1].key, "their keys differ");
    assert_eq!(taken[2].key, None, "it has no key");
    h.done(&taken[0]).await.expect("it is leased");
    assert_eq!(h.take_one(q.a).await.key, taken[0].key);
}

async fn the_number_of_a_key_survives_a_restart(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    let number = h.take_one(q.a).await.key;
    let h = h.reopened().await;
    let q = by_key(&h).await;
    assert_eq!(h.take_one(q.a).await.key, number);
}

async fn where_no_order_is_kept_there_is_no_number(h: Harness) {
    let q = h.standard().await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    let taken = h.take(q.a, 2).await;
    assert_eq!(ids(&taken), ["k/1", "k/2"], "keys are nothing here");
    assert!(taken.iter().all(|leased| leased.key.is_none()));
}

async fn what_waits_for_its_key_counts_as_ready(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "k/3", "j/1"])).await;
    let taken = h.take(q.a, 2).await;
    h.settles_at(q.a, (2, 2, 0)).await;
    h.again(&taken[0]).await;
    h.settles_at(q.a, (2, 1, 1)).await;
}

async fn what_waits_for_its_key_is_shown(h: Harness) {
    const BLOCKED: usize = 100;
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/0"])).await;
    h.take_one(q.a).await;
    let blocked = names("k/1", BLOCKED);
    h.store(blocked.iter().map(|id| keyed(q.a, id)).collect()).await;
    h.assert_none(q.a, "the key is busy").await;
    for max in [7, 1000] {
        // While an engine moves them out of the way, one may be seen at both of its places.
        super::eventually("each is shown once", async || {
            let stored = h.browse_by(q.a, max).await;
            assert_eq!(stored[0].leased, stored[0].message.id() == "k/0");
            sorted_ids(&stored[1..]) == blocked
        })
        .await;
    }
}

async fn many_of_a_busy_key_do_not_stall_others(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/0"])).await;
    let first = h.take_one(q.a).await;
    h.store(names("k/1", h.many).iter().map(|id| keyed(q.a, id)).collect()).await;
    h.store(all_keyed(q.a, &["j/1", "i/1"])).await;
    h.append(q.a, &["x"]).await;
    assert_eq!(sorted(&h.take(q.a, 3).await), ["i/1", "j/1", "x"]);
    h.assert_none(q.a, "the others wait for their key").await;
    h.settles_at(q.a, (h.many as u64, 4, 0)).await;
    h.store(all_keyed(q.a, &["h/1"])).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "h/1");
    h.done(&first).await.expect("it is leased");
    assert_eq!(h.take_one(q.a).await.message.id(), "k/100000");
}

async fn many_of_several_busy_keys_do_not_stall_others(h: Harness) {
    const KEYS: [&str; 4] = ["k/", "l/", "m/", "n/"];
    let q = by_key(&h).await;
    h.store(KEYS.map(|key| keyed(q.a, &format!("{key}0"))).to_vec()).await;
    let held = h.take(q.a, KEYS.len()).await;
    // Taking turns, so that a look at one key meets the others.
    let blocked = (0..h.many).map(|number| keyed(q.a, &format!("{}{:05}", KEYS[number % KEYS.len()], number + 1)));
    h.store(blocked.collect()).await;
    h.store(all_keyed(q.a, &["j/1"])).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "j/1");
    h.assert_none(q.a, "all other keys are busy").await;
    for (number, leased) in held.iter().enumerate() {
        h.done(leased).await.expect("it is leased");
        let next = h.take_one(q.a).await;
        assert_eq!(next.message.id(), format!("{}{:05}", KEYS[number], number + 1), "the first of the key just freed");
        h.assert_none(q.a, "all keys are busy again").await;
    }
}

async fn many_of_a_busy_key_come_in_order(h: Harness) {
    let seen = h.many / 5;
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/0"])).await;
    let first = h.take_one(q.a).await;
    let blocked = names("k/1", h.many);
    h.store(blocked.iter().map(|id| keyed(q.a, id)).collect()).await;
    // A look at the queue while the key is busy moves what waits for it, where an engine does that.
    h.assert_none(q.a, "the key is busy").await;
    h.done(&first).await.expect("it is leased");
    assert!(drain(&h, q, seen).await == blocked[..seen], "in the order of acceptance");
    h.settles_at(q.a, ((h.many - seen) as u64, 0, 0)).await;
    assert_eq!(h.bulk_by(q.a, BulkAction::Discard, 1000).await.changed, (h.many - seen) as u64, "none was lost");
}

async fn many_keys_are_leased_at_once(h: Harness) {
    let q = by_key(&h).await;
    let keys = names("", h.many);
    for round in ["1", "2"] {
        h.store(keys.iter().map(|key| keyed(q.a, &format!("{key}/{round}"))).collect()).await;
    }
    let first = h.take(q.a, h.many).await;
    assert!(first.iter().all(|leased| leased.message.id().ends_with("/1")), "one of each key");
    h.assert_none(q.a, "each key is busy").await;
    h.all_done(&first).await;
    let second = h.take(q.a, h.many).await;
    assert!(second.iter().all(|leased| leased.message.id().ends_with("/2")), "one of each key");
}

async fn dead_letters_may_be_kept_in_order(h: Harness) {
    let mut dead = queue("a.dead", None);
    dead.order = Order::Key;
    let q = h.define(vec![queue("a", Some("a.dead")), dead, queue("b", None), queue("b.dead", None)]).await;
    h.store([all_keyed(q.a, &["k/1", "k/2"]), vec![entry(q.a, "3")]].concat()).await;
    h.bury(q.a, 3).await;
    let leased = h.take(q.a_dead, 2).await;
    assert_eq!(ids(&leased), ["k/1", "3"], "a dead letter keeps its key");
    h.assert_none(q.a_dead, "its key is busy").await;
    h.done(&leased[0]).await.expect("it is leased");
    assert_eq!(h.take_one(q.a_dead).await.message.id(), "k/2");
}
