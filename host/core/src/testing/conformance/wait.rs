//! Waiting for a lease: what wakes it, when it gives up, and what becomes of it when nobody listens any more.

use std::time::Duration;

use futures_util::poll;

use super::cases;
use super::harness::{BACKOFF, Harness, TTL, entry, eventually, ids, rejected, soon, want};
use crate::engine::{BulkAction, LeaseRequest, Select};

cases! {
    a_waiting_lease_gets_what_is_appended;
    a_waiting_lease_gives_up_at_its_deadline;
    a_waiting_lease_gets_a_retry_when_it_is_due;
    a_waiting_lease_gets_what_ran_out;
    a_waiting_lease_gets_what_is_released;
    a_waiting_lease_gets_what_is_emitted;
    a_waiting_lease_gets_dead_letters;
    a_waiting_lease_gets_what_is_redriven;
    two_waiting_leases_share_what_comes;
    a_wait_ends_with_the_first_message;
    a_wait_that_was_dropped_takes_nothing_along;
    a_lease_that_nobody_received_comes_back;
    a_lease_without_an_end_that_nobody_received_comes_back;
}

/// Longer than any case lets pass.
const LONG: Duration = Duration::from_secs(100_000);

async fn a_waiting_lease_gets_what_is_appended(h: Harness) {
    let q = h.standard().await;
    let mut waiting = h.engine.lease(want(q.a, 1, LONG));
    assert!(poll!(&mut waiting).is_pending(), "there is nothing yet");
    let engine = h.engine.clone();
    let append = tokio::spawn(async move { engine.append(vec![entry(q.a, "1")].into()).await });
    let leased = soon("the waiting lease gets the message", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["1"]);
    append.await.expect("it did not panic").expect("`append` works");
}

async fn a_waiting_lease_gives_up_at_its_deadline(h: Harness) {
    let q = h.standard().await;
    let mut waiting = h.engine.lease(want(q.a, 1, Duration::from_secs(5)));
    assert!(poll!(&mut waiting).is_pending(), "there is nothing yet");
    let leased = h.advance_until(Duration::from_secs(5), waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), [""; 0]);
    h.append(q.a, &["1"]).await;
    assert_eq!(h.take_one(q.a).await.attempt(), 1, "nobody else took it");
}

async fn a_waiting_lease_gets_a_retry_when_it_is_due(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    let mut waiting = h.engine.lease(want(q.a, 1, LONG));
    assert!(poll!(&mut waiting).is_pending(), "it is not due yet");
    h.advance(BACKOFF);
    let leased = soon("the waiting lease gets the retry", waiting).await.expect("`lease` works");
    assert_eq!(leased[0].attempt(), 2);
}

async fn a_waiting_lease_gets_what_ran_out(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.take_one(q.a).await;
    let mut waiting = h.engine.lease(want(q.a, 1, LONG));
    assert!(poll!(&mut waiting).is_pending(), "it is leased");
    h.advance(TTL);
    let leased = soon("the waiting lease gets the message", waiting).await.expect("`lease` works");
    assert_eq!(leased[0].attempt(), 2);
}

async fn a_waiting_lease_gets_what_is_released(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let first = h.take_one(q.a).await;
    let mut waiting = h.engine.lease(want(q.a, 1, LONG));
    assert!(poll!(&mut waiting).is_pending(), "it is leased");
    h.engine.release(vec![first.token]).await;
    let leased = soon("the waiting lease gets the message", waiting).await.expect("`lease` works");
    assert_eq!(leased[0].attempt(), 1);
}

async fn a_waiting_lease_gets_what_is_emitted(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let first = h.take_one(q.a).await;
    let mut waiting = h.engine.lease(want(q.b, 1, LONG));
    assert!(poll!(&mut waiting).is_pending(), "nothing was emitted yet");
    h.settle(super::harness::done(&first, vec![entry(q.b, "2")])).await.expect("it is leased");
    let leased = soon("the waiting lease gets the emit", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["2"]);
}

