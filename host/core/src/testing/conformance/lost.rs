//! `lost`: deliveries that ended with their process count, and their messages are handled alone from then on.

use std::time::Duration;

use super::cases;
use super::harness::{ATTEMPTS_MAX, BACKOFF, HELD, Harness, Queues, attempt, done, entry, ids, stored_ids};
use super::key_order::by_key;
use super::made::{all_keyed, prior};
use crate::engine::{Attempt, DeadCode, EntryId, LeaseRequest, Leased, Lost, Place, Position, QueueId, Verdict};

cases! {
    a_lost_delivery_counts: Reopen;
    it_stands_in_the_history: Reopen, History;
    its_message_is_handled_alone: Reopen;
    others_are_not_handled_alone: Reopen;
    it_is_alone_until_it_is_settled: Reopen;
    it_stays_alone_when_it_is_given_back: Reopen;
    it_stays_alone_over_another_restart: Reopen;
    a_dead_letter_is_not_handled_alone: Reopen;
    it_is_at_its_old_place: Reopen;
    every_loss_counts: Reopen;
    the_last_attempt_to_be_lost_makes_it_dead: Reopen;
    a_message_that_is_too_old_is_dead: Reopen;
    a_queue_without_dead_letters_holds_it: Reopen;
    a_lost_retry_counts: Reopen;
    a_lost_retry_is_available_at_once: Reopen;
    what_was_delayed_counts: Reopen, Delay;
    what_was_settled_is_not_counted: Reopen;
    what_was_settled_to_be_tried_again_is_not_counted: Reopen;
    what_died_is_not_counted: Reopen;
    what_somebody_holds_is_not_counted: Reopen;
    what_lies_elsewhere_is_not_counted: Reopen;
    many_are_counted_one_by_one: Reopen;
    a_lost_message_stays_before_those_of_its_key: Reopen, KeyOrder;
    what_waited_for_its_key_counts: Reopen, KeyOrder;
    a_lost_message_keeps_its_priority: Reopen, Priorities;
}

/// Leases everything that can be had without an end, as the broker's own runtime does.
async fn run(h: &Harness, queue: QueueId, count: usize) -> Vec<Leased> {
    let mut leased = Vec::new();
    super::eventually("all are leased", async || {
        let request = LeaseRequest { queue, max: count - leased.len(), wait: Duration::ZERO, ttl: None };
        leased.extend(h.engine.lease(request).await.expect("`lease` works"));
        leased.len() == count
    })
    .await;
    leased
}

/// What the journal of running deliveries has of one, after the process died.
fn lost(leased: &Leased) -> Lost {
    let attempt = Attempt { outcome: "lost".to_owned(), ..attempt(leased.attempt()) };
    Lost { queue: leased.token.queue, entry: leased.token.entry, place: leased.place, attempt }
}

/// The harness after a crash, when these were told to be lost; asserts how many there were.
async fn lose(h: Harness, leased: &[Leased], count: u64) -> (Harness, Queues) {
    let h = h.reopened().await;
    let q = h.standard().await;
    assert_eq!(h.engine.lost(leased.iter().map(lost).collect()).await, Ok(count));
    (h, q)
}

/// A message in `a` whose first delivery was lost.
async fn lose_one(h: Harness) -> (Harness, Queues) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = run(&h, q.a, 1).await;
    lose(h, &leased, 1).await
}

async fn a_lost_delivery_counts(h: Harness) {
    let (h, q) = lose_one(h).await;
    h.settles_at(q.a, (1, 0, 0)).await;
    assert_eq!(h.browse(q.a).await[0].attempts, 1);
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.message.id(), leased.attempt()), ("1", 2));
    assert_eq!(h.done(&leased).await, Ok(()));
}

async fn it_stands_in_the_history(h: Harness) {
    let (h, q) = lose_one(h).await;
    let expected = Attempt { outcome: "lost".to_owned(), ..attempt(1) };
    assert_eq!(h.browse(q.a).await[0].history, std::slice::from_ref(&expected));
    h.dead(&h.take_one(q.a).await).await;
    assert_eq!(h.browse(q.a_dead).await[0].history, [expected, attempt(2)]);
}

async fn its_message_is_handled_alone(h: Harness) {
    let (h, q) = lose_one(h).await;
    assert!(h.take_one(q.a).await.alone);
}

async fn others_are_not_handled_alone(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    let leased = run(&h, q.a, 2).await;
    let (h, q) = lose(h, &leased[..1], 1).await;
    let taken = h.take(q.a, 3).await;
    let alone: Vec<_> = taken.iter().map(|leased| (leased.message.id(), leased.alone, leased.attempt())).collect();
    assert_eq!(alone, [("1", true, 2), ("2", false, 1), ("3", false, 1)]);
}

async fn it_is_alone_until_it_is_settled(h: Harness) {
    let (h, q) = lose_one(h).await;
    h.again(&h.take_one(q.a).await).await;
    h.advance(BACKOFF);
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.alone, leased.attempt()), (false, 3), "the delivery alone did no harm");
}

