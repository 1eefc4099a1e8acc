//! Schedules: the clock publishes, each tick exactly once, whatever crashes and however the clock jumps.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::{BOUND, TestBroker, eventually, ids, subjects, tally};

const EVERY_SECOND: &str = r#"
[queues.ticks]
[queues.work]
[queues.sink]

[[routes]]
from = "tick"
to = ["queue:ticks", "queue:work"]
[[routes]]
from = "done"
to = ["queue:sink"]

[[schedules]]
name = "seconds"
cron = "* * * * * *"
topic = "tick"
body = "done"
missed = "all"

[consumers.script]
queue = "work"
component = "guest:script"
config = { topic = "done" }
"#;

/// The moments of ticks, by the ids of their messages.
fn moments(messages: &[Value]) -> Vec<Timestamp> {
    let moment = |id: &str| id.split_once('/').and_then(|(_, at)| at.parse().ok());
    ids(messages).into_iter().map(|id| moment(id).unwrap_or_else(|| panic!("{id} names no moment"))).collect()
}

#[tokio::test]
async fn each_tick_comes_exactly_once_across_crashes() {
    let mut broker = TestBroker::start(EVERY_SECOND).await;
    for count in [2, 4, 6] {
        eventually(&format!("{count} ticks"), BOUND, async || match broker.depth("ticks").await {
            found if found >= count => Ok(()),
            found => Err(found),
        })
        .await;
        broker.kill_9();
        broker.restart().await;
    }
    broker.rewrite(|toml| toml.replace("* * * * * *", "0 0 0 1 1 *"));
    broker.cli(["reload"]).await.ok();
    broker.holds("work", 0).await;
    let ticks = broker.messages("ticks").await;
    let moments = moments(&ticks);
    let expected: Vec<Timestamp> = (0..moments.len()).map(|n| moments[0] + Duration::from_secs(n as u64)).collect();
    assert_eq!(moments, expected, "one for each second, in order");
    assert_eq!(tally(subjects(&broker.messages("sink").await)), tally(ids(&ticks)), "each is handled once");
    let message = &ticks[0]["message"];
    assert_eq!((&message["data"], &message["type"]), (&json!("done"), &json!("tick")));
    assert_eq!(message["source"], "/pelton/schedules/seconds");
}

/// One schedule a minute for each policy, on queues of their own.
const EVERY_MINUTE: &str = r#"
[queues.once]
[queues.skip]
[queues.all]

[[routes]]
from = "tick.once"
to = ["queue:once"]
[[routes]]
from = "tick.skip"
to = ["queue:skip"]
[[routes]]
from = "tick.all"
to = ["queue:all"]

[[schedules]]
name = "once"
cron = "* * * * *"
topic = "tick.once"
[[schedules]]
name = "skip"
cron = "* * * * *"
topic = "tick.skip"
missed = "skip"
[[schedules]]
name = "all"
cron = "* * * * *"
time-zone = "Asia/Kolkata"
topic = "tick.all"
data = { report = "sales" }
missed = "all"
"#;

const HOUR: Duration = Duration::from_secs(3600);

/// Waits until the last tick of `all` is that of the minute that the broker's clock shows, `ahead` of ours.
async fn caught_up(broker: &TestBroker, ahead: Duration) {
    eventually("the schedules have caught up", BOUND, async || {
        let now = (Timestamp::now() + ahead).as_second() / 60;
        match moments(&broker.messages("all").await).last().map(|last| last.as_second() / 60) {
            Some(last) if last == now => Ok(()),
            last => Err(format!("minute {last:?} of {now}")),
        }
    })
    .await;
}

#[tokio::test]
async fn missed_ticks_are_caught_up_with_as_each_schedule_says() {
    let (mut broker, faults) = TestBroker::start_faulty(EVERY_MINUTE).await;
    broker.sigterm();
    assert_eq!(broker.ended().await.code(), Some(0));
    // So that a minute's turn comes neither now nor at the end of the hour's.
    faults.clock_ahead(HOUR);
    broker.restart().await;
    caught_up(&broker, HOUR).await;
    let all = broker.messages("all").await;
    let found = moments(&all);
    assert!((60..=62).contains(&found.len()), "one for each minute of an hour: {}", found.len());
    assert!(found.windows(2).all(|pair| pair[1].as_second() - pair[0].as_second() == 60), "{found:?}");
    assert_eq!(all[0]["message"]["data"], json!({"report": "sales"}));
    // Of the hour one, or none; and what ticked while this ran. A tick of the last seconds is not missed: both have it.
    let (once, skip) = (broker.messages("once").await.len(), broker.messages("skip").await.len());
    assert!((1..=3).contains(&once) && skip <= once, "{once} once, {skip} skipped");
}

#[tokio::test]
async fn a_clock_that_jumps_repeats_no_tick_and_loses_none() {
    let (mut broker, faults) = TestBroker::start_faulty(EVERY_MINUTE).await;
    faults.clock_ahead(HOUR);
    caught_up(&broker, HOUR).await;
    let first = broker.messages("all").await;
    // Back: every minute that comes now has ticked before.
    faults.clock_ahead(Duration::ZERO);
    broker.kill_9();
    broker.restart().await;
    faults.clock_ahead(2 * HOUR);
    caught_up(&broker, 2 * HOUR).await;
    let found = moments(&broker.messages("all").await);
    assert!(found.len() >= first.len() + 58, "{} after {}", found.len(), first.len());
    assert!(found.windows(2).all(|pair| pair[1].as_second() - pair[0].as_second() == 60), "{found:?}");
}

#[tokio::test]
async fn schedules_are_shown_and_changed_in_place() {
    let broker = TestBroker::start(EVERY_MINUTE).await;
    let shown = broker.get("/v1/schedules").await.ok();
    let names: Vec<&Value> = shown["schedules"].as_array().expect("schedules").iter().map(|one| &one["name"]).collect();
    assert_eq!(names, [&json!("once"), &json!("skip"), &json!("all")], "in the order of the file");
    let all = &shown["schedules"][2];
    assert_eq!((&all["cron"], &all["time_zone"]), (&json!("* * * * *"), &json!("Asia/Kolkata")), "{all}");
    let next: Timestamp = all["next"].as_str().and_then(|next| next.parse().ok()).expect("a moment");
    assert!(next > Timestamp::now() - HOUR && next < Timestamp::now() + 2 * HOUR && next.as_second() % 60 == 0);
    broker.rewrite(|toml| toml.replacen("* * * * *", "0 3 1 1 *", 1));
    broker.cli(["reload"]).await.ok();
    let once = broker.cli(["schedules", "--json"]).await.ok().json_lines().remove(0);
    let next = once["next"].as_str().expect("a moment");
    assert!(once["name"] == "once" && next.ends_with("-01-01T03:00:00.000Z"), "{once}");
}
