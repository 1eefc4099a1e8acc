//! Retries that a wrong clock put far ahead: a restart brings them forward, and only them.

use std::time::Duration;

use super::cases;
use super::harness::{ATTEMPTS_MAX, BACKOFF, HELD, Harness, Queues, failed, queue};
use super::key_order::{by_key, drain};
use super::made::{MS, all_keyed};
use crate::engine::{Definitions, Leased, Verdict};

cases! {
    a_retry_far_ahead_is_brought_forward: Reopen;
    a_retry_that_is_near_keeps_its_time: Reopen;
    a_time_that_the_handler_chose_is_kept: Reopen;
    a_delay_is_kept: Reopen, Delay;
    what_is_held_stays_held: Reopen;
    the_longest_backoff_of_an_undeclared_queue_counts: Reopen;
    its_key_is_freed_then: Reopen, KeyOrder;
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest backoff of the queues of cases.
const LONGEST: Duration = Duration::from_secs(60);

/// The harness after the wall clock was wrong by a year while `work` was done, set right, and the store opened again.
async fn while_wrong(h: Harness, work: impl AsyncFnOnce(&Harness)) -> (Harness, Queues) {
    h.standard().await;
    h.step_wall_forward(YEAR);
    work(&h).await;
    h.step_wall_back(YEAR);
    let h = h.reopened().await;
    let q = h.standard().await;
    (h, q)
}

async fn again(h: &Harness, leased: &Leased, wait: Duration, chosen: bool) {
    let verdict = Verdict::Again { at: h.after(wait), chosen };
    h.settle(failed(leased, verdict)).await.expect("it is leased");
}

async fn a_retry_far_ahead_is_brought_forward(h: Harness) {
    let (h, q) = while_wrong(h, async |h| {
        let q = h.standard().await;
        h.append(q.a, &["1"]).await;
        again(h, &h.take_one(q.a).await, BACKOFF, false).await;
    })
    .await;
    h.advance(LONGEST);
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.message.id(), leased.attempt()), ("1", 2));
}

async fn a_retry_that_is_near_keeps_its_time(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    again(&h, &h.take_one(q.a).await, LONGEST, false).await;
    let h = h.reopened().await;
    let q = h.standard().await;
    h.advance(LONGEST - MS);
    h.assert_none(q.a, "it is due in a millisecond").await;
    h.advance(MS);
    assert_eq!(h.take_one(q.a).await.attempt(), 2);
}

async fn a_time_that_the_handler_chose_is_kept(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    again(&h, &h.take_one(q.a).await, LONGEST * 100, true).await;
    let h = h.reopened().await;
    let q = h.standard().await;
    h.advance(LONGEST * 100 - MS);
    h.assert_none(q.a, "it is due in a millisecond").await;
    h.advance(MS);
    assert_eq!(h.take_one(q.a).await.attempt(), 2);
}

async fn a_delay_is_kept(h: Harness) {
    let (h, q) = while_wrong(h, async |h| {
        let q = h.standard().await;
        h.store(vec![h.delayed(q.a, "1", BACKOFF)]).await;
    })
    .await;
    h.advance(YEAR);
    h.assert_none(q.a, "it is due when its producer said").await;
    h.advance(BACKOFF);
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}

async fn what_is_held_stays_held(h: Harness) {
    let (h, q) = while_wrong(h, async |h| {
        let q = h.standard().await;
        h.append(q.a_dead, &["1"]).await;
        h.dead(&h.take_one(q.a_dead).await).await;
    })
    .await;
    h.advance(LONGEST);
    h.assert_none(q.a_dead, "it is held").await;
    assert_eq!(h.browse(q.a_dead).await[0].due, Some(HELD));
}

async fn the_longest_backoff_of_an_undeclared_queue_counts(h: Harness) {
    let q = h.standard_but(|a| a.retry.backoff.max = LONGEST * 10).await;
    h.append(q.a, &["1"]).await;
    again(&h, &h.take_one(q.a).await, LONGEST * 10, false).await;
    let only_b = Definitions { queues: vec![queue("b", None)], ..Definitions::default() };
    h.engine.define(only_b.clone()).await.expect("`define` works");
    let h = h.reopened().await;
    h.engine.define(only_b).await.expect("`define` works");
    h.advance(LONGEST * 10 - MS);
    h.assert_none(q.a, "it is due in a millisecond").await;
    h.advance(MS);
    assert!(h.take_one(q.a).await.attempt() <= ATTEMPTS_MAX);
}

async fn its_key_is_freed_then(h: Harness) {
    let q = by_key(&h).await;
    h.step_wall_forward(YEAR);
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    again(&h, &h.take_one(q.a).await, BACKOFF, false).await;
    h.step_wall_back(YEAR);
    let h = h.reopened().await;
    let q = by_key(&h).await;
    h.advance(LONGEST);
    assert_eq!(drain(&h, q, 2).await, ["k/1", "k/2"]);
}
