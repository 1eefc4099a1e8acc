//! Doubles: for how long they are known, and that a restart changes nothing about it.

use super::cases;
use super::dedup::{WINDOW, append, append_all, append_one, is_new};
use super::harness::{Harness, message_with, stored_ids};
use super::made::{MS, names};
use crate::engine::{Append, Duplicate, QueueId, RequestError};

cases! {
    the_window_ends: Dedup;
    a_double_does_not_prolong_the_window: Dedup;
    after_the_window_another_begins: Dedup;
    after_the_window_the_body_may_differ: Dedup;
    each_identity_has_its_window: Dedup;
    many_identities_are_known: Dedup;
    doubles_are_known_after_a_restart: Dedup, Reopen;
    other_bodies_are_refused_after_a_restart: Dedup, Reopen;
    the_window_goes_on_over_a_restart: Dedup, Reopen;
    many_identities_are_known_after_a_restart: Dedup, Reopen;
}

async fn the_window_ends(h: Harness) {
    let q = h.standard().await;
    assert!(is_new(&h, q.a, "1").await);
    h.advance(WINDOW - MS);
    assert!(!is_new(&h, q.a, "1").await, "a millisecond before its end");
    h.advance(MS * 2);
    assert!(is_new(&h, q.a, "1").await, "a millisecond behind its end");
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "1"]);
}

async fn a_double_does_not_prolong_the_window(h: Harness) {
    let q = h.standard().await;
    assert!(is_new(&h, q.a, "1").await);
    h.advance(WINDOW / 2);
    assert!(!is_new(&h, q.a, "1").await);
    h.advance(WINDOW / 2 + MS);
    assert!(is_new(&h, q.a, "1").await, "it counts from when the first was accepted");
}

async fn after_the_window_another_begins(h: Harness) {
    let q = h.standard().await;
    for round in 0..4 {
        assert!(is_new(&h, q.a, "1").await, "in round {round}");
        h.advance(WINDOW / 2);
        assert!(!is_new(&h, q.a, "1").await, "in round {round}");
        h.advance(WINDOW / 2 - MS);
        assert!(!is_new(&h, q.a, "1").await, "in round {round}");
        h.advance(MS * 2);
    }
}

async fn after_the_window_the_body_may_differ(h: Harness) {
    let q = h.standard().await;
    assert!(is_new(&h, q.a, "1").await);
    h.advance(WINDOW + MS);
    let another = append_all(vec![(message_with("1", b"another"), vec![q.a])]);
    assert_eq!(append(&h, another).await.duplicates, []);
    assert_eq!(h.engine.append(append_one(q.a, "1")).await, Err(RequestError::IdReused(0)));
}

async fn each_identity_has_its_window(h: Harness) {
    let q = h.standard().await;
    let both = || {
        let mut both =
            append_all(vec![(super::harness::message("1"), vec![q.a]), (super::harness::message("2"), vec![q.a])]);
        both.identities[0].window = WINDOW / 10;
        both
    };
    append(&h, both()).await;
    h.advance(WINDOW / 10 + MS);
    let known: Vec<_> = append(&h, both()).await.duplicates.iter().map(|double| double.identity).collect();
    assert_eq!(known, [1]);
}

/// One append of many messages with an identity each.
fn many(h: &Harness, queue: QueueId) -> Append {
    append_all(names("", h.many).iter().map(|id| (super::harness::message(id), vec![queue])).collect())
}

async fn many_identities_are_known(h: Harness) {
    let q = h.standard().await;
    let stored = append(&h, many(&h, q.a)).await;
    assert_eq!(stored.duplicates, []);
    let doubles = append(&h, many(&h, q.a)).await;
    assert!(doubles.positions == stored.positions && doubles.duplicates.len() == h.many, "each is known");
    h.settles_at(q.a, (h.many as u64, 0, 0)).await;
}

async fn doubles_are_known_after_a_restart(h: Harness) {
    let q = h.standard().await;
    let message = super::harness::message("1");
    let first = append(&h, append_all(vec![(message.clone(), vec![q.a, q.b])])).await.positions[0];
    let h = h.reopened().await;
    let q = h.standard().await;
    let double = append(&h, append_all(vec![(message, vec![q.a])])).await;
    assert_eq!(double.positions, [first]);
    assert_eq!(double.duplicates, [Duplicate { identity: 0, first, targets: 2, scheduled: None }]);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
}

async fn other_bodies_are_refused_after_a_restart(h: Harness) {
    let q = h.standard().await;
    assert!(is_new(&h, q.a, "1").await);
    let h = h.reopened().await;
    let q = h.standard().await;
    let another = append_all(vec![(message_with("1", b"another"), vec![q.a])]);
    assert_eq!(h.engine.append(another).await, Err(RequestError::IdReused(0)));
}

async fn the_window_goes_on_over_a_restart(h: Harness) {
    let q = h.standard().await;
    assert!(is_new(&h, q.a, "1").await);
    h.advance(WINDOW / 2);
    let h = h.reopened().await;
    let q = h.standard().await;
    h.advance(WINDOW / 2 - MS);
    assert!(!is_new(&h, q.a, "1").await, "a millisecond before its end");
    h.advance(MS * 2);
    assert!(is_new(&h, q.a, "1").await, "a millisecond behind its end");
}

async fn many_identities_are_known_after_a_restart(h: Harness) {
    let q = h.standard().await;
    let stored = append(&h, many(&h, q.a)).await;
    h.advance(WINDOW - MS);
    let h = h.reopened().await;
    let q = h.standard().await;
    let doubles = append(&h, many(&h, q.a)).await;
    assert!(doubles.positions == stored.positions && doubles.duplicates.len() == h.many, "each is known");
}
