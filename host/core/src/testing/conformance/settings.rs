//! Settings of queues: each can be changed in place, and an undeclared queue keeps those that it had.

use std::time::Duration;

use super::bounds::{at_most, offer};
use super::cases;
use super::harness::{BACKOFF, Harness, Queues, TTL, entry, ids, queue, queue_name, stored_ids};
use super::key_order::{by_key, drain};
use super::made::{MS, all_keyed, keyed, names, prior};
use crate::engine::{BulkAction, DeadCode, Definitions, Expired, Overflow, QueueDefinition, RequestError, Select};

cases! {
    the_order_changes_to_keys: KeyOrder;
    the_order_changes_from_keys: KeyOrder;
    the_order_changes_when_nothing_is_leased: KeyOrder;
    the_order_changes_back_while_it_waits: KeyOrder;
    retries_of_before_keep_their_place_in_the_order: KeyOrder;
    many_that_wait_for_their_key_are_freed_by_a_change: KeyOrder;
    the_order_changes_at_a_restart: KeyOrder, Reopen;
    many_that_wait_for_their_key_are_freed_by_a_change_at_a_restart: KeyOrder, Reopen;
    priorities_come: Priorities;
    priorities_go: Priorities;
    priorities_change_at_a_restart: Priorities, Reopen;
    what_expires_is_treated_as_defined_last: Expiry;
    dead_letters_go_where_defined_last;
    a_kept_policy_is_told;
    an_undeclared_queue_keeps_its_policy;
    an_undeclared_queue_keeps_its_policy_over_a_restart: Reopen;
    an_undeclared_queue_keeps_its_order: KeyOrder;
    an_undeclared_queue_keeps_its_order_over_a_restart: KeyOrder, Reopen;
    an_undeclared_queue_keeps_its_priorities: Priorities;
    an_undeclared_queue_keeps_its_bounds: Bounds;
    an_undeclared_queue_keeps_what_becomes_of_the_expired: Expiry;
    an_undeclared_queue_keeps_delays: Delay, Reopen;
}

/// Leaves `a` out of the plan.
async fn undeclare(h: &Harness) {
    let queues = vec![queue("a.dead", None), queue("b", Some("b.dead")), queue("b.dead", None)];
    let defined = h.engine.define(Definitions { queues, ..Definitions::default() }).await.expect("`define` works");
    assert!(!defined.queues.contains_key(&queue_name("a")), "it is not declared");
}

async fn the_order_changes_to_keys(h: Harness) {
    let q = h.standard().await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "j/1"])).await;
    by_key(&h).await;
    h.store(all_keyed(q.a, &["k/3"])).await;
    let taken = h.take(q.a, 2).await;
    assert_eq!(ids(&taken), ["k/1", "j/1"], "also what came before");
    h.assert_none(q.a, "both keys are busy").await;
    h.done(&taken[0]).await.expect("it is leased");
    assert_eq!(drain(&h, q, 2).await, ["k/2", "k/3"]);
}

async fn the_order_changes_from_keys(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "k/3"])).await;
    h.again(&h.take_one(q.a).await).await;
    h.assert_none(q.a, "the key is busy").await;
    h.standard().await;
    assert_eq!(ids(&h.take(q.a, 2).await), ["k/2", "k/3"], "a retry is in nobody's way");
    h.advance(BACKOFF);
    assert_eq!(h.take_one(q.a).await.message.id(), "k/1");
}

async fn the_order_changes_when_nothing_is_leased(h: Harness) {
    let q = h.standard().await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "k/3", "k/4"])).await;
    let leased = h.take(q.a, 2).await;
    by_key(&h).await;
    h.done(&leased[0]).await.expect("it is leased");
    h.assert_none(q.a, "one is leased in the old order").await;
    h.engine.release(vec![leased[1].token]).await;
    let next = h.take_one(q.a).await;
    assert_eq!(next.message.id(), "k/2");
    h.assert_none(q.a, "the key is busy").await;
    h.done(&next).await.expect("it is leased");
    assert_eq!(drain(&h, q, 2).await, ["k/3", "k/4"]);
}

async fn the_order_changes_back_while_it_waits(h: Harness) {
    let q = h.standard().await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "k/3"])).await;
    let leased = h.take_one(q.a).await;
    by_key(&h).await;
    h.standard().await;
    assert_eq!(ids(&h.take(q.a, 2).await), ["k/2", "k/3"], "nothing has changed");
    assert_eq!(h.done(&leased).await, Ok(()));
}

