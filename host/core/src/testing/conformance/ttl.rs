//! Time to live: nobody gets a message that expired, unless he has it already; what becomes of it is the queue's to say.
//!
//! An engine may collect what expired when it comes across it, so that cases ask for messages until it has.

use std::time::Duration;

use super::cases;
use super::harness::{BACKOFF, HELD, Harness, Queues, TTL, attempt, done, ids, rejected, stored_ids};
use super::made::{MS, names, prior};
use crate::clock::WallMs;
use crate::engine::{BulkAction, DeadCode, Expired, NewEntry, QueueId};

cases! {
    a_message_is_leased_before_it_expires: Expiry;
    an_expired_message_is_not_leased: Expiry;
    it_expires_at_its_very_moment: Expiry;
    it_becomes_a_dead_letter: Expiry;
    it_is_deleted_where_the_queue_says_so: Expiry;
    it_is_deleted_where_there_are_no_dead_letters: Expiry;
    it_is_counted: Expiry;
    each_message_expires_by_itself: Expiry;
    what_is_leased_does_not_expire: Expiry;
    what_expired_under_its_lease_is_not_tried_again: Expiry;
    what_expired_under_its_lease_is_not_given_back: Expiry;
    what_expired_under_a_lease_that_ran_out_is_not_given_back: Expiry;
    what_expired_while_it_backs_off_is_not_tried_again: Expiry;
    what_expired_while_it_was_delayed_is_not_leased: Expiry, Delay;
    a_delayed_message_expires_after_it_was_due: Expiry, Delay;
    what_expired_on_arrival_is_not_leased: Expiry;
    a_dead_letter_does_not_expire: Expiry;
    what_is_held_does_not_expire: Expiry;
    what_is_dead_on_arrival_does_not_expire: Expiry;
    a_redriven_message_does_not_expire_again: Expiry;
    an_emit_may_expire: Expiry, Effects;
    it_expires_by_the_wall_clock: Expiry;
    an_expired_message_of_high_priority_is_passed_over: Expiry, Priorities;
    many_expired_messages_do_not_stall_others: Expiry;
    it_shows_when_it_expires: Expiry;
    it_expires_after_a_restart: Expiry, Reopen;
    what_expired_during_a_restart_is_not_leased: Expiry, Reopen;
    what_was_leased_at_a_restart_expires: Expiry, Reopen;
    its_count_starts_anew_at_a_restart: Expiry, Reopen;
}

const LIFE: Duration = Duration::from_secs(100);

/// Asks for messages, which are none, until so many have expired since the store was opened.
async fn expired(h: &Harness, queue: QueueId, count: u64) {
    super::eventually("what expired is collected", async || {
        h.assert_none(queue, "what is there has expired").await;
        h.figures(queue).is_some_and(|figures| figures.expired == count)
    })
    .await;
}

/// Whether the dead letters of `a` are these, expired there.
async fn assert_expired(h: &Harness, q: Queues, ids: &[&str]) {
    expired(h, q.a, ids.len() as u64).await;
    let stored = h.browse(q.a_dead).await;
    assert_eq!(stored_ids(&stored), ids);
    for stored in stored {
        let dead = stored.dead.expect("it is a dead letter");
        assert_eq!((dead.origin.as_str(), dead.reason.code), ("a", DeadCode::Expired));
    }
    h.settles_at(q.a, (0, 0, 0)).await;
}

async fn a_message_is_leased_before_it_expires(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", LIFE)]).await;
    h.advance(LIFE - MS);
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.message.id(), leased.attempt()), ("1", 1));
    assert_eq!(h.done(&leased).await, Ok(()));
}

async fn an_expired_message_is_not_leased(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", LIFE)]).await;
    h.append(q.a, &["2"]).await;
    h.advance(LIFE + MS);
    assert_eq!(ids(&h.take(q.a, 1).await), ["2"]);
    h.assert_none(q.a, "it has expired").await;
}

async fn it_expires_at_its_very_moment(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", LIFE)]).await;
    h.advance(LIFE);
    h.assert_none(q.a, "its moment has come").await;
    assert_expired(&h, q, &["1"]).await;
}

async fn it_becomes_a_dead_letter(h: Harness) {
    let q = h.standard().await;
    let entry = h.store(vec![h.mortal(q.a, "1", LIFE)]).await[0];
    h.advance(LIFE + MS);
    assert_expired(&h, q, &["1"]).await;
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!((stored.entry.0, stored.attempts, stored.history), (entry.0, 0, vec![]), "nobody tried it");
    assert!(stored.dead.is_some_and(|dead| !dead.reason.detail.is_empty()), "people are told what happened");
    assert_eq!(h.take_one(q.a_dead).await.message.id(), "1", "it can be consumed");
}

async fn it_is_deleted_where_the_queue_says_so(h: Harness) {
    let q = h.standard_but(|a| a.expired = Expired::Drop).await;
    h.store(vec![h.mortal(q.a, "1", LIFE)]).await;
    h.advance(LIFE + MS);
    expired(&h, q.a, 1).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), [""; 0]);
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0]);
    h.settles_at(q.a, (0, 0, 0)).await;
    assert_eq!(h.figures(q.a).map(|figures| figures.bytes), Some(0));
}

