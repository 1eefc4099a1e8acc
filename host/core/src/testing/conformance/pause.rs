//! Pausing: of a queue nothing is leased, of a consumer it is only remembered; both for as long as nobody resumes them.

use std::time::Duration;

use futures_util::poll;

use super::cases;
use super::harness::{BACKOFF, Harness, Queues, TTL, ids, queue, soon, stored_ids, want};
use crate::engine::{BulkAction, Definitions, Pausable, QueueId, RequestError};
use crate::name::ConsumerName;

cases! {
    nothing_is_leased_from_a_paused_queue;
    a_paused_queue_takes_messages;
    a_resumed_queue_gives_what_it_has;
    a_waiting_lease_gets_nothing_while_its_queue_is_paused;
    a_lease_that_waits_on_a_paused_queue_gives_up_at_its_deadline;
    leases_in_force_stay_so;
    leases_of_a_paused_queue_run_out;
    what_is_given_back_stays_in_a_paused_queue;
    retries_stay_in_a_paused_queue;
    a_paused_queue_takes_dead_letters;
    a_paused_queue_can_be_changed_in_bulk;
    other_queues_go_on;
    a_queue_says_whether_it_is_paused;
    paused_consumers_are_remembered;
    pausing_twice_is_pausing_once;
    an_unknown_queue_can_not_be_paused;
    a_new_plan_resumes_nothing;
    a_queue_that_was_left_out_comes_back_paused;
    a_restart_resumes_nothing: Reopen;
    what_was_resumed_stays_so_over_a_restart: Reopen;
}

async fn pause(h: &Harness, queue: QueueId) {
    h.engine.pause(Pausable::Queue(queue), true).await.expect("`pause` works");
}

async fn resume(h: &Harness, queue: QueueId) {
    h.engine.pause(Pausable::Queue(queue), false).await.expect("`pause` works");
}

/// The standard queues, `a` paused with these messages in it.
async fn paused_with(h: &Harness, ids: &[&str]) -> Queues {
    let q = h.standard().await;
    h.append(q.a, ids).await;
    pause(h, q.a).await;
    q
}

fn is_paused(h: &Harness, queue: QueueId) -> bool {
    h.figures(queue).is_some_and(|figures| figures.paused)
}

/// Waits until a queue shows as paused or not.
async fn shows_paused(h: &Harness, queue: QueueId, paused: bool) {
    super::eventually("its figures say whether it is paused", async || is_paused(h, queue) == paused).await;
}

async fn nothing_is_leased_from_a_paused_queue(h: Harness) {
    let q = paused_with(&h, &["1", "2"]).await;
    h.assert_none(q.a, "it is paused").await;
    h.settles_at(q.a, (2, 0, 0)).await;
}

async fn a_paused_queue_takes_messages(h: Harness) {
    let q = paused_with(&h, &["1"]).await;
    h.append(q.a, &["2"]).await;
    h.assert_none(q.a, "it is paused").await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2"]);
}

async fn a_resumed_queue_gives_what_it_has(h: Harness) {
    let q = paused_with(&h, &["1"]).await;
    h.append(q.a, &["2"]).await;
    resume(&h, q.a).await;
    h.append(q.a, &["3"]).await;
    assert_eq!(ids(&h.take(q.a, 3).await), ["1", "2", "3"]);
}

async fn a_waiting_lease_gets_nothing_while_its_queue_is_paused(h: Harness) {
    let q = h.standard().await;
    let mut waiting = h.engine.lease(want(q.a, 1, TTL * 1000));
    assert!(poll!(&mut waiting).is_pending(), "there is nothing yet");
    pause(&h, q.a).await;
    h.append(q.a, &["1"]).await;
    h.assert_none(q.a, "it is paused").await;
    assert!(poll!(&mut waiting).is_pending(), "it is paused");
    h.settles_at(q.a, (1, 0, 0)).await;
    resume(&h, q.a).await;
    let leased = soon("the waiting lease gets the message", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["1"]);
}

async fn a_lease_that_waits_on_a_paused_queue_gives_up_at_its_deadline(h: Harness) {
    let q = paused_with(&h, &["1"]).await;
    let mut waiting = h.engine.lease(want(q.a, 1, Duration::from_secs(5)));
    assert!(poll!(&mut waiting).is_pending(), "it is paused");
    let leased = h.advance_until(Duration::from_secs(5), waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), [""; 0]);
}

async fn leases_in_force_stay_so(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take(q.a, 2).await;
    pause(&h, q.a).await;
    h.settles_at(q.a, (0, 2, 0)).await;
    assert_eq!(h.engine.extend(vec![(leased[0].token, TTL * 2)]).await, [Ok(())]);
    assert_eq!(h.done(&leased[0]).await, Ok(()));
    assert_eq!(h.done(&leased[1]).await, Ok(()));
    h.settles_at(q.a, (0, 0, 0)).await;
}

async fn leases_of_a_paused_queue_run_out(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    pause(&h, q.a).await;
    h.advance(TTL);
    h.settles_at(q.a, (1, 0, 0)).await;
    h.assert_none(q.a, "it is paused").await;
    assert!(h.done(&leased).await.is_err(), "it ran out");
    resume(&h, q.a).await;
    assert_eq!(h.take_one(q.a).await.attempt(), 2);
}

