//! Schedules: each tick is stored once, together with its messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::bounds::at_most;
use super::cases;
use super::harness::{Harness, entry, queue, soon, stored_ids, topic};
use super::made::MS;
use crate::clock::{Clock as _, WallMs};
use crate::engine::{Append, Definitions, Identity, NewEntry, Overflow, QueueDefinition, QueueId, RequestError, Tick};
use crate::name::ScheduleName;

cases! {
    a_new_schedule_ticked_just_now: Schedules;
    a_tick_is_remembered: Schedules;
    a_tick_is_stored_once: Schedules;
    an_earlier_tick_is_refused: Schedules;
    a_tick_from_before_its_schedule_is_refused: Schedules;
    a_tick_may_be_late: Schedules;
    a_tick_without_messages_counts: Schedules;
    each_schedule_ticks_by_itself: Schedules;
    of_one_tick_at_the_same_time_one_is_stored: Schedules;
    an_append_that_is_refused_does_not_tick: Schedules;
    a_full_queue_does_not_tick: Schedules, Bounds;
    a_refused_tick_leaves_no_identity: Schedules, Dedup;
    defining_again_changes_no_tick: Schedules;
    a_schedule_left_out_is_forgotten: Schedules;
    ticks_are_known_after_a_restart: Schedules, Reopen;
    a_tick_and_its_messages_survive_together: Schedules, Reopen;
}

const PERIOD: Duration = Duration::from_secs(3600);

fn schedule(name: &str) -> ScheduleName {
    ScheduleName::new(name).expect("cases use valid names")
}

/// Defines `a` and these schedules; the queue's id and the last ticks.
async fn define_with(h: &Harness, a: QueueDefinition, schedules: &[&str]) -> (QueueId, BTreeMap<ScheduleName, WallMs>) {
    let schedules = schedules.iter().map(|name| schedule(name)).collect();
    let definitions = Definitions { queues: vec![a], schedules, ..Definitions::default() };
    let defined = h.engine.define(definitions).await.expect("`define` works");
    (defined.queues[&super::harness::queue_name("a")], defined.ticks)
}

async fn define(h: &Harness, schedules: &[&str]) -> (QueueId, BTreeMap<ScheduleName, WallMs>) {
    define_with(h, queue("a", None), schedules).await
}

/// The last tick of `name`, as `define` tells it.
async fn last(h: &Harness, name: &str) -> Option<WallMs> {
    define(h, &["s", "t"]).await.1.get(&schedule(name)).copied()
}

/// Stores the tick of `name` at `at` with these messages.
async fn tick(h: &Harness, name: &str, at: WallMs, entries: Vec<NewEntry>) -> Result<(), RequestError> {
    let tick = Some(Tick { schedule: schedule(name), at });
    h.engine.append(Append { entries, tick, ..Append::default() }).await.map(drop)
}

async fn a_new_schedule_ticked_just_now(h: Harness) {
    let (_, ticks) = define(&h, &["s", "t"]).await;
    let now = h.clock.wall();
    assert_eq!(ticks, BTreeMap::from([(schedule("s"), now), (schedule("t"), now)]));
}

async fn a_tick_is_remembered(h: Harness) {
    let (a, _) = define(&h, &["s", "t"]).await;
    let at = h.after(PERIOD);
    h.advance(PERIOD);
    assert_eq!(tick(&h, "s", at, vec![entry(a, "1"), entry(a, "2")]).await, Ok(()));
    assert_eq!(stored_ids(&h.browse(a).await), ["1", "2"]);
    h.advance(PERIOD / 2);
    assert_eq!(last(&h, "s").await, Some(at), "when it was to be, not when it was carried out");
}

async fn a_tick_is_stored_once(h: Harness) {
    let (a, _) = define(&h, &["s", "t"]).await;
    let at = h.after(PERIOD);
    assert_eq!(tick(&h, "s", at, vec![entry(a, "1")]).await, Ok(()));
    assert_eq!(tick(&h, "s", at, vec![entry(a, "2")]).await, Err(RequestError::Ticked(at)));
    assert_eq!(stored_ids(&h.browse(a).await), ["1"], "nothing was done");
    let next = h.after(PERIOD * 2);
    assert_eq!(tick(&h, "s", next, vec![entry(a, "3")]).await, Ok(()));
    assert_eq!(stored_ids(&h.browse(a).await), ["1", "3"]);
}

