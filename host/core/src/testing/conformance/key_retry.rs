//! Order by key when things go wrong: retries, deaths, redrive, and many takers at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::poll;

use super::cases;
use super::harness::{BACKOFF, Harness, TTL, done, failed, ids, soon, stored_ids, want};
use super::key_order::{by_key, chain, drain, sorted};
use super::made::{MS, all_keyed, keyed, names};
use crate::clock::WallMs;
use crate::engine::{BulkAction, Engine, LeaseRequest, Select, Verdict};

cases! {
    a_retry_blocks_its_key: KeyOrder;
    a_retry_blocks_no_other_key: KeyOrder;
    a_retry_without_a_key_blocks_nobody: KeyOrder;
    retries_of_a_chain_come_in_order: KeyOrder;
    what_is_released_waits_behind_a_retry: KeyOrder;
    a_dead_letter_frees_its_key: KeyOrder;
    a_key_is_freed_when_the_last_attempt_runs_out: KeyOrder;
    a_waiting_lease_gets_a_retry_of_a_key: KeyOrder;
    a_waiting_lease_gets_what_a_death_frees: KeyOrder;
    what_is_held_frees_its_key: KeyOrder;
    a_redriven_message_joins_at_the_end: KeyOrder;
    a_redrive_keeps_the_order_of_a_key: KeyOrder;
    a_discarded_retry_frees_its_key: KeyOrder;
    a_redriven_retry_frees_its_key: KeyOrder;
    many_behind_a_retry_do_not_stall_others: KeyOrder;
    many_behind_a_retry_come_in_order: KeyOrder;
    many_keys_that_back_off_do_not_stall_others: KeyOrder;
    keys_stay_in_order_under_many_takers: KeyOrder;
}

async fn a_retry_blocks_its_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.again(&h.take_one(q.a).await).await;
    h.store(all_keyed(q.a, &["k/3"])).await;
    h.assert_none(q.a, "the first backs off").await;
    h.advance(BACKOFF - MS);
    h.assert_none(q.a, "for a millisecond more").await;
    h.advance(MS);
    let again = h.take_one(q.a).await;
    assert_eq!((again.message.id(), again.attempt()), ("k/1", 2));
    h.assert_none(q.a, "its key is busy").await;
    h.done(&again).await.expect("it is leased");
    assert_eq!(drain(&h, q, 2).await, ["k/2", "k/3"]);
}

async fn a_retry_blocks_no_other_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "j/1", "j/2"])).await;
    h.again(&h.take_one(q.a).await).await;
    h.append(q.a, &["x"]).await;
    assert_eq!(sorted(&h.take(q.a, 2).await), ["j/1", "x"]);
    h.assert_none(q.a, "one key backs off, the other is busy").await;
}

async fn a_retry_without_a_key_blocks_nobody(h: Harness) {
    let q = by_key(&h).await;
    h.append(q.a, &["1", "2"]).await;
    h.again(&h.take_one(q.a).await).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "2");
}

async fn retries_of_a_chain_come_in_order(h: Harness) {
    let q = by_key(&h).await;
    let all = ["k/1", "k/2", "k/3"];
    h.store(all_keyed(q.a, &all)).await;
    // The younger ones are due earlier, and wait for the first all the same.
    for (leased, wait) in chain(&h, q, 3).await.iter().zip([3, 2, 1]) {
        h.again_after(leased, BACKOFF * wait).await;
    }
    h.advance(BACKOFF * 3 - MS);
    h.assert_none(q.a, "the first backs off").await;
    h.advance(MS);
    assert_eq!(drain(&h, q, 3).await, all);
}

async fn what_is_released_waits_behind_a_retry(h: Harness) {
    let q = by_key(&h).await;
    let all = ["k/1", "k/2", "k/3"];
    h.store(all_keyed(q.a, &all)).await;
    let leased = chain(&h, q, 3).await;
    h.again(&leased[0]).await;
    h.engine.release(leased[1..].iter().map(|leased| leased.token).collect()).await;
    h.assert_none(q.a, "the first backs off").await;
    h.advance(BACKOFF);
    assert_eq!(drain(&h, q, 3).await, all);
}

async fn a_dead_letter_frees_its_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.dead(&h.take_one(q.a).await).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "k/2");
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["k/1"]);
}

