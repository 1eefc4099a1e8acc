//! `settle`: what becomes of a leased message, once, together with its effects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::cases;
use super::harness::{BACKOFF, Harness, TTL, attempt, done, entry, failed, forged, ids, message, stored_ids, topic};
use crate::clock::{Clock as _, WallMs};
use crate::engine::{Attempt, Browse, EntryId, LeaseToken, Leased, QueueId, SettleError, Settlement, Verdict};

cases! {
    what_is_done_is_gone;
    emits_come_into_being_in_their_order: Effects;
    emits_carry_what_they_were_given: Effects;
    removal_and_emits_are_one_moment: Effects;
    a_retry_is_not_leased_before_its_time;
    every_retry_is_counted;
    a_retry_that_is_due_already_is_available;
    a_retry_blocks_nobody;
    retries_come_when_they_are_due;
    a_retry_keeps_its_history: History;
    a_retry_without_an_attempt_is_counted;
    settling_twice_changes_nothing;
    twice_in_one_batch_is_once;
    a_settled_lease_emits_nothing_more: Effects;
    a_forged_token_is_refused: Fenced;
    a_token_of_nothing_is_refused;
    results_stand_in_input_order;
    large_batches_settle_whole;
    a_dropped_settlement_completes;
    settlements_apply_in_the_order_submitted;
    a_wall_clock_set_back_delays_only_what_waits;
}

async fn what_is_done_is_gone(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take_one(q.a).await;
    assert_eq!(h.done(&leased).await, Ok(()));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2"]);
    h.advance(TTL * 10);
    h.settles_at(q.a, (1, 0, 0)).await;
    assert_eq!(ids(&h.take(q.a, 1).await), ["2"]);
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0]);
}

async fn emits_come_into_being_in_their_order(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    let emits = vec![entry(q.b, "2"), entry(q.a, "3"), entry(q.b, "4")];
    assert_eq!(h.settle(done(&leased, emits)).await, Ok(()));
    assert_eq!(ids(&h.take(q.b, 2).await), ["2", "4"]);
    assert_eq!(ids(&h.take(q.a, 1).await), ["3"]);
}

async fn emits_carry_what_they_were_given(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    h.advance(Duration::from_secs(5));
    let mut emit = entry(q.b, "2");
    emit.hops = 3;
    h.settle(done(&leased, vec![emit])).await.expect("it is leased");
    let emitted = h.take_one(q.b).await;
    assert_eq!((emitted.message.clone(), emitted.topic.clone(), emitted.hops), (message("2"), topic(), 3));
    assert_eq!((emitted.attempt(), emitted.accepted), (1, h.clock.wall()));
}

/// A queue with one message, which is replaced over and over by an emit into the same queue, holds one at any moment.
async fn removal_and_emits_are_one_moment(h: Harness) {
    const ROUNDS: usize = 50;
    let q = h.standard().await;
    h.append(q.a, &["x"]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let looks = Arc::new(AtomicUsize::new(0));
    let watcher = {
        let (engine, stop, looks) = (h.engine.clone(), stop.clone(), looks.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let page = engine.browse(Browse { queue: q.a, after: None, max: 10 }).await.expect("`browse` works");
                assert_eq!(page.items.len(), 1, "a moment between removal and emit was seen");
                looks.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        })
    };
    for _ in 0..ROUNDS {
        let leased = h.take_one(q.a).await;
        h.settle(done(&leased, vec![entry(q.a, "x")])).await.expect("it is leased");
        tokio::task::yield_now().await;
    }
    super::eventually("somebody looked", async || watcher.is_finished() || looks.load(Ordering::Relaxed) > 0).await;
    stop.store(true, Ordering::Relaxed);
    watcher.await.expect("it never saw anything but one message");
}

async fn a_retry_is_not_leased_before_its_time(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.settles_at(q.a, (0, 0, 1)).await;
    h.advance(BACKOFF - Duration::from_millis(1));
    h.assert_none(q.a, "it is due in a millisecond").await;
    h.advance(Duration::from_millis(1));
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.message.clone(), leased.attempt()), (message("1"), 2));
}

async fn every_retry_is_counted(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    // The limit on attempts is not the engine's business here: the verdict says `Again`.
    for number in 1..=5 {
        let leased = h.take_one(q.a).await;
        assert_eq!(leased.attempt(), number);
        h.again(&leased).await;
        assert_eq!(h.browse(q.a).await[0].attempts, number);
        h.advance(BACKOFF);
    }
}

