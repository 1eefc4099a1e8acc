//! Doubles: a message that was stored before is answered as it was then, and stored once.

use std::sync::Arc;
use std::time::Duration;

use super::bounds::at_most;
use super::cases;
use super::harness::{Harness, Queues, entry, message_with, rejected, soon, stored_ids, topic};
use super::made::MS;
use crate::clock::WallMs;
use crate::engine::{
    Append, Appended, BulkAction, Duplicate, Identity, NewEntry, Overflow, Position, QueueId, RequestError, Scheduled,
    Select,
};
use crate::message::{Attributes, Message};
use crate::name::Topic;

cases! {
    a_double_is_stored_once: Dedup;
    a_double_is_answered_with_what_was_stored: Dedup;
    a_double_that_would_go_elsewhere_now_goes_nowhere: Dedup;
    a_double_in_the_same_append_is_stored_once: Dedup;
    another_body_is_refused: Dedup;
    another_body_in_the_same_append_is_refused: Dedup;
    only_the_body_has_to_be_the_same: Dedup;
    topic_source_and_id_are_the_identity: Dedup;
    what_has_no_identity_has_no_double: Dedup;
    new_messages_beside_doubles_are_stored: Dedup;
    what_waits_is_named_by_its_doubles: Dedup, Delay;
    what_waits_is_named_by_its_doubles_after_a_restart: Dedup, Delay, Reopen;
    what_was_settled_has_doubles: Dedup;
    what_died_or_was_discarded_has_doubles: Dedup;
    what_is_dead_on_arrival_has_doubles: Dedup;
    a_refused_append_leaves_no_identity: Dedup;
    a_refusal_for_one_body_leaves_no_other_identity: Dedup;
    a_full_queue_leaves_no_identity: Dedup, Bounds;
    a_double_needs_no_room: Dedup, Bounds;
    a_double_drops_nothing: Dedup, Bounds;
    of_doubles_at_the_same_time_one_is_stored: Dedup;
}

pub(super) const WINDOW: Duration = Duration::from_secs(600);
const PUT_OFF: Duration = Duration::from_secs(300);

/// An append of messages, each to its queues, with an identity each.
pub(super) fn append_all(messages: Vec<(Message, Vec<QueueId>)>) -> Append {
    let mut append = Append::default();
    for (message, queues) in messages {
        let start = append.entries.len();
        let entries = queues.into_iter().map(|queue| NewEntry::new(queue, topic(), message.clone()));
        append.entries.extend(entries);
        let entries = start..append.entries.len();
        append.identities.push(Identity { entries, topic: topic(), message, window: WINDOW });
    }
    append
}

/// The same with one message to one queue; the body repeats the id.
pub(super) fn append_one(queue: QueueId, id: &str) -> Append {
    append_all(vec![(super::harness::message(id), vec![queue])])
}

pub(super) async fn append(h: &Harness, append: Append) -> Appended {
    h.engine.append(append).await.expect("`append` works")
}

/// Appends a message with an identity; whether it was new.
pub(super) async fn is_new(h: &Harness, queue: QueueId, id: &str) -> bool {
    append(h, append_one(queue, id)).await.duplicates.is_empty()
}

async fn a_double_is_stored_once(h: Harness) {
    let q = h.standard().await;
    let first = append(&h, append_one(q.a, "1")).await;
    assert_eq!((first.positions.len(), first.duplicates.len()), (1, 0));
    for _ in 0..3 {
        h.advance(MS);
        append(&h, append_one(q.a, "1")).await;
    }
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
    h.settles_at(q.a, (1, 0, 0)).await;
    h.done(&h.take_one(q.a).await).await.expect("it is leased");
    h.assert_none(q.a, "it was stored once").await;
}

async fn a_double_is_answered_with_what_was_stored(h: Harness) {
    let q = h.standard().await;
    let message = super::harness::message("1");
    let twice = || append_all(vec![(message.clone(), vec![q.a, q.b])]);
    let stored = append(&h, twice()).await;
    let first = stored.positions[0];
    let double = append(&h, twice()).await;
    assert_eq!(double.positions, [first, first], "a position per entry: the first of those stored");
    assert_eq!(double.duplicates, [Duplicate { identity: 0, first, targets: 2, scheduled: None }]);
}

