//! Schedules: each tick is published once, whatever is restarted, reloaded or full, and whatever the clock does.

use std::time::Duration;

use super::{FakeRuntime, GRACE, Rig};
use crate::broker::PullOutcome;
use crate::clock::WallMs;
use crate::engine::{Append, Engine as _, EngineError, Tick};
use crate::name::ScheduleName;
use crate::testing::conformance::eventually;

const HOUR: Duration = Duration::from_secs(60 * 60);
const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the pause after a tick that could not be stored.
const PAUSE: Duration = Duration::from_secs(1);

/// A queue for `work.#`, another one for everything else, and a schedule to the first that has these lines more.
fn hourly(queue: &str, schedule: &str) -> String {
    format!(
        r#"
[queues.work]
{queue}
[queues.others]
[[routes]]
from = "work.#"
to = ["queue:work"]
[[routes]]
from = "others.#"
to = ["queue:others"]
[[schedules]]
name = "hourly"
cron = "0 * * * *"
topic = "work.tick"
{schedule}
"#
    )
}

/// A schedule that is tried whenever `hourly` is, just after it: what it has published, that one has tried.
const WITNESS: &str =
    "[[schedules]]\nname = \"witness\"\ncron = \"0 * * * *\"\ntopic = \"others.tick\"\nmissed = \"all\"";

/// The id of the tick of `schedule` so many minutes after the test clock's start.
fn id(schedule: &str, minutes: u32) -> String {
    format!("{schedule}/2026-01-01T{:02}:{:02}:00Z", minutes / 60, minutes % 60)
}

impl Rig {
    /// Waits until `queue` has the ticks of `schedule` at these minutes after the start, in this order, and nothing else.
    async fn until_ticks(&self, queue: &str, schedule: &str, minutes: &[u32]) {
        let expected: Vec<_> = minutes.iter().map(|minutes| id(schedule, *minutes)).collect();
        let what = format!("'{queue}' has {expected:?}");
        eventually(&what, async || self.ids(queue).await == expected).await;
    }

    /// The same store under a new broker, as a crash leaves it.
    async fn restart(self, config: &str) -> Self {
        self.broker.stop(GRACE).await;
        Self::start_on(self.engine.crash(), self.clock.clone(), config, self.runtime.clone()).await
    }

    async fn settle_all(&self, queue: &str) {
        let settle = self.lease(queue, 100).await.into_iter().map(|leased| (leased.token, PullOutcome::Ack)).collect();
        assert!(self.broker.settle(settle).await.iter().all(Result::is_ok));
    }
}

async fn start(config: &str) -> Rig {
    Rig::start(config, FakeRuntime::new()).await
}

