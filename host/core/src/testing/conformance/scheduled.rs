//! `Select::Scheduled`: what a publish with a delay can be cancelled by, for as long as it waits.

use std::time::Duration;

use super::cases;
use super::harness::{BACKOFF, Harness, Queues, ids, stored_ids};
use super::key_order::by_key;
use super::made::{MS, keyed};
use crate::clock::WallMs;
use crate::engine::{Bulk, BulkAction, Cursor, Filter, Position, Progress, QueueId, Select};

cases! {
    what_is_cancelled_never_comes: Delay;
    others_that_wait_for_the_same_time_stay: Delay;
    what_waits_for_another_time_stays: Delay;
    what_lies_in_another_queue_stays: Delay;
    what_is_leased_stays: Delay;
    a_retry_was_not_scheduled: Delay;
    what_was_tried_is_not_scheduled_any_more: Delay;
    what_was_moved_is_not_scheduled_any_more: Delay;
    what_joined_its_key_is_not_scheduled_any_more: Delay, KeyOrder;
    what_is_held_was_not_scheduled: Delay;
    several_are_cancelled_in_steps: Delay;
    one_named_twice_counts_once: Delay;
    a_filter_applies: Delay;
    what_is_scheduled_can_be_sent_at_once: Delay;
    it_can_be_cancelled_after_a_restart: Delay, Reopen;
    what_is_cancelled_stays_so_over_a_restart: Delay, Reopen;
}

const DELAY: Duration = Duration::from_secs(600);

/// A message in `a`, delayed; by what it can be cancelled.
async fn schedule(h: &Harness, q: Queues, id: &str) -> (WallMs, Position) {
    let due = h.after(DELAY);
    (due, h.store(vec![h.delayed(q.a, id, DELAY)]).await[0])
}

async fn act(h: &Harness, queue: QueueId, places: &[(WallMs, Position)], action: BulkAction) -> u64 {
    h.bulk(queue, Select::Scheduled(places.to_vec()), action).await.expect("`bulk` works").changed
}

/// How many of these are cancelled.
async fn cancel(h: &Harness, q: Queues, places: &[(WallMs, Position)]) -> u64 {
    act(h, q.a, places, BulkAction::Discard).await
}

async fn what_is_cancelled_never_comes(h: Harness) {
    let q = h.standard().await;
    let place = schedule(&h, q, "1").await;
    h.advance(DELAY - MS);
    assert_eq!(cancel(&h, q, &[place]).await, 1);
    assert_eq!(cancel(&h, q, &[place]).await, 0, "it is gone");
    h.settles_at(q.a, (0, 0, 0)).await;
    h.advance(DELAY);
    h.assert_none(q.a, "it was cancelled").await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0]);
}

async fn others_that_wait_for_the_same_time_stay(h: Harness) {
    let q = h.standard().await;
    schedule(&h, q, "1").await;
    let place = schedule(&h, q, "2").await;
    schedule(&h, q, "3").await;
    assert_eq!(cancel(&h, q, &[place]).await, 1);
    h.advance(DELAY);
    assert_eq!(ids(&h.take(q.a, 2).await), ["1", "3"]);
    h.assert_none(q.a, "the other was cancelled").await;
}

async fn what_waits_for_another_time_stays(h: Harness) {
    let q = h.standard().await;
    let (due, position) = schedule(&h, q, "1").await;
    let ready = h.append(q.a, &["2"]).await[0];
    let wrong = [
        (WallMs(due.0 - 1), position),
        (WallMs(due.0 + 1), position),
        (WallMs(0), position),
        (due, Position(position.0 + 1)),
        (due, ready),
        (WallMs(0), ready),
        (due, Position(u64::MAX)),
        (WallMs(u64::MAX), Position(u64::MAX)),
    ];
    assert_eq!(cancel(&h, q, &wrong).await, 0);
    assert_eq!(cancel(&h, q, &[]).await, 0);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2", "1"]);
}

async fn what_lies_in_another_queue_stays(h: Harness) {
    let q = h.standard().await;
    let place = schedule(&h, q, "1").await;
    assert_eq!(act(&h, q.b, &[place], BulkAction::Discard).await, 0);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
}

async fn what_is_leased_stays(h: Harness) {
    let q = h.standard().await;
    let place = schedule(&h, q, "1").await;
    h.advance(DELAY);
    let leased = h.take_one(q.a).await;
    assert_eq!(cancel(&h, q, &[place]).await, 0);
    assert_eq!(h.done(&leased).await, Ok(()));
}

async fn a_retry_was_not_scheduled(h: Harness) {
    let q = h.standard().await;
    let position = h.append(q.a, &["1"]).await[0];
    h.again(&h.take_one(q.a).await).await;
    assert_eq!(cancel(&h, q, &[(h.after(BACKOFF), position)]).await, 0);
    h.advance(BACKOFF);
    assert_eq!(h.take_one(q.a).await.attempt(), 2);
}