async fn retries_of_before_keep_their_place_in_the_order(h: Harness) {
    let q = h.standard().await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "j/1"])).await;
    h.again(&h.take_one(q.a).await).await;
    by_key(&h).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "j/1");
    h.assert_none(q.a, "one key backs off, the other is busy").await;
    h.advance(BACKOFF);
    assert_eq!(drain(&h, q, 2).await, ["k/1", "k/2"]);
}

/// `a` by key with one message of a key leased and many behind it; the leased one is settled.
async fn many_behind_one(h: &Harness) -> Queues {
    let q = by_key(h).await;
    h.store(all_keyed(q.a, &["k/0"])).await;
    let first = h.take_one(q.a).await;
    h.store(names("k/1", h.many).iter().map(|id| keyed(q.a, id)).collect()).await;
    h.assert_none(q.a, "the key is busy").await;
    h.done(&first).await.expect("it is leased");
    q
}

async fn many_that_wait_for_their_key_are_freed_by_a_change(h: Harness) {
    let q = many_behind_one(&h).await;
    h.standard().await;
    h.append(q.a, &["x"]).await;
    let taken = h.take(q.a, h.many + 1).await;
    assert!(taken.iter().any(|leased| leased.message.id() == "x"), "all are available at once");
    h.assert_none(q.a, "each once").await;
}

async fn the_order_changes_at_a_restart(h: Harness) {
    let q = h.standard().await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "j/1", "j/2"])).await;
    h.take(q.a, 3).await;
    let h = h.reopened().await;
    let q = by_key(&h).await;
    assert_eq!(ids(&h.take(q.a, 2).await), ["k/1", "j/1"], "a restart ended all leases");
    h.assert_none(q.a, "both keys are busy").await;
    let h = h.reopened().await;
    let q = h.standard().await;
    assert_eq!(ids(&h.take(q.a, 4).await), ["k/1", "k/2", "j/1", "j/2"]);
}

async fn many_that_wait_for_their_key_are_freed_by_a_change_at_a_restart(h: Harness) {
    many_behind_one(&h).await;
    let h = h.reopened().await;
    let q = h.standard().await;
    assert_eq!(h.take(q.a, h.many).await.len(), h.many, "all are available at once");
    h.assert_none(q.a, "each once").await;
}

async fn priorities_come(h: Harness) {
    let q = h.standard().await;
    h.store(vec![prior(q.a, "1", 2), prior(q.a, "2", 8)]).await;
    h.standard_but(|a| a.priority = true).await;
    h.store(vec![prior(q.a, "3", 9), prior(q.a, "4", 0)]).await;
    let taken = h.take(q.a, 4).await;
    let at = |id| taken.iter().position(|leased| leased.message.id() == id);
    assert!(at("3") == Some(0) && at("4") == Some(3), "for what comes from then on: {:?}", ids(&taken));
}

async fn priorities_go(h: Harness) {
    let q = h.standard_but(|a| a.priority = true).await;
    h.store((0..10).map(|priority| prior(q.a, &priority.to_string(), priority)).collect()).await;
    h.again(&h.take_one(q.a).await).await;
    h.standard().await;
    h.store(vec![prior(q.a, "x", 0), prior(q.a, "y", 9), prior(q.a, "z", 5)]).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (13, 0, 0)).await;
    let taken = h.take(q.a, 13).await;
    let at = |id| taken.iter().position(|leased| leased.message.id() == id);
    assert!(at("x") < at("y") && at("y") < at("z"), "in the order of acceptance: {:?}", ids(&taken));
    h.assert_none(q.a, "each message once").await;
}

async fn priorities_change_at_a_restart(h: Harness) {
    let q = h.standard_but(|a| a.priority = true).await;
    h.store((0..10).map(|priority| prior(q.a, &priority.to_string(), priority)).collect()).await;
    let h = h.reopened().await;
    let q = h.standard().await;
    h.append(q.a, &["x"]).await;
    let taken = h.take(q.a, 11).await;
    h.assert_none(q.a, "each message once").await;
    h.all_done(&taken).await;
    h.settles_at(q.a, (0, 0, 0)).await;
}

async fn what_expires_is_treated_as_defined_last(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", TTL)]).await;
    h.standard_but(|a| a.expired = Expired::Drop).await;
    h.advance(TTL + MS);
    super::eventually("it is collected", async || {
        h.assert_none(q.a, "it has expired").await;
        h.figures(q.a).is_some_and(|figures| figures.expired == 1)
    })
    .await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0]);
}