#[tokio::test]
async fn a_tick_is_published_when_it_comes() {
    let rig = start(&hourly("", "type = \"tick\"\ndata = { n = 1 }")).await;
    rig.clock.advance(HOUR);
    rig.until_ticks("work", "hourly", &[60]).await;
    let stored = rig.browse("work").await;
    let message = &stored[0].message;
    assert_eq!((message.source(), message.kind()), ("/pelton/schedules/hourly", "tick"));
    assert_eq!(message.time(), Some("2026-01-01T01:00:00Z"));
    assert_eq!((message.content_type(), message.data()), (Some("application/json"), br#"{"n":1}"#.as_slice()));
    assert_eq!((stored[0].topic.as_str(), stored[0].accepted), ("work.tick", rig.clock.now().wall));
    rig.clock.advance(HOUR);
    rig.until_ticks("work", "hourly", &[60, 120]).await;
    assert_eq!(rig.metric("pelton_schedule_ticks_total", "hourly"), 2.0);
    assert_eq!(rig.metric("pelton_schedule_ticks_missed_total", "hourly"), 0.0);
}

#[tokio::test]
async fn every_second_is_another_tick() {
    let rig = start(&hourly("", "").replace("0 * * * *", "* * * * * *")).await;
    for second in 1..=5 {
        rig.clock.advance(Duration::from_secs(1));
        rig.until("work", (second, 0, 0)).await;
    }
    assert_eq!(rig.ids("work").await[4], "hourly/2026-01-01T00:00:05Z");
}

#[tokio::test]
async fn a_tick_is_published_once_over_restarts() {
    let config = hourly("", "missed = \"all\"");
    let mut rig = start(&config).await;
    let mut expected = Vec::new();
    for hour in 1..=4 {
        rig.clock.advance(HOUR);
        expected.push(hour * 60);
        rig.until_ticks("work", "hourly", &expected).await;
        rig = rig.restart(&config).await;
    }
    rig.clock.advance(HOUR);
    expected.push(5 * 60);
    rig.until_ticks("work", "hourly", &expected).await;
}

#[tokio::test]
async fn a_tick_that_was_stored_before_is_passed_over() {
    let rig = start(&hourly("", &format!("body = \"x\"\n{WITNESS}"))).await;
    let at = rig.clock.now().wall.plus(HOUR);
    let tick = Some(Tick { schedule: ScheduleName::new("hourly").expect("a name"), at });
    rig.engine.append(Append { tick, ..Append::default() }).await.expect("it is the first");
    rig.clock.advance(HOUR);
    rig.until_ticks("others", "witness", &[60]).await;
    rig.clock.advance(HOUR);
    rig.until_ticks("work", "hourly", &[120]).await;
    rig.clock.advance(HOUR);
    rig.until_ticks("work", "hourly", &[120, 180]).await;
    assert_eq!(rig.metric("pelton_schedule_ticks_total", "hourly"), 2.0, "the first was another's");
}

#[tokio::test]
async fn what_was_missed_is_made_up_for_as_the_schedule_says() {
    for (missed, ticks, passed_over) in
        [("once", &[180, 240][..], 2.0), ("skip", &[240], 3.0), ("all", &[60, 120, 180, 240], 0.0)]
    {
        let config = hourly("", &format!("missed = \"{missed}\""));
        let rig = start(&config).await;
        rig.broker.stop(GRACE).await;
        rig.clock.advance(3 * HOUR + 30 * MINUTE);
        let rig = rig.restart(&config).await;
        let told = async || rig.metric("pelton_schedule_ticks_missed_total", "hourly") == passed_over;
        eventually("what was missed is counted", told).await;
        let published = &ticks[..ticks.len() - 1];
        rig.until_ticks("work", "hourly", published).await;
        // What was passed over is passed over for good.
        let all = hourly("", "missed = \"all\"");
        let rig = rig.restart(&all).await;
        rig.clock.advance(30 * MINUTE);
        rig.until_ticks("work", "hourly", ticks).await;
    }
}

#[tokio::test]
async fn a_full_queue_loses_no_tick() {
    let rig = start(&hourly("max-messages = 1", &format!("body = \"x\"\n{WITNESS}"))).await;
    rig.publish("work.new", &["1"]).await;
    rig.clock.advance(HOUR);
    rig.until_ticks("others", "witness", &[60]).await;
    rig.clock.advance(HOUR);
    rig.until_ticks("others", "witness", &[60, 120]).await;
    assert_eq!(rig.ids("work").await, ["1"], "both were refused");
    rig.settle_all("work").await;
    rig.clock.advance(PAUSE);
    rig.until_ticks("work", "hourly", &[60]).await;
    rig.settle_all("work").await;
    rig.clock.advance(PAUSE);
    rig.until_ticks("work", "hourly", &[120]).await;
    assert_eq!(rig.metric("pelton_schedule_ticks_total", "hourly"), 2.0);
}

#[tokio::test]
async fn a_store_that_fails_loses_no_tick() {
    let rig = start(&hourly("", "")).await;
    let mut expected = Vec::new();
    for (hour, error) in [(1, EngineError::Unavailable), (2, EngineError::Unknown)] {
        rig.engine.fail(error);
        rig.clock.advance(HOUR);
        rig.engine.recover();
        rig.clock.advance(PAUSE);
        expected.push(hour * 60);
        rig.until_ticks("work", "hourly", &expected).await;
    }
    rig.engine.fill(true);
    rig.clock.advance(HOUR);
    rig.engine.fill(false);
    rig.clock.advance(PAUSE);
    expected.push(180);
    rig.until_ticks("work", "hourly", &expected).await;
}

#[tokio::test]
async fn a_schedule_that_is_new_begins_when_it_is_deployed() {
    let before = hourly("", "");
    let rig = start(&before).await;
    rig.clock.advance(HOUR);
    rig.until_ticks("work", "hourly", &[60]).await;
    rig.deploy(&format!("{before}{WITNESS}")).await.expect("it is right");
    rig.clock.advance(HOUR);
    rig.until_ticks("work", "hourly", &[60, 120]).await;
    rig.until_ticks("others", "witness", &[120]).await;
}

#[tokio::test]
async fn a_schedule_that_was_gone_begins_anew() {
    let with = hourly("", "missed = \"all\"");
    let without = format!("{}{WITNESS}", with.split("[[schedules]]").next().expect("it has some"));
    let rig = start(&with).await;
    rig.deploy(&without).await.expect("it is right");
    rig.clock.advance(HOUR);
    rig.until_ticks("others", "witness", &[60]).await;
    assert_eq!(rig.ids("work").await, [""; 0]);
    rig.deploy(&with).await.expect("it is right");
    rig.clock.advance(HOUR);
    rig.until_ticks("work", "hourly", &[120]).await;
}

#[tokio::test]
async fn times_that_changed_hold_from_then_on() {
    let config = hourly("", "missed = \"all\"");
    let rig = start(&config).await;
    rig.clock.advance(40 * MINUTE);
    rig.deploy(&config.replace("0 * * * *", "*/10 * * * *")).await.expect("it is right");
    rig.clock.advance(10 * MINUTE);
    rig.until_ticks("work", "hourly", &[50]).await;
    rig.deploy(&config.replace("0 * * * *", "*/10 * * * *").replace("work.tick", "others.tick"))
        .await
        .expect("it is right");
    rig.clock.advance(10 * MINUTE);
    rig.until_ticks("others", "hourly", &[60]).await;
    rig.until_ticks("work", "hourly", &[50]).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_repeats_nothing() {
    let rig = start(&hourly("", "missed = \"all\"")).await;
    rig.clock.advance(HOUR);
    rig.until_ticks("work", "hourly", &[60]).await;
    rig.clock.step_wall_back(90 * MINUTE);
    // It is 23:30 of the day before. A new schedule ticks at midnight, the old one waits for 2:00.
    rig.deploy(&hourly("", &format!("missed = \"all\"\n{WITNESS}"))).await.expect("it is right");
    rig.clock.advance(30 * MINUTE);
    rig.until_ticks("others", "witness", &[0]).await;
    rig.clock.advance(HOUR);
    rig.until_ticks("others", "witness", &[0, 60]).await;
    rig.clock.advance(HOUR);
    rig.until_ticks("work", "hourly", &[60, 120]).await;
}

#[tokio::test]
async fn ticks_that_a_clock_jumped_over_were_missed() {
    let rig = start(&hourly("", "")).await;
    rig.clock.step_wall_forward(5 * HOUR + 30 * MINUTE);
    rig.until_ticks("work", "hourly", &[300]).await;
    assert_eq!(rig.metric("pelton_schedule_ticks_missed_total", "hourly"), 4.0);
    rig.clock.step_wall_back(5 * HOUR + 30 * MINUTE);
    rig.clock.advance(6 * HOUR);
    rig.until_ticks("work", "hourly", &[300, 360]).await;
}

#[tokio::test]
async fn a_schedule_shows_when_it_ticked_and_what_it_waits_for() {
    let config = hourly("max-messages = 1", "body = \"x\"");
    let without = config.split("[[schedules]]").next().expect("it has some");
    let rig = start(without).await;
    let start = rig.clock.now().wall;
    rig.clock.advance(MINUTE);
    rig.deploy(&config).await.expect("it is right");
    let minutes = |at: WallMs| at.since(start).as_secs() / 60;
    let shown = |rig: &Rig| {
        let status = rig.broker.schedules().remove(0);
        (status.last.map(minutes), status.next.map(minutes))
    };
    assert_eq!(shown(&rig), (None, Some(60)));
    rig.clock.advance(59 * MINUTE);
    eventually("the first is published", async || shown(&rig) == (Some(60), Some(120))).await;
    rig.clock.advance(HOUR + MINUTE);
    eventually("the second does not fit", async || shown(&rig) == (Some(60), Some(120))).await;
    rig.settle_all("work").await;
    rig.clock.advance(PAUSE);
    eventually("now it does", async || shown(&rig) == (Some(120), Some(180))).await;
    let rig = rig.restart(&config).await;
    eventually("it is known after a restart", async || shown(&rig) == (Some(120), Some(180))).await;
}

#[tokio::test]
async fn a_tick_that_is_filtered_out_is_over() {
    let filtered = hourly("", "").replace("from = \"work.#\"", "from = \"work.#\"\nwhen = 'data.wanted'");
    let rig = start(&filtered).await;
    rig.clock.advance(HOUR);
    let counted = async || rig.metric("pelton_schedule_ticks_total", "hourly") == 1.0;
    eventually("it is counted", counted).await;
    let rig = rig.restart(&hourly("", "missed = \"all\"")).await;
    rig.clock.advance(HOUR);
    rig.until_ticks("work", "hourly", &[120]).await;
}