async fn a_retry_that_is_due_already_is_available(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    for at in [h.clock.wall(), WallMs(0)] {
        let leased = h.take_one(q.a).await;
        h.settle(failed(&leased, Verdict::Again { at, chosen: false })).await.expect("it is leased");
        h.advance(Duration::from_millis(1));
    }
    assert_eq!(h.take_one(q.a).await.attempt(), 3);
}

async fn a_retry_blocks_nobody(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.append(q.a, &["3"]).await;
    assert_eq!(ids(&h.take(q.a, 2).await), ["2", "3"]);
}

async fn retries_come_when_they_are_due(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    let leased = h.take(q.a, 3).await;
    for (leased, after_s) in leased.iter().zip([30, 10, 20]) {
        let at = h.clock.wall().plus(Duration::from_secs(after_s));
        h.settle(failed(leased, Verdict::Again { at, chosen: false })).await.expect("it is leased");
    }
    for expected in ["2", "3", "1"] {
        h.advance(Duration::from_secs(10));
        assert_eq!(h.take_one(q.a).await.message.id(), expected);
        h.assert_none(q.a, "the others are not due").await;
    }
}

async fn a_retry_keeps_its_history(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    for _ in 0..2 {
        h.again(&h.take_one(q.a).await).await;
        h.advance(BACKOFF);
    }
    assert_eq!(h.browse(q.a).await[0].history, [attempt(1), attempt(2)]);
    // A long log tail and every kind of text come back as they were.
    let leased = h.take_one(q.a).await;
    let big = Attempt { log_tail: "line\n\"quoted\"\u{0}".repeat(4000), digest: None, ..attempt(3) };
    let verdict = Verdict::Again { at: h.clock.wall(), chosen: false };
    h.settle(Settlement { lease: leased.token, attempt: Some(big.clone()), verdict }).await.expect("it is leased");
    assert!(h.browse(q.a).await[0].history == [attempt(1), attempt(2), big], "the third attempt came back changed");
}

async fn a_retry_without_an_attempt_is_counted(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    let verdict = Verdict::Again { at: h.clock.wall().plus(BACKOFF), chosen: false };
    h.settle(Settlement { lease: leased.token, attempt: None, verdict }).await.expect("it is leased");
    h.advance(BACKOFF);
    assert_eq!(h.take_one(q.a).await.attempt(), 2);
    assert_eq!(h.browse(q.a).await[0].history, []);
}

async fn settling_twice_changes_nothing(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take(q.a, 2).await;
    h.done(&leased[0]).await.expect("it is leased");
    assert_eq!(h.done(&leased[0]).await, Err(SettleError::AlreadySettled));
    h.again(&leased[1]).await;
    assert_eq!(h.done(&leased[1]).await, Err(SettleError::AlreadySettled));
    h.advance(BACKOFF);
    assert_eq!(h.take_one(q.a).await.message.id(), "2", "the first word counts");
    assert_eq!(h.done(&leased[1]).await, Err(SettleError::AlreadySettled), "also when it is leased anew");
}

async fn twice_in_one_batch_is_once(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    let batch = vec![done(&leased, vec![entry(q.b, "2")]), done(&leased, vec![entry(q.b, "3")])];
    assert_eq!(h.engine.settle(batch).await, [Ok(()), Err(SettleError::AlreadySettled)]);
    assert_eq!(stored_ids(&h.browse(q.b).await), ["2"]);
}

async fn a_settled_lease_emits_nothing_more(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    h.done(&leased).await.expect("it is leased");
    assert_eq!(h.settle(done(&leased, vec![entry(q.b, "2")])).await, Err(SettleError::AlreadySettled));
    assert_eq!(stored_ids(&h.browse(q.b).await), [""; 0]);
}

async fn a_forged_token_is_refused(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take(q.a, 2).await;
    let token = leased[0].token;
    let forgeries = [
        forged(token),
        LeaseToken { epoch: token.epoch + 1, ..token },
        LeaseToken { epoch: token.epoch.wrapping_sub(1), ..token },
        LeaseToken { attempt: token.attempt + 1, ..token },
        LeaseToken { queue: q.b, ..token },
        LeaseToken { queue: QueueId(4_000_000), ..token },
        LeaseToken { entry: leased[1].token.entry, ..token },
    ];
    for forgery in forgeries {
        let forged = Leased { token: forgery, ..leased[0].clone() };
        let result = h.settle(done(&forged, vec![entry(q.b, "3")])).await;
        assert_eq!(result, Err(SettleError::LeaseLost), "{forgery:?} for {token:?}");
    }
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2"]);
    assert_eq!(stored_ids(&h.browse(q.b).await), [""; 0]);
    assert_eq!(h.done(&leased[0]).await, Ok(()), "the true token still holds");
}