async fn a_double_that_would_go_elsewhere_now_goes_nowhere(h: Harness) {
    let q = h.standard().await;
    let message = super::harness::message("1");
    let first = append(&h, append_all(vec![(message.clone(), vec![q.a, q.b])])).await.positions[0];
    let double = append(&h, append_all(vec![(message, vec![q.b_dead])])).await;
    assert_eq!(double.positions, [first]);
    assert_eq!(double.duplicates, [Duplicate { identity: 0, first, targets: 2, scheduled: None }]);
    assert_eq!(stored_ids(&h.browse(q.b_dead).await), [""; 0]);
}

async fn a_double_in_the_same_append_is_stored_once(h: Harness) {
    let q = h.standard().await;
    let message = |id| super::harness::message(id);
    let all = vec![
        (message("1"), vec![q.a]),
        (message("2"), vec![q.a]),
        (message("1"), vec![q.a, q.b]),
        (message("3"), vec![q.a]),
        (message("1"), vec![q.a]),
    ];
    let appended = append(&h, append_all(all)).await;
    let first = appended.positions[0];
    assert_eq!([2, 3, 5].map(|entry| appended.positions[entry]), [first; 3]);
    let double = |identity| Duplicate { identity, first, targets: 1, scheduled: None };
    assert_eq!(appended.duplicates, [double(2), double(4)]);
    let stored = h.browse(q.a).await;
    assert_eq!(stored_ids(&stored), ["1", "2", "3"]);
    let positions: Vec<_> = stored.iter().map(|stored| stored.position).collect();
    assert_eq!(positions, [0, 1, 4].map(|entry| appended.positions[entry]));
    assert_eq!(stored_ids(&h.browse(q.b).await), [""; 0]);
}

async fn another_body_is_refused(h: Harness) {
    let q = h.standard().await;
    append(&h, append_one(q.a, "2")).await;
    let all = vec![(super::harness::message("1"), vec![q.a]), (message_with("2", b"another"), vec![q.a])];
    assert_eq!(h.engine.append(append_all(all)).await, Err(RequestError::IdReused(1)));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2"], "nothing was done");
    assert!(!is_new(&h, q.a, "2").await, "the first is known as ever");
}

async fn another_body_in_the_same_append_is_refused(h: Harness) {
    let q = h.standard().await;
    let all = vec![
        (super::harness::message("1"), vec![q.a]),
        (super::harness::message("2"), vec![q.a]),
        (message_with("1", b"another"), vec![q.a]),
    ];
    assert_eq!(h.engine.append(append_all(all)).await, Err(RequestError::IdReused(2)));
    assert_eq!(stored_ids(&h.browse(q.a).await), [""; 0], "nothing was done");
    assert!(is_new(&h, q.a, "1").await && is_new(&h, q.a, "2").await, "nor remembered");
}

/// A message whose identity and attributes are these, all with the same body.
fn attributed(id: &str, source: &str, kind: &str) -> Message {
    let attributes = Attributes { id, source, kind, ..Attributes::default() };
    Message::new(&attributes, b"body").expect("the attributes are valid")
}

async fn only_the_body_has_to_be_the_same(h: Harness) {
    let q = h.standard().await;
    append(&h, append_all(vec![(attributed("1", "/s", "one.kind"), vec![q.a])])).await;
    let double = append(&h, append_all(vec![(attributed("1", "/s", "another.kind"), vec![q.a])])).await;
    assert_eq!(double.duplicates.len(), 1);
    assert_eq!(h.take_one(q.a).await.message.kind(), "one.kind", "the first word counts");
}

async fn topic_source_and_id_are_the_identity(h: Harness) {
    let q = h.standard().await;
    let mut elsewhere = append_all(vec![(attributed("1", "/s", "k"), vec![q.a])]);
    elsewhere.identities[0].topic = Topic::new("cases.other").expect("it is a topic");
    let appends = [
        append_all(vec![(attributed("1", "/s", "k"), vec![q.a])]),
        append_all(vec![(attributed("2", "/s", "k"), vec![q.a])]),
        append_all(vec![(attributed("1", "/t", "k"), vec![q.a])]),
        append_all(vec![(attributed("/s", "1", "k"), vec![q.a])]),
        elsewhere,
    ];
    for (number, new) in appends.iter().enumerate() {
        assert_eq!(append(&h, new.clone()).await.duplicates, [], "append {number} is none of those before");
    }
    for (number, double) in appends.iter().enumerate() {
        assert_eq!(append(&h, double.clone()).await.duplicates.len(), 1, "append {number}");
    }
    h.settles_at(q.a, (5, 0, 0)).await;
}

