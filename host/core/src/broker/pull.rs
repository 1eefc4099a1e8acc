//! Pull consumers: lease, settle and extend from outside.

use std::time::Duration;

use super::{Broker, UnknownQueue};
use crate::engine::{
    Attempt, EngineError, InvalidCursor, LeaseRequest, LeaseToken, Leased, RequestError, SettleError, Settlement,
};
use crate::retry::RetryPolicy;
use crate::runtime::Outcome;
use crate::settle;

/// What a pull consumer asks for.
#[derive(Debug, Clone)]
pub struct LeaseWant {
    /// At most this many messages.
    pub max: usize,
    /// How long to wait for the first.
    pub wait: Duration,
    /// How long the leases last.
    pub ttl: Duration,
}

/// What a pull consumer says of one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullOutcome {
    /// Handled.
    Ack,
    /// Try again; not before `after`, or by the queue's backoff.
    Retry {
        /// Why, for the history.
        reason: String,
        /// Not before.
        after: Option<Duration>,
    },
    /// Never try again: dead-letter it.
    Reject {
        /// Why, for the history.
        reason: String,
    },
}

/// Why a pull did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// No such queue.
    #[error(transparent)]
    UnknownQueue(#[from] UnknownQueue),
    /// The cursor is none of this call; nothing was done.
    #[error(transparent)]
    InvalidCursor(#[from] InvalidCursor),
    /// The engine could not.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why a lease was not prolonged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtendError {
    /// There is nothing to prolong.
    #[error("the lease is not in force any more: it ran out, was settled, or the broker restarted; nothing was done")]
    NotInForce,
    /// This very lease was settled before, by its holder.
    #[error("the lease was settled before; nothing was done")]
    AlreadySettled,
    /// The engine could not.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<SettleError> for ExtendError {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::LeaseLost => Self::NotInForce,
            SettleError::AlreadySettled => Self::AlreadySettled,
            SettleError::Engine(error) => Self::Engine(error),
        }
    }
}

impl Broker {
    /// Leases messages of `queue`; see [`crate::engine::Engine::lease`].
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn lease(&self, queue: &str, want: LeaseWant) -> Result<Vec<Leased>, PullError> {
        let id = self.queue_id(queue)?;
        let LeaseWant { max, wait, ttl } = want;
        let request = LeaseRequest { queue: id, max, wait, ttl: Some(ttl) };
        self.inner.engine.lease(request).await.map_err(|error| self.pull_error(queue, error))
    }

    /// Settles leases, each by itself, in their order.
    pub async fn settle(&self, settlements: Vec<(LeaseToken, PullOutcome)>) -> Vec<Result<(), SettleError>> {
        let batch = settlements.into_iter().map(|(lease, outcome)| self.settlement(lease, outcome)).collect();
        self.inner.engine.settle(batch).await
    }

    /// Lets each lease last for another `Duration` from now.
    pub async fn extend(&self, leases: Vec<(LeaseToken, Duration)>) -> Vec<Result<(), ExtendError>> {
        let results = self.inner.engine.extend(leases).await;
        results.into_iter().map(|result| result.map_err(ExtendError::from)).collect()
    }

    /// Gives leases back uncounted, at their old place: for a consumer that is gone before it got them. Lost leases are
    /// passed over.
    pub async fn release(&self, leases: Vec<LeaseToken>) {
        if !leases.is_empty() {
            self.inner.engine.release(leases).await;
        }
    }

    fn settlement(&self, lease: LeaseToken, outcome: PullOutcome) -> Settlement {
        let now = self.inner.clock.wall();
        let outcome = match outcome {
            PullOutcome::Ack => Outcome::Done,
            PullOutcome::Retry { reason, after } => Outcome::Retry { reason, after },
            PullOutcome::Reject { reason } => Outcome::Reject { reason },
        };
        let attempt = match &outcome {
            Outcome::Retry { reason, .. } | Outcome::Reject { reason } => Some(Attempt {
                number: lease.attempt,
                at_ms: now.0,
                outcome: outcome.word().to_owned(),
                reason: reason.clone(),
                duration_us: 0,
                digest: None,
                log_tail: String::new(),
            }),
            _ => None,
        };
        let policy = self.retry_policy(lease);
        let verdict =
            settle::decide(&outcome, lease.attempt, lease.accepted, &policy, now, fastrand::f64(), Vec::new());
        Settlement { lease, attempt, verdict }
    }

    /// The policy of the lease's queue; of an undeclared queue, the one that it was declared with last.
    fn retry_policy(&self, lease: LeaseToken) -> RetryPolicy {
        let active = self.inner.active.load();
        let declared = active.queue(lease.queue).map(|queue| &queue.retry);
        declared.or_else(|| active.kept_retries.get(&lease.queue)).cloned().unwrap_or_default()
    }

    pub(super) fn pull_error(&self, queue: &str, error: RequestError) -> PullError {
        match error {
            RequestError::Engine(error) => PullError::Engine(error),
            RequestError::InvalidCursor(error) => PullError::InvalidCursor(error),
            // Of appends alone.
            RequestError::QueueFull(_)
            | RequestError::IdReused(_)
            | RequestError::Ticked(_)
            | RequestError::DiskFull => {
                PullError::Engine(EngineError::Corrupt(format!("a call on a queue was answered: {error}")))
            }
            RequestError::UnknownQueue(_) => UnknownQueue { name: queue.to_owned(), nearest: None }.into(),
        }
    }
}
