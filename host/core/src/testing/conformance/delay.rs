//! Delays: a message that is not delivered before its time, and is like any other from then on.

use std::time::Duration;

use futures_util::poll;

use super::cases;
use super::harness::{BACKOFF, Harness, TTL, done, ids, rejected, soon, stored_ids, want};
use super::made::{MS, names};
use crate::clock::{Clock as _, WallMs};
use crate::engine::{BulkAction, EntryOptions, NewEntry};

cases! {
    a_delayed_message_is_not_leased_before_its_time: Delay;
    a_delay_that_is_over_is_none: Delay;
    a_delayed_message_blocks_nobody: Delay;
    delayed_messages_come_when_they_are_due: Delay;
    a_delayed_message_counts_as_scheduled: Delay;
    a_delayed_message_shows_when_it_is_due: Delay;
    a_waiting_lease_gets_it_when_it_is_due: Delay;
    the_longest_delay_is_kept: Delay;
    it_is_due_by_the_wall_clock: Delay;
    a_wall_clock_set_back_makes_it_wait_longer: Delay;
    it_is_tried_again_like_any_other: Delay;
    it_is_given_back_like_any_other: Delay;
    an_emit_may_be_delayed: Delay, Effects;
    what_is_dead_on_arrival_waits_for_nothing: Delay;
    a_redrive_ends_its_delay: Delay;
    a_backlog_does_not_starve_what_is_due: Delay;
    many_come_each_at_its_time: Delay;
    it_stays_delayed_over_a_restart: Delay, Reopen;
    what_came_due_during_a_restart_is_available: Delay, Reopen;
    what_was_leased_at_a_restart_waits_no_more: Delay, Reopen;
    a_long_delay_is_not_brought_forward_at_a_restart: Delay, Reopen;
}

const DELAY: Duration = Duration::from_secs(600);

async fn a_delayed_message_is_not_leased_before_its_time(h: Harness) {
    let q = h.standard().await;
    let accepted = h.clock.wall();
    h.store(vec![h.delayed(q.a, "1", DELAY)]).await;
    h.assert_none(q.a, "it is delayed").await;
    h.advance(DELAY - MS);
    h.assert_none(q.a, "it is due in a millisecond").await;
    h.advance(MS);
    let leased = h.take_one(q.a).await;
    assert_eq!((leased.message.id(), leased.attempt(), leased.accepted), ("1", 1, accepted));
    assert_eq!(h.done(&leased).await, Ok(()));
    h.settles_at(q.a, (0, 0, 0)).await;
}

async fn a_delay_that_is_over_is_none(h: Harness) {
    let q = h.standard().await;
    let due = |id, due| NewEntry {
        options: EntryOptions { due: Some(due), ..EntryOptions::default() },
        ..super::harness::entry(q.a, id)
    };
    h.store(vec![due("1", h.clock.wall()), due("2", WallMs(0))]).await;
    assert!(h.browse(q.a).await.iter().all(|stored| stored.due.is_none()), "they are available");
    assert_eq!(ids(&h.take(q.a, 2).await), ["1", "2"]);
}

async fn a_delayed_message_blocks_nobody(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", DELAY)]).await;
    h.append(q.a, &["2", "3"]).await;
    assert_eq!(ids(&h.take(q.a, 2).await), ["2", "3"]);
    h.assert_none(q.a, "the first is delayed").await;
}

async fn delayed_messages_come_when_they_are_due(h: Harness) {
    let q = h.standard().await;
    let delayed = [("1", 30), ("2", 10), ("3", 20)];
    h.store(delayed.map(|(id, after_s)| h.delayed(q.a, id, Duration::from_secs(after_s))).to_vec()).await;
    for expected in ["2", "3", "1"] {
        h.advance(Duration::from_secs(10));
        assert_eq!(h.take_one(q.a).await.message.id(), expected);
        h.assert_none(q.a, "the others are not due").await;
    }
}

async fn a_delayed_message_counts_as_scheduled(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", DELAY)]).await;
    h.settles_at(q.a, (0, 0, 1)).await;
    let figures = h.figures(q.a).expect("it is declared");
    assert!(figures.oldest.is_none() && figures.bytes > 0, "{figures:?}");
    h.advance(DELAY);
    h.settles_at(q.a, (1, 0, 0)).await;
    h.take_one(q.a).await;
    h.settles_at(q.a, (0, 1, 0)).await;
}

