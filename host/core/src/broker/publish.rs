//! Accepting messages: route each, then store all of a request or none.

use super::{Active, Broker};
use crate::engine::{Append, DeadCode, DeadReason, EngineError, EntryOptions, NewEntry, QueueId, RequestError};
use crate::message::Message;
use crate::name::Topic;
use crate::route::{Routed, Router};

/// A message and where it is published to.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The topic.
    pub topic: Topic,
    /// The message.
    pub message: Message,
}

/// What became of one message of an accepted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The message's id.
    pub id: String,
    /// How many queues it went to, dead-letter queues included; 0: every route that matched its topic filtered it out.
    pub targets: usize,
}

/// Why a publish request was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nothing was stored; each item says what is wrong with one message.
    #[error("{} of the messages can't be accepted, so none was: {}", .0.len(), .0.first().map(|first| first.detail.as_str()).unwrap_or_default())]
    Refused(Vec<Refusal>),
    /// The engine could not; the error says whether it may have been done.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What is wrong with one message of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its place in the request, from 0.
    pub index: usize,
    /// The kind of refusal.
    pub code: RefusalCode,
    /// For people.
    pub detail: String,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// No route's pattern matches the topic.
    Unroutable,
    /// The body is over the limit.
    TooLarge,
}

impl RefusalCode {
    /// The stable code, as in the HTTP API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unroutable => "unroutable",
            Self::TooLarge => "too-large",
        }
    }
}

impl Broker {
    /// Accepts all messages of a request or none, in their order. `Ok` means that they are durable.
    ///
    /// # Errors
    /// [`PublishError::Refused`]: nothing stored. [`PublishError::Engine`]: see there.
    pub async fn publish(&self, batch: Vec<Publish>) -> Result<Vec<Published>, PublishError> {
        let (append, published) = {
            let active = self.inner.active.load();
            self.admit(&active, &batch).inspect_err(|refusals| {
                let unroutable = refusals.iter().filter(|refusal| refusal.code == RefusalCode::Unroutable).count();
                self.inner.metrics.unroutable.inc_by(unroutable as u64);
            })
        }
        .map_err(PublishError::Refused)?;
        let routed = append.entries.len() as u64;
        if routed > 0 {
            self.inner.engine.append(append).await.map_err(|error| match error {
                RequestError::Engine(error) => error,
                RequestError::QueueFull(_)
                | RequestError::IdReused(_)
                | RequestError::Ticked(_)
                | RequestError::DiskFull => EngineError::Unavailable,
                // Ids come from `define` and queues are never removed, so only a reopened, other store could say so.
                RequestError::UnknownQueue(id) => EngineError::Corrupt(format!("the queue with id {} vanished", id.0)),
                RequestError::InvalidCursor(error) => EngineError::Corrupt(format!("an append was answered: {error}")),
            })?;
        }
        self.inner.metrics.accepted.inc_by(published.len() as u64);
        self.inner.metrics.routed.inc_by(routed);
        Ok(published)
    }

    fn admit(&self, active: &Active, batch: &[Publish]) -> Result<(Append, Vec<Published>), Vec<Refusal>> {
        let mut entries = Vec::with_capacity(batch.len());
        let mut published = Vec::with_capacity(batch.len());
        let mut refusals = Vec::new();
        for (index, Publish { topic, message }) in batch.iter().enumerate() {
            let bytes_max = active.plan.broker.message_bytes_max;
            if message.data().len() as u64 > bytes_max {
                let detail = format!(
                    "the body has {} bytes; at most {bytes_max} are allowed ([broker] max-message)",
                    message.data().len()
                );
                refusals.push(Refusal { index, code: RefusalCode::TooLarge, detail });
                continue;
            }
            let before = entries.len();
            if route_entries(&active.plan.router, &active.queue_ids, topic, message, 0, &mut entries) {
                published.push(Published { id: message.id().to_owned(), targets: entries.len() - before });
            } else {
                // Only the first is worth the search: mostly the others have the same mistake.
                let near = refusals.is_empty().then(|| active.plan.router.nearest(topic)).flatten();
                let near = near.map(|pattern| format!(" (the nearest is '{pattern}')")).unwrap_or_default();
                let detail = format!("no route matches topic '{topic}'{near}; add one to [[routes]] or mend the topic");
                refusals.push(Refusal { index, code: RefusalCode::Unroutable, detail });
            }
        }
        if refusals.is_empty() { Ok((entries.into(), published)) } else { Err(refusals) }
    }
}

/// Appends to `into` what the routes make of `message`; whether any route's pattern matched. `queue_ids` is by queue index.
pub fn route_entries(
    router: &Router,
    queue_ids: &[QueueId],
    topic: &Topic,
    message: &Message,
    hops: u8,
    into: &mut Vec<NewEntry>,
) -> bool {
    let Routed { matched, entries } = router.route(topic, message);
    into.extend(entries.into_iter().map(|entry| NewEntry {
        queue: queue_ids[entry.queue.0],
        topic: topic.clone(),
        message: entry.message,
        hops,
        options: EntryOptions::default(),
        dead: entry.failed.map(|detail| DeadReason { code: DeadCode::RouteFailed, detail }),
    }));
    matched
}
