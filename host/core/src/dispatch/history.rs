//! What is kept of a delivery in its message's history.

use std::time::Duration;

use crate::clock::WallMs;
use crate::engine::{Attempt, Leased, Verdict};
use crate::runtime::{Handler, Outcome};

/// The longest log tail kept in a message's history, in bytes.
const LOG_TAIL_BYTES_MAX: usize = 4 * 1024;

/// The history of a delivery that did not simply succeed.
pub(super) fn attempt(
    leased: &Leased,
    outcome: &Outcome,
    verdict: &Verdict,
    log: String,
    duration: Duration,
    now: WallMs,
    handler: &dyn Handler,
) -> Option<Attempt> {
    let reason = match (outcome, verdict) {
        (Outcome::Done, Verdict::Dead { reason }) => reason.detail.clone(),
        (Outcome::Done, _) => return None,
        (Outcome::Retry { reason, .. } | Outcome::Reject { reason } | Outcome::Fault { reason, .. }, _) => {
            reason.clone()
        }
    };
    Some(Attempt {
        number: leased.attempt(),
        at_ms: now.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        outcome: outcome.word().to_owned(),
        reason,
        duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        digest: Some(handler.digest().to_string()),
        log_tail: tail(log),
    })
}

/// The end of `log`, from a whole character on.
fn tail(log: String) -> String {
    if log.len() <= LOG_TAIL_BYTES_MAX {
        return log;
    }
    let start = log.len() - LOG_TAIL_BYTES_MAX;
    let start = (start..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
    log[start..].to_owned()
}
