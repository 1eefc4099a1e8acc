//! Priorities: the highest first, and within one the order of acceptance.

use std::time::Duration;

use super::cases;
use super::harness::{BACKOFF, Harness, Queues, TTL, done, failed, ids, queue, stored_ids};
use super::made::{names, prior};
use crate::clock::WallMs;
use crate::engine::{BulkAction, PRIORITY_DEFAULT, Verdict};

cases! {
    the_highest_priority_comes_first: Priorities;
    within_a_priority_the_order_is_that_of_acceptance: Priorities;
    a_message_that_says_nothing_is_in_the_middle: Priorities;
    an_urgent_message_overtakes_what_waits: Priorities;
    an_urgent_message_overtakes_a_backlog: Priorities;
    a_backlog_comes_by_priority: Priorities;
    what_is_released_keeps_its_priority: Priorities;
    what_ran_out_keeps_its_priority: Priorities;
    a_retry_keeps_its_priority: Priorities;
    a_retry_that_backs_off_holds_up_nobody: Priorities;
    a_delayed_message_keeps_its_priority: Priorities, Delay;
    a_dead_letter_keeps_its_priority: Priorities;
    emits_have_priorities: Priorities, Effects;
    priorities_are_nothing_where_they_are_not_kept;
    a_look_shows_the_order: Priorities;
    priorities_survive_a_restart: Priorities, Reopen;
    retries_keep_their_priority_over_a_restart: Priorities, Reopen;
}

/// The standard queues, `a` with priorities.
async fn by_priority(h: &Harness) -> Queues {
    h.standard_but(|a| a.priority = true).await
}

async fn the_highest_priority_comes_first(h: Harness) {
    let q = by_priority(&h).await;
    let given = [3, 9, 0, 7, 1, 8, 2, 6, 4, 5];
    h.store(given.map(|priority| prior(q.a, &priority.to_string(), priority)).to_vec()).await;
    assert_eq!(ids(&h.take(q.a, 10).await), ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"]);
}

async fn within_a_priority_the_order_is_that_of_acceptance(h: Harness) {
    let q = by_priority(&h).await;
    for (id, priority) in [("1", 5), ("2", 7), ("3", 5), ("4", 7), ("5", 5)] {
        h.store(vec![prior(q.a, id, priority)]).await;
    }
    assert_eq!(ids(&h.take(q.a, 5).await), ["2", "4", "1", "3", "5"]);
}

async fn a_message_that_says_nothing_is_in_the_middle(h: Harness) {
    let q = by_priority(&h).await;
    h.store(vec![prior(q.a, "low", PRIORITY_DEFAULT - 1)]).await;
    h.append(q.a, &["plain"]).await;
    h.store(vec![prior(q.a, "high", PRIORITY_DEFAULT + 1)]).await;
    assert_eq!(ids(&h.take(q.a, 3).await), ["high", "plain", "low"]);
}

async fn an_urgent_message_overtakes_what_waits(h: Harness) {
    let q = by_priority(&h).await;
    h.append(q.a, &["1", "2", "3"]).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
    h.store(vec![prior(q.a, "4", 9)]).await;
    assert_eq!(ids(&h.take(q.a, 3).await), ["4", "2", "3"]);
}

async fn an_urgent_message_overtakes_a_backlog(h: Harness) {
    let q = by_priority(&h).await;
    h.append(q.a, &["first"]).await;
    h.store(names("", h.many).iter().map(|id| prior(q.a, id, 4)).collect()).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "first");
    h.store(vec![prior(q.a, "urgent", 9), prior(q.a, "idle", 0), prior(q.a, "soon", 5)]).await;
    assert_eq!(ids(&h.take(q.a, 3).await), ["urgent", "soon", "00000"]);
}

async fn a_backlog_comes_by_priority(h: Harness) {
    let q = by_priority(&h).await;
    // 0 to 9, none of them twice in a row.
    let priority = |number: usize| u8::try_from(number * 7 % 10).unwrap_or_default();
    let all = names("", h.many);
    h.store(all.iter().enumerate().map(|(number, id)| prior(q.a, id, priority(number))).collect()).await;
    let mut expected: Vec<_> = all.iter().enumerate().map(|(number, id)| (9 - priority(number), id)).collect();
    expected.sort_unstable();
    let taken = h.take(q.a, h.many).await;
    let in_order = taken.iter().zip(expected).all(|(leased, (_, id))| leased.message.id() == id);
    assert!(in_order, "by priority, and in the order of acceptance within one");
}

async fn what_is_released_keeps_its_priority(h: Harness) {
    let q = by_priority(&h).await;
    h.store(vec![prior(q.a, "1", 2), prior(q.a, "2", 8), prior(q.a, "3", 8), prior(q.a, "4", 2)]).await;
    let leased = h.take(q.a, 3).await;
    assert_eq!(ids(&leased), ["2", "3", "1"]);
    h.engine.release(vec![leased[2].token, leased[0].token]).await;
    assert_eq!(ids(&h.take(q.a, 3).await), ["2", "1", "4"], "at their old places");
}

async fn what_ran_out_keeps_its_priority(h: Harness) {
    let q = by_priority(&h).await;
    h.store(vec![prior(q.a, "1", 2), prior(q.a, "2", 8), prior(q.a, "3", 5)]).await;
    h.take(q.a, 3).await;
    h.advance(TTL);
    h.settles_at(q.a, (3, 0, 0)).await;
    let taken = h.take(q.a, 3).await;
    assert_eq!(ids(&taken), ["2", "3", "1"]);
    assert!(taken.iter().all(|leased| leased.attempt() == 2));
}

