//! Bounds: how much a queue holds, what counts towards it, and who comes in all the same.

use std::sync::Arc;

use super::cases;
use super::harness::{Harness, Queues, TTL, done, entry, ids, message_with, queue, rejected, stored_ids};
use super::made::with;
use crate::engine::{Bounds, BulkAction, EntryOptions, NewEntry, Overflow, QueueId, RequestError, Select};

cases! {
    a_full_queue_refuses: Bounds;
    a_settled_message_makes_room: Bounds;
    leased_and_scheduled_messages_count: Bounds, Delay;
    bytes_are_bounded: Bounds;
    an_empty_queue_takes_a_message_of_any_size: Bounds;
    one_full_queue_refuses_the_whole_append: Bounds;
    an_append_that_fits_in_part_is_refused: Bounds;
    an_append_that_just_fits_is_taken: Bounds;
    many_appenders_never_exceed_a_bound: Bounds;
    a_queue_says_whether_it_is_full: Bounds;
    a_queue_says_whether_its_bytes_are_full: Bounds;
    a_queue_beyond_its_bounds_is_full: Bounds;
    a_bound_of_later_keeps_what_there_is: Bounds;
    a_bound_that_is_lifted_bounds_no_more: Bounds;
    emits_always_fit: Bounds, Effects;
    retries_always_fit: Bounds;
    what_ran_out_always_fits: Bounds;
    dead_letters_always_fit: Bounds;
    what_is_dead_on_arrival_always_fits: Bounds;
    what_is_held_on_arrival_always_fits: Bounds;
    redriven_messages_always_fit: Bounds;
    bounds_hold_after_a_restart: Bounds, Reopen;
    what_does_not_fit_becomes_a_dead_letter: Bounds;
    only_what_does_not_fit_becomes_a_dead_letter: Bounds;
    what_does_not_fit_is_held_where_there_are_no_dead_letters: Bounds;
    a_dead_letter_of_overflow_neither_waits_nor_expires: Bounds, Delay, Expiry;
    what_became_a_dead_letter_can_be_redriven: Bounds;
}

/// `a` holds so many messages at most.
pub(super) fn at_most(messages: u64, overflow: Overflow) -> Bounds {
    Bounds { messages_max: Some(messages), bytes_max: None, overflow }
}

async fn bounded(h: &Harness, messages: u64, overflow: Overflow) -> Queues {
    h.standard_but(|a| a.bounds = at_most(messages, overflow)).await
}

/// What an append of these comes to.
pub(super) async fn offer(h: &Harness, entries: Vec<NewEntry>) -> Result<(), RequestError> {
    h.engine.append(entries.into()).await.map(drop)
}

fn full(queue: QueueId) -> Result<(), RequestError> {
    Err(RequestError::QueueFull(queue))
}

pub(super) fn is_full(h: &Harness, queue: QueueId) -> bool {
    h.figures(queue).is_some_and(|figures| figures.full)
}

async fn a_full_queue_refuses(h: Harness) {
    let q = bounded(&h, 2, Overflow::Refuse).await;
    h.append(q.a, &["1", "2"]).await;
    assert_eq!(offer(&h, vec![entry(q.a, "3")]).await, full(q.a));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2"], "nothing was done");
    h.settles_at(q.a, (2, 0, 0)).await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0]);
    assert_eq!(h.figures(q.a).map(|figures| figures.dropped), Some(0));
    assert_eq!(offer(&h, vec![entry(q.b, "3")]).await, Ok(()), "other queues are not full");
}

async fn a_settled_message_makes_room(h: Harness) {
    let q = bounded(&h, 2, Overflow::Refuse).await;
    h.append(q.a, &["1", "2"]).await;
    for id in ["3", "4"] {
        h.done(&h.take_one(q.a).await).await.expect("it is leased");
        assert_eq!(offer(&h, vec![entry(q.a, id)]).await, Ok(()));
        assert_eq!(offer(&h, vec![entry(q.a, "x")]).await, full(q.a));
    }
    h.dead(&h.take_one(q.a).await).await;
    assert_eq!(offer(&h, vec![entry(q.a, "5")]).await, Ok(()), "what died is elsewhere");
    assert_eq!(stored_ids(&h.browse(q.a).await), ["4", "5"]);
}

async fn leased_and_scheduled_messages_count(h: Harness) {
    let q = bounded(&h, 4, Overflow::Refuse).await;
    h.append(q.a, &["1", "2", "3"]).await;
    h.take_one(q.a).await;
    h.again(&h.take_one(q.a).await).await;
    h.store(vec![h.delayed(q.a, "4", TTL)]).await;
    h.settles_at(q.a, (1, 1, 2)).await;
    assert_eq!(offer(&h, vec![entry(q.a, "5")]).await, full(q.a));
    assert_eq!(offer(&h, vec![h.delayed(q.a, "5", TTL)]).await, full(q.a), "a delay makes no difference");
}

