//! Leases that run out: counted, recorded, available again at once, dead when the attempts are used up.

use std::time::Duration;

use super::cases;
use super::harness::{ATTEMPTS_MAX, BACKOFF, Harness, TTL, entry, ids, want};
use crate::clock::Clock as _;
use crate::engine::{DeadCode, LeaseRequest, SettleError};

cases! {
    a_lease_does_not_run_out_early;
    a_lease_that_ran_out_counts_as_an_attempt;
    it_is_available_at_once_at_its_old_place;
    a_retry_that_ran_out_is_available_at_once;
    it_stands_in_the_history: History;
    the_last_attempt_to_run_out_makes_it_dead;
    a_message_that_is_too_old_is_dead;
    a_queue_without_dead_letters_holds_it;
    each_lease_runs_out_by_itself;
    it_settles_nothing_any_more: Fenced;
    it_emits_nothing_any_more: Fenced;
    the_next_lease_is_not_settled_by_the_old_one: Fenced;
}

/// Leases `1` in `a` and lets the lease run out.
async fn run_out(h: &Harness) -> (super::harness::Queues, crate::engine::Leased) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    h.advance(TTL);
    h.settles_at(q.a, (1, 0, 0)).await;
    (q, leased)
}

async fn a_lease_does_not_run_out_early(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    h.advance(TTL - Duration::from_millis(1));
    h.assert_none(q.a, "the lease lasts a millisecond more").await;
    assert_eq!(h.done(&leased).await, Ok(()));
}

async fn a_lease_that_ran_out_counts_as_an_attempt(h: Harness) {
    let (q, old) = run_out(&h).await;
    assert_eq!(h.browse(q.a).await[0].attempts, 1);
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.message.id(), leased.attempt()), ("1", 2));
    assert_ne!(leased.token, old.token);
}

async fn it_is_available_at_once_at_its_old_place(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3", "4"]).await;
    let leased = h.take(q.a, 3).await;
    h.done(&leased[1]).await.expect("it is leased");
    h.advance(TTL);
    h.settles_at(q.a, (3, 0, 0)).await;
    let taken = h.take(q.a, 3).await;
    assert_eq!(ids(&taken), ["1", "3", "4"], "before what is younger");
    let attempts: Vec<_> = taken.iter().map(crate::engine::Leased::attempt).collect();
    assert_eq!(attempts, [2, 2, 1]);
}

async fn a_retry_that_ran_out_is_available_at_once(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.advance(BACKOFF);
    h.take_one(q.a).await;
    h.advance(TTL);
    h.settles_at(q.a, (1, 0, 0)).await;
    assert_eq!(h.take_one(q.a).await.attempt(), 3);
}

async fn it_stands_in_the_history(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.advance(Duration::from_secs(3));
    let started = h.clock.wall();
    h.take_one(q.a).await;
    h.advance(TTL);
    h.settles_at(q.a, (1, 0, 0)).await;
    let history = h.browse(q.a).await.remove(0).history;
    assert_eq!(history.len(), 1, "{history:?}");
    assert_eq!((history[0].number, history[0].outcome.as_str()), (1, "lease-expired"));
    assert_eq!(history[0].at_ms, started.0, "when the delivery started");
    assert_eq!(history[0].digest, None);
    assert!(!history[0].reason.is_empty(), "people are told what happened");
}

async fn the_last_attempt_to_run_out_makes_it_dead(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    for attempt in 1..=ATTEMPTS_MAX {
        assert_eq!(h.take_one(q.a).await.attempt(), attempt);
        h.advance(TTL);
        h.settles_at(q.a, (u64::from(attempt < ATTEMPTS_MAX), 0, 0)).await;
    }
    h.settles_at(q.a_dead, (1, 0, 0)).await;
    let stored = h.browse(q.a_dead).await.remove(0);
    let dead = stored.dead.expect("it is a dead letter");
    assert_eq!((dead.origin.as_str(), dead.reason.code), ("a", DeadCode::MaxAttempts));
    assert_eq!(stored.attempts, 0, "they start anew");
    if h.engine.guarantees().history {
        let history: Vec<_> = stored.history.iter().map(|attempt| (attempt.number, attempt.outcome.as_str())).collect();
        assert_eq!(history, [(1, "lease-expired"), (2, "lease-expired"), (3, "lease-expired")]);
    }
}