async fn it_is_deleted_where_there_are_no_dead_letters(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a_dead, "1", LIFE)]).await;
    h.advance(LIFE + MS);
    expired(&h, q.a_dead, 1).await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0]);
}

async fn it_is_counted(h: Harness) {
    let q = h.standard().await;
    h.store(["1", "2", "3"].map(|id| h.mortal(q.a, id, LIFE)).to_vec()).await;
    assert_eq!(h.figures(q.a).map(|figures| figures.expired), Some(0));
    h.advance(LIFE + MS);
    expired(&h, q.a, 3).await;
    assert_eq!(h.figures(q.a).map(|figures| figures.dropped), Some(0), "nobody needed their room");
    assert_eq!(h.figures(q.b).map(|figures| figures.expired), Some(0));
}

async fn each_message_expires_by_itself(h: Harness) {
    let q = h.standard().await;
    h.store([("1", 30), ("2", 10), ("3", 20)].map(|(id, s)| h.mortal(q.a, id, Duration::from_secs(s))).to_vec()).await;
    h.append(q.a, &["4"]).await;
    h.advance(Duration::from_secs(15));
    let leased = h.take(q.a, 3).await;
    assert_eq!(ids(&leased), ["1", "3", "4"]);
    h.engine.release(leased.iter().map(|leased| leased.token).collect()).await;
    h.advance(Duration::from_secs(10));
    assert_eq!(ids(&h.take(q.a, 2).await), ["1", "4"]);
    h.assert_none(q.a, "the others have expired").await;
}

async fn what_is_leased_does_not_expire(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", TTL / 2)]).await;
    let leased = h.take_one(q.a).await;
    h.advance(TTL - MS);
    h.assert_none(q.a, "it is leased").await;
    h.settles_at(q.a, (0, 1, 0)).await;
    assert_eq!(h.done(&leased).await, Ok(()));
    assert_eq!(h.figures(q.a).map(|figures| figures.expired), Some(0));
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0]);
}

async fn what_expired_under_its_lease_is_not_tried_again(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", TTL / 2)]).await;
    let leased = h.take_one(q.a).await;
    h.advance(TTL - MS);
    h.again(&leased).await;
    h.advance(BACKOFF);
    assert_expired(&h, q, &["1"]).await;
    if h.engine.guarantees().history {
        assert_eq!(h.browse(q.a_dead).await[0].history, [attempt(1)]);
    }
}

async fn what_expired_under_its_lease_is_not_given_back(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", TTL / 2)]).await;
    let leased = h.take_one(q.a).await;
    h.advance(TTL - MS);
    h.engine.release(vec![leased.token]).await;
    assert_expired(&h, q, &["1"]).await;
}

async fn what_expired_under_a_lease_that_ran_out_is_not_given_back(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", TTL / 2)]).await;
    h.take_one(q.a).await;
    h.advance(TTL);
    assert_expired(&h, q, &["1"]).await;
}

async fn what_expired_while_it_backs_off_is_not_tried_again(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", BACKOFF / 2), h.mortal(q.a, "2", BACKOFF * 2)]).await;
    for leased in h.take(q.a, 2).await {
        h.again(&leased).await;
    }
    h.advance(BACKOFF);
    assert_eq!(h.take_one(q.a).await.message.id(), "2", "it is due in time");
    h.assert_none(q.a, "it has expired").await;
}

async fn what_expired_while_it_was_delayed_is_not_leased(h: Harness) {
    let q = h.standard().await;
    let mut new = h.delayed(q.a, "1", LIFE * 2);
    new.options.expires = Some(h.after(LIFE));
    h.store(vec![new]).await;
    h.advance(LIFE * 2);
    assert_expired(&h, q, &["1"]).await;
}

async fn a_delayed_message_expires_after_it_was_due(h: Harness) {
    let q = h.standard().await;
    let new = |id| {
        let mut new = h.delayed(q.a, id, LIFE);
        new.options.expires = Some(h.after(LIFE * 2));
        new
    };
    h.store(vec![new("1"), new("2")]).await;
    h.advance(LIFE);
    h.done(&h.take_one(q.a).await).await.expect("it is leased");
    h.advance(LIFE + MS);
    h.assert_none(q.a, "the other has expired").await;
}

async fn what_expired_on_arrival_is_not_leased(h: Harness) {
    let q = h.standard().await;
    let mut new = h.mortal(q.a, "1", LIFE);
    new.options.expires = Some(WallMs(1));
    assert_eq!(h.store(vec![new]).await.len(), 1, "it was accepted");
    assert_expired(&h, q, &["1"]).await;
}

async fn a_dead_letter_does_not_expire(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", LIFE)]).await;
    h.dead(&h.take_one(q.a).await).await;
    assert_eq!(h.browse(q.a_dead).await[0].expires, None);
    h.advance(LIFE + MS);
    let leased = h.take_one(q.a_dead).await;
    assert_eq!(leased.message.id(), "1");
    h.again(&leased).await;
    h.advance(LIFE);
    assert_eq!(h.take_one(q.a_dead).await.attempt(), 2);
}

