//! `lease`, `extend`, `release`: exclusive, in order, given back where they came from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::cases;
use super::harness::{BACKOFF, Harness, TTL, forged, ids, want};
use crate::engine::{LeaseRequest, LeaseToken, QueueId, RequestError, SettleError};

cases! {
    a_lease_is_exclusive;
    many_takers_never_share_a_message;
    at_most_as_many_as_asked_for;
    leases_of_an_unknown_queue_are_refused;
    a_lease_is_counted_before_it_is_returned;
    a_token_survives_being_text;
    a_release_is_uncounted_and_at_the_old_place;
    a_released_lease_settles_nothing: Fenced;
    releasing_what_is_lost_does_nothing;
    an_extended_lease_lasts_longer;
    extending_again_counts_from_now;
    extensions_stand_in_input_order;
    a_lost_lease_can_not_be_extended;
    a_lease_without_an_end_stays_so;
    steps_of_the_wall_clock_end_no_lease;
}

async fn a_lease_is_exclusive(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let first = h.take_one(q.a).await;
    let second = h.take_one(q.a).await;
    assert_eq!((first.message.id(), second.message.id()), ("1", "2"));
    assert_ne!(first.token, second.token);
    h.assert_none(q.a, "both are leased").await;
}

async fn many_takers_never_share_a_message(h: Harness) {
    const TAKERS: usize = 8;
    const MESSAGES: usize = 200;
    let q = h.standard().await;
    let names: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    h.append(q.a, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let takers: Vec<_> = (0..TAKERS)
        .map(|_| {
            let engine = Arc::clone(&h.engine);
            tokio::spawn(async move {
                let mut taken = Vec::new();
                // Each round takes at least one message while there are any, so this ends.
                for _ in 0..=MESSAGES {
                    let leased = engine.lease(want(q.a, 3, Duration::ZERO)).await.expect("`lease` works");
                    taken.extend(leased.iter().map(|leased| leased.message.id().to_owned()));
                    tokio::task::yield_now().await;
                }
                taken
            })
        })
        .collect();
    let mut all = Vec::new();
    for taker in takers {
        all.extend(taker.await.expect("the taker did not panic"));
    }
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (MESSAGES, MESSAGES), "each message once");
}

async fn at_most_as_many_as_asked_for(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    assert_eq!(h.lease(q.a, 2).await.len(), 2);
    assert_eq!(h.lease(q.a, 100).await.len(), 1, "what there is, without waiting for more");
}

async fn leases_of_an_unknown_queue_are_refused(h: Harness) {
    h.standard().await;
    let nowhere = QueueId(4_000_000);
    let error = h.engine.lease(want(nowhere, 1, Duration::from_secs(60))).await.expect_err("there is no such queue");
    assert_eq!(error, RequestError::UnknownQueue(nowhere));
}

async fn a_lease_is_counted_before_it_is_returned(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    for leased in 1..=3 {
        h.take_one(q.a).await;
        assert_eq!(h.counts(q.a).1, leased, "leased, right after the lease was returned");
    }
}

async fn a_token_survives_being_text(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let mut leased = h.take_one(q.a).await;
    leased.token = leased.token.to_string().parse::<LeaseToken>().expect("it is the text of a token");
    assert_eq!(h.done(&leased).await, Ok(()));
}

async fn a_release_is_uncounted_and_at_the_old_place(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    let leased = h.take(q.a, 2).await;
    h.engine.release(vec![leased[0].token]).await;
    let taken = h.take(q.a, 2).await;
    assert_eq!(ids(&taken), ["1", "3"], "the one given back stands where it stood");
    assert_eq!(taken[0].attempt(), 1, "it was not run");
    assert_ne!(taken[0].token, leased[0].token);
    assert!(h.browse(q.a).await.iter().all(|stored| stored.attempts == 0 && stored.history.is_empty()));
}

async fn a_released_lease_settles_nothing(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    h.engine.release(vec![leased.token]).await;
    assert_eq!(h.done(&leased).await, Err(SettleError::LeaseLost));
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}

async fn releasing_what_is_lost_does_nothing(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take(q.a, 2).await;
    h.done(&leased[0]).await.expect("it is leased");
    h.engine.release(vec![leased[0].token, forged(leased[1].token)]).await;
    h.assert_none(q.a, "one is settled, the other is still leased").await;
    assert_eq!(h.done(&leased[1]).await, Ok(()));
}

async fn an_extended_lease_lasts_longer(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    h.advance(TTL - Duration::from_millis(1));
    assert_eq!(h.engine.extend(vec![(leased.token, TTL)]).await, [Ok(())]);
    h.advance(TTL - Duration::from_millis(1));
    h.assert_none(q.a, "the lease was extended").await;
    assert_eq!(h.done(&leased).await, Ok(()));
}

async fn extending_again_counts_from_now(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    let second = Duration::from_secs(1);
    assert_eq!(h.engine.extend(vec![(leased.token, TTL * 10)]).await, [Ok(())]);
    assert_eq!(h.engine.extend(vec![(leased.token, second)]).await, [Ok(())], "also to a nearer end");
    h.advance(second);
    h.settles_at(q.a, (1, 0, 0)).await;
}

async fn extensions_stand_in_input_order(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take(q.a, 2).await;
    let extensions = vec![(leased[0].token, TTL), (forged(leased[0].token), TTL), (leased[1].token, TTL)];
    assert_eq!(h.engine.extend(extensions).await, [Ok(()), Err(SettleError::LeaseLost), Ok(())]);
    assert_eq!(h.engine.extend(Vec::new()).await, []);
}

async fn a_lost_lease_can_not_be_extended(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take(q.a, 2).await;
    h.done(&leased[0]).await.expect("it is leased");
    h.advance(TTL);
    let results = h.engine.extend(vec![(leased[0].token, TTL), (leased[1].token, TTL)]).await;
    assert!(results[0].is_err(), "it was settled");
    assert_eq!(results[1], Err(SettleError::LeaseLost), "it ran out");
}

async fn a_lease_without_an_end_stays_so(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let request = LeaseRequest { ttl: None, ..want(q.a, 1, Duration::ZERO) };
    let leased = h.engine.lease(request).await.expect("`lease` works");
    h.advance(Duration::from_secs(30 * 24 * 3600));
    assert_eq!(h.engine.extend(vec![(leased[0].token, TTL)]).await, [Ok(())]);
    h.advance(TTL + BACKOFF);
    h.assert_none(q.a, "the lease has no end").await;
    assert_eq!(h.counts(q.a), (0, 1, 0));
    assert_eq!(h.done(&leased[0]).await, Ok(()));
}

async fn steps_of_the_wall_clock_end_no_lease(h: Harness) {
    let day = Duration::from_secs(24 * 3600);
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    h.step_wall_forward(day);
    h.assert_none(q.a, "no time passed").await;
    h.step_wall_back(2 * day);
    h.assert_none(q.a, "no time passed").await;
    assert_eq!(h.done(&leased).await, Ok(()));
}