async fn what_has_no_identity_has_no_double(h: Harness) {
    let q = h.standard().await;
    assert!(is_new(&h, q.a, "1").await);
    h.append(q.a, &["1", "1"]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "1", "1"]);
    h.append(q.a, &["2"]).await;
    assert!(is_new(&h, q.a, "2").await, "what came without an identity left none");
}

async fn new_messages_beside_doubles_are_stored(h: Harness) {
    let q = h.standard().await;
    let first = append(&h, append_one(q.a, "2")).await.positions[0];
    let message = |id| super::harness::message(id);
    let mut mixed =
        append_all(vec![(message("1"), vec![q.a, q.b]), (message("2"), vec![q.a, q.b]), (message("3"), vec![q.b])]);
    mixed.entries.push(entry(q.a, "4"));
    let appended = append(&h, mixed).await;
    assert_eq!(appended.positions.len(), 6);
    assert_eq!(appended.positions[2..4], [first, first]);
    assert_eq!(appended.duplicates, [Duplicate { identity: 1, first, targets: 1, scheduled: None }]);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2", "1", "4"]);
    assert_eq!(stored_ids(&h.browse(q.b).await), ["1", "3"]);
    for (entry, stored) in [(0, q.a), (5, q.a), (1, q.b), (4, q.b)] {
        let found = h.browse(stored).await.iter().any(|stored| stored.position == appended.positions[entry]);
        assert!(found, "entry {entry} lies where the answer says: {appended:?}");
    }
}

/// A message to three places in two queues, in one of which it does not wait.
fn put_off(h: &Harness, q: Queues) -> Append {
    let mut append = append_all(vec![(super::harness::message("1"), vec![q.a, q.b, q.a])]);
    for entry in [0, 2] {
        append.entries[entry].options.due = Some(h.after(PUT_OFF));
    }
    append
}

/// Whether a double says where the first waits, though it would wait elsewhere itself, and that is found there.
async fn assert_named(h: &Harness, q: Queues, due: WallMs, positions: &[Position]) {
    let places = vec![(q.a, positions[0]), (q.a, positions[2])];
    let elsewhere = append_one(q.b, "1");
    for double in [put_off(h, q), elsewhere] {
        let duplicates = append(h, double).await.duplicates;
        let scheduled = Some(Scheduled { due, places: places.clone() });
        assert_eq!(duplicates, [Duplicate { identity: 0, first: positions[0], targets: 3, scheduled }]);
    }
    let select = Select::Scheduled(places.iter().map(|(_, position)| (due, *position)).collect());
    assert_eq!(h.bulk(q.a, select, BulkAction::Discard).await.expect("`bulk` works").changed, 2);
}

async fn what_waits_is_named_by_its_doubles(h: Harness) {
    let q = h.standard().await;
    let due = h.after(PUT_OFF);
    let twice = [put_off(&h, q), put_off(&h, q)];
    let both = Append {
        entries: twice.iter().flat_map(|append| append.entries.clone()).collect(),
        identities: vec![twice[0].identities[0].clone(), Identity { entries: 3..6, ..twice[1].identities[0].clone() }],
        tick: None,
    };
    let stored = append(&h, both).await;
    let places = vec![(q.a, stored.positions[0]), (q.a, stored.positions[2])];
    assert_eq!(stored.duplicates.len(), 1);
    assert_eq!(stored.duplicates[0].scheduled, Some(Scheduled { due, places }), "within one append too");
    h.advance(MS);
    assert_named(&h, q, due, &stored.positions).await;
    assert_eq!(stored_ids(&h.browse(q.b).await), ["1"]);
}

async fn what_waits_is_named_by_its_doubles_after_a_restart(h: Harness) {
    let q = h.standard().await;
    let due = h.after(PUT_OFF);
    let stored = append(&h, put_off(&h, q)).await;
    let h = h.reopened().await;
    let q = h.standard().await;
    assert_named(&h, q, due, &stored.positions).await;
}