async fn an_earlier_tick_is_refused(h: Harness) {
    let (a, _) = define(&h, &["s", "t"]).await;
    let at = h.after(PERIOD * 2);
    assert_eq!(tick(&h, "s", at, vec![entry(a, "1")]).await, Ok(()));
    for earlier in [h.after(PERIOD), WallMs(at.0 - 1)] {
        assert_eq!(tick(&h, "s", earlier, vec![entry(a, "2")]).await, Err(RequestError::Ticked(at)));
    }
    assert_eq!(stored_ids(&h.browse(a).await), ["1"]);
    assert_eq!(last(&h, "s").await, Some(at));
}

async fn a_tick_from_before_its_schedule_is_refused(h: Harness) {
    let (a, ticks) = define(&h, &["s", "t"]).await;
    let defined = ticks[&schedule("s")];
    for early in [defined, WallMs(defined.0 - 1)] {
        assert_eq!(tick(&h, "s", early, vec![entry(a, "1")]).await, Err(RequestError::Ticked(defined)));
    }
    assert_eq!(tick(&h, "s", defined.plus(MS), vec![entry(a, "1")]).await, Ok(()));
}

async fn a_tick_may_be_late(h: Harness) {
    let (a, _) = define(&h, &["s", "t"]).await;
    let missed = [h.after(PERIOD), h.after(PERIOD * 2), h.after(PERIOD * 3)];
    h.advance(PERIOD * 10);
    for (at, id) in missed.into_iter().zip(["1", "2", "3"]) {
        assert_eq!(tick(&h, "s", at, vec![entry(a, id)]).await, Ok(()));
    }
    assert_eq!(stored_ids(&h.browse(a).await), ["1", "2", "3"]);
    assert_eq!(h.browse(a).await[0].accepted, h.clock.wall(), "it was accepted when it was carried out");
}

async fn a_tick_without_messages_counts(h: Harness) {
    define(&h, &["s", "t"]).await;
    let at = h.after(PERIOD);
    assert_eq!(tick(&h, "s", at, Vec::new()).await, Ok(()), "its message may have been filtered out");
    assert_eq!(tick(&h, "s", at, Vec::new()).await, Err(RequestError::Ticked(at)));
    assert_eq!(last(&h, "s").await, Some(at));
}

async fn each_schedule_ticks_by_itself(h: Harness) {
    let (a, ticks) = define(&h, &["s", "t"]).await;
    let at = h.after(PERIOD);
    assert_eq!(tick(&h, "s", at, vec![entry(a, "1")]).await, Ok(()));
    assert_eq!(last(&h, "t").await, ticks.get(&schedule("t")).copied());
    assert_eq!(tick(&h, "t", at, vec![entry(a, "2")]).await, Ok(()));
    assert_eq!(stored_ids(&h.browse(a).await), ["1", "2"]);
}

async fn of_one_tick_at_the_same_time_one_is_stored(h: Harness) {
    const SUBMITTERS: usize = 8;
    let (a, _) = define(&h, &["s", "t"]).await;
    for round in 1..=5 {
        let tick = Tick { schedule: schedule("s"), at: h.after(PERIOD * round) };
        let submitters: Vec<_> = (0..SUBMITTERS)
            .map(|_| {
                let (engine, tick) = (Arc::clone(&h.engine), Some(tick.clone()));
                let append = Append { entries: vec![entry(a, "1")], tick, ..Append::default() };
                tokio::spawn(async move { engine.append(append).await })
            })
            .collect();
        let mut stored = 0;
        for submitter in submitters {
            match soon("it is answered", submitter).await.expect("the submitter did not panic") {
                Ok(_) => stored += 1,
                Err(refused) => assert_eq!(refused, RequestError::Ticked(tick.at)),
            }
        }
        assert_eq!(stored, 1, "in round {round}");
    }
    h.settles_at(a, (5, 0, 0)).await;
}

async fn an_append_that_is_refused_does_not_tick(h: Harness) {
    let nowhere = QueueId(4_000_000);
    let (a, ticks) = define(&h, &["s", "t"]).await;
    let at = h.after(PERIOD);
    let refused = tick(&h, "s", at, vec![entry(a, "1"), entry(nowhere, "1")]).await;
    assert_eq!(refused, Err(RequestError::UnknownQueue(nowhere)));
    assert_eq!(last(&h, "s").await, ticks.get(&schedule("s")).copied());
    assert_eq!(tick(&h, "s", at, vec![entry(a, "1")]).await, Ok(()));
}

