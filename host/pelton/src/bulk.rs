//! Changes to many messages in calls of bounded size: redrive, discard and purge, with progress, at a rate.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::client::CallError;
use crate::exit::{Exit, Failure};

/// Messages per call, so that progress shows; the broker takes up to 100,000.
const CALL_MESSAGES: u64 = 10_000;
/// With a rate, how much time the messages of one call stand for.
const CALL_TIME: Duration = Duration::from_millis(100);

/// What a call answers.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    changed: u64,
    skipped: u64,
    next: Option<String>,
}

/// What all calls came to.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Done {
    pub(crate) changed: u64,
    pub(crate) skipped: u64,
}

/// How fast: messages per second, from a moment on.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: Option<f64>,
    started: Instant,
}

impl Pace {
    /// As fast as can be, unless there is a rate.
    pub(crate) fn new(per_second: Option<f64>) -> Self {
        Self { per_second, started: Instant::now() }
    }

    /// Messages of one call.
    fn max(&self) -> u64 {
        let Some(per_second) = self.per_second else { return CALL_MESSAGES };
        ((per_second * CALL_TIME.as_secs_f64()).ceil() as u64).clamp(1, CALL_MESSAGES)
    }

    /// How long to wait after `changed` messages, `elapsed` after the start, until more may be changed.
    fn pause(&self, changed: u64, elapsed: Duration) -> Duration {
        let Some(per_second) = self.per_second else { return Duration::ZERO };
        Duration::try_from_secs_f64(changed as f64 / per_second).unwrap_or(Duration::MAX).saturating_sub(elapsed)
    }
}

impl Done {
    /// Calls until the broker says that all is done. `call` gets how many messages to change at most, and where to go on.
    ///
    /// # Errors
    /// As the broker gives them, with what was done before.
    pub(crate) async fn run(
        &mut self,
        bar: &ProgressBar,
        pace: &Pace,
        verb: &str,
        call: impl AsyncFn(u64, Option<String>) -> Result<Answer, CallError>,
    ) -> anyhow::Result<()> {
        let mut after = None;
        loop {
            tokio::time::sleep(pace.pause(self.changed, pace.started.elapsed())).await;
            let answer = call(pace.max(), after).await.map_err(|error| self.so_far(verb, error.into()))?;
            self.changed += answer.changed;
            self.skipped += answer.skipped;
            bar.set_position(self.changed);
            after = answer.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    fn so_far(&self, verb: &str, failure: Failure) -> Failure {
        if self.changed == 0 {
            return failure;
        }
        let exit = if failure.exit == Exit::Refused { Exit::Partial } else { failure.exit };
        let done = crate::output::count(self.changed, "message");
        Failure::new(exit, format!("{}\nbefore that, {verb} {done}; run it again for the rest", failure.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_over_calls() {
        let pace = Pace::new(Some(100.0));
        assert_eq!(pace.max(), 10);
        assert_eq!(pace.pause(0, Duration::ZERO), Duration::ZERO);
        assert_eq!(pace.pause(10, Duration::from_millis(30)), Duration::from_millis(70));
        assert_eq!(pace.pause(10, Duration::from_millis(300)), Duration::ZERO, "it catches up");
        assert_eq!(Pace::new(Some(1.0 / 3600.0)).max(), 1);
        assert_eq!(Pace::new(Some(1e9)).max(), CALL_MESSAGES);
        let free = Pace::new(None);
        assert_eq!((free.max(), free.pause(1 << 40, Duration::ZERO)), (CALL_MESSAGES, Duration::ZERO));
    }
}