/// The bytes that a message with this body takes in an engine's store.
async fn measure(h: &Harness, body: &[u8]) -> u64 {
    let q = h.standard().await;
    h.store(vec![NewEntry { message: message_with("m", body), ..entry(q.a, "m") }]).await;
    h.settles_at(q.a, (1, 0, 0)).await;
    let bytes = h.figures(q.a).map_or(0, |figures| figures.bytes);
    h.done(&h.take_one(q.a).await).await.expect("it is leased");
    h.settles_at(q.a, (0, 0, 0)).await;
    bytes
}

/// Messages whose ids are as long as that of [`measure`].
fn sized(queue: QueueId, id: &str, body: &[u8]) -> NewEntry {
    NewEntry { message: message_with(id, body), ..entry(queue, id) }
}

async fn bytes_are_bounded(h: Harness) {
    let one = measure(&h, &[7; 100]).await;
    let bounds = Bounds { bytes_max: Some(2 * one), ..Bounds::default() };
    let q = h.standard_but(|a| a.bounds = bounds).await;
    assert_eq!(offer(&h, vec![sized(q.a, "1", &[7; 100]), sized(q.a, "2", &[7; 101])]).await, full(q.a));
    assert_eq!(offer(&h, vec![sized(q.a, "1", &[7; 100]), sized(q.a, "2", &[7; 100])]).await, Ok(()));
    assert_eq!(offer(&h, vec![sized(q.a, "3", b"")]).await, full(q.a));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2"]);
}

async fn an_empty_queue_takes_a_message_of_any_size(h: Harness) {
    let bounds = Bounds { bytes_max: Some(10), ..Bounds::default() };
    let q = h.standard_but(|a| a.bounds = bounds).await;
    assert_eq!(offer(&h, vec![sized(q.a, "1", &[7; 100_000])]).await, Ok(()));
    assert_eq!(offer(&h, vec![sized(q.a, "2", b"")]).await, full(q.a));
    let leased = h.take_one(q.a).await;
    assert_eq!(leased.message.data().len(), 100_000);
    assert_eq!(offer(&h, vec![sized(q.a, "2", b"")]).await, full(q.a), "what is leased is there");
    h.done(&leased).await.expect("it is leased");
    assert_eq!(offer(&h, vec![sized(q.a, "2", b"")]).await, Ok(()));
}

async fn one_full_queue_refuses_the_whole_append(h: Harness) {
    let q = bounded(&h, 1, Overflow::Refuse).await;
    h.append(q.a, &["1"]).await;
    assert_eq!(offer(&h, vec![entry(q.b, "2"), entry(q.a, "2"), entry(q.b, "3")]).await, full(q.a));
    assert_eq!(stored_ids(&h.browse(q.b).await), [""; 0]);
    h.settles_at(q.b, (0, 0, 0)).await;
}

async fn an_append_that_fits_in_part_is_refused(h: Harness) {
    let q = bounded(&h, 3, Overflow::Refuse).await;
    h.append(q.a, &["1"]).await;
    assert_eq!(offer(&h, vec![entry(q.a, "2"), entry(q.a, "3"), entry(q.a, "4")]).await, full(q.a));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
}

async fn an_append_that_just_fits_is_taken(h: Harness) {
    let q = bounded(&h, 3, Overflow::Refuse).await;
    assert_eq!(offer(&h, vec![entry(q.a, "1"), entry(q.a, "2"), entry(q.a, "3")]).await, Ok(()));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2", "3"]);
}

async fn many_appenders_never_exceed_a_bound(h: Harness) {
    const APPENDERS: usize = 8;
    const EACH: usize = 20;
    const BOUND: usize = 50;
    let q = bounded(&h, BOUND as u64, Overflow::Refuse).await;
    let appenders: Vec<_> = (0..APPENDERS)
        .map(|appender| {
            let engine = Arc::clone(&h.engine);
            tokio::spawn(async move {
                let mut taken = 0;
                for number in 0..EACH {
                    let append = vec![entry(q.a, &format!("{appender}/{number}"))].into();
                    match engine.append(append).await {
                        Ok(_) => taken += 1,
                        Err(refused) => assert_eq!(refused, RequestError::QueueFull(q.a)),
                    }
                }
                taken
            })
        })
        .collect();
    let mut taken = 0;
    for appender in appenders {
        taken += appender.await.expect("the appender did not panic");
    }
    assert_eq!((taken, h.browse(q.a).await.len()), (BOUND, BOUND));
}

