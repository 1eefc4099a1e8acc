//! When a message is tried again, and when no more: attempts, age, and exponential backoff with a cap and jitter, as pure rules.

use std::time::Duration;

use crate::engine::{DeadCode, DeadReason};

/// A queue's rule for another try.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Deliveries in all, the first among them; at least 1.
    pub max_attempts: u32,
    /// A delivery that fails when the message was accepted longer ago than this is its last; none: age does not count.
    pub max_age: Option<Duration>,
    /// The wait after each failed delivery.
    pub backoff: Backoff,
}

/// The wait before attempt `n + 1`: `initial * factor^(n - 1)`, at most `max`, less a random part of up to `jitter` of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// By what each wait is longer than the one before; at least 1.
    pub factor: f64,
    /// The longest wait.
    pub max: Duration,
    /// The part of the wait, 0 to 1, that is random, so that what failed together does not come back together.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 5, max_age: None, backoff: Backoff::default() }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(300), jitter: 0.2 }
    }
}

impl RetryPolicy {
    /// Why failed delivery number `attempt` of a message of this age was its last; none: it is tried again. `ended` says how it ended.
    #[must_use]
    pub fn exhausted(&self, attempt: u32, age: Duration, ended: &str) -> Option<DeadReason> {
        if attempt >= self.max_attempts {
            let detail = format!("attempt {attempt} of {} ended with {ended}", self.max_attempts);
            return Some(DeadReason { code: DeadCode::MaxAttempts, detail });
        }
        let max_age = self.max_age.filter(|max| age > *max)?;
        let shown = humantime::format_duration(max_age);
        let detail = format!("attempt {attempt} ended with {ended}; the message is older than {shown}");
        Some(DeadReason { code: DeadCode::MaxAge, detail })
    }
}

impl Backoff {
    /// The wait after failed delivery number `attempt` (1 for the first), with `random` in 0 to 1.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial.as_secs_f64() * self.factor.powi(exponent);
        let capped = grown.min(self.max.as_secs_f64());
        Duration::from_secs_f64(capped * (1.0 - self.jitter * random.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(jitter: f64) -> Backoff {
        Backoff { initial: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(10), jitter }
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits: Vec<u64> = (1..=6).map(|attempt| backoff(0.0).delay(attempt, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff(0.0).delay(u32::MAX, 0.5), Duration::from_secs(10), "no overflow");
    }

    #[test]
    fn attempts_and_age_come_to_an_end() {
        let policy = RetryPolicy { max_attempts: 3, max_age: Some(Duration::from_secs(60)), ..RetryPolicy::default() };
        let code = |attempt, age| policy.exhausted(attempt, Duration::from_secs(age), "trap").map(|reason| reason.code);
        assert_eq!(code(2, 60), None);
        assert_eq!(code(2, 61), Some(DeadCode::MaxAge));
        assert_eq!(code(3, 61), Some(DeadCode::MaxAttempts));
    }

    #[test]
    fn jitter_only_shortens() {
        assert_eq!(backoff(0.5).delay(1, 0.0), Duration::from_secs(1));
        assert_eq!(backoff(0.5).delay(1, 1.0), Duration::from_millis(500));
    }
}
