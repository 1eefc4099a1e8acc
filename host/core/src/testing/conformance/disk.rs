//! A disk that is too full: nothing new is taken, and all else goes on.

use std::time::Duration;

use super::harness::{BACKOFF, Harness, Queues, TTL, done, entry, queue, stored_ids};
use super::{cases, eventually};
use crate::engine::{BulkAction, Definitions, Health, RequestError};

cases! {
    a_disk_below_the_floor_takes_nothing;
    what_is_there_is_handled_on_a_full_disk: Effects;
    nothing_is_remembered_of_what_a_full_disk_refused: Dedup;
    a_lower_floor_makes_room;
}

/// Within this an engine knows how much room there is.
const NOTICED: Duration = Duration::from_secs(1);

/// Defines the standard queues with this floor of free bytes, and waits until the health follows.
async fn floor(h: &Harness, free_bytes_min: u64) {
    let queues =
        vec![queue("a", Some("a.dead")), queue("a.dead", None), queue("b", Some("b.dead")), queue("b.dead", None)];
    let definitions = Definitions { queues, free_bytes_min, ..Definitions::default() };
    h.engine.define(definitions).await.expect("`define` works");
    h.advance(NOTICED);
    let expected = if free_bytes_min == 0 { Health::Ready } else { Health::Full };
    eventually("the health follows the disk", async || *h.engine.health().borrow() == expected).await;
}

/// Standard queues on a disk that is full, and a message in `a`.
async fn full(h: &Harness) -> Queues {
    let q = h.standard().await;
    h.append(q.a, &["1"]).await;
    floor(h, u64::MAX).await;
    q
}

async fn a_disk_below_the_floor_takes_nothing(h: Harness) {
    let q = full(&h).await;
    for entries in [vec![entry(q.a, "2")], vec![entry(q.b, "3"), entry(q.a, "4")]] {
        assert_eq!(h.engine.append(entries.into()).await, Err(RequestError::DiskFull));
    }
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1"]);
    assert_eq!(stored_ids(&h.browse(q.b).await), [""; 0]);
}

async fn what_is_there_is_handled_on_a_full_disk(h: Harness) {
    let q = full(&h).await;
    h.again(&h.take_one(q.a).await).await;
    h.advance(BACKOFF);
    let leased = h.take_one(q.a).await;
    assert_eq!(leased.attempt(), 2, "it was tried again");
    assert_eq!(h.settle(done(&leased, vec![entry(q.b, "emitted")])).await, Ok(()));
    h.dead(&h.take_one(q.b).await).await;
    assert_eq!(h.bulk_by(q.b_dead, BulkAction::Redrive(Some(q.a)), 10).await.changed, 1);
    h.take_one(q.a).await;
    h.advance(TTL);
    assert_eq!(h.take_one(q.a).await.attempt(), 2, "its lease ran out");
}

async fn nothing_is_remembered_of_what_a_full_disk_refused(h: Harness) {
    let q = full(&h).await;
    let append = super::dedup::append_one(q.a, "2");
    assert_eq!(h.engine.append(append).await, Err(RequestError::DiskFull));
    floor(&h, 0).await;
    assert!(super::dedup::is_new(&h, q.a, "2").await);
    floor(&h, u64::MAX).await;
    let double = super::dedup::append_one(q.a, "2");
    assert_eq!(h.engine.append(double).await, Err(RequestError::DiskFull), "a double too");
}

async fn a_lower_floor_makes_room(h: Harness) {
    let q = full(&h).await;
    floor(&h, 0).await;
    h.append(q.a, &["2"]).await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["1", "2"]);
}
