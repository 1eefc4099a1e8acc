//! After a crash: everything that was answered is there, all leases have ended, nothing was counted for it.

use std::time::Duration;

use super::cases;
use super::harness::{
    BACKOFF, HELD, Harness, Queues, TTL, attempt, done, entry, ids, message, queue, queue_name, rejected, stored_ids,
};
use crate::clock::Clock as _;
use crate::engine::{BulkAction, Definitions, Select, SettleError};

cases! {
    what_was_accepted_is_there: Reopen;
    positions_go_on_growing: Reopen;
    store_and_queues_keep_their_ids: Reopen;
    leases_end_uncounted: Reopen;
    a_lease_of_before_is_lost: Reopen, Fenced;
    a_lease_of_before_does_not_settle_one_of_after: Reopen, Fenced;
    what_was_done_stays_done: Reopen;
    emits_are_there: Reopen, Effects;
    retries_keep_time_and_count: Reopen;
    a_retry_due_meanwhile_is_available: Reopen;
    a_lease_that_ran_out_before_stays_counted: Reopen;
    history_stays: Reopen, History;
    dead_letters_stay: Reopen;
    what_is_held_stays_held: Reopen;
    bulk_changes_stay: Reopen;
    undeclared_queues_keep_their_messages: Reopen;
    counts_are_right_at_once: Reopen;
    many_restarts_in_a_row: Reopen;
}

/// The harness after a crash, with the queues defined as before.
async fn crash(h: Harness) -> (Harness, Queues) {
    let h = h.reopened().await;
    let q = h.standard().await;
    (h, q)
}

async fn what_was_accepted_is_there(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.append(q.b, &["3"]).await;
    let accepted = h.clock.wall();
    h.advance(Duration::from_secs(60));
    let (h, q) = crash(h).await;
    let leased = h.take(q.a, 2).await;
    assert_eq!(ids(&leased), ["1", "2"]);
    assert_eq!((leased[0].message.clone(), leased[0].accepted), (message("1"), accepted));
    assert_eq!(stored_ids(&h.browse(q.b).await), ["3"]);
}

async fn positions_go_on_growing(h: Harness) {
    let q = h.standard().await;
    let before = h.append(q.a, &["1", "2"]).await;
    for leased in h.take(q.a, 2).await {
        h.done(&leased).await.expect("it is leased");
    }
    let (h, q) = crash(h).await;
    let after = h.append(q.a, &["3"]).await;
    assert!(after[0] > before[1], "{after:?} after {before:?}: no position is given twice");
}

async fn store_and_queues_keep_their_ids(h: Harness) {
    let before = (h.engine.store_id(), h.standard().await);
    let (h, q) = crash(h).await;
    assert_eq!((h.engine.store_id(), q), before);
}

async fn leases_end_uncounted(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.take_one(q.a).await;
    let (h, q) = crash(h).await;
    let leased = h.take(q.a, 2).await;
    assert_eq!((ids(&leased), leased[0].attempt()), (vec!["1", "2"], 1), "in the old order");
    assert!(h.browse(q.a).await.iter().all(|stored| stored.history.is_empty()));
}

async fn a_lease_of_before_is_lost(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let old = h.take_one(q.a).await;
    let (h, q) = crash(h).await;
    assert_eq!(h.settle(done(&old, vec![entry(q.b, "2")])).await, Err(SettleError::LeaseLost));
    assert_eq!(h.engine.extend(vec![(old.token, TTL)]).await, [Err(SettleError::LeaseLost)]);
    h.engine.release(vec![old.token]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
    assert_eq!(stored_ids(&h.browse(q.b).await), [""; 0]);
}

async fn a_lease_of_before_does_not_settle_one_of_after(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let old = h.take_one(q.a).await;
    let (h, q) = crash(h).await;
    let new = h.take_one(q.a).await;
    assert!(new.token.epoch > old.token.epoch, "the epoch says which opening gave it: {old:?}, {new:?}");
    assert_eq!(h.done(&old).await, Err(SettleError::LeaseLost));
    assert_eq!(h.done(&new).await, Ok(()));
}

async fn what_was_done_stays_done(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take_one(q.a).await;
    h.done(&leased).await.expect("it is leased");
    let (h, q) = crash(h).await;
    assert_eq!(ids(&h.take(q.a, 1).await), ["2"]);
    h.assert_none(q.a, "the first was settled").await;
    assert_ne!(h.done(&leased).await, Ok(()), "and is not settled again");
}

async fn emits_are_there(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    h.settle(done(&leased, vec![entry(q.b, "2"), entry(q.a, "3")])).await.expect("it is leased");
    let (h, q) = crash(h).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["3"]);
    assert_eq!(h.take_one(q.b).await.message, message("2"));
}