async fn a_full_queue_does_not_tick(h: Harness) {
    let bounded = QueueDefinition { bounds: at_most(1, Overflow::Refuse), ..queue("a", None) };
    let (a, ticks) = define_with(&h, bounded, &["s", "t"]).await;
    h.append(a, &["x"]).await;
    let at = h.after(PERIOD);
    assert_eq!(tick(&h, "s", at, vec![entry(a, "1")]).await, Err(RequestError::QueueFull(a)));
    assert_eq!(last(&h, "s").await, ticks.get(&schedule("s")).copied());
    h.done(&h.take_one(a).await).await.expect("it is leased");
    assert_eq!(tick(&h, "s", at, vec![entry(a, "1")]).await, Ok(()), "it can be made up for");
}

async fn a_refused_tick_leaves_no_identity(h: Harness) {
    let (a, ticks) = define(&h, &["s", "t"]).await;
    let entries = vec![entry(a, "1")];
    let message = entries[0].message.clone();
    let identity = Identity { entries: 0..1, topic: topic(), message, window: PERIOD };
    let tick = Some(Tick { schedule: schedule("s"), at: ticks[&schedule("s")] });
    let mut append = Append { entries, identities: vec![identity], tick };
    assert_eq!(h.engine.append(append.clone()).await, Err(RequestError::Ticked(ticks[&schedule("s")])));
    append.tick = None;
    let appended = h.engine.append(append).await.expect("`append` works");
    assert_eq!(appended.duplicates, []);
}

async fn defining_again_changes_no_tick(h: Harness) {
    let (_, ticks) = define(&h, &["s", "t"]).await;
    h.advance(PERIOD);
    assert_eq!(define(&h, &["s", "t"]).await.1, ticks);
}

async fn a_schedule_left_out_is_forgotten(h: Harness) {
    let (a, _) = define(&h, &["s", "t"]).await;
    assert_eq!(tick(&h, "s", h.after(PERIOD * 100), vec![entry(a, "1")]).await, Ok(()));
    let kept = last(&h, "t").await;
    h.advance(PERIOD);
    let (_, ticks) = define(&h, &["t"]).await;
    assert_eq!(ticks.into_iter().collect::<Vec<_>>(), [(schedule("t"), kept.expect("it is defined"))]);
    let late = tick(&h, "s", h.after(PERIOD * 200), vec![entry(a, "gone")]).await;
    assert!(matches!(late, Err(RequestError::Ticked(_))), "it is not defined any more: {late:?}");
    h.advance(PERIOD);
    assert_eq!(last(&h, "s").await, Some(h.clock.wall()), "it is new");
    assert_eq!(tick(&h, "s", h.after(PERIOD), vec![entry(a, "2")]).await, Ok(()));
}

async fn ticks_are_known_after_a_restart(h: Harness) {
    let (a, ticks) = define(&h, &["s", "t"]).await;
    let at = h.after(PERIOD);
    assert_eq!(tick(&h, "s", at, vec![entry(a, "1")]).await, Ok(()));
    h.advance(PERIOD * 10);
    let h = h.reopened().await;
    assert_eq!(last(&h, "s").await, Some(at));
    assert_eq!(last(&h, "t").await, ticks.get(&schedule("t")).copied(), "it is not new");
    assert_eq!(tick(&h, "s", at, vec![entry(a, "2")]).await, Err(RequestError::Ticked(at)));
}

async fn a_tick_and_its_messages_survive_together(h: Harness) {
    let mut h = h;
    let (mut a, _) = define(&h, &["s", "t"]).await;
    for round in 1..=3_u32 {
        let at = h.after(PERIOD);
        assert_eq!(tick(&h, "s", at, vec![entry(a, &round.to_string())]).await, Ok(()));
        h.advance(PERIOD * 2);
        h = h.reopened().await;
        (a, _) = define(&h, &["s", "t"]).await;
        assert_eq!((last(&h, "s").await, h.browse(a).await.len()), (Some(at), round as usize));
    }
}
