//! What a delivery's outcome means for its message: a pure decision.

use crate::clock::WallMs;
use crate::engine::{DeadCode, DeadReason, NewEntry, Verdict};
use crate::retry::RetryPolicy;
use crate::runtime::{FaultKind, Outcome};

/// What to commit for `outcome` of delivery number `attempt` of a message accepted at `accepted`. `emits` are used only when it is
/// done; `random` is in 0 to 1.
#[must_use]
pub fn decide(
    outcome: &Outcome,
    attempt: u32,
    accepted: WallMs,
    policy: &RetryPolicy,
    now: WallMs,
    random: f64,
    emits: Vec<NewEntry>,
) -> Verdict {
    match outcome {
        Outcome::Done => Verdict::Done { emits },
        Outcome::Reject { reason } => {
            Verdict::Dead { reason: DeadReason { code: DeadCode::Rejected, detail: reason.clone() } }
        }
        Outcome::Retry { reason, .. } | Outcome::Fault { reason, .. } => {
            let ended = format!("{}: {reason}", outcome.word());
            match policy.exhausted(attempt, now.since(accepted), &ended) {
                Some(reason) => Verdict::Dead { reason },
                None => again(outcome, attempt, policy, now, random),
            }
        }
    }
}

fn again(outcome: &Outcome, attempt: u32, policy: &RetryPolicy, now: WallMs, random: f64) -> Verdict {
    match outcome {
        Outcome::Retry { after: Some(after), .. } => Verdict::Again { at: now.plus(*after), chosen: true },
        _ => Verdict::Again { at: now.plus(policy.backoff.delay(attempt, random)), chosen: false },
    }
}

/// Whether the outcome says nothing about the message, so that the delivery is given back uncounted.
#[must_use]
pub fn is_hosts_fault(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Fault { kind: FaultKind::Host, .. })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn retry(after: Option<u64>) -> Outcome {
        Outcome::Retry { reason: "down".into(), after: after.map(Duration::from_millis) }
    }

    fn fault(kind: FaultKind) -> Outcome {
        Outcome::Fault { kind, reason: "broke".into() }
    }

    /// The verdict in short, at time 1000 with a limit of 3 attempts, 1 s backoff and no jitter.
    fn check(outcome: &Outcome, attempt: u32, expected: &str) {
        let mut policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::default() };
        policy.backoff.jitter = 0.0;
        let short = match decide(outcome, attempt, WallMs(900), &policy, WallMs(1000), 0.5, Vec::new()) {
            Verdict::Done { .. } => "done".to_owned(),
            Verdict::Again { at, chosen: false } => format!("again at {}", at.0),
            Verdict::Again { at, chosen: true } => format!("again at {} as chosen", at.0),
            Verdict::Dead { reason } => format!("{}: {}", reason.code.as_str(), reason.detail),
        };
        assert_eq!(short, expected, "{outcome:?}, attempt {attempt}");
    }

    #[test]
    fn outcomes() {
        check(&Outcome::Done, 1, "done");
        check(&retry(None), 1, "again at 2000");
        check(&retry(None), 2, "again at 3000");
        check(&retry(Some(50)), 2, "again at 1050 as chosen");
        check(&retry(Some(50)), 3, "max-attempts: attempt 3 of 3 ended with retry: down");
        check(&fault(FaultKind::Trap), 1, "again at 2000");
        check(&fault(FaultKind::Timeout), 7, "max-attempts: attempt 7 of 3 ended with timeout: broke");
        check(&Outcome::Reject { reason: "no".into() }, 1, "rejected: no");
    }
}
