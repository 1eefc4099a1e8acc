//! `health` and `close`: what was begun is finished, what comes later is refused as not done.

use std::time::Duration;

use futures_util::poll;

use super::cases;
use super::harness::{Harness, TTL, done, entry, soon, stored_ids, want};
use crate::engine::{
    Browse, Bulk, BulkAction, Definitions, EngineError, Filter, Health, Pausable, Position, RequestError, Select,
    SettleError,
};
use crate::name::ConsumerName;

cases! {
    an_open_store_is_ready;
    a_closed_store_answers_that_it_is_not_available;
    closing_ends_waiting_leases;
    closing_twice_is_fine;
    what_was_submitted_is_finished: Reopen;
}

const WITHIN: Duration = Duration::from_secs(10);

async fn an_open_store_is_ready(h: Harness) {
    assert_eq!(*h.engine.health().borrow(), Health::Ready);
}

async fn a_closed_store_answers_that_it_is_not_available(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take_one(q.a).await;
    h.engine.close(WITHIN).await;
    let not_done = RequestError::Engine(EngineError::Unavailable);
    assert_eq!(h.engine.append(vec![entry(q.a, "3")].into()).await, Err(not_done.clone()));
    assert_eq!(h.engine.lease(want(q.a, 1, TTL)).await.map(|leased| leased.len()), Err(not_done.clone()));
    let page = h.engine.browse(Browse { queue: q.a, after: None, max: 1 }).await;
    assert_eq!(page.map(|page| page.items.len()), Err(not_done.clone()));
    let job = Bulk {
        queue: q.a,
        select: Select::All,
        filter: Filter::default(),
        action: BulkAction::Discard,
        after: None,
        max: 1,
    };
    assert_eq!(h.engine.bulk(job).await, Err(not_done));
    let defined = h.engine.define(Definitions::default()).await;
    assert_eq!(defined.map(|defined| defined.queues), Err(EngineError::Unavailable));
    assert_eq!(h.engine.lost(Vec::new()).await, Err(EngineError::Unavailable));
    for what in [Pausable::Queue(q.a), Pausable::Consumer(ConsumerName::new("c").expect("it is a name"))] {
        assert_eq!(h.engine.pause(what, true).await, Err(EngineError::Unavailable.into()));
    }
    let read = h.engine.read(q.a, Position(1)).await;
    assert_eq!(read.map(|stored| stored.is_some()), Err(EngineError::Unavailable.into()));
    let unavailable = SettleError::Engine(EngineError::Unavailable);
    assert_eq!(h.done(&leased).await, Err(unavailable.clone()));
    assert_eq!(h.engine.extend(vec![(leased.token, TTL)]).await, [Err(unavailable)]);
    h.engine.release(vec![leased.token]).await;
    let _ = h.engine.counts();
}

async fn closing_ends_waiting_leases(h: Harness) {
    let q = h.standard().await;
    let mut waiting = h.engine.lease(want(q.a, 1, Duration::from_secs(3600)));
    assert!(poll!(&mut waiting).is_pending(), "there is nothing to lease");
    let (closed, leased) = soon("the wait ends", async { tokio::join!(h.engine.close(WITHIN), waiting) }).await;
    assert_eq!((closed, leased.map_or(0, |leased| leased.len())), ((), 0), "with an error or with nothing");
}

async fn closing_twice_is_fine(h: Harness) {
    h.standard().await;
    h.engine.close(WITHIN).await;
    h.engine.close(WITHIN).await;
}

async fn what_was_submitted_is_finished(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2"]).await;
    let leased = h.take_one(q.a).await;
    drop(h.engine.settle(vec![done(&leased, vec![entry(q.b, "3")])]));
    h.engine.close(WITHIN).await;
    let h = h.reopened().await;
    let q = h.standard().await;
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2"]);
    assert_eq!(stored_ids(&h.browse(q.b).await), ["3"]);
}