async fn dead_letters_go_where_defined_last(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    let leased = h.take(q.a, 3).await;
    h.dead(&leased[0]).await;
    h.standard_but(|a| a.dead_letter = Some(queue_name("b.dead"))).await;
    h.dead(&leased[1]).await;
    h.standard_but(|a| a.dead_letter = None).await;
    h.dead(&leased[2]).await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1"]);
    assert_eq!(stored_ids(&h.browse(q.b_dead).await), ["2"]);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["3"], "held in place");
}

/// What `a` is like before it is left out: nothing is as usual.
fn unusual() -> QueueDefinition {
    let mut a = queue("a", Some("b.dead"));
    a.retry.max_attempts = 2;
    a.retry.backoff.max = Duration::from_secs(17);
    a
}

async fn define_unusual(h: &Harness) -> Queues {
    h.standard_but(|a| *a = unusual()).await
}

async fn a_kept_policy_is_told(h: Harness) {
    let q = define_unusual(&h).await;
    h.append(q.a, &["1"]).await;
    let queues = vec![queue("b", None)];
    let defined = h.engine.define(Definitions { queues, ..Definitions::default() }).await.expect("`define` works");
    assert_eq!(defined.kept_retries.get(&q.a), Some(&unusual().retry));
    assert_eq!(defined.kept_retries.get(&q.b), None, "it is declared");
}

/// Lets both attempts of the only message in `a` run out; it goes where `a` was defined to send it.
async fn run_out_twice(h: &Harness, q: Queues) {
    for attempt in 1..=2 {
        assert_eq!(h.take_one(q.a).await.attempt(), attempt);
        h.advance(TTL);
        h.settles_at(q.a, (u64::from(attempt < 2), 0, 0)).await;
    }
    let stored = h.browse(q.b_dead).await.remove(0);
    assert_eq!(stored.dead.map(|dead| (dead.origin, dead.reason.code)), Some((queue_name("a"), DeadCode::MaxAttempts)));
}

async fn an_undeclared_queue_keeps_its_policy(h: Harness) {
    let q = define_unusual(&h).await;
    h.append(q.a, &["1"]).await;
    undeclare(&h).await;
    run_out_twice(&h, q).await;
}

async fn an_undeclared_queue_keeps_its_policy_over_a_restart(h: Harness) {
    let q = define_unusual(&h).await;
    h.append(q.a, &["1"]).await;
    undeclare(&h).await;
    let h = h.reopened().await;
    undeclare(&h).await;
    run_out_twice(&h, q).await;
}

async fn an_undeclared_queue_keeps_its_order(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    undeclare(&h).await;
    h.take_one(q.a).await;
    h.assert_none(q.a, "the key is busy").await;
}

async fn an_undeclared_queue_keeps_its_order_over_a_restart(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.again(&h.take_one(q.a).await).await;
    undeclare(&h).await;
    let h = h.reopened().await;
    undeclare(&h).await;
    h.assert_none(q.a, "the first backs off").await;
    h.advance(BACKOFF);
    assert_eq!(drain(&h, q, 2).await, ["k/1", "k/2"]);
}

async fn an_undeclared_queue_keeps_its_priorities(h: Harness) {
    let q = h.standard_but(|a| a.priority = true).await;
    h.store(vec![prior(q.a, "1", 2), prior(q.a, "2", 8)]).await;
    undeclare(&h).await;
    h.store(vec![prior(q.a, "3", 5)]).await;
    assert_eq!(ids(&h.take(q.a, 3).await), ["2", "3", "1"]);
}

async fn an_undeclared_queue_keeps_its_bounds(h: Harness) {
    let q = h.standard_but(|a| a.bounds = at_most(1, Overflow::Refuse)).await;
    h.append(q.a, &["1"]).await;
    undeclare(&h).await;
    assert_eq!(offer(&h, vec![entry(q.a, "2")]).await, Err(RequestError::QueueFull(q.a)));
}

async fn an_undeclared_queue_keeps_what_becomes_of_the_expired(h: Harness) {
    let q = h.standard_but(|a| a.expired = Expired::Drop).await;
    h.store(vec![h.mortal(q.a, "1", TTL)]).await;
    h.append(q.a, &["2"]).await;
    undeclare(&h).await;
    h.advance(TTL + MS);
    assert_eq!(h.take_one(q.a).await.message.id(), "2");
    super::eventually("the other is collected", async || h.browse(q.a).await.len() == 1).await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0]);
}

async fn an_undeclared_queue_keeps_delays(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", TTL)]).await;
    undeclare(&h).await;
    let h = h.reopened().await;
    h.advance(TTL - MS);
    h.assert_none(q.a, "it is due in a millisecond").await;
    h.advance(MS);
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
    assert_eq!(h.bulk(q.a, Select::All, BulkAction::Discard).await.map(|done| done.skipped), Ok(1));
}