async fn a_delayed_message_shows_when_it_is_due(h: Harness) {
    let q = h.standard().await;
    let due = [h.after(DELAY), h.after(DELAY / 2)];
    let positions = h.store(vec![h.delayed(q.a, "1", DELAY), h.delayed(q.a, "2", DELAY / 2)]).await;
    h.append(q.a, &["3"]).await;
    let stored = h.browse(q.a).await;
    assert_eq!(stored_ids(&stored), ["3", "2", "1"], "what waits comes last, by due time");
    assert_eq!([stored[1].due, stored[2].due], [Some(due[1]), Some(due[0])]);
    assert_eq!([stored[1].position, stored[2].position], [positions[1], positions[0]]);
    assert!(stored.iter().all(|stored| stored.attempts == 0 && stored.history.is_empty() && stored.dead.is_none()));
    assert_eq!(stored_ids(&h.browse_by(q.a, 1).await), ["3", "2", "1"], "the same page by page");
}

async fn a_waiting_lease_gets_it_when_it_is_due(h: Harness) {
    let q = h.standard().await;
    let mut waiting = h.engine.lease(want(q.a, 1, DELAY * 10));
    assert!(poll!(&mut waiting).is_pending(), "there is nothing yet");
    h.store(vec![h.delayed(q.a, "1", DELAY)]).await;
    assert!(poll!(&mut waiting).is_pending(), "it is delayed");
    h.advance(DELAY);
    let leased = soon("the waiting lease gets the message", waiting).await.expect("`lease` works");
    assert_eq!(ids(&leased), ["1"]);
}

async fn the_longest_delay_is_kept(h: Harness) {
    let longest = h.engine.guarantees().longest_delay;
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", longest)]).await;
    h.advance(longest - MS);
    h.assert_none(q.a, "it is due in a millisecond").await;
    h.advance(MS);
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}

async fn it_is_due_by_the_wall_clock(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", DELAY)]).await;
    h.step_wall_forward(DELAY);
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}

async fn a_wall_clock_set_back_makes_it_wait_longer(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", DELAY)]).await;
    h.step_wall_back(DELAY);
    h.advance(DELAY);
    h.assert_none(q.a, "it is due by the wall clock").await;
    h.advance(DELAY);
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}

async fn it_is_tried_again_like_any_other(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", DELAY)]).await;
    h.advance(DELAY);
    h.again(&h.take_one(q.a).await).await;
    h.assert_none(q.a, "it backs off").await;
    h.advance(BACKOFF);
    let leased = h.take_one(q.a).await;
    assert_eq!(leased.attempt(), 2);
    h.dead(&leased).await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1"]);
}

async fn it_is_given_back_like_any_other(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", DELAY)]).await;
    h.advance(DELAY);
    let leased = h.take_one(q.a).await;
    h.engine.release(vec![leased.token]).await;
    assert_eq!(h.take_one(q.a).await.attempt(), 1, "given back, it waits no more");
    h.advance(TTL);
    h.settles_at(q.a, (1, 0, 0)).await;
    assert_eq!(h.take_one(q.a).await.attempt(), 2, "its lease ran out");
}

async fn an_emit_may_be_delayed(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let leased = h.take_one(q.a).await;
    h.settle(done(&leased, vec![h.delayed(q.b, "2", DELAY)])).await.expect("it is leased");
    h.assert_none(q.b, "it is delayed").await;
    h.advance(DELAY);
    assert_eq!(h.take_one(q.b).await.message.id(), "2");
}

async fn what_is_dead_on_arrival_waits_for_nothing(h: Harness) {
    let q = h.standard().await;
    h.store(vec![NewEntry { dead: Some(rejected()), ..h.delayed(q.a, "1", DELAY) }]).await;
    assert_eq!(h.take_one(q.a_dead).await.message.id(), "1");
}