async fn it_stays_alone_when_it_is_given_back(h: Harness) {
    let (h, q) = lose_one(h).await;
    let leased = h.take_one(q.a).await;
    h.engine.release(vec![leased.token]).await;
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.alone, leased.attempt()), (true, 2));
}

async fn it_stays_alone_over_another_restart(h: Harness) {
    let (h, q) = lose_one(h).await;
    h.take_one(q.a).await;
    let h = h.reopened().await;
    let q = h.standard().await;
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.alone, leased.attempt()), (true, 2));
}

async fn a_dead_letter_is_not_handled_alone(h: Harness) {
    let (h, q) = lose_one(h).await;
    h.dead(&h.take_one(q.a).await).await;
    assert!(!h.take_one(q.a_dead).await.alone);
}

async fn it_is_at_its_old_place(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    let leased = run(&h, q.a, 2).await;
    let (h, q) = lose(h, &leased, 2).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2", "3"]);
    assert_eq!(ids(&h.take(q.a, 3).await), ["1", "2", "3"]);
}

async fn every_loss_counts(h: Harness) {
    let (mut h, mut q) = lose_one(h).await;
    let leased = run(&h, q.a, 1).await;
    (h, q) = lose(h, &leased, 1).await;
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.attempt(), leased.alone), (3, true));
}

async fn the_last_attempt_to_be_lost_makes_it_dead(h: Harness) {
    let (mut h, mut q) = lose_one(h).await;
    for _ in 1..ATTEMPTS_MAX {
        let leased = run(&h, q.a, 1).await;
        (h, q) = lose(h, &leased, 1).await;
    }
    h.assert_none(q.a, "its attempts are used up").await;
    h.settles_at(q.a, (0, 0, 0)).await;
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!((stored.message.id(), stored.attempts), ("1", 0));
    let dead = stored.dead.expect("it is a dead letter");
    assert_eq!((dead.origin.as_str(), dead.reason.code), ("a", DeadCode::MaxAttempts));
    if h.engine.guarantees().history {
        let outcomes: Vec<_> = stored.history.iter().map(|attempt| attempt.outcome.as_str()).collect();
        assert_eq!(outcomes, ["lost"; ATTEMPTS_MAX as usize]);
    }
}

async fn a_message_that_is_too_old_is_dead(h: Harness) {
    let max_age = Duration::from_secs(60);
    let q = h.standard_but(|a| a.retry.max_age = Some(max_age)).await;
    h.append(q.a, &["1"]).await;
    let leased = run(&h, q.a, 1).await;
    h.advance(max_age * 2);
    let h = h.reopened().await;
    let q = h.standard_but(|a| a.retry.max_age = Some(max_age)).await;
    assert_eq!(h.engine.lost(vec![lost(&leased[0])]).await, Ok(1));
    let dead = h.browse(q.a_dead).await.remove(0).dead.expect("it is a dead letter");
    assert_eq!(dead.reason.code, DeadCode::MaxAge);
}

async fn a_queue_without_dead_letters_holds_it(h: Harness) {
    let mut h = h;
    let mut q = h.standard().await;
    h.append(q.a_dead, &["1"]).await;
    for _ in 0..ATTEMPTS_MAX {
        let leased = run(&h, q.a_dead, 1).await;
        (h, q) = lose(h, &leased, 1).await;
    }
    h.assert_none(q.a_dead, "it is held").await;
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!((stored.due, stored.attempts), (Some(HELD), ATTEMPTS_MAX));
}

/// Leases `1` in `a` for the second time, after it backed off.
async fn run_retry(h: &Harness) -> Vec<Leased> {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&run(h, q.a, 1).await[0]).await;
    h.advance(BACKOFF);
    run(h, q.a, 1).await
}

async fn a_lost_retry_counts(h: Harness) {
    let leased = run_retry(&h).await;
    let (h, q) = lose(h, &leased, 1).await;
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.attempt(), leased.alone), (3, true));
}

async fn a_lost_retry_is_available_at_once(h: Harness) {
    let leased = run_retry(&h).await;
    let (h, q) = lose(h, &leased, 1).await;
    h.settles_at(q.a, (1, 0, 0)).await;
}

async fn what_was_delayed_counts(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", BACKOFF)]).await;
    h.advance(BACKOFF);
    let leased = run(&h, q.a, 1).await;
    let (h, q) = lose(h, &leased, 1).await;
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.attempt(), leased.alone), (2, true));
}

async fn what_was_settled_is_not_counted(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = run(&h, q.a, 1).await;
    h.settle(done(&leased[0], vec![entry(q.b, "2")])).await.expect("it is leased");
    let (h, q) = lose(h, &leased, 0).await;
    h.settles_at(q.a, (0, 0, 0)).await;
    assert_eq!(h.take_one(q.b).await.attempt(), 1, "what it emitted was never delivered");
}

