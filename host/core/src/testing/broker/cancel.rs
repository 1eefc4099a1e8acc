//! Cancelling what waits for its time, by the handle of its publish.

use std::time::Duration;

use super::{Rig, message};
use crate::broker::{Cancelled, PublishOptions, ScheduledHandle};
use crate::clock::WallMs;
use crate::engine::{EngineError, Position, QueueId};
use crate::testing::FakeRuntime;

const MINUTE: Duration = Duration::from_secs(60);

const TWO: &str = r##"
[queues.first]
[queues.second]

[[routes]]
from = "both"
to = ["queue:first", "queue:second"]

[[routes]]
from = "#"
to = ["queue:first"]
"##;

async fn rig() -> Rig {
    Rig::start(TWO, FakeRuntime::new()).await
}

/// Publishes a message that is due in a minute.
async fn later(rig: &Rig, topic: &str, id: &str) -> ScheduledHandle {
    let options = PublishOptions { due: Some(rig.in_time(MINUTE)), ttl: None };
    let mut published = rig.publish_all(topic, vec![message(id, b"")], options).await.expect("it is routed");
    published.remove(0).scheduled.expect("it waits for its time")
}

#[tokio::test]
async fn a_scheduled_message_is_cancelled_wherever_it_waits() {
    let rig = rig().await;
    later(&rig, "other", "before").await;
    let handle = later(&rig, "both", "1").await;
    later(&rig, "other", "behind").await;
    assert_eq!((handle.due(), handle.targets()), (rig.in_time(MINUTE), 3), "one route to two queues, one to one");
    let handle: ScheduledHandle = handle.to_string().parse().expect("its own text");
    assert_eq!(rig.broker.cancel(&handle).await, Ok(Cancelled { cancelled: 3, of: 3 }));
    rig.clock.advance(MINUTE);
    assert_eq!(rig.ids("first").await, ["before", "behind"]);
    assert_eq!(rig.ids("second").await, [""; 0]);
}

#[tokio::test]
async fn cancelling_again_or_too_late_is_said() {
    let rig = rig().await;
    let handle = later(&rig, "other", "1").await;
    assert!(!rig.broker.cancel(&handle).await.expect("storage works").is_too_late());
    let again = rig.broker.cancel(&handle).await.expect("storage works");
    assert_eq!(again, Cancelled { cancelled: 0, of: 1 });
    assert!(again.is_too_late());
    let handle = later(&rig, "both", "2").await;
    rig.clock.advance(MINUTE);
    assert_eq!(rig.lease("second", 1).await.len(), 1);
    let late = rig.broker.cancel(&handle).await.expect("storage works");
    assert!(late.is_too_late() && late.of == 3, "{late:?}");
    assert_eq!(rig.counts("second"), (0, 1, 0), "what is being handled stays so");
}

#[tokio::test]
async fn a_delayed_retry_is_not_the_scheduled_message() {
    let rig = rig().await;
    let handle = later(&rig, "other", "1").await;
    rig.clock.advance(MINUTE);
    let token = rig.lease("first", 1).await[0].token;
    let retry = crate::broker::PullOutcome::Retry { reason: "busy".into(), after: Some(MINUTE) };
    assert_eq!(rig.broker.settle(vec![(token, retry)]).await, [Ok(())]);
    assert!(rig.broker.cancel(&handle).await.expect("storage works").is_too_late());
    assert_eq!(rig.ids("first").await, ["1"]);
}

#[tokio::test]
async fn a_handle_of_another_store_names_nothing_here() {
    let rig = rig().await;
    later(&rig, "other", "1").await;
    let elsewhere = Rig::start(&TWO.replace("first", "alpha"), FakeRuntime::new()).await;
    elsewhere.clock.advance(Duration::from_millis(1));
    later(&elsewhere, "other", "filler").await;
    let handle = later(&elsewhere, "other", "2").await;
    assert_eq!(rig.broker.cancel(&handle).await, Ok(Cancelled { cancelled: 0, of: 1 }));
    assert_eq!(rig.ids("first").await, ["1"]);
    let nowhere = ScheduledHandle::new(WallMs(7), vec![(QueueId(4711), Position(1))]).expect("it has a place");
    assert_eq!(rig.broker.cancel(&nowhere).await, Ok(Cancelled { cancelled: 0, of: 1 }));
}

#[tokio::test]
async fn a_store_that_fails_says_so() {
    let rig = rig().await;
    let handle = later(&rig, "other", "1").await;
    rig.engine.fail(EngineError::Unavailable);
    assert_eq!(rig.broker.cancel(&handle).await, Err(EngineError::Unavailable));
    rig.engine.recover();
    assert_eq!(rig.broker.cancel(&handle).await, Ok(Cancelled { cancelled: 1, of: 1 }));
}