async fn a_key_is_freed_when_the_last_attempt_runs_out(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    for attempt in 1..=super::harness::ATTEMPTS_MAX {
        let leased = h.take_one(q.a).await;
        assert_eq!((leased.message.id(), leased.attempt()), ("k/1", attempt));
        h.advance(TTL);
    }
    assert_eq!(h.take_one(q.a).await.message.id(), "k/2");
}

async fn a_waiting_lease_gets_a_retry_of_a_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.again(&h.take_one(q.a).await).await;
    let mut waiting = h.engine.lease(want(q.a, 1, TTL * 1000));
    assert!(poll!(&mut waiting).is_pending(), "the first backs off");
    h.advance(BACKOFF);
    let leased = soon("the waiting lease gets the retry", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["k/1"]);
}

async fn a_waiting_lease_gets_what_a_death_frees(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    let first = h.take_one(q.a).await;
    let mut waiting = h.engine.lease(want(q.a, 1, TTL * 1000));
    assert!(poll!(&mut waiting).is_pending(), "the key is busy");
    h.dead(&first).await;
    let leased = soon("the waiting lease gets the next", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["k/2"]);
}

async fn what_is_held_frees_its_key(h: Harness) {
    let q = h
        .standard_but(|a| {
            a.order = crate::engine::Order::Key;
            a.dead_letter = None;
        })
        .await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.dead(&h.take_one(q.a).await).await;
    h.settles_at(q.a, (1, 0, 1)).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "k/2");
}

async fn a_redriven_message_joins_at_the_end(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2", "k/3"])).await;
    h.dead(&h.take_one(q.a).await).await;
    h.bulk(q.a_dead, Select::All, BulkAction::Redrive(None)).await.expect("`bulk` works");
    h.store(all_keyed(q.a, &["k/4"])).await;
    assert_eq!(drain(&h, q, 4).await, ["k/2", "k/3", "k/1", "k/4"]);
}

async fn a_redrive_keeps_the_order_of_a_key(h: Harness) {
    let q = by_key(&h).await;
    let all = names("k/", 20);
    h.store(all.iter().map(|id| keyed(q.a, id)).collect()).await;
    for _ in 0..all.len() {
        h.dead(&h.take_one(q.a).await).await;
    }
    assert_eq!(h.bulk_by(q.a_dead, BulkAction::Redrive(None), 3).await.changed, all.len() as u64);
    assert_eq!(drain(&h, q, all.len()).await, all);
}

async fn a_discarded_retry_frees_its_key(h: Harness) {
    let q = by_key(&h).await;
    let positions = h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.again(&h.take_one(q.a).await).await;
    h.assert_none(q.a, "the first backs off").await;
    let job = h.bulk(q.a, Select::Positions(vec![positions[0]]), BulkAction::Discard).await;
    assert_eq!(job.expect("`bulk` works").changed, 1);
    assert_eq!(h.take_one(q.a).await.message.id(), "k/2");
}

async fn a_redriven_retry_frees_its_key(h: Harness) {
    let q = by_key(&h).await;
    let positions = h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    h.again(&h.take_one(q.a).await).await;
    let job = h.bulk(q.a, Select::Positions(vec![positions[0]]), BulkAction::Redrive(Some(q.a))).await;
    assert_eq!(job.expect("`bulk` works").changed, 1);
    assert_eq!(drain(&h, q, 2).await, ["k/2", "k/1"], "it joined at the end");
}

async fn many_behind_a_retry_do_not_stall_others(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/0"])).await;
    h.again(&h.take_one(q.a).await).await;
    h.store(names("k/1", h.many).iter().map(|id| keyed(q.a, id)).collect()).await;
    h.store(all_keyed(q.a, &["j/1", "j/2"])).await;
    assert_eq!(drain(&h, q, 2).await, ["j/1", "j/2"]);
    h.assert_none(q.a, "the others wait behind a retry").await;
    h.settles_at(q.a, (h.many as u64, 0, 1)).await;
    h.advance(BACKOFF);
    assert_eq!(drain(&h, q, 3).await, ["k/0", "k/100000", "k/100001"]);
}