async fn what_is_given_back_stays_in_a_paused_queue(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    pause(&h, q.a).await;
    h.engine.release(vec![leased.token]).await;
    h.assert_none(q.a, "it is paused").await;
    resume(&h, q.a).await;
    assert_eq!(h.take_one(q.a).await.attempt(), 1);
}

async fn retries_stay_in_a_paused_queue(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    pause(&h, q.a).await;
    h.advance(BACKOFF);
    h.settles_at(q.a, (1, 0, 0)).await;
    h.assert_none(q.a, "it is paused").await;
    resume(&h, q.a).await;
    assert_eq!(h.take_one(q.a).await.attempt(), 2);
}

async fn a_paused_queue_takes_dead_letters(h: Harness) {
    let q = h.standard().await;
    pause(&h, q.a_dead).await;
    h.append(q.a, &["1"]).await;
    h.bury(q.a, 1).await;
    h.settles_at(q.a_dead, (1, 0, 0)).await;
    h.assert_none(q.a_dead, "it is paused").await;
}

async fn a_paused_queue_can_be_changed_in_bulk(h: Harness) {
    let q = paused_with(&h, &["1"]).await;
    assert_eq!(h.bulk_by(q.a, BulkAction::Redrive(Some(q.b)), 10).await.changed, 1);
    assert_eq!(h.take_one(q.b).await.message.id(), "1");
}

async fn other_queues_go_on(h: Harness) {
    let q = paused_with(&h, &["1"]).await;
    h.append(q.b, &["2"]).await;
    assert_eq!(h.take_one(q.b).await.message.id(), "2");
}

async fn a_queue_says_whether_it_is_paused(h: Harness) {
    let q = h.standard().await;
    assert!(!is_paused(&h, q.a));
    pause(&h, q.a).await;
    shows_paused(&h, q.a, true).await;
    assert!(!is_paused(&h, q.b), "the other is not");
    resume(&h, q.a).await;
    shows_paused(&h, q.a, false).await;
}

fn consumer(name: &str) -> ConsumerName {
    ConsumerName::new(name).expect("cases use valid names")
}

/// Waits until these consumers, in this order, show as paused.
async fn paused_consumers(h: &Harness, names: &[&str]) {
    super::eventually("the figures name these paused consumers", async || {
        let counts = h.engine.counts();
        counts.paused_consumers.iter().map(ConsumerName::as_str).eq(names.iter().copied())
    })
    .await;
}

async fn paused_consumers_are_remembered(h: Harness) {
    let q = h.standard().await;
    paused_consumers(&h, &[]).await;
    for (name, paused, expected) in [
        ("worker", true, ["worker"].as_slice()),
        ("biller", true, &["biller", "worker"]),
        ("a", true, &["a", "biller", "worker"]),
        ("biller", false, &["a", "worker"]),
        ("nobody", false, &["a", "worker"]),
    ] {
        h.engine.pause(Pausable::Consumer(consumer(name)), paused).await.expect("`pause` works");
        paused_consumers(&h, expected).await;
    }
    h.append(q.a, &["1"]).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "1", "the engine only remembers it; no queue is called like it");
}

async fn pausing_twice_is_pausing_once(h: Harness) {
    let q = paused_with(&h, &["1"]).await;
    pause(&h, q.a).await;
    resume(&h, q.a).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
    resume(&h, q.a).await;
}

async fn an_unknown_queue_can_not_be_paused(h: Harness) {
    h.standard().await;
    let nowhere = QueueId(4_000_000);
    for paused in [true, false] {
        let result = h.engine.pause(Pausable::Queue(nowhere), paused).await;
        assert_eq!(result, Err(RequestError::UnknownQueue(nowhere)));
    }
}

async fn a_new_plan_resumes_nothing(h: Harness) {
    let q = paused_with(&h, &["1"]).await;
    h.engine.pause(Pausable::Consumer(consumer("worker")), true).await.expect("`pause` works");
    h.standard_but(|a| a.retry.max_attempts = 1).await;
    h.assert_none(q.a, "it is paused").await;
    shows_paused(&h, q.a, true).await;
    paused_consumers(&h, &["worker"]).await;
}

async fn a_queue_that_was_left_out_comes_back_paused(h: Harness) {
    let q = paused_with(&h, &["1"]).await;
    let only_b = Definitions { queues: vec![queue("b", None)], ..Definitions::default() };
    h.engine.define(only_b).await.expect("`define` works");
    h.assert_none(q.a, "it is paused, and undeclared").await;
    h.standard().await;
    h.assert_none(q.a, "it is paused").await;
    resume(&h, q.a).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}

async fn a_restart_resumes_nothing(h: Harness) {
    paused_with(&h, &["1"]).await;
    h.engine.pause(Pausable::Consumer(consumer("worker")), true).await.expect("`pause` works");
    let h = h.reopened().await;
    paused_consumers(&h, &["worker"]).await;
    let q = h.standard().await;
    shows_paused(&h, q.a, true).await;
    h.assert_none(q.a, "it is paused").await;
    resume(&h, q.a).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}

async fn what_was_resumed_stays_so_over_a_restart(h: Harness) {
    let q = paused_with(&h, &["1"]).await;
    let worker = Pausable::Consumer(consumer("worker"));
    h.engine.pause(worker.clone(), true).await.expect("`pause` works");
    resume(&h, q.a).await;
    h.engine.pause(worker, false).await.expect("`pause` works");
    let h = h.reopened().await;
    let q = h.standard().await;
    paused_consumers(&h, &[]).await;
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}