async fn what_was_settled_has_doubles(h: Harness) {
    let q = h.standard().await;
    assert!(is_new(&h, q.a, "1").await);
    h.done(&h.take_one(q.a).await).await.expect("it is leased");
    assert!(!is_new(&h, q.a, "1").await);
    h.assert_none(q.a, "it was handled").await;
}

async fn what_died_or_was_discarded_has_doubles(h: Harness) {
    let q = h.standard().await;
    assert!(is_new(&h, q.a, "1").await && is_new(&h, q.a, "2").await);
    h.dead(&h.take_one(q.a).await).await;
    assert_eq!(h.bulk_by(q.a, BulkAction::Discard, 10).await.changed, 1);
    assert!(!is_new(&h, q.a, "1").await && !is_new(&h, q.a, "2").await);
    assert_eq!(stored_ids(&h.browse(q.a).await), [""; 0]);
}

async fn what_is_dead_on_arrival_has_doubles(h: Harness) {
    let q = h.standard().await;
    let dead = || {
        let mut dead = append_one(q.a, "1");
        dead.entries[0].dead = Some(rejected());
        dead
    };
    append(&h, dead()).await;
    assert_eq!(append(&h, dead()).await.duplicates.len(), 1);
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1"]);
}

async fn a_refused_append_leaves_no_identity(h: Harness) {
    let nowhere = QueueId(4_000_000);
    let q = h.standard().await;
    let refused = append_all(vec![(super::harness::message("1"), vec![q.a, nowhere])]);
    assert_eq!(h.engine.append(refused).await, Err(RequestError::UnknownQueue(nowhere)));
    assert!(is_new(&h, q.a, "1").await);
}

async fn a_refusal_for_one_body_leaves_no_other_identity(h: Harness) {
    let q = h.standard().await;
    append(&h, append_one(q.a, "2")).await;
    let all = vec![(super::harness::message("1"), vec![q.a]), (message_with("2", b"another"), vec![q.a])];
    assert_eq!(h.engine.append(append_all(all)).await, Err(RequestError::IdReused(1)));
    assert!(is_new(&h, q.a, "1").await);
}

async fn a_full_queue_leaves_no_identity(h: Harness) {
    let q = h.standard_but(|a| a.bounds = at_most(1, Overflow::Refuse)).await;
    h.append(q.a, &["x"]).await;
    assert_eq!(h.engine.append(append_one(q.a, "1")).await, Err(RequestError::QueueFull(q.a)));
    h.done(&h.take_one(q.a).await).await.expect("it is leased");
    assert!(is_new(&h, q.a, "1").await, "it is stored now");
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
}

async fn a_double_needs_no_room(h: Harness) {
    let q = h.standard_but(|a| a.bounds = at_most(2, Overflow::Refuse)).await;
    assert!(is_new(&h, q.a, "1").await && is_new(&h, q.a, "2").await);
    assert!(!is_new(&h, q.a, "1").await, "the queue is full, and it is there already");
    let both = append_all(vec![(super::harness::message("1"), vec![q.a]), (super::harness::message("3"), vec![q.a])]);
    assert_eq!(h.engine.append(both).await, Err(RequestError::QueueFull(q.a)), "the other is new");
}

async fn a_double_drops_nothing(h: Harness) {
    let q = h.standard_but(|a| a.bounds = at_most(2, Overflow::DropOldest)).await;
    assert!(is_new(&h, q.a, "1").await && is_new(&h, q.a, "2").await);
    assert!(!is_new(&h, q.a, "2").await);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2"]);
}

async fn of_doubles_at_the_same_time_one_is_stored(h: Harness) {
    const SUBMITTERS: usize = 16;
    let q = h.standard().await;
    for round in 0..5 {
        let id = round.to_string();
        let submitters: Vec<_> = (0..SUBMITTERS)
            .map(|_| {
                let (engine, append) = (Arc::clone(&h.engine), append_one(q.a, &id));
                tokio::spawn(async move { engine.append(append).await.expect("`append` works") })
            })
            .collect();
        let mut answers = Vec::new();
        for submitter in submitters {
            answers.push(soon("it is answered", submitter).await.expect("the submitter did not panic"));
        }
        let new = answers.iter().filter(|answer| answer.duplicates.is_empty()).count();
        assert_eq!(new, 1, "in round {round}");
        assert!(answers.iter().all(|answer| answer.positions == answers[0].positions), "all are told the same");
    }
    h.settles_at(q.a, (5, 0, 0)).await;
}