async fn retries_keep_time_and_count(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.again(&h.take_one(q.a).await).await;
    let (h, q) = crash(h).await;
    assert_eq!(ids(&h.take(q.a, 1).await), ["2"]);
    h.advance(BACKOFF - Duration::from_millis(1));
    h.assert_none(q.a, "it is due in a millisecond").await;
    h.advance(Duration::from_millis(1));
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.message.id(), leased.attempt()), ("1", 2));
}

async fn a_retry_due_meanwhile_is_available(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.clock.advance(BACKOFF);
    let (h, q) = crash(h).await;
    assert_eq!(h.take_one(q.a).await.attempt(), 2);
}

async fn a_lease_that_ran_out_before_stays_counted(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.take_one(q.a).await;
    h.advance(TTL);
    h.settles_at(q.a, (1, 0, 0)).await;
    let (h, q) = crash(h).await;
    assert_eq!(h.take_one(q.a).await.attempt(), 2);
}

async fn history_stays(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    let (h, q) = crash(h).await;
    assert_eq!(h.browse(q.a).await[0].history, [attempt(1)]);
    h.advance(BACKOFF);
    h.bury(q.a, 1).await;
    let (h, q) = crash(h).await;
    assert_eq!(h.browse(q.a_dead).await[0].history, [attempt(1), attempt(2)]);
}

async fn dead_letters_stay(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let died = h.clock.wall();
    h.bury(q.a, 1).await;
    let before = h.browse(q.a_dead).await.remove(0);
    h.advance(Duration::from_secs(60));
    let (h, q) = crash(h).await;
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!((stored.position, stored.entry, stored.attempts), (before.position, before.entry, 0));
    let dead = stored.dead.expect("it is a dead letter");
    assert_eq!((dead.origin, dead.at, dead.reason), (queue_name("a"), died, rejected()));
    h.bulk(q.a_dead, Select::All, BulkAction::Redrive(None)).await.expect("`bulk` works");
    assert_eq!(h.take_one(q.a).await.attempt(), 1);
}

async fn what_is_held_stays_held(h: Harness) {
    let q = h.standard().await;
    h.append(q.a_dead, &["1"]).await;
    h.bury(q.a_dead, 1).await;
    let (h, q) = crash(h).await;
    h.advance(Duration::from_secs(365 * 24 * 3600));
    h.assert_none(q.a_dead, "it is held").await;
    assert_eq!(h.browse(q.a_dead).await[0].due, Some(HELD));
}

async fn bulk_changes_stay(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.bury(q.a, 2).await;
    let positions = Select::Positions(vec![h.browse(q.a_dead).await[0].position]);
    h.bulk(q.a_dead, positions, BulkAction::Redrive(None)).await.expect("`bulk` works");
    h.bulk(q.a_dead, Select::All, BulkAction::Discard).await.expect("`bulk` works");
    let (h, q) = crash(h).await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0]);
    assert_eq!(ids(&h.take(q.a, 1).await), ["1"]);
}

async fn undeclared_queues_keep_their_messages(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let h = h.reopened().await;
    let defined = h
        .engine
        .define(Definitions { queues: vec![queue("b", None)], ..Definitions::default() })
        .await
        .expect("`define` works");
    assert_eq!(defined.undeclared, [queue_name("a")]);
    let kept = defined.kept_retries.get(&q.a);
    assert_eq!(kept, Some(&queue("a", None).retry), "who settles a lease on it goes by the rule that it had");
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
    let figures = h.figures(q.a).expect("an undeclared queue with messages is listed");
    assert!(!figures.declared && figures.ready == 1, "{figures:?}");
    let (h, again) = crash(h).await;
    assert_eq!(again, q);
    assert_eq!(ids(&h.take(q.a, 1).await), ["1"]);
}

async fn counts_are_right_at_once(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3", "4"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.bury(q.a, 1).await;
    h.take_one(q.a).await;
    let bytes = h.figures(q.a).map(|figures| figures.bytes);
    let (h, q) = crash(h).await;
    assert_eq!(h.counts(q.a), (2, 0, 1));
    assert_eq!(h.counts(q.a_dead), (1, 0, 0));
    assert_eq!(h.figures(q.a).map(|figures| figures.bytes), bytes);
}

async fn many_restarts_in_a_row(h: Harness) {
    const ROUNDS: usize = 5;
    let mut h = h;
    let mut q = h.standard().await;
    for round in 0..ROUNDS {
        h.append(q.a, &[&round.to_string()]).await;
        (h, q) = crash(h).await;
    }
    assert_eq!(ids(&h.take(q.a, ROUNDS).await), ["0", "1", "2", "3", "4"]);
}