async fn a_waiting_lease_gets_dead_letters(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let first = h.take_one(q.a).await;
    let mut waiting = h.engine.lease(want(q.a_dead, 1, LONG));
    assert!(poll!(&mut waiting).is_pending(), "nothing is dead yet");
    h.dead(&first).await;
    let leased = soon("the waiting lease gets the dead letter", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["1"]);
}

async fn a_waiting_lease_gets_what_is_redriven(h: Harness) {
    let q = h.standard().await;
    let mut new = entry(q.a, "1");
    new.dead = Some(rejected());
    h.engine.append(vec![new].into()).await.expect("`append` works");
    let mut waiting = h.engine.lease(want(q.a, 1, LONG));
    assert!(poll!(&mut waiting).is_pending(), "it is dead");
    h.bulk(q.a_dead, Select::All, BulkAction::Redrive(None)).await.expect("`bulk` works");
    let leased = soon("the waiting lease gets the message", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["1"]);
}

async fn two_waiting_leases_share_what_comes(h: Harness) {
    let q = h.standard().await;
    let mut one = h.engine.lease(want(q.a, 1, LONG));
    let mut other = h.engine.lease(want(q.a, 1, LONG));
    assert!(poll!(&mut one).is_pending() && poll!(&mut other).is_pending(), "there is nothing yet");
    h.append(q.a, &["1", "2"]).await;
    let (one, other) = soon("both get one", async { tokio::join!(one, other) }).await;
    let (one, other) = (one.expect("`lease` works"), other.expect("`lease` works"));
    let mut got = [ids(&one), ids(&other)].concat();
    got.sort_unstable();
    assert_eq!(got, ["1", "2"]);
}

async fn a_wait_ends_with_the_first_message(h: Harness) {
    let q = h.standard().await;
    let mut waiting = h.engine.lease(want(q.a, 10, LONG));
    assert!(poll!(&mut waiting).is_pending(), "there is nothing yet");
    h.append(q.a, &["1"]).await;
    let leased = soon("the lease does not wait for ten", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["1"]);
}

async fn a_wait_that_was_dropped_takes_nothing_along(h: Harness) {
    let q = h.standard().await;
    let mut waiting = h.engine.lease(LeaseRequest { ttl: None, ..want(q.a, 1, LONG) });
    assert!(poll!(&mut waiting).is_pending(), "there is nothing yet");
    drop(waiting);
    h.append(q.a, &["1"]).await;
    eventually("it can be leased", async || !h.lease(q.a, 1).await.is_empty()).await;
}

/// Drops a lease at the moment when its message arrives, over and over; time passes for leases with an end.
async fn drop_leases(h: &Harness, ttl: Option<Duration>) {
    const ROUNDS: usize = 20;
    let q = h.standard().await;
    for round in 0..ROUNDS {
        let mut waiting = h.engine.lease(LeaseRequest { ttl, ..want(q.a, 1, LONG) });
        assert!(poll!(&mut waiting).is_pending(), "there is nothing, in round {round}");
        h.append(q.a, &["1"]).await;
        drop(waiting);
        // Without an end, so that it can't run out while time passes for the one that was dropped.
        let again = h.engine.lease(LeaseRequest { ttl: None, ..want(q.a, 1, LONG) });
        let leased = match ttl {
            Some(ttl) => h.advance_until(ttl, again).await,
            None => soon("the message comes back", again).await,
        };
        let leased = leased.expect("`lease` works");
        assert_eq!(ids(&leased), ["1"], "in round {round}");
        h.done(&leased[0]).await.expect("it is leased");
    }
}

async fn a_lease_that_nobody_received_comes_back(h: Harness) {
    drop_leases(&h, Some(Duration::from_secs(1))).await;
}

async fn a_lease_without_an_end_that_nobody_received_comes_back(h: Harness) {
    drop_leases(&h, None).await;
}
