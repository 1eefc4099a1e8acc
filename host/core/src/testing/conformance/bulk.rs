//! `bulk`: redrive and discard, in bounded steps, over everything that nobody holds.

use super::cases;
use super::harness::{BACKOFF, Harness, NO_CURSORS, Queues, attempt, ids, message, stored_ids};
use crate::engine::{Bulk, BulkAction, Cursor, Filter, InvalidCursor, Progress, QueueId, RequestError, Select};

cases! {
    a_redrive_takes_messages_back_where_they_died;
    a_redrive_takes_messages_elsewhere;
    attempts_start_anew;
    the_history_stays: History;
    the_identity_stays;
    what_is_held_is_redriven;
    a_redriven_message_joins_at_the_end;
    messages_without_an_origin_are_passed_over;
    messages_without_an_origin_can_be_sent_somewhere;
    positions_select;
    a_position_named_twice_counts_once;
    leased_messages_are_passed_over;
    discarded_messages_are_gone;
    what_is_scheduled_can_be_discarded;
    steps_are_bounded_and_go_on;
    steps_go_on_behind_what_is_passed_over;
    a_redrive_into_its_own_queue_ends;
    an_unknown_queue_changes_nothing;
    a_text_that_is_no_cursor_changes_nothing;
    an_empty_queue_takes_one_step;
}

/// `ids` as dead letters of `a`.
async fn dead_letters(h: &Harness, ids: &[&str]) -> Queues {
    let q = h.standard().await;
    h.append(q.a, ids).await;
    h.bury(q.a, ids.len()).await;
    q
}

fn changed(changed: u64, skipped: u64) -> Progress {
    Progress { changed, skipped, next: None }
}

async fn a_redrive_takes_messages_back_where_they_died(h: Harness) {
    let q = dead_letters(&h, &["1", "2"]).await;
    assert_eq!(h.bulk_by(q.a_dead, BulkAction::Redrive(None), 100).await, changed(2, 0));
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0]);
    let leased = h.take(q.a, 2).await;
    assert_eq!(ids(&leased), ["1", "2"]);
    assert_eq!(leased[0].message, message("1"));
    assert!(h.browse(q.a).await.iter().all(|stored| stored.dead.is_none() && stored.due.is_none()), "they live again");
}

async fn a_redrive_takes_messages_elsewhere(h: Harness) {
    let q = dead_letters(&h, &["1", "2"]).await;
    assert_eq!(h.bulk_by(q.a_dead, BulkAction::Redrive(Some(q.b)), 100).await, changed(2, 0));
    assert_eq!(ids(&h.take(q.b, 2).await), ["1", "2"]);
    h.settles_at(q.a, (0, 0, 0)).await;
    h.settles_at(q.a_dead, (0, 0, 0)).await;
}

async fn attempts_start_anew(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    h.advance(BACKOFF);
    h.bury(q.a, 1).await;
    h.bulk(q.a_dead, Select::All, BulkAction::Redrive(None)).await.expect("`bulk` works");
    assert_eq!(h.browse(q.a).await[0].attempts, 0);
    assert_eq!(h.take_one(q.a).await.attempt(), 1);
}

async fn the_history_stays(h: Harness) {
    let q = dead_letters(&h, &["1"]).await;
    h.bulk(q.a_dead, Select::All, BulkAction::Redrive(None)).await.expect("`bulk` works");
    assert_eq!(h.browse(q.a).await[0].history, [attempt(1)]);
    h.bury(q.a, 1).await;
    assert_eq!(
        h.browse(q.a_dead).await[0].history,
        [attempt(1), attempt(1)],
        "what came before the redrive, and after"
    );
}

async fn the_identity_stays(h: Harness) {
    let q = dead_letters(&h, &["1"]).await;
    let before = h.browse(q.a_dead).await[0].entry;
    h.bulk(q.a_dead, Select::All, BulkAction::Redrive(None)).await.expect("`bulk` works");
    assert_eq!(h.browse(q.a).await[0].entry, before);
    assert_eq!(h.take_one(q.a).await.token.entry, before);
}

async fn what_is_held_is_redriven(h: Harness) {
    let q = h.standard().await;
    h.append(q.a_dead, &["1"]).await;
    h.bury(q.a_dead, 1).await;
    assert_eq!(h.bulk_by(q.a_dead, BulkAction::Redrive(None), 100).await.changed, 1);
    assert_eq!(h.take_one(q.a_dead).await.message.id(), "1");
}

async fn a_redriven_message_joins_at_the_end(h: Harness) {
    let q = dead_letters(&h, &["1"]).await;
    h.append(q.a, &["2"]).await;
    h.bulk(q.a_dead, Select::All, BulkAction::Redrive(None)).await.expect("`bulk` works");
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2", "1"]);
}

async fn messages_without_an_origin_are_passed_over(h: Harness) {
    let q = dead_letters(&h, &["1"]).await;
    h.append(q.a_dead, &["2"]).await;
    assert_eq!(h.bulk_by(q.a_dead, BulkAction::Redrive(None), 100).await, changed(1, 1));
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["2"]);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
}

async fn messages_without_an_origin_can_be_sent_somewhere(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    assert_eq!(h.bulk_by(q.a, BulkAction::Redrive(Some(q.b)), 100).await, changed(1, 0));
    assert_eq!(h.take_one(q.b).await.message.id(), "1");
}