/// Fails `low` of priority 1 and `high` of priority 9, so that both back off.
async fn fail_both(h: &Harness, q: Queues) {
    h.store(vec![prior(q.a, "low", 1), prior(q.a, "high", 9)]).await;
    for leased in h.take(q.a, 2).await {
        h.again(&leased).await;
    }
}

async fn a_retry_keeps_its_priority(h: Harness) {
    let q = by_priority(&h).await;
    fail_both(&h, q).await;
    h.append(q.a, &["1", "2"]).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (4, 0, 0)).await;
    let taken = h.take(q.a, 4).await;
    assert_eq!(ids(&taken), ["high", "1", "2", "low"]);
    assert_eq!([taken[0].attempt(), taken[3].attempt()], [2, 2]);
}

async fn a_retry_that_backs_off_holds_up_nobody(h: Harness) {
    let q = by_priority(&h).await;
    fail_both(&h, q).await;
    h.store(vec![prior(q.a, "1", 0)]).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "1", "a priority is not a reservation");
}

async fn a_delayed_message_keeps_its_priority(h: Harness) {
    let wait = Duration::from_secs(60);
    let q = by_priority(&h).await;
    let delayed = [("low", 1), ("high", 9)].map(|(id, priority)| {
        let mut new = h.delayed(q.a, id, wait);
        new.options.priority = priority;
        new
    });
    h.store(delayed.to_vec()).await;
    h.append(q.a, &["1", "2"]).await;
    h.advance(wait);
    h.settles_at(q.a, (4, 0, 0)).await;
    assert_eq!(ids(&h.take(q.a, 4).await), ["high", "1", "2", "low"]);
}

async fn a_dead_letter_keeps_its_priority(h: Harness) {
    let mut dead = queue("a.dead", None);
    dead.priority = true;
    let mut a = queue("a", Some("a.dead"));
    a.priority = true;
    let q = h.define(vec![a, dead, queue("b", None), queue("b.dead", None)]).await;
    h.store(vec![prior(q.a, "1", 9), prior(q.a, "2", 1)]).await;
    let leased = h.take(q.a, 2).await;
    h.dead(&leased[1]).await;
    h.dead(&leased[0]).await;
    let taken = h.take(q.a_dead, 2).await;
    assert_eq!(ids(&taken), ["1", "2"], "though the other died first");
    h.engine.release(taken.iter().map(|leased| leased.token).collect()).await;
    h.append(q.a, &["3"]).await;
    assert_eq!(h.bulk_by(q.a_dead, BulkAction::Redrive(None), 10).await.changed, 2);
    assert_eq!(ids(&h.take(q.a, 3).await), ["1", "3", "2"], "also where it comes back");
}

async fn emits_have_priorities(h: Harness) {
    let q = by_priority(&h).await;
    h.append(q.b, &["x"]).await;
    let leased = h.take_one(q.b).await;
    let emits = vec![prior(q.a, "1", 1), prior(q.a, "2", 9)];
    h.settle(done(&leased, emits)).await.expect("it is leased");
    assert_eq!(ids(&h.take(q.a, 2).await), ["2", "1"]);
}

async fn priorities_are_nothing_where_they_are_not_kept(h: Harness) {
    let q = h.standard().await;
    h.store(vec![prior(q.a, "1", 0), prior(q.a, "2", 9), prior(q.a, "3", 4)]).await;
    assert_eq!(ids(&h.take(q.a, 3).await), ["1", "2", "3"]);
}

async fn a_look_shows_the_order(h: Harness) {
    let q = by_priority(&h).await;
    h.store(vec![prior(q.a, "1", 2), prior(q.a, "2", 8), prior(q.a, "3", 2), prior(q.a, "4", 9)]).await;
    for max in [1, 3, 100] {
        let stored = h.browse_by(q.a, max).await;
        assert_eq!(stored_ids(&stored), ["4", "2", "1", "3"], "in pages of {max}");
        assert_eq!(stored.iter().map(|stored| stored.priority).collect::<Vec<_>>(), [9, 8, 2, 2]);
    }
}

async fn priorities_survive_a_restart(h: Harness) {
    let q = by_priority(&h).await;
    h.store(vec![prior(q.a, "1", 2), prior(q.a, "2", 8), prior(q.a, "3", 8)]).await;
    h.take(q.a, 2).await;
    let h = h.reopened().await;
    let q = by_priority(&h).await;
    h.store(vec![prior(q.a, "4", 5)]).await;
    assert_eq!(ids(&h.take(q.a, 4).await), ["2", "3", "4", "1"]);
}

async fn retries_keep_their_priority_over_a_restart(h: Harness) {
    let q = by_priority(&h).await;
    fail_both(&h, q).await;
    h.append(q.a, &["1"]).await;
    let h = h.reopened().await;
    let q = by_priority(&h).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (3, 0, 0)).await;
    let taken = h.take(q.a, 3).await;
    assert_eq!(ids(&taken), ["high", "1", "low"]);
    // Due at once, it stands behind what is more urgent all the same.
    h.settle(failed(&taken[2], Verdict::Again { at: WallMs(0), chosen: false })).await.expect("it is leased");
    h.store(vec![prior(q.a, "2", 2)]).await;
    h.advance(BACKOFF);
    assert_eq!(ids(&h.take(q.a, 2).await), ["2", "low"]);
}
