//! `browse`: a look at a queue, page by page, that touches nothing.

use super::cases;
use super::harness::{BACKOFF, Harness, NO_CURSORS, entry, ids, message, stored_ids, topic};
use crate::clock::Clock as _;
use crate::engine::{Browse, Cursor, InvalidCursor, QueueId, RequestError};

cases! {
    messages_stand_in_order;
    a_message_shows_what_it_is;
    looking_leases_nothing;
    leased_messages_are_shown_as_such;
    scheduled_messages_come_last_by_due_time;
    pages_meet_each_message_once;
    a_page_is_no_larger_than_asked;
    a_cursor_survives_changes;
    a_text_that_is_no_cursor_is_refused;
    an_empty_queue_is_one_empty_page;
    an_unknown_queue_is_refused;
}

async fn messages_stand_in_order(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.append(q.b, &["x"]).await;
    h.append(q.a, &["3"]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2", "3"]);
}

async fn a_message_shows_what_it_is(h: Harness) {
    let q = h.standard().await;
    let appended = h.engine.append(vec![entry(q.a, "1")].into()).await.expect("`append` works");
    let stored = h.browse(q.a).await.remove(0);
    assert_eq!((stored.message, stored.topic), (message("1"), topic()));
    assert_eq!(stored.position, appended.positions[0]);
    assert_eq!(stored.entry.0, stored.position.0, "the first position is the identity");
    assert_eq!((stored.accepted, stored.attempts), (h.clock.wall(), 0));
    assert_eq!((stored.due, stored.leased, stored.dead), (None, false, None));
    assert_eq!(stored.history, []);
}

async fn looking_leases_nothing(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    h.browse(q.a).await;
    h.settles_at(q.a, (2, 0, 0)).await;
    let leased = h.take(q.a, 2).await;
    assert_eq!((ids(&leased), leased[0].attempt()), (vec!["1", "2"], 1));
}

async fn leased_messages_are_shown_as_such(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take_one(q.a).await;
    let shown = |stored: &[crate::engine::Stored]| -> Vec<(String, bool)> {
        stored.iter().map(|stored| (stored.message.id().to_owned(), stored.leased)).collect()
    };
    assert_eq!(shown(&h.browse(q.a).await), [("1".to_owned(), true), ("2".to_owned(), false)]);
    h.engine.release(vec![leased.token]).await;
    assert_eq!(shown(&h.browse(q.a).await), [("1".to_owned(), false), ("2".to_owned(), false)]);
}

async fn scheduled_messages_come_last_by_due_time(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    let leased = h.take(q.a, 2).await;
    h.again(&leased[1]).await;
    let first_due = h.clock.wall().plus(BACKOFF);
    h.advance(BACKOFF / 2);
    h.again(&leased[0]).await;
    let stored = h.browse(q.a).await;
    assert_eq!(stored_ids(&stored), ["3", "2", "1"]);
    let due: Vec<_> = stored.iter().map(|stored| stored.due).collect();
    assert_eq!(due, [None, Some(first_due), Some(first_due.plus(BACKOFF / 2))]);
    assert_eq!(stored_ids(&h.browse_by(q.a, 1).await), ["3", "2", "1"], "the same page by page");
}

async fn pages_meet_each_message_once(h: Harness) {
    let q = h.standard().await;
    let names: Vec<String> = (0..25).map(|number| number.to_string()).collect();
    h.append(q.a, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for leased in h.take(q.a, 5).await {
        h.again(&leased).await;
    }
    let expected = [&names[5..], &names[..5]].concat();
    for max in [1, 2, 7, 20, 24, 25, 26, 1000] {
        assert_eq!(stored_ids(&h.browse_by(q.a, max).await), expected, "pages of {max}");
    }
}

async fn a_page_is_no_larger_than_asked(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    let page = h.engine.browse(Browse { queue: q.a, after: None, max: 2 }).await.expect("`browse` works");
    assert_eq!(stored_ids(&page.items), ["1", "2"]);
    let page = h.engine.browse(Browse { queue: q.a, after: page.next, max: 2 }).await.expect("`browse` works");
    assert_eq!(stored_ids(&page.items), ["3"]);
}

async fn a_cursor_survives_changes(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3", "4"]).await;
    let page = h.engine.browse(Browse { queue: q.a, after: None, max: 2 }).await.expect("`browse` works");
    for leased in h.take(q.a, 3).await {
        h.done(&leased).await.expect("it is leased");
    }
    h.append(q.a, &["5"]).await;
    let page = h.engine.browse(Browse { queue: q.a, after: page.next, max: 10 }).await.expect("`browse` works");
    assert_eq!(stored_ids(&page.items), ["4", "5"], "behind where the first page ended, though that is gone");
}

async fn a_text_that_is_no_cursor_is_refused(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    for text in NO_CURSORS {
        let after = Some(Cursor(text.to_owned()));
        let page = h.engine.browse(Browse { queue: q.a, after: after.clone(), max: 10 }).await;
        assert_eq!(page.err(), after.as_ref().map(|cursor| InvalidCursor::new(cursor).into()), "{text:?}");
    }
}

async fn an_empty_queue_is_one_empty_page(h: Harness) {
    let q = h.standard().await;
    let page = h.engine.browse(Browse { queue: q.a, after: None, max: 10 }).await.expect("`browse` works");
    assert_eq!((page.items.len(), page.next), (0, None));
}

async fn an_unknown_queue_is_refused(h: Harness) {
    let nowhere = QueueId(4_000_000);
    let error = h.engine.browse(Browse { queue: nowhere, after: None, max: 10 }).await.expect_err("it does not exist");
    assert_eq!(error, RequestError::UnknownQueue(nowhere));
}
