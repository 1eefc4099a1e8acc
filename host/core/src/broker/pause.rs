//! Pausing and resuming queues and consumers, which the store remembers: it holds over restarts and new plans. And closing a
//! consumer's breaker, by which it pauses itself.

use std::sync::Arc;

use super::pull::PullError;
use super::{Active, Broker, nearest_hint};
use crate::dispatch::ConsumerUnit;
use crate::engine::{EngineError, Pausable, RequestError};
use crate::name::ConsumerName;

/// No consumer has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no consumer '{name}'{}", nearest_hint(.nearest.as_ref()))]
pub struct UnknownConsumer {
    /// The name asked for.
    pub name: String,
    /// The consumer that was probably meant.
    pub nearest: Option<ConsumerName>,
}

/// Why a consumer was not paused or resumed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    /// No such consumer.
    #[error(transparent)]
    UnknownConsumer(#[from] UnknownConsumer),
    /// The engine could not.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Broker {
    /// Pauses a queue, so that nobody gets messages from it, or resumes it; publishing to it goes on, and so do deliveries
    /// under way. `Ok` means durable. One that is so already stays so.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn pause_queue(&self, queue: &str, paused: bool) -> Result<(), PullError> {
        let id = self.queue_id(queue)?;
        let done = self.inner.engine.pause(Pausable::Queue(id), paused).await;
        done.map_err(|error| self.pull_error(queue, error))
    }

    /// Pauses a consumer, so that it gets no new deliveries, or resumes it; those under way end. Its messages wait for it, or for
    /// another consumer of its queue. `Ok` means durable. One that is so already stays so.
    ///
    /// Not cancel-safe: dropped halfway it may take effect only at the next start.
    ///
    /// # Errors
    /// [`PauseError`].
    pub async fn pause_consumer(&self, consumer: &str, paused: bool) -> Result<(), PauseError> {
        let _one_at_a_time = self.inner.deploying.lock().await;
        let active = self.inner.active.load_full();
        let name = active.consumer(consumer)?.name.clone();
        let done = self.inner.engine.pause(Pausable::Consumer(name.clone()), paused).await;
        done.map_err(|error| match error {
            RequestError::Engine(error) => error,
            other => EngineError::Corrupt(format!("pausing a consumer was answered: {other}")),
        })?;
        self.run(active.with_paused(&name, paused));
        Ok(())
    }

    /// Closes the breaker of a consumer, so that it gets deliveries again at once; whether it has one.
    ///
    /// # Errors
    /// [`UnknownConsumer`].
    pub fn reset_breaker(&self, consumer: &str) -> Result<bool, UnknownConsumer> {
        let active = self.inner.active.load();
        let unit = active.consumer(consumer)?;
        Ok(self.inner.dispatch.reset_breaker(&unit.name))
    }
}

impl Active {
    /// The consumer that is called `name`.
    pub(super) fn consumer(&self, name: &str) -> Result<&Arc<ConsumerUnit>, UnknownConsumer> {
        let found = self.consumers.iter().find(|unit| unit.name.as_str() == name);
        found.ok_or_else(|| {
            let names = self.consumers.iter().map(|unit| unit.name.as_str());
            let nearest = crate::config::nearest(name, names).and_then(|near| ConsumerName::new(near).ok());
            UnknownConsumer { name: name.to_owned(), nearest }
        })
    }

    fn with_paused(&self, name: &ConsumerName, paused: bool) -> Self {
        let mut next = self.clone();
        if paused {
            next.paused.insert(name.clone());
        } else {
            next.paused.remove(name);
        }
        for unit in next.consumers.iter_mut().filter(|unit| unit.name == *name) {
            *unit = Arc::new(ConsumerUnit { paused, ..ConsumerUnit::clone(unit) });
        }
        next
    }
}
