//! Pulling, looking and operating through the broker's handle.

use std::time::Duration;

use super::{ONE, Rig, deployment};
use crate::broker::{LeaseWant, PullError, PullOutcome};
use crate::engine::{Cursor, DeadCode, Filter, Position, Select, SettleError};
use crate::testing::{FakeRuntime, done, reject};

/// A rig whose queue has no consumer that runs: for pulling.
async fn pulled() -> Rig {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done())).await;
    let mut without = deployment(ONE);
    without.components.clear();
    rig.broker.deploy(without).await.expect("a component may be missing");
    rig
}

#[tokio::test]
async fn a_pull_consumer_settles_each_lease_by_itself() {
    let rig = pulled().await;
    rig.publish("work.new", &["1", "2", "3", "4"]).await;
    let leased = rig.lease("work", 3).await;
    let token = |at: usize| leased[at].token;
    let results = rig
        .broker
        .settle(vec![
            (token(0), PullOutcome::Ack),
            (token(1), PullOutcome::Retry { reason: "busy".into(), after: Some(Duration::from_secs(9)) }),
            (token(2), PullOutcome::Reject { reason: "not mine".into() }),
            (token(0), PullOutcome::Ack),
        ])
        .await;
    assert_eq!(results, [Ok(()), Ok(()), Ok(()), Err(SettleError::AlreadySettled)]);
    assert_eq!(rig.ids("work").await, ["4", "2"]);
    let retried = rig.browse("work").await.remove(1);
    assert_eq!((retried.attempts, retried.due), (1, Some(rig.clock.now().wall.plus(Duration::from_secs(9)))));
    assert_eq!((retried.history[0].outcome.as_str(), retried.history[0].reason.as_str()), ("retry", "busy"));
    let dead = rig.browse("work.dead").await.remove(0);
    assert_eq!(dead.dead.map(|dead| dead.reason.code), Some(DeadCode::Rejected));
    assert_eq!((dead.history[0].outcome.as_str(), dead.history[0].digest.as_ref()), ("reject", None));
}

#[tokio::test]
async fn retries_of_a_pull_consumer_are_counted_out() {
    let rig = pulled().await;
    rig.publish("work.new", &["1"]).await;
    for _ in 0..3 {
        let token = rig.lease("work", 1).await[0].token;
        let retry = PullOutcome::Retry { reason: "busy".into(), after: None };
        assert_eq!(rig.broker.settle(vec![(token, retry)]).await, [Ok(())]);
        rig.clock.advance(Duration::from_secs(60));
    }
    let dead = rig.browse("work.dead").await.remove(0);
    assert_eq!(dead.dead.map(|dead| dead.reason.code), Some(DeadCode::MaxAttempts));
    assert_eq!(dead.history.len(), 3);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_lost_unless_extended() {
    let rig = pulled().await;
    rig.publish("work.new", &["1", "2"]).await;
    let leased = rig.lease("work", 2).await;
    rig.clock.advance(Duration::from_secs(29));
    assert_eq!(rig.broker.extend(vec![(leased[0].token, Duration::from_secs(30))]).await, [Ok(())]);
    rig.clock.advance(Duration::from_secs(1));
    let settlements = leased.iter().map(|leased| (leased.token, PullOutcome::Ack)).collect();
    assert_eq!(rig.broker.settle(settlements).await, [Ok(()), Err(SettleError::LeaseLost)]);
    assert_eq!(rig.browse("work").await[0].history[0].outcome, "lease-expired");
}

#[tokio::test]
async fn dead_letters_come_back_by_redrive() {
    let runtime = FakeRuntime::new().handler("worker", |_| reject("closed")).handler("v2", |_| done());
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["1", "2", "3"]).await;
    rig.until("work.dead", (3, 0, 0)).await;
    let status = rig.broker.queue("work").expect("it exists");
    assert_eq!((status.dead_letter.map(|name| name.to_string()), status.dead), (Some("work.dead".into()), 3));
    assert_eq!(rig.broker.dead_letter_queue("work").expect("it exists").as_str(), "work.dead");
    assert_eq!(rig.broker.dead_letter_queue("work.dead").expect("it exists").as_str(), "work.dead");
    let third = rig.browse("work.dead").await[2].position;
    let gone = rig
        .broker
        .discard("work.dead", Select::Positions(vec![third]), Filter::default(), None, 10)
        .await
        .expect("it exists");
    assert_eq!(gone.changed, 1);
    rig.deploy(&ONE.replace("worker.wasm", "v2.wasm")).await.expect("the mended version is right");
    let redriven =
        rig.broker.redrive("work.dead", None, Select::All, Filter::default(), None, 10).await.expect("it exists");
    assert_eq!((redriven.changed, redriven.skipped), (2, 0));
    rig.until("work", (0, 0, 0)).await;
    rig.until("work.dead", (0, 0, 0)).await;
    let handled = rig.seen().iter().filter(|line| line.ends_with("#1 done -> done, 0 emitted")).count();
    assert_eq!(handled, 2, "{:?}", rig.seen());
}