async fn a_token_of_nothing_is_refused(h: Harness) {
    let q = h.standard().await;
    let token = LeaseToken { queue: q.a, entry: EntryId(1 << 40), epoch: 1, attempt: 1, accepted: WallMs(0), nonce: 7 };
    let settlement =
        Settlement { lease: token, attempt: None, verdict: Verdict::Done { emits: vec![entry(q.b, "1")] } };
    assert_eq!(h.settle(settlement).await, Err(SettleError::LeaseLost));
    assert_eq!(h.engine.extend(vec![(token, TTL)]).await, [Err(SettleError::LeaseLost)]);
    assert_eq!(stored_ids(&h.browse(q.b).await), [""; 0]);
}

async fn results_stand_in_input_order(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    let leased = h.take(q.a, 3).await;
    h.done(&leased[1]).await.expect("it is leased");
    let none = Settlement { lease: forged(leased[2].token), ..done(&leased[2], Vec::new()) };
    let batch = vec![done(&leased[2], Vec::new()), done(&leased[1], Vec::new()), none, done(&leased[0], Vec::new())];
    let results = h.engine.settle(batch).await;
    assert_eq!(results.len(), 4);
    assert_eq!(results[0], Ok(()));
    assert_eq!(results[1], Err(SettleError::AlreadySettled));
    assert!(results[2].is_err(), "it was forged, or settled just before");
    assert_eq!(results[3], Ok(()));
    assert_eq!(h.engine.settle(Vec::new()).await, []);
}

async fn large_batches_settle_whole(h: Harness) {
    const MESSAGES: usize = 1500;
    let q = h.standard().await;
    let names: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    h.append(q.a, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let leased = h.take(q.a, MESSAGES).await;
    assert_eq!(ids(&leased), names, "in order, over all refills");
    let batch = leased.iter().map(|leased| done(leased, vec![entry(q.b, leased.message.id())])).collect();
    assert!(h.engine.settle(batch).await.iter().all(Result::is_ok));
    assert_eq!(stored_ids(&h.browse(q.a).await), [""; 0]);
    assert_eq!(stored_ids(&h.browse(q.b).await), names);
}

async fn a_dropped_settlement_completes(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    drop(h.engine.settle(vec![done(&leased, vec![entry(q.b, "2")])]));
    assert_eq!(h.take_one(q.b).await.message.id(), "2");
    h.settles_at(q.a, (0, 0, 0)).await;
}

async fn settlements_apply_in_the_order_submitted(h: Harness) {
    const ROUNDS: usize = 20;
    let q = h.standard().await;
    for round in 0..ROUNDS {
        h.append(q.a, &["1"]).await;
        let leased = h.take_one(q.a).await;
        let first = h.engine.settle(vec![done(&leased, Vec::new())]);
        let second = h.engine.settle(vec![failed(&leased, Verdict::Again { at: WallMs(0), chosen: false })]);
        let (second, first) = tokio::join!(second, first);
        assert_eq!(first, [Ok(())], "in round {round}");
        assert_eq!(second, [Err(SettleError::AlreadySettled)], "in round {round}");
    }
    assert_eq!(stored_ids(&h.browse(q.a).await), [""; 0]);
}

async fn a_wall_clock_set_back_delays_only_what_waits(h: Harness) {
    let hour = Duration::from_secs(3600);
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.step_wall_back(hour);
    h.append(q.a, &["3"]).await;
    let ready = h.take(q.a, 2).await;
    assert_eq!(ids(&ready), ["2", "3"], "what is ready stays so");
    h.done(&ready[0]).await.expect("it is leased");
    h.again(&ready[1]).await;
    h.advance(BACKOFF);
    let retried = h.take_one(q.a).await;
    assert_eq!(retried.message.id(), "3", "a retry of after the step");
    h.done(&retried).await.expect("it is leased");
    h.advance(hour);
    assert_eq!(h.take_one(q.a).await.message.id(), "1", "a retry of before the step");
}