async fn what_is_held_does_not_expire(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a_dead, "1", LIFE)]).await;
    h.dead(&h.take_one(q.a_dead).await).await;
    h.advance(LIFE + MS);
    h.assert_none(q.a_dead, "it is held").await;
    let stored = h.browse(q.a_dead).await;
    assert_eq!(stored_ids(&stored), ["1"]);
    assert_eq!((stored[0].due, stored[0].expires), (Some(HELD), None));
}

async fn what_is_dead_on_arrival_does_not_expire(h: Harness) {
    let q = h.standard().await;
    h.store(vec![NewEntry { dead: Some(rejected()), ..h.mortal(q.a, "1", LIFE) }]).await;
    h.advance(LIFE + MS);
    assert_eq!(h.take_one(q.a_dead).await.message.id(), "1");
}

async fn a_redriven_message_does_not_expire_again(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", LIFE)]).await;
    h.advance(LIFE + MS);
    assert_expired(&h, q, &["1"]).await;
    assert_eq!(h.bulk_by(q.a_dead, BulkAction::Redrive(None), 10).await.changed, 1);
    h.advance(LIFE);
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}

async fn an_emit_may_expire(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    let emits = vec![h.mortal(q.b, "2", LIFE), super::harness::entry(q.b, "3")];
    h.settle(done(&leased, emits)).await.expect("it is leased");
    h.advance(LIFE + MS);
    assert_eq!(h.take_one(q.b).await.message.id(), "3");
    h.assert_none(q.b, "the other has expired").await;
}

async fn it_expires_by_the_wall_clock(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", LIFE), h.mortal(q.a, "2", LIFE * 3)]).await;
    h.step_wall_forward(LIFE * 2);
    let leased = h.take_one(q.a).await;
    assert_eq!(leased.message.id(), "2");
    h.engine.release(vec![leased.token]).await;
    h.step_wall_back(LIFE * 2);
    h.advance(LIFE * 2);
    assert_eq!(h.take_one(q.a).await.message.id(), "2");
}

async fn an_expired_message_of_high_priority_is_passed_over(h: Harness) {
    let q = h.standard_but(|a| a.priority = true).await;
    let mut high = prior(q.a, "1", 9);
    high.options.expires = Some(h.after(LIFE));
    h.store(vec![high, prior(q.a, "2", 0)]).await;
    h.advance(LIFE + MS);
    assert_eq!(h.take_one(q.a).await.message.id(), "2");
}

async fn many_expired_messages_do_not_stall_others(h: Harness) {
    let q = h.standard_but(|a| a.expired = Expired::Drop).await;
    h.store(names("", h.many).iter().map(|id| h.mortal(q.a, id, LIFE)).collect()).await;
    h.append(q.a, &["x"]).await;
    h.advance(LIFE + MS);
    assert_eq!(h.take_one(q.a).await.message.id(), "x");
    expired(&h, q.a, h.many as u64).await;
    h.settles_at(q.a, (0, 1, 0)).await;
}

async fn it_shows_when_it_expires(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", LIFE)]).await;
    h.append(q.a, &["2"]).await;
    let expires = h.after(LIFE);
    let shown: Vec<_> = h.browse(q.a).await.iter().map(|stored| stored.expires).collect();
    assert_eq!(shown, [Some(expires), None]);
}

async fn crash(h: Harness) -> (Harness, Queues) {
    let h = h.reopened().await;
    let q = h.standard().await;
    (h, q)
}

async fn it_expires_after_a_restart(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", LIFE)]).await;
    let (h, q) = crash(h).await;
    h.advance(LIFE - MS);
    let leased = h.take_one(q.a).await;
    h.engine.release(vec![leased.token]).await;
    h.advance(MS * 2);
    assert_expired(&h, q, &["1"]).await;
}

async fn what_expired_during_a_restart_is_not_leased(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", LIFE)]).await;
    h.clock.advance(LIFE + MS);
    let (h, q) = crash(h).await;
    h.assert_none(q.a, "what is there has expired").await;
    // It may have been collected on either side of the restart.
    super::eventually("it is collected", async || stored_ids(&h.browse(q.a_dead).await) == ["1"]).await;
}

async fn what_was_leased_at_a_restart_expires(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", TTL / 2)]).await;
    h.take_one(q.a).await;
    h.advance(TTL - MS);
    let (h, q) = crash(h).await;
    assert_expired(&h, q, &["1"]).await;
}

async fn its_count_starts_anew_at_a_restart(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.mortal(q.a, "1", LIFE), h.mortal(q.a, "2", LIFE * 3)]).await;
    h.advance(LIFE + MS);
    let leased = h.take_one(q.a).await;
    h.engine.release(vec![leased.token]).await;
    super::eventually("the first is collected", async || h.figures(q.a).is_some_and(|figures| figures.expired == 1))
        .await;
    let (h, q) = crash(h).await;
    assert_eq!(h.figures(q.a).map(|figures| figures.expired), Some(0));
    h.advance(LIFE * 2);
    expired(&h, q.a, 1).await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1", "2"]);
}