async fn what_was_tried_is_not_scheduled_any_more(h: Harness) {
    let q = h.standard().await;
    let (due, position) = schedule(&h, q, "1").await;
    h.advance(DELAY);
    h.again(&h.take_one(q.a).await).await;
    assert_eq!(cancel(&h, q, &[(due, position), (h.after(BACKOFF), position)]).await, 0);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
}

async fn what_was_moved_is_not_scheduled_any_more(h: Harness) {
    let q = h.standard().await;
    let place = schedule(&h, q, "1").await;
    assert_eq!(h.bulk_by(q.a, BulkAction::Redrive(Some(q.a)), 10).await.changed, 1);
    assert_eq!(cancel(&h, q, &[place]).await, 0);
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}

async fn what_joined_its_key_is_not_scheduled_any_more(h: Harness) {
    let q = by_key(&h).await;
    let due = h.after(DELAY);
    let mut new = keyed(q.a, "k/1");
    new.options.due = Some(due);
    let place = (due, h.store(vec![new.clone(), new]).await[0]);
    assert_eq!(cancel(&h, q, &[place]).await, 1, "before it joins");
    let place = (due, h.browse(q.a).await[0].position);
    h.advance(DELAY);
    h.settles_at(q.a, (1, 0, 0)).await;
    assert_eq!(cancel(&h, q, &[place]).await, 0);
    assert_eq!(h.take_one(q.a).await.message.id(), "k/1");
}

async fn what_is_held_was_not_scheduled(h: Harness) {
    let q = h.standard().await;
    let position = h.append(q.a_dead, &["1"]).await[0];
    h.dead(&h.take_one(q.a_dead).await).await;
    let held = (super::harness::HELD, position);
    assert_eq!(act(&h, q.a_dead, &[held], BulkAction::Discard).await, 0);
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1"]);
}

async fn several_are_cancelled_in_steps(h: Harness) {
    let q = h.standard().await;
    let mut places = Vec::new();
    for id in ["1", "2", "3", "4", "5"] {
        places.push(schedule(&h, q, id).await);
        h.advance(MS);
    }
    places.remove(2);
    // One that is nowhere does not end the change.
    places.insert(1, (WallMs(7), Position(1 << 40)));
    let mut sum = Progress::default();
    for _ in 0..10 {
        let job = Bulk {
            queue: q.a,
            select: Select::Scheduled(places.clone()),
            filter: Filter::default(),
            action: BulkAction::Discard,
            after: sum.next,
            max: 2,
        };
        let step = h.engine.bulk(job).await.expect("`bulk` works");
        assert!(step.changed <= 2, "a step changed {}", step.changed);
        sum = Progress { changed: sum.changed + step.changed, skipped: sum.skipped + step.skipped, next: step.next };
        if sum.next.is_none() {
            break;
        }
    }
    assert_eq!((sum.changed, sum.next), (4, None::<Cursor>));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["3"]);
}

async fn one_named_twice_counts_once(h: Harness) {
    let q = h.standard().await;
    let place = schedule(&h, q, "1").await;
    schedule(&h, q, "2").await;
    assert_eq!(cancel(&h, q, &[place, place]).await, 1);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2"]);
}

async fn a_filter_applies(h: Harness) {
    let q = h.standard().await;
    let places = vec![schedule(&h, q, "1").await, schedule(&h, q, "2").await];
    let filter = Filter { attributes: vec![("id".to_owned(), "2".to_owned())], ..Filter::default() };
    let (select, action) = (Select::Scheduled(places), BulkAction::Discard);
    let job = Bulk { queue: q.a, select, filter, action, after: None, max: 100 };
    assert_eq!(h.engine.bulk(job).await, Ok(Progress { changed: 1, skipped: 0, next: None }));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
}

async fn what_is_scheduled_can_be_sent_at_once(h: Harness) {
    let q = h.standard().await;
    let place = schedule(&h, q, "1").await;
    schedule(&h, q, "2").await;
    assert_eq!(act(&h, q.a, &[place], BulkAction::Redrive(Some(q.a))).await, 1);
    assert_eq!(ids(&h.take(q.a, 1).await), ["1"]);
    h.assert_none(q.a, "the other is delayed").await;
}

async fn it_can_be_cancelled_after_a_restart(h: Harness) {
    let q = h.standard().await;
    let place = schedule(&h, q, "1").await;
    let h = h.reopened().await;
    let q = h.standard().await;
    assert_eq!(cancel(&h, q, &[place]).await, 1);
    h.advance(DELAY);
    h.assert_none(q.a, "it was cancelled").await;
}

async fn what_is_cancelled_stays_so_over_a_restart(h: Harness) {
    let q = h.standard().await;
    let place = schedule(&h, q, "1").await;
    assert_eq!(cancel(&h, q, &[place]).await, 1);
    let h = h.reopened().await;
    let q = h.standard().await;
    h.advance(DELAY);
    h.assert_none(q.a, "it was cancelled").await;
    h.settles_at(q.a, (0, 0, 0)).await;
}
