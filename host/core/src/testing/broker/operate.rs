//! Pulling, looking and operating through the broker's handle.

use std::time::Duration;

use super::{ONE, Rig, deployment};
use crate::broker::{LeaseWant, PullError, PullOutcome};
use crate::engine::{DeadCode, Leased, Select, SettleError};
use crate::testing::{FakeRuntime, done, reject};

/// A rig whose queue has no consumer that runs: for pulling.
async fn pulled() -> Rig {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done())).await;
    let mut without = deployment(ONE);
    without.components.clear();
    rig.broker.deploy(without).await.expect("a component may be missing");
    rig
}

async fn lease(rig: &Rig, max: usize) -> Vec<Leased> {
    let want = LeaseWant { max, wait: Duration::ZERO, ttl: Duration::from_secs(30) };
    rig.broker.lease("work", want).await.expect("the queue exists")
}

#[tokio::test]
async fn a_pull_consumer_settles_each_lease_by_itself() {
    let rig = pulled().await;
    rig.publish("work.new", &["1", "2", "3", "4"]).await;
    let leased = lease(&rig, 3).await;
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
        let token = lease(&rig, 1).await[0].token;
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
    let leased = lease(&rig, 2).await;
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
    let gone = rig.broker.discard("work.dead", Select::Positions(vec![third]), None, 10).await.expect("it exists");
    assert_eq!(gone.changed, 1);
    rig.deploy(&ONE.replace("worker.wasm", "v2.wasm")).await.expect("the mended version is right");
    let redriven = rig.broker.redrive("work.dead", None, Select::All, None, 10).await.expect("it exists");
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
    let nowhere = rig.broker.redrive("work.dead", Some("wrok"), Select::All, None, 1).await;
    assert!(matches!(nowhere, Err(PullError::UnknownQueue(_))));
}