async fn a_queue_says_whether_it_is_full(h: Harness) {
    let q = bounded(&h, 2, Overflow::Refuse).await;
    assert!(!is_full(&h, q.a) && !is_full(&h, q.b), "they are empty");
    h.append(q.a, &["1"]).await;
    h.settles_at(q.a, (1, 0, 0)).await;
    assert!(!is_full(&h, q.a), "one more fits");
    h.append(q.a, &["2"]).await;
    super::eventually("no more fits", async || is_full(&h, q.a)).await;
    let leased = h.take_one(q.a).await;
    assert!(is_full(&h, q.a), "what is leased is there");
    h.done(&leased).await.expect("it is leased");
    super::eventually("one more fits", async || !is_full(&h, q.a)).await;
    h.append(q.b, &["1", "2", "3"]).await;
    assert!(!is_full(&h, q.b), "it has no bounds");
}

async fn a_queue_says_whether_its_bytes_are_full(h: Harness) {
    let one = measure(&h, &[7; 100]).await;
    let bounds = Bounds { bytes_max: Some(one), ..Bounds::default() };
    let q = h.standard_but(|a| a.bounds = bounds).await;
    assert!(!is_full(&h, q.a), "it is empty");
    h.store(vec![sized(q.a, "1", &[7; 100])]).await;
    super::eventually("it is at its bound", async || is_full(&h, q.a)).await;
}

async fn a_queue_beyond_its_bounds_is_full(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    bounded(&h, 2, Overflow::Refuse).await;
    super::eventually("it is beyond its bounds", async || is_full(&h, q.a)).await;
}

async fn a_bound_of_later_keeps_what_there_is(h: Harness) {
    for overflow in [Overflow::Refuse, Overflow::DropOldest, Overflow::DeadLetter] {
        let q = h.standard().await;
        h.append(q.a, &["1", "2", "3"]).await;
        bounded(&h, 1, overflow).await;
        assert_eq!(ids(&h.take(q.a, 3).await), ["1", "2", "3"], "{overflow:?}");
        h.advance(TTL);
        h.settles_at(q.a, (3, 0, 0)).await;
        assert_eq!(h.bulk_by(q.a, BulkAction::Discard, 10).await.changed, 3);
    }
}

async fn a_bound_that_is_lifted_bounds_no_more(h: Harness) {
    let q = bounded(&h, 1, Overflow::Refuse).await;
    h.append(q.a, &["1"]).await;
    assert_eq!(offer(&h, vec![entry(q.a, "2")]).await, full(q.a));
    h.standard().await;
    assert_eq!(offer(&h, vec![entry(q.a, "2")]).await, Ok(()));
}

async fn emits_always_fit(h: Harness) {
    for overflow in [Overflow::Refuse, Overflow::DropOldest, Overflow::DeadLetter] {
        let q = bounded(&h, 2, overflow).await;
        h.append(q.a, &["1", "2"]).await;
        h.append(q.b, &["x"]).await;
        let leased = h.take_one(q.b).await;
        assert_eq!(h.settle(done(&leased, vec![entry(q.a, "3"), entry(q.a, "4")])).await, Ok(()));
        assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2", "3", "4"], "{overflow:?}");
        assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0], "{overflow:?}");
        assert_eq!(h.bulk_by(q.a, BulkAction::Discard, 10).await.changed, 4);
    }
}

async fn retries_always_fit(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take_one(q.a).await;
    bounded(&h, 1, Overflow::Refuse).await;
    h.again(&leased).await;
    h.advance(TTL);
    h.settles_at(q.a, (2, 0, 0)).await;
}

async fn what_ran_out_always_fits(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.take(q.a, 2).await;
    bounded(&h, 1, Overflow::Refuse).await;
    h.advance(TTL);
    h.settles_at(q.a, (2, 0, 0)).await;
}

/// `a` is unbounded, its dead letters are one at most.
async fn bounded_dead_letters(h: &Harness, overflow: Overflow) -> Queues {
    let mut dead = queue("a.dead", None);
    dead.bounds = at_most(1, overflow);
    h.define(vec![queue("a", Some("a.dead")), dead, queue("b", None), queue("b.dead", None)]).await
}

async fn dead_letters_always_fit(h: Harness) {
    for overflow in [Overflow::Refuse, Overflow::DropOldest] {
        let q = bounded_dead_letters(&h, overflow).await;
        h.append(q.a, &["1", "2", "3"]).await;
        h.bury(q.a, 3).await;
        assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1", "2", "3"], "{overflow:?}");
        assert_eq!(h.bulk_by(q.a_dead, BulkAction::Discard, 10).await.changed, 3);
    }
}

async fn what_is_dead_on_arrival_always_fits(h: Harness) {
    let q = bounded(&h, 1, Overflow::Refuse).await;
    h.append(q.a, &["1"]).await;
    let dead = NewEntry { dead: Some(rejected()), ..entry(q.a, "2") };
    assert_eq!(offer(&h, vec![dead]).await, Ok(()), "it is for the dead letters");
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["2"]);
}