async fn what_was_settled_to_be_tried_again_is_not_counted(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = run(&h, q.a, 1).await;
    h.again(&leased[0]).await;
    let (h, q) = lose(h, &leased, 0).await;
    h.assert_none(q.a, "it backs off").await;
    h.advance(BACKOFF);
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.attempt(), leased.alone), (2, false));
}

async fn what_died_is_not_counted(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.append(q.a_dead, &["2"]).await;
    let leased = [run(&h, q.a, 1).await, run(&h, q.a_dead, 1).await].concat();
    for one in &leased {
        h.settle(super::harness::failed(one, Verdict::Dead { reason: super::harness::rejected() }))
            .await
            .expect("it is leased");
    }
    let (h, q) = lose(h, &leased, 0).await;
    assert_eq!(h.browse(q.a_dead).await.iter().map(|stored| stored.attempts).collect::<Vec<_>>(), [0, 1]);
}

async fn what_somebody_holds_is_not_counted(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let before = run(&h, q.a, 1).await;
    let h = h.reopened().await;
    let q = h.standard().await;
    let leased = h.take_one(q.a).await;
    assert_eq!(h.engine.lost(before.iter().map(lost).collect()).await, Ok(0));
    assert_eq!((leased.attempt(), h.done(&leased).await), (1, Ok(())));
}

async fn what_lies_elsewhere_is_not_counted(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.append(q.b, &["3"]).await;
    let leased = run(&h, q.a, 2).await;
    let h = h.reopened().await;
    h.standard().await;
    let true_one = lost(&leased[0]);
    let none = [
        Lost { queue: q.b, ..true_one.clone() },
        Lost { queue: QueueId(4_000_000), ..true_one.clone() },
        Lost { entry: EntryId(1 << 40), ..true_one.clone() },
        Lost { entry: leased[1].token.entry, ..true_one.clone() },
        Lost { place: leased[1].place, ..true_one.clone() },
        Lost { place: Place { position: Position(1 << 40), ..leased[0].place }, ..true_one.clone() },
    ];
    for one in none {
        assert_eq!(h.engine.lost(vec![one.clone()]).await, Ok(0), "{one:?}");
    }
    assert!(h.browse(q.a).await.iter().all(|stored| stored.attempts == 0));
    assert_eq!(h.engine.lost(Vec::new()).await, Ok(0));
    assert_eq!(h.engine.lost(vec![true_one]).await, Ok(1));
}

async fn many_are_counted_one_by_one(h: Harness) {
    const COUNT: usize = 300;
    let q = h.standard().await;
    let all = super::made::names("", COUNT);
    h.store(all.iter().map(|id| entry(q.a, id)).collect()).await;
    let leased = run(&h, q.a, COUNT).await;
    let settled: Vec<_> = leased.iter().step_by(3).cloned().collect();
    h.all_done(&settled).await;
    let (h, q) = lose(h, &leased, (COUNT - settled.len()) as u64).await;
    let stored = h.browse(q.a).await;
    assert_eq!(stored.len(), COUNT - settled.len());
    assert!(stored.iter().all(|stored| stored.attempts == 1));
}

async fn a_lost_message_stays_before_those_of_its_key(h: Harness) {
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/1", "k/2"])).await;
    let leased = run(&h, q.a, 1).await;
    let h = h.reopened().await;
    let q = by_key(&h).await;
    assert_eq!(h.engine.lost(vec![lost(&leased[0])]).await, Ok(1));
    let first = h.take_one(q.a).await;
    assert_eq!((first.message.id(), first.attempt(), first.alone), ("k/1", 2, true));
    h.assert_none(q.a, "its key is busy").await;
    h.done(&first).await.expect("it is leased");
    assert_eq!(h.take_one(q.a).await.message.id(), "k/2");
}

async fn what_waited_for_its_key_counts(h: Harness) {
    let q = by_key(&h).await;
    let all = super::made::names("k/", 100);
    h.store(all.iter().map(|id| super::made::keyed(q.a, id)).collect()).await;
    let first = run(&h, q.a, 1).await;
    h.assert_none(q.a, "the key is busy").await;
    h.all_done(&first).await;
    let leased = run(&h, q.a, 1).await;
    let h = h.reopened().await;
    let q = by_key(&h).await;
    assert_eq!(h.engine.lost(vec![lost(&leased[0])]).await, Ok(1));
    let second = h.take_one(q.a).await;
    assert_eq!((second.message.id(), second.attempt(), second.alone), (all[1].as_str(), 2, true));
}

async fn a_lost_message_keeps_its_priority(h: Harness) {
    let q = h.standard_but(|a| a.priority = true).await;
    h.store(vec![prior(q.a, "1", 2), prior(q.a, "2", 8)]).await;
    let leased = run(&h, q.a, 2).await;
    let h = h.reopened().await;
    let q = h.standard_but(|a| a.priority = true).await;
    assert_eq!(h.engine.lost(leased.iter().map(lost).collect()).await, Ok(2));
    h.store(vec![prior(q.a, "3", 5)]).await;
    assert_eq!(ids(&h.take(q.a, 3).await), ["2", "3", "1"]);
}