#[tokio::test]
async fn an_unknown_queue_is_named_with_the_one_that_was_meant() {
    let rig = pulled().await;
    let error = rig.broker.queue("wrok").expect_err("it is misspelt");
    assert_eq!(error.to_string(), "there is no queue 'wrok'; did you mean 'work'?");
    let want = LeaseWant { max: 1, wait: Duration::ZERO, ttl: Duration::from_secs(1) };
    assert!(matches!(rig.broker.lease("nothing-like-it", want).await, Err(PullError::UnknownQueue(_))));
    assert!(matches!(rig.broker.browse("a/b", None, 1).await, Err(PullError::UnknownQueue(_))));
    let nowhere = rig.broker.redrive("work.dead", Some("wrok"), Select::All, Filter::default(), None, 1).await;
    assert!(matches!(nowhere, Err(PullError::UnknownQueue(_))));
}

#[tokio::test]
async fn a_dead_letter_is_found_by_its_position() {
    let rig = pulled().await;
    rig.publish("work.new", &["1", "2"]).await;
    let leased = rig.lease("work", 1).await;
    let reject = PullOutcome::Reject { reason: "no".into() };
    assert_eq!(rig.broker.settle(vec![(leased[0].token, reject)]).await, [Ok(())]);
    let at = rig.browse("work.dead").await[0].position;
    for queue in ["work", "work.dead"] {
        let found = rig.broker.dead_letter(queue, at).await.expect("it exists").expect("it is dead");
        assert_eq!((found.message.id(), found.history.len()), ("1", 1));
    }
    let nobody = rig.broker.dead_letter("work", Position(at.0 + 1)).await.expect("it exists");
    assert!(nobody.is_none(), "{nobody:?}");
    assert!(rig.broker.dead_letter("nowhere", at).await.is_err());
}

#[tokio::test]
async fn only_dead_letters_that_pass_the_filter_are_redriven_or_discarded() {
    let rig = pulled().await;
    rig.publish("work.new", &["1", "2"]).await;
    rig.publish("work.old", &["3", "4"]).await;
    for leased in rig.lease("work", 4).await {
        let reject = PullOutcome::Reject { reason: "no".into() };
        assert_eq!(rig.broker.settle(vec![(leased.token, reject)]).await, [Ok(())]);
        rig.clock.advance(Duration::from_secs(1));
    }
    let of_topic = |topic: &str| Filter { attributes: vec![("topic".into(), topic.into())], ..Filter::default() };
    let none: Option<Cursor> = None;
    let done = rig.broker.redrive("work.dead", None, Select::All, of_topic("work.old"), none.clone(), 10).await;
    assert_eq!(done.expect("it exists").changed, 2);
    assert_eq!(rig.ids("work").await, ["3", "4"]);
    let since = rig.browse("work.dead").await[1].dead.as_ref().map(|dead| dead.at);
    let younger = Filter { reason: Some(DeadCode::Rejected), died_from: since, ..Filter::default() };
    let done = rig.broker.discard("work.dead", Select::All, younger, none.clone(), 10).await;
    assert_eq!(done.expect("it exists").changed, 1);
    assert_eq!(rig.ids("work.dead").await, ["1"]);
    let done = rig.broker.discard("work", Select::All, Filter::default(), none, 10).await;
    assert_eq!(done.expect("it exists").changed, 2, "a purge");
}

#[tokio::test]
async fn who_hung_up_gives_back_what_it_did_not_get() {
    let rig = pulled().await;
    rig.publish("work.new", &["1", "2"]).await;
    let leased = rig.lease("work", 2).await;
    rig.broker.release(leased.iter().map(|leased| leased.token).collect()).await;
    rig.broker.release(Vec::new()).await;
    let again = rig.lease("work", 2).await;
    assert_eq!(again.iter().map(|leased| leased.attempt()).collect::<Vec<_>>(), [1, 1], "it counts for nothing");
}

#[tokio::test]
async fn a_queue_that_is_no_longer_declared_keeps_its_rule_for_retries() {
    let mut rig = pulled().await;
    rig.publish("work.new", &["1"]).await;
    rig.deploy("").await.expect("an empty plan is one");
    for wait in [1000, 2000] {
        let token = rig.lease("work", 1).await[0].token;
        let retry = PullOutcome::Retry { reason: "busy".into(), after: None };
        assert_eq!(rig.broker.settle(vec![(token, retry)]).await, [Ok(())]);
        assert_eq!(rig.browse("work").await[0].due, Some(rig.in_time(Duration::from_millis(wait))), "without jitter");
        rig.clock.advance(Duration::from_millis(wait));
        // From the second attempt on in a process that never saw the queue declared: the rule is the store's to keep.
        rig = Rig::start_on(rig.engine.crash(), rig.clock.clone(), "", FakeRuntime::new()).await;
    }
    let token = rig.lease("work", 1).await[0].token;
    let retry = PullOutcome::Retry { reason: "busy".into(), after: None };
    assert_eq!(rig.broker.settle(vec![(token, retry)]).await, [Ok(())]);
    let dead = rig.browse("work.dead").await.remove(0);
    assert_eq!(dead.dead.map(|dead| dead.reason.detail), Some("attempt 3 of 3 ended with retry: busy".into()));
}