async fn what_is_held_on_arrival_always_fits(h: Harness) {
    let q = bounded_dead_letters(&h, Overflow::Refuse).await;
    h.append(q.a_dead, &["1"]).await;
    let dead = NewEntry { dead: Some(rejected()), ..entry(q.a_dead, "2") };
    assert_eq!(offer(&h, vec![dead]).await, Ok(()));
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1", "2"]);
}

async fn redriven_messages_always_fit(h: Harness) {
    let q = bounded(&h, 1, Overflow::Refuse).await;
    h.append(q.a, &["1"]).await;
    h.bury(q.a, 1).await;
    h.append(q.a, &["2"]).await;
    let progress = h.bulk(q.a_dead, Select::All, BulkAction::Redrive(None)).await.expect("`bulk` works");
    assert_eq!(progress.changed, 1);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2", "1"]);
}

async fn bounds_hold_after_a_restart(h: Harness) {
    let q = bounded(&h, 3, Overflow::Refuse).await;
    h.append(q.a, &["1", "2", "3"]).await;
    h.take_one(q.a).await;
    h.again(&h.take_one(q.a).await).await;
    let h = h.reopened().await;
    assert_eq!(offer(&h, vec![entry(q.a, "4")]).await, full(q.a), "as it was defined last");
    let q = bounded(&h, 3, Overflow::Refuse).await;
    assert_eq!(offer(&h, vec![entry(q.a, "4")]).await, full(q.a));
    assert!(is_full(&h, q.a), "it says so");
    h.done(&h.take_one(q.a).await).await.expect("it is leased");
    assert_eq!(offer(&h, vec![entry(q.a, "4")]).await, Ok(()));
}

async fn what_does_not_fit_becomes_a_dead_letter(h: Harness) {
    let q = bounded(&h, 1, Overflow::DeadLetter).await;
    h.append(q.a, &["1"]).await;
    let positions = h.append(q.a, &["2"]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
    let stored = h.browse(q.a_dead).await.remove(0);
    assert_eq!((stored.message.id(), stored.entry.0, stored.attempts), ("2", positions[0].0, 0));
    let dead = stored.dead.expect("it is a dead letter");
    assert_eq!((dead.origin.as_str(), dead.reason.code), ("a", crate::engine::DeadCode::QueueFull));
    assert!(!dead.reason.detail.is_empty(), "people are told what happened");
    assert_eq!(h.figures(q.a).map(|figures| figures.dropped), Some(0), "nothing was deleted");
}

async fn only_what_does_not_fit_becomes_a_dead_letter(h: Harness) {
    let q = bounded(&h, 3, Overflow::DeadLetter).await;
    h.append(q.a, &["1"]).await;
    let positions = h.store(["2", "3", "4", "5"].map(|id| entry(q.a, id)).to_vec()).await;
    assert!(positions.len() == 4 && positions.is_sorted(), "{positions:?}");
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2", "3"], "the first ones fit");
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["4", "5"]);
}

async fn what_does_not_fit_is_held_where_there_are_no_dead_letters(h: Harness) {
    let q = bounded_dead_letters(&h, Overflow::DeadLetter).await;
    h.append(q.a_dead, &["1"]).await;
    h.append(q.a_dead, &["2"]).await;
    h.settles_at(q.a_dead, (1, 0, 1)).await;
    let stored = h.browse(q.a_dead).await;
    assert_eq!(stored_ids(&stored), ["1", "2"]);
    assert_eq!(stored[1].due, Some(super::harness::HELD));
    let dead = stored[1].dead.as_ref().map(|dead| (dead.origin.as_str(), dead.reason.code));
    assert_eq!(dead, Some(("a.dead", crate::engine::DeadCode::QueueFull)));
}

async fn a_dead_letter_of_overflow_neither_waits_nor_expires(h: Harness) {
    let q = bounded(&h, 1, Overflow::DeadLetter).await;
    h.append(q.a, &["1"]).await;
    let (due, expires) = (Some(h.after(TTL * 2)), Some(h.after(TTL)));
    h.store(vec![with(q.a, "2", EntryOptions { due, expires, ..EntryOptions::default() })]).await;
    h.advance(TTL + TTL / 2);
    assert_eq!(h.take_one(q.a_dead).await.message.id(), "2");
}

async fn what_became_a_dead_letter_can_be_redriven(h: Harness) {
    let q = bounded(&h, 1, Overflow::DeadLetter).await;
    h.append(q.a, &["1"]).await;
    h.append(q.a, &["2"]).await;
    assert_eq!(h.bulk_by(q.a_dead, BulkAction::Redrive(None), 10).await.changed, 1);
    let taken = h.take(q.a, 2).await;
    assert_eq!((ids(&taken), taken[1].attempt()), (vec!["1", "2"], 1));
}
