//! Looking at a running broker: queues, consumers, peeking; and dead letters: look, redrive, discard.

use super::pull::PullError;
use super::{Broker, UnknownQueue};
use crate::dispatch::BreakerStatus;
use crate::engine::{
    Browse, Bulk, BulkAction, Counts, Cursor, Filter, Page, Position, Progress, QueueCounts, QueueId, Select, Stored,
};
use crate::name::{ConsumerName, QueueName};
use crate::runtime::Digest;

/// A queue as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStatus {
    /// Its figures, and whether it is paused or full.
    pub counts: QueueCounts,
    /// Where its dead letters go; none for one that holds dead letters, and for one no longer declared.
    pub dead_letter: Option<QueueName>,
    /// How many messages lie in its dead-letter queue. Several queues may share one: then all of theirs.
    pub dead: u64,
}

/// A consumer as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerStatus {
    /// Its name.
    pub name: ConsumerName,
    /// What it consumes.
    pub queue: QueueName,
    /// Deliveries that it may have at the same time.
    pub concurrency: usize,
    /// Whether it could run.
    pub state: ConsumerState,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Whether it is held back because it fails whatever it gets; none where it has no breaker.
    pub breaker: Option<BreakerStatus>,
}

/// Whether a consumer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerState {
    /// It has a component and gets deliveries.
    Ready(Digest),
    /// It has no component yet; its messages wait.
    NoComponent,
}

impl Broker {
    /// All queues in the order of names, undeclared ones that hold messages among them.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueStatus> {
        let counts = self.inner.engine.counts();
        counts.queues.iter().map(|queue| self.status(&counts, queue)).collect()
    }

    /// One queue.
    ///
    /// # Errors
    /// [`UnknownQueue`].
    pub fn queue(&self, name: &str) -> Result<QueueStatus, UnknownQueue> {
        let id = self.queue_id(name)?;
        let counts = self.inner.engine.counts();
        let queue = counts.queues.iter().find(|queue| queue.id == id);
        queue
            .map(|queue| self.status(&counts, queue))
            .ok_or_else(|| UnknownQueue { name: name.to_owned(), nearest: None })
    }

    fn status(&self, counts: &Counts, queue: &QueueCounts) -> QueueStatus {
        let active = self.inner.active.load();
        let planned = active.plan.queues.iter().find(|planned| planned.name == queue.name);
        let dead_letter =
            planned.and_then(|planned| planned.dead_letter).map(|index| active.plan.queue(index).name.clone());
        let dead = dead_letter.as_ref().and_then(|name| counts.queues.iter().find(|queue| queue.name == *name));
        let dead = dead.map_or(0, |dead| dead.ready + dead.leased + dead.scheduled);
        QueueStatus { counts: queue.clone(), dead_letter, dead }
    }

    /// The figures of all queues.
    #[must_use]
    pub fn counts(&self) -> std::sync::Arc<Counts> {
        self.inner.engine.counts()
    }

    /// All consumers in the order of names.
    #[must_use]
    pub fn consumers(&self) -> Vec<ConsumerStatus> {
        let active = self.inner.active.load();
        let status = |unit: &std::sync::Arc<crate::dispatch::ConsumerUnit>| ConsumerStatus {
            name: unit.name.clone(),
            queue: unit.queue_name.clone(),
            concurrency: unit.concurrency,
            state: unit
                .handler
                .as_ref()
                .map_or(ConsumerState::NoComponent, |handler| ConsumerState::Ready(handler.digest())),
            paused: unit.paused,
            breaker: self.inner.dispatch.breaker(&unit.name),
        };
        active.consumers.iter().map(status).collect()
    }

    /// The queue that holds the dead letters of `queue`; `queue` itself where it holds dead letters or has no such queue.
    ///
    /// # Errors
    /// [`UnknownQueue`].
    pub fn dead_letter_queue(&self, queue: &str) -> Result<QueueName, UnknownQueue> {
        let status = self.queue(queue)?;
        Ok(status.dead_letter.unwrap_or(status.counts.name))
    }

    /// A page of `queue`, in order, without leasing anything. `max` up to 1,000.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn browse(&self, queue: &str, after: Option<Cursor>, max: usize) -> Result<Page, PullError> {
        let id = self.queue_id(queue)?;
        let page = self.inner.engine.browse(Browse { queue: id, after, max }).await;
        page.map_err(|error| self.pull_error(queue, error))
    }

    /// The dead letter at `position` among those of `queue`, which may also be the queue that holds them; none where there is no
    /// message, or not any more, or where it did not die.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn dead_letter(&self, queue: &str, position: Position) -> Result<Option<Stored>, PullError> {
        let dead_letters = self.dead_letter_queue(queue)?;
        let id = self.queue_id(dead_letters.as_str())?;
        let found = self.inner.engine.read(id, position).await;
        let found = found.map_err(|error| self.pull_error(dead_letters.as_str(), error))?;
        Ok(found.filter(|stored| stored.dead.is_some()))
    }

    /// One step of sending dead letters of `queue` back to where they died, or to the queue `to`: those that are selected and pass
    /// the filter.
    ///
    /// # Errors
    /// [`PullError`]; also when `to` is unknown.
    pub async fn redrive(
        &self,
        queue: &str,
        to: Option<&str>,
        select: Select,
        filter: Filter,
        after: Option<Cursor>,
        max: usize,
    ) -> Result<Progress, PullError> {
        let to = to.map(|name| self.queue_id(name)).transpose()?;
        let action = BulkAction::Redrive(to);
        self.bulk(queue, |queue| Bulk { queue, select, filter, action, after, max }).await
    }

    /// One step of deleting messages of `queue` for good: those that are selected and pass the filter. With all and an open filter
    /// it is a purge.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn discard(
        &self,
        queue: &str,
        select: Select,
        filter: Filter,
        after: Option<Cursor>,
        max: usize,
    ) -> Result<Progress, PullError> {
        let action = BulkAction::Discard;
        self.bulk(queue, |queue| Bulk { queue, select, filter, action, after, max }).await
    }

    async fn bulk(&self, queue: &str, job: impl FnOnce(QueueId) -> Bulk) -> Result<Progress, PullError> {
        let id = self.queue_id(queue)?;
        let progress = self.inner.engine.bulk(job(id)).await;
        progress.map_err(|error| self.pull_error(queue, error))
    }
}