async fn a_message_that_is_too_old_is_dead(h: Harness) {
    // Two leases run out in time, the third does not.
    let max_age = TTL * 2;
    let policy = |a: &mut crate::engine::QueueDefinition| {
        a.retry.max_age = Some(max_age);
        a.retry.max_attempts = 100;
    };
    let q = h.standard_but(policy).await;
    h.append(q.a, &["1"]).await;
    for attempt in 1..=3 {
        assert_eq!(h.take_one(q.a).await.attempt(), attempt);
        h.advance(TTL);
        h.settles_at(q.a, (u64::from(attempt < 3), 0, 0)).await;
    }
    h.settles_at(q.a_dead, (1, 0, 0)).await;
    let dead = h.browse(q.a_dead).await.remove(0).dead.expect("it is a dead letter");
    assert_eq!(dead.reason.code, DeadCode::MaxAge);
}

async fn a_queue_without_dead_letters_holds_it(h: Harness) {
    let q = h.standard().await;
    h.append(q.a_dead, &["1"]).await;
    for attempt in 1..=ATTEMPTS_MAX {
        assert_eq!(h.take_one(q.a_dead).await.attempt(), attempt);
        h.advance(TTL);
        let is_last = attempt == ATTEMPTS_MAX;
        h.settles_at(q.a_dead, (u64::from(!is_last), 0, u64::from(is_last))).await;
    }
    h.advance(Duration::from_secs(365 * 24 * 3600));
    h.assert_none(q.a_dead, "it is held").await;
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!(stored.due, Some(super::harness::HELD));
    assert_eq!(stored.dead.map(|dead| dead.reason.code), Some(DeadCode::MaxAttempts));
}

async fn each_lease_runs_out_by_itself(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    for (id, ttl_s) in [("1", 50), ("2", 10), ("3", 30)] {
        let request = LeaseRequest { ttl: Some(Duration::from_secs(ttl_s)), ..want(q.a, 1, Duration::ZERO) };
        let leased = h.engine.lease(request).await.expect("`lease` works");
        assert_eq!(ids(&leased), [id]);
    }
    for (after_s, id) in [(10, "2"), (20, "3"), (20, "1")] {
        h.advance(Duration::from_secs(after_s) - Duration::from_millis(1));
        h.assert_none(q.a, "a millisecond is left").await;
        h.advance(Duration::from_millis(1));
        let leased = h.take_one(q.a).await;
        assert_eq!((leased.message.id(), leased.attempt()), (id, 2));
        h.done(&leased).await.expect("it is leased");
    }
}

async fn it_settles_nothing_any_more(h: Harness) {
    let (q, leased) = run_out(&h).await;
    assert_eq!(h.done(&leased).await, Err(SettleError::LeaseLost));
    assert_eq!(h.take_one(q.a).await.message.id(), "1", "it is still there");
}

async fn it_emits_nothing_any_more(h: Harness) {
    let (q, leased) = run_out(&h).await;
    let late = super::harness::done(&leased, vec![entry(q.b, "2")]);
    assert_eq!(h.settle(late).await, Err(SettleError::LeaseLost));
    h.append(q.b, &["3"]).await;
    assert_eq!(super::harness::stored_ids(&h.browse(q.b).await), ["3"]);
}

async fn the_next_lease_is_not_settled_by_the_old_one(h: Harness) {
    let (q, old) = run_out(&h).await;
    let new = h.take_one(q.a).await;
    assert_eq!(h.done(&old).await, Err(SettleError::LeaseLost));
    h.engine.release(vec![old.token]).await;
    h.assert_none(q.a, "the old token gives nothing back").await;
    assert_eq!(h.done(&new).await, Ok(()));
}