async fn positions_select(h: Harness) {
    let q = dead_letters(&h, &["1", "2", "3"]).await;
    let positions: Vec<_> = h.browse(q.a_dead).await.iter().map(|stored| stored.position).collect();
    let unknown = crate::engine::Position(1 << 40);
    let select = |at: usize| Select::Positions(vec![unknown, positions[at]]);
    let redriven = h.bulk(q.a_dead, select(1), BulkAction::Redrive(None)).await.expect("`bulk` works");
    assert_eq!((redriven.changed, redriven.next), (1, None));
    let discarded = h.bulk(q.a_dead, select(0), BulkAction::Discard).await.expect("`bulk` works");
    assert_eq!((discarded.changed, discarded.next), (1, None));
    let gone = h.bulk(q.a_dead, select(0), BulkAction::Discard).await.expect("`bulk` works");
    assert_eq!((gone.changed, gone.next), (0, None));
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["3"]);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2"]);
}

async fn a_position_named_twice_counts_once(h: Harness) {
    let q = dead_letters(&h, &["1", "2"]).await;
    let position = h.browse(q.a_dead).await[0].position;
    let twice = Select::Positions(vec![position, position]);
    let progress = h.bulk(q.a_dead, twice, BulkAction::Redrive(None)).await.expect("`bulk` works");
    assert_eq!(progress.changed, 1);
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["2"]);
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
}

async fn leased_messages_are_passed_over(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take_one(q.a).await;
    assert_eq!(h.bulk_by(q.a, BulkAction::Discard, 100).await, changed(1, 1));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
    assert_eq!(h.bulk_by(q.a, BulkAction::Redrive(Some(q.b)), 100).await, changed(0, 1));
    assert_eq!(h.done(&leased).await, Ok(()), "the lease was not touched");
}

async fn discarded_messages_are_gone(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    h.append(q.b, &["4"]).await;
    assert_eq!(h.bulk_by(q.a, BulkAction::Discard, 100).await, changed(3, 0));
    h.assert_none(q.a, "all were discarded").await;
    h.settles_at(q.a, (0, 0, 0)).await;
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), [""; 0], "discarding makes no dead letters");
    assert_eq!(stored_ids(&h.browse(q.b).await), ["4"], "of this queue only");
}

async fn what_is_scheduled_can_be_discarded(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    h.again(&h.take_one(q.a).await).await;
    assert_eq!(h.bulk_by(q.a, BulkAction::Discard, 100).await, changed(1, 0));
    h.advance(BACKOFF);
    h.assert_none(q.a, "it was discarded").await;
    h.settles_at(q.a, (0, 0, 0)).await;
}

async fn steps_are_bounded_and_go_on(h: Harness) {
    let q = dead_letters(&h, &["1", "2", "3", "4", "5"]).await;
    let job = |after| Bulk {
        queue: q.a_dead,
        select: Select::All,
        filter: Filter::default(),
        action: BulkAction::Redrive(None),
        after,
        max: 2,
    };
    let first = h.engine.bulk(job(None)).await.expect("`bulk` works");
    assert_eq!(first.changed, 2);
    assert!(first.next.is_some(), "there is more to do");
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["3", "4", "5"], "a step does not do more than it was asked");
    let second = h.engine.bulk(job(first.next)).await.expect("`bulk` works");
    assert_eq!(second.changed, 2);
    assert_eq!(h.bulk_by(q.a_dead, BulkAction::Redrive(None), 2).await, changed(1, 0));
    assert_eq!(ids(&h.take(q.a, 5).await), ["1", "2", "3", "4", "5"]);
}

async fn steps_go_on_behind_what_is_passed_over(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3", "4", "5", "6"]).await;
    let leased = h.take(q.a, 3).await;
    assert_eq!(h.bulk_by(q.a, BulkAction::Discard, 2).await, changed(3, 3));
    assert_eq!(stored_ids(&h.browse(q.a).await), ids(&leased));
}

async fn a_redrive_into_its_own_queue_ends(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3", "4", "5"]).await;
    let progress = h.bulk_by(q.a, BulkAction::Redrive(Some(q.a)), 2).await;
    assert_eq!(progress, changed(5, 0), "each once");
    assert_eq!(h.browse(q.a).await.len(), 5);
}

async fn an_unknown_queue_changes_nothing(h: Harness) {
    let nowhere = QueueId(4_000_000);
    let q = dead_letters(&h, &["1"]).await;
    let unknown = Err(RequestError::UnknownQueue(nowhere));
    assert_eq!(h.bulk(nowhere, Select::All, BulkAction::Discard).await, unknown);
    assert_eq!(h.bulk(q.a_dead, Select::All, BulkAction::Redrive(Some(nowhere))).await, unknown);
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1"]);
}

async fn a_text_that_is_no_cursor_changes_nothing(h: Harness) {
    let q = dead_letters(&h, &["1"]).await;
    let position = h.browse(q.a_dead).await[0].position;
    for text in NO_CURSORS {
        for select in [Select::All, Select::Positions(vec![position])] {
            let cursor = Cursor(text.to_owned());
            let after = Some(cursor.clone());
            let job = Bulk {
                queue: q.a_dead,
                select,
                filter: Filter::default(),
                action: BulkAction::Discard,
                after,
                max: 10,
            };
            assert_eq!(h.engine.bulk(job).await, Err(InvalidCursor::new(&cursor).into()), "{text:?}");
        }
    }
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1"]);
}

async fn an_empty_queue_takes_one_step(h: Harness) {
    let q = h.standard().await;
    for action in [BulkAction::Discard, BulkAction::Redrive(None), BulkAction::Redrive(Some(q.b))] {
        assert_eq!(h.bulk(q.a, Select::All, action).await, Ok(Progress::default()));
    }
}
