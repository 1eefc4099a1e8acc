//! `read`: one message by its position, without leasing it.

use super::cases;
use super::harness::{BACKOFF, HELD, Harness, attempt, entry, message, rejected, topic};
use super::key_order::by_key;
use super::made::{all_keyed, keyed, names, prior};
use crate::clock::Clock as _;
use crate::engine::{BulkAction, EntryOptions, Position, QueueId, RequestError, Stored};

cases! {
    a_message_is_found_by_its_position;
    it_shows_what_a_page_shows;
    it_shows_whether_it_is_leased;
    what_is_not_there_is_not_found;
    what_is_gone_is_not_found;
    what_moved_is_found_where_it_is;
    a_dead_letter_shows_its_death_and_history: History;
    what_is_held_is_found;
    what_waits_for_its_time_is_not_found: Delay;
    what_waits_for_its_key_is_found: KeyOrder;
    priorities_make_no_difference: Priorities;
    an_unknown_queue_is_refused;
    it_is_found_after_a_restart: Reopen;
}

async fn read(h: &Harness, queue: QueueId, position: Position) -> Option<Stored> {
    h.engine.read(queue, position).await.expect("`read` works")
}

/// The id of the message at this position.
async fn id_at(h: &Harness, queue: QueueId, position: Position) -> Option<String> {
    read(h, queue, position).await.map(|stored| stored.message.id().to_owned())
}

async fn a_message_is_found_by_its_position(h: Harness) {
    let q = h.standard().await;
    let positions = h.append(q.a, &["1", "2", "3"]).await;
    for (position, id) in positions.iter().zip(["1", "2", "3"]) {
        let stored = read(&h, q.a, *position).await.expect("it is there");
        assert_eq!((stored.position, stored.message, stored.topic), (*position, message(id), topic()));
        assert_eq!((stored.entry.0, stored.accepted, stored.attempts), (position.0, h.clock.wall(), 0));
        assert_eq!((stored.due, stored.expires, stored.leased, stored.dead), (None, None, false, None));
    }
}

async fn it_shows_what_a_page_shows(h: Harness) {
    let q = h.standard().await;
    let options = EntryOptions { expires: Some(h.after(BACKOFF)), priority: 7, ..EntryOptions::default() };
    let position = h.store(vec![super::made::with(q.a, "1", options)]).await[0];
    let page = h.browse(q.a).await.remove(0);
    let stored = read(&h, q.a, position).await.expect("it is there");
    assert_eq!((stored.expires, stored.priority), (page.expires, page.priority));
    assert_eq!((stored.entry, stored.message), (page.entry, page.message));
}

async fn it_shows_whether_it_is_leased(h: Harness) {
    let q = h.standard().await;
    let position = h.append(q.a, &["1"]).await[0];
    let leased = h.take_one(q.a).await;
    assert!(read(&h, q.a, position).await.expect("it is there").leased);
    h.engine.release(vec![leased.token]).await;
    assert!(!read(&h, q.a, position).await.expect("it is there").leased);
    assert_eq!(h.take_one(q.a).await.attempt(), 1, "looking changes nothing");
}

async fn what_is_not_there_is_not_found(h: Harness) {
    let q = h.standard().await;
    let a = h.append(q.a, &["1"]).await[0];
    let b = h.append(q.b, &["2"]).await[0];
    for (queue, position) in
        [(q.a, b), (q.b, a), (q.a, Position(0)), (q.a, Position(1 << 40)), (q.a, Position(u64::MAX))]
    {
        assert_eq!(id_at(&h, queue, position).await, None, "{position:?} of {queue:?}");
    }
}

async fn what_is_gone_is_not_found(h: Harness) {
    let q = h.standard().await;
    let positions = h.append(q.a, &["1", "2"]).await;
    h.done(&h.take_one(q.a).await).await.expect("it is leased");
    assert_eq!(id_at(&h, q.a, positions[0]).await, None, "it is settled");
    h.bulk_by(q.a, BulkAction::Discard, 10).await;
    assert_eq!(id_at(&h, q.a, positions[1]).await, None, "it was discarded");
}

async fn what_moved_is_found_where_it_is(h: Harness) {
    let q = h.standard().await;
    let before = h.append(q.a, &["1"]).await[0];
    h.bulk_by(q.a, BulkAction::Redrive(Some(q.b)), 10).await;
    let now = h.browse(q.b).await[0].position;
    assert_eq!(id_at(&h, q.a, before).await, None);
    assert_eq!(id_at(&h, q.b, now).await.as_deref(), Some("1"));
}

async fn a_dead_letter_shows_its_death_and_history(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.dead(&h.take_one(q.a).await).await;
    let position = h.browse(q.a_dead).await[0].position;
    let stored = read(&h, q.a_dead, position).await.expect("it is there");
    assert_eq!(stored.history, [attempt(1)]);
    let dead = stored.dead.expect("it is a dead letter");
    assert_eq!((dead.origin.as_str(), dead.at, dead.reason), ("a", h.clock.wall(), rejected()));
}

async fn what_is_held_is_found(h: Harness) {
    let q = h.standard().await;
    h.append(q.a_dead, &["1"]).await;
    h.dead(&h.take_one(q.a_dead).await).await;
    let position = h.browse(q.a_dead).await[0].position;
    let stored = read(&h, q.a_dead, position).await.expect("it is there");
    assert_eq!((stored.message.id(), stored.due), ("1", Some(HELD)));
}

async fn what_waits_for_its_time_is_not_found(h: Harness) {
    let q = h.standard().await;
    let delayed = h.store(vec![h.delayed(q.a, "1", BACKOFF)]).await[0];
    let retry = h.append(q.a, &["2"]).await[0];
    h.again(&h.take_one(q.a).await).await;
    assert_eq!(id_at(&h, q.a, delayed).await, None);
    assert_eq!(id_at(&h, q.a, retry).await, None);
}

async fn what_waits_for_its_key_is_found(h: Harness) {
    const BLOCKED: usize = 200;
    let q = by_key(&h).await;
    h.store(all_keyed(q.a, &["k/0"])).await;
    h.take_one(q.a).await;
    let blocked = names("k/1", BLOCKED);
    let positions = h.store(blocked.iter().map(|id| keyed(q.a, id)).collect()).await;
    h.assert_none(q.a, "the key is busy").await;
    for at in [0, 1, BLOCKED / 2, BLOCKED - 1] {
        assert_eq!(id_at(&h, q.a, positions[at]).await.as_ref(), Some(&blocked[at]));
    }
}

async fn priorities_make_no_difference(h: Harness) {
    let q = h.standard_but(|a| a.priority = true).await;
    let entries = (0..10).map(|priority| prior(q.a, &priority.to_string(), priority)).collect();
    for (number, position) in h.store(entries).await.into_iter().enumerate() {
        assert_eq!(id_at(&h, q.a, position).await, Some(number.to_string()));
    }
}

async fn an_unknown_queue_is_refused(h: Harness) {
    let q = h.standard().await;
    let position = h.store(vec![entry(q.a, "1")]).await[0];
    let nowhere = QueueId(4_000_000);
    let error = h.engine.read(nowhere, position).await.expect_err("there is no such queue");
    assert_eq!(error, RequestError::UnknownQueue(nowhere));
}

async fn it_is_found_after_a_restart(h: Harness) {
    let q = h.standard().await;
    let position = h.append(q.a, &["1"]).await[0];
    let h = h.reopened().await;
    assert_eq!(id_at(&h, q.a, position).await.as_deref(), Some("1"));
}
