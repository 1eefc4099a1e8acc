//! `define`: queues come, change and go, their messages stay.

use super::cases;
use super::harness::{Harness, TTL, queue, queue_name, stored_ids};
use crate::engine::{DeadCode, Definitions};

cases! {
    every_queue_has_an_id_of_its_own;
    defining_again_changes_nothing;
    a_queue_left_out_keeps_its_messages;
    a_queue_that_comes_back_is_the_same;
    the_id_of_a_queue_left_out_is_not_reused;
    new_settings_take_effect;
}

fn only(name: &str) -> Definitions {
    Definitions { queues: vec![queue(name, None)], ..Definitions::default() }
}

async fn every_queue_has_an_id_of_its_own(h: Harness) {
    let q = h.standard().await;
    let mut ids = vec![q.a, q.a_dead, q.b, q.b_dead];
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "ids are unique: {q:?}");
}

async fn defining_again_changes_nothing(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take_one(q.a).await;
    assert_eq!(h.standard().await, q, "ids stay");
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2"]);
    assert_eq!(h.done(&leased).await, Ok(()), "leases stay");
}

async fn a_queue_left_out_keeps_its_messages(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let defined = h.engine.define(only("b")).await.expect("`define` works");
    assert_eq!(defined.undeclared, [queue_name("a")], "only what holds messages is reported");
    assert_eq!(defined.queues.len(), 1);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
    let counts = h.engine.counts();
    let listed = counts.queues.iter().find(|counts| counts.id == q.a).expect("an undeclared queue is counted");
    assert!(!listed.declared, "it shows as undeclared");
    assert_eq!(listed.ready, 1);
    let declared = counts.queues.iter().find(|counts| counts.id == q.b).expect("a declared queue is counted");
    assert!(declared.declared);
}

async fn a_queue_that_comes_back_is_the_same(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.engine.define(only("b")).await.expect("`define` works");
    assert_eq!(h.standard().await, q);
    let leased = h.take(q.a, 2).await;
    assert_eq!(super::harness::ids(&leased), ["1", "2"]);
}

async fn the_id_of_a_queue_left_out_is_not_reused(h: Harness) {
    let q = h.standard().await;
    let defined = h.engine.define(only("c")).await.expect("`define` works");
    let c = defined.queues[&queue_name("c")];
    assert!(![q.a, q.a_dead, q.b, q.b_dead].contains(&c), "{c:?} was given before: {q:?}");
}

async fn new_settings_take_effect(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    let mut once = queue("a", Some("b.dead"));
    once.retry.max_attempts = 1;
    let queues = vec![once, queue("a.dead", None), queue("b", Some("b.dead")), queue("b.dead", None)];
    h.engine.define(Definitions { queues, ..Definitions::default() }).await.expect("`define` works");
    h.take_one(q.a).await;
    h.advance(TTL);
    h.settles_at(q.b_dead, (1, 0, 0)).await;
    let stored = h.browse(q.b_dead).await;
    let dead = stored[0].dead.as_ref().expect("it is a dead letter");
    assert_eq!(dead.reason.code, DeadCode::MaxAttempts, "its one attempt is used up");
}