async fn a_redrive_ends_its_delay(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", DELAY), h.delayed(q.a, "2", DELAY)]).await;
    assert_eq!(h.bulk_by(q.a, BulkAction::Redrive(Some(q.b)), 1).await.changed, 2);
    assert_eq!(ids(&h.take(q.b, 2).await), ["1", "2"]);
    h.advance(DELAY);
    h.assert_none(q.a, "they are elsewhere").await;
}

async fn a_backlog_does_not_starve_what_is_due(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["retry"]).await;
    h.again_after(&h.take_one(q.a).await, DELAY).await;
    h.store(vec![h.delayed(q.a, "delayed", DELAY)]).await;
    h.store(names("", h.many).iter().map(|id| super::harness::entry(q.a, id)).collect()).await;
    h.advance(DELAY);
    h.settles_at(q.a, (h.many as u64 + 2, 0, 0)).await;
    // The oldest first, as far as retries allow: an engine may let them take turns with what is ready.
    let taken = h.take(q.a, 10).await;
    let taken = ids(&taken);
    assert!(taken.contains(&"retry") && taken.contains(&"delayed"), "{taken:?}");
    assert!(taken.contains(&"00000"), "nor do they starve the backlog: {taken:?}");
}

async fn many_come_each_at_its_time(h: Harness) {
    const STEPS: usize = 5;
    /// A prime that does not divide their number, so that the times are scattered and all different.
    const STRIDE: usize = 1_777;
    let q = h.standard().await;
    let many = h.many - h.many % STEPS;
    assert_ne!(many % STRIDE, 0, "such a number is not foreseen");
    let all = names("", many);
    let delay = |number: usize| Duration::from_secs((number * STRIDE % many + 1) as u64);
    h.store(all.iter().enumerate().map(|(number, id)| h.delayed(q.a, id, delay(number))).collect()).await;
    h.assert_none(q.a, "none is due").await;
    let each = many / STEPS;
    for step in 1..=STEPS {
        h.advance(Duration::from_secs(each as u64));
        let leased = h.take(q.a, each).await;
        let mut got = ids(&leased);
        got.sort_unstable();
        let is_due = |number: usize| (each * (step - 1)..each * step).contains(&(number * STRIDE % many));
        let expected = all.iter().enumerate().filter(|(number, _)| is_due(*number)).map(|(_, id)| id.as_str());
        assert!(got == expected.collect::<Vec<_>>(), "in step {step} others came than were due");
        h.assert_none(q.a, "no more are due").await;
        h.all_done(&leased).await;
    }
    h.settles_at(q.a, (0, 0, 0)).await;
}

async fn it_stays_delayed_over_a_restart(h: Harness) {
    let q = h.standard().await;
    let position = h.store(vec![h.delayed(q.a, "1", DELAY)]).await[0];
    let due = h.after(DELAY);
    let h = h.reopened().await;
    let q = h.standard().await;
    h.settles_at(q.a, (0, 0, 1)).await;
    let stored = h.browse(q.a).await.remove(0);
    assert_eq!((stored.position, stored.due), (position, Some(due)));
    h.advance(DELAY - MS);
    h.assert_none(q.a, "it is due in a millisecond").await;
    h.advance(MS);
    assert_eq!(h.take_one(q.a).await.attempt(), 1);
}

async fn what_came_due_during_a_restart_is_available(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", DELAY)]).await;
    h.clock.advance(DELAY);
    let h = h.reopened().await;
    let q = h.standard().await;
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}

async fn what_was_leased_at_a_restart_waits_no_more(h: Harness) {
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", DELAY)]).await;
    h.advance(DELAY);
    h.take_one(q.a).await;
    let h = h.reopened().await;
    let q = h.standard().await;
    assert_eq!(h.take_one(q.a).await.attempt(), 1, "a restart counts nothing");
}

async fn a_long_delay_is_not_brought_forward_at_a_restart(h: Harness) {
    let longest = h.engine.guarantees().longest_delay;
    let q = h.standard().await;
    h.store(vec![h.delayed(q.a, "1", longest)]).await;
    let h = h.reopened().await;
    let q = h.standard().await;
    h.advance(longest - MS);
    h.assert_none(q.a, "only retries are brought forward").await;
    h.advance(MS);
    assert_eq!(h.take_one(q.a).await.message.id(), "1");
}
