//! `append`: all of a request or nothing, in the order of acceptance, unchanged.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cases;
use super::harness::{Harness, entry, ids, message_with, rejected, stored_ids, topic};
use crate::clock::Clock as _;
use crate::engine::{Append, NewEntry, Position, QueueId, RequestError};

cases! {
    what_comes_out_is_what_went_in;
    bodies_of_any_size_come_out_whole;
    an_append_may_be_empty;
    messages_are_leased_in_order_of_acceptance;
    positions_stand_in_the_order_of_entries_and_grow;
    positions_of_one_message_are_consecutive;
    positions_of_dead_letters_are_those_where_they_lie;
    one_append_reaches_several_queues;
    an_unknown_queue_is_named;
    an_append_with_an_unknown_queue_stores_nothing: Atomic;
    appends_of_one_submitter_keep_their_order;
}

async fn what_comes_out_is_what_went_in(h: Harness) {
    let q = h.standard().await;
    let mut sent = entry(q.a, "1");
    sent.hops = 7;
    h.engine.append(vec![sent.clone()].into()).await.expect("`append` works");
    let leased = h.take_one(q.a).await;
    assert_eq!(leased.message, sent.message);
    assert_eq!(leased.topic, topic());
    assert_eq!(leased.hops, 7);
    assert_eq!(leased.accepted, h.clock.wall());
    assert_eq!(leased.attempt(), 1);
    assert_eq!(leased.token.queue, q.a);
}

async fn bodies_of_any_size_come_out_whole(h: Harness) {
    let q = h.standard().await;
    let sizes = [0, 1, 1023, 1024, 1025, 65_535, 65_536, 1 << 20, 5 << 20];
    let body = |size: usize| (0..size).map(|at| u8::try_from(at * 31 % 251).unwrap_or(0)).collect::<Vec<u8>>();
    let message = |size: usize| message_with(&size.to_string(), &body(size));
    let entries = sizes.map(|size| NewEntry { message: message(size), ..entry(q.a, "x") }).to_vec();
    h.engine.append(entries.into()).await.expect("`append` works");
    for (size, leased) in sizes.iter().zip(h.take(q.a, sizes.len()).await) {
        assert!(leased.message == message(*size), "the message with a body of {size} bytes came out changed");
        assert_eq!(h.done(&leased).await, Ok(()));
    }
    h.settles_at(q.a, (0, 0, 0)).await;
}

async fn an_append_may_be_empty(h: Harness) {
    let appended = h.engine.append(Append::default()).await.expect("nothing can be stored");
    assert_eq!(appended.positions, []);
}

async fn messages_are_leased_in_order_of_acceptance(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.append(q.a, &["3"]).await;
    h.append(q.a, &["4", "5"]).await;
    assert_eq!(ids(&h.take(q.a, 3).await), ["1", "2", "3"]);
    assert_eq!(ids(&h.take(q.a, 2).await), ["4", "5"]);
}

async fn positions_stand_in_the_order_of_entries_and_grow(h: Harness) {
    let q = h.standard().await;
    let mut positions = h.append(q.a, &["1", "2", "3"]).await;
    positions.extend(h.append(q.b, &["4"]).await);
    positions.extend(h.append(q.a, &["5"]).await);
    assert_eq!(positions.len(), 5, "one per entry");
    assert!(positions.is_sorted_by(|one, next| one < next), "{positions:?}");
    let stored: Vec<_> = h.browse(q.a).await.iter().map(|stored| stored.position).collect();
    assert_eq!(stored, [positions[0], positions[1], positions[2], positions[4]]);
}

async fn positions_of_one_message_are_consecutive(h: Harness) {
    let q = h.standard().await;
    let dead = NewEntry { dead: Some(rejected()), ..entry(q.b, "1") };
    let positions = h.store(vec![entry(q.a, "1"), dead, entry(q.b, "1"), entry(q.a_dead, "1")]).await;
    let expected: Vec<_> = (0..4).map(|offset| Position(positions[0].0 + offset)).collect();
    assert_eq!(positions, expected);
}

async fn positions_of_dead_letters_are_those_where_they_lie(h: Harness) {
    let q = h.standard().await;
    let dead = |queue| NewEntry { dead: Some(rejected()), ..entry(queue, "1") };
    let positions = h.store(vec![dead(q.a), dead(q.a_dead)]).await;
    let stored: Vec<_> = h.browse(q.a_dead).await.iter().map(|stored| stored.position).collect();
    assert_eq!(stored, positions, "in the dead letters of `a`, and held in place");
}

async fn one_append_reaches_several_queues(h: Harness) {
    let q = h.standard().await;
    let entries = vec![entry(q.a, "1"), entry(q.b, "1"), entry(q.a, "2")];
    h.engine.append(entries.into()).await.expect("`append` works");
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2"]);
    assert_eq!(stored_ids(&h.browse(q.b).await), ["1"]);
}

const NOWHERE: QueueId = QueueId(4_000_000);

async fn an_unknown_queue_is_named(h: Harness) {
    h.standard().await;
    let result = h.engine.append(vec![entry(NOWHERE, "1")].into()).await;
    assert_eq!(result, Err(RequestError::UnknownQueue(NOWHERE)));
}

async fn an_append_with_an_unknown_queue_stores_nothing(h: Harness) {
    let q = h.standard().await;
    let entries = vec![entry(q.a, "1"), entry(NOWHERE, "1"), entry(q.b, "1")];
    assert_eq!(h.engine.append(entries.into()).await, Err(RequestError::UnknownQueue(NOWHERE)));
    // What comes after it is stored: whatever a half-done append left behind would lie before.
    h.append(q.a, &["2"]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2"]);
    assert_eq!(stored_ids(&h.browse(q.b).await), [""; 0]);
    h.settles_at(q.a, (1, 0, 0)).await;
    h.settles_at(q.b, (0, 0, 0)).await;
}

async fn appends_of_one_submitter_keep_their_order(h: Harness) {
    const SUBMITTERS: usize = 8;
    const EACH: usize = 25;
    let q = h.standard().await;
    let tasks: Vec<_> = (0..SUBMITTERS)
        .map(|submitter| {
            let engine = Arc::clone(&h.engine);
            tokio::spawn(async move {
                for number in 0..EACH {
                    let entries = vec![entry(q.a, &format!("{submitter}/{number:03}"))];
                    engine.append(entries.into()).await.expect("`append` works");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("the submitter did not panic");
    }
    let leased = h.take(q.a, SUBMITTERS * EACH).await;
    let mut by_submitter: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for id in ids(&leased) {
        by_submitter.entry(id.split('/').next().unwrap_or_default()).or_default().push(id);
    }
    assert_eq!(by_submitter.len(), SUBMITTERS);
    for (submitter, ids) in by_submitter {
        assert_eq!(ids.len(), EACH, "of submitter {submitter}");
        assert!(ids.is_sorted(), "submitter {submitter}: {ids:?}");
    }
}