async fn many_behind_a_retry_come_in_order(h: Harness) {
    let seen = h.many / 10;
    let q = by_key(&h).await;
    let all = names("k/", h.many);
    h.store(all.iter().map(|id| keyed(q.a, id)).collect()).await;
    let mut first = h.take_one(q.a).await;
    // Each try meets those that wait anew.
    for _ in 0..2 {
        h.again(&first).await;
        h.assert_none(q.a, "the first backs off").await;
        h.advance(BACKOFF);
        first = h.take_one(q.a).await;
        h.assert_none(q.a, "the first is leased").await;
    }
    assert_eq!((first.message.id(), first.attempt()), (all[0].as_str(), 3));
    h.done(&first).await.expect("it is leased");
    assert!(drain(&h, q, seen).await == all[1..=seen], "in the order of acceptance");
}

async fn many_keys_that_back_off_do_not_stall_others(h: Harness) {
    let q = by_key(&h).await;
    let keys = names("k", h.many);
    for round in ["1", "2"] {
        h.store(keys.iter().map(|key| keyed(q.a, &format!("{key}/{round}"))).collect()).await;
    }
    let at = h.after(BACKOFF);
    let retries =
        h.take(q.a, h.many).await.iter().map(|leased| failed(leased, Verdict::Again { at, chosen: false })).collect();
    assert!(h.engine.settle(retries).await.iter().all(Result::is_ok), "they are leased");
    h.store(all_keyed(q.a, &["j/1", "j/2"])).await;
    assert_eq!(drain(&h, q, 2).await, ["j/1", "j/2"]);
    h.assert_none(q.a, "all others wait behind a retry").await;
    h.settles_at(q.a, (h.many as u64, 0, h.many as u64)).await;
    h.advance(BACKOFF);
    let again = h.take(q.a, h.many).await;
    assert!(again.iter().all(|leased| leased.attempt() == 2 && leased.message.id().ends_with("/1")), "retries first");
    h.all_done(&again).await;
    assert_eq!(h.take(q.a, h.many).await.len(), h.many, "then those behind them");
}

/// What takers have handled, by key, in the order in which they did.
#[derive(Default)]
struct Handled(Mutex<BTreeMap<String, Vec<String>>>);

impl Handled {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, id: &str) {
        let key = id.split('/').next().unwrap_or_default().to_owned();
        self.lock().entry(key).or_default().push(id.to_owned());
    }

    fn count(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }
}

/// Leases over and over until `count` messages are handled. Each fails once, is due again at once, and is handled then; what was leased
/// with one that failed goes back.
async fn take_all(engine: Arc<dyn Engine>, want: LeaseRequest, handled: Arc<Handled>, count: usize) {
    while handled.count() < count {
        let mut leased = engine.lease(want.clone()).await.expect("`lease` works").into_iter();
        while let Some(one) = leased.next() {
            if one.attempt() == 1 {
                engine.settle(vec![failed(&one, Verdict::Again { at: WallMs(0), chosen: false })]).await;
                engine.release(leased.by_ref().map(|rest| rest.token).collect()).await;
            } else {
                handled.note(one.message.id());
                assert_eq!(engine.settle(vec![done(&one, Vec::new())]).await, [Ok(())]);
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn keys_stay_in_order_under_many_takers(h: Harness) {
    const TAKERS: usize = 4;
    const KEYS: usize = 8;
    const EACH: usize = 20;
    let q = by_key(&h).await;
    h.store((0..KEYS * EACH).map(|at| keyed(q.a, &format!("{}/{:03}", at % KEYS, at / KEYS))).collect()).await;
    let handled = Arc::new(Handled::default());
    let taker = |number: usize| {
        let ttl = number.is_multiple_of(2).then_some(TTL * 1000);
        let want = LeaseRequest { ttl, ..want(q.a, 5, Duration::ZERO) };
        tokio::spawn(take_all(Arc::clone(&h.engine), want, Arc::clone(&handled), KEYS * EACH))
    };
    let takers: Vec<_> = (0..TAKERS).map(taker).collect();
    // What is due at once may be due a moment later, and the clock stands still.
    super::eventually("all messages are handled", async || {
        h.advance(MS);
        takers.iter().all(tokio::task::JoinHandle::is_finished)
    })
    .await;
    for taker in takers {
        taker.await.expect("the taker did not panic");
    }
    for (key, ids) in handled.lock().iter() {
        assert_eq!(ids.len(), EACH, "each message of {key} once");
        assert!(ids.is_sorted(), "{key}: {ids:?}");
    }
}
