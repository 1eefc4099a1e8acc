//! Accepting messages: route each, then store all of a request or none, and say what became of each.

use super::admit::Admitted;
use super::options::PublishOptions;
use super::scheduled::ScheduledHandle;
use super::{Broker, refusal};
use crate::engine::{Appended, EngineError};
use crate::message::Message;
use crate::name::{QueueName, Topic};

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
    /// How many queues it went to, dead-letter queues included; 0: every route that matched its topic filtered it out. Of a
    /// double, to how many it went the first time.
    pub targets: usize,
    /// It was stored before, within the topic's dedup window, and was not stored again.
    pub duplicate: bool,
    /// What cancels it, where it waits for its time. Of a double that of the first, whatever became of it.
    pub scheduled: Option<ScheduledHandle>,
}

/// Why a publish request was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nothing was stored; each item says what is wrong with one message. Not empty.
    #[error("{} of the messages can't be accepted, so none was: {}", .0.len(), .0.first().map(|first| first.detail.as_str()).unwrap_or_default())]
    Refused(Vec<Refusal>),
    /// The engine could not; the error says whether it may have been done.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What is wrong with one message of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its place in the request, from 0. Where none is to blame (a full disk), the first.
    pub index: usize,
    /// The kind of refusal.
    pub code: RefusalCode,
    /// For people.
    pub detail: String,
    /// The attribute, for [`RefusalCode::InvalidAttribute`].
    pub attribute: Option<Box<str>>,
    /// The queue, for [`RefusalCode::QueueFull`].
    pub queue: Option<QueueName>,
}

impl Refusal {
    pub(super) fn new(index: usize, code: RefusalCode, detail: String) -> Self {
        Self { index, code, detail, attribute: None, queue: None }
    }
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// No route's pattern matches the topic.
    Unroutable,
    /// The body is over the limit.
    TooLarge,
    /// An attribute says something about the delivery that can't be met.
    InvalidAttribute,
    /// The topic's dedup window knows its identity with another body.
    IdReused,
    /// A queue that it goes to is full; later it may fit.
    QueueFull,
    /// The disk is; later it may fit.
    DiskFull,
}

impl RefusalCode {
    /// The stable code, as in the HTTP API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unroutable => "unroutable",
            Self::TooLarge => "too-large",
            Self::InvalidAttribute => "invalid-attribute",
            Self::IdReused => "id-reused",
            Self::QueueFull => "queue-full",
            Self::DiskFull => "disk-full",
        }
    }
}

impl Broker {
    /// Accepts all messages of a request or none, in their order. `Ok` means that they are durable.
    ///
    /// # Errors
    /// [`PublishError::Refused`]: nothing stored. [`PublishError::Engine`]: see there.
    pub async fn publish(&self, batch: Vec<Publish>, options: PublishOptions) -> Result<Vec<Published>, PublishError> {
        let now = self.inner.clock.wall();
        let mut admitted = {
            let active = self.inner.active.load();
            active.admit(&batch, options, now).map_err(|refusals| self.refused(refusals))?
        };
        let mut routed = admitted.append.entries.len();
        let mut doubles = 0;
        if routed > 0 {
            let append = std::mem::take(&mut admitted.append);
            match self.inner.engine.append(append).await {
                Ok(appended) => (routed, doubles) = admitted.note(&appended),
                Err(error) => {
                    let active = self.inner.active.load_full();
                    let incoming = super::Incoming { now, hops: 0, options };
                    let refusal = refusal::of(&active, &batch, incoming, &admitted.identified, error)?;
                    return Err(self.refused(vec![refusal]));
                }
            }
        }
        self.inner.metrics.accepted.inc_by((admitted.published.len() - doubles) as u64);
        self.inner.metrics.duplicates.inc_by(doubles as u64);
        self.inner.metrics.routed.inc_by(routed as u64);
        Ok(admitted.published)
    }

    fn refused(&self, refusals: Vec<Refusal>) -> PublishError {
        let unroutable = refusals.iter().filter(|refusal| refusal.code == RefusalCode::Unroutable).count();
        self.inner.metrics.unroutable.inc_by(unroutable as u64);
        PublishError::Refused(refusals)
    }
}

impl Admitted {
    /// Takes note of where the entries went; how many entries were stored, and how many messages were known already.
    fn note(&mut self, appended: &Appended) -> (usize, usize) {
        let mut routed = appended.positions.len();
        for duplicate in &appended.duplicates {
            let published = &mut self.published[self.identified[duplicate.identity]];
            routed -= published.targets;
            published.targets = duplicate.targets as usize;
            published.duplicate = true;
            let scheduled = duplicate.scheduled.clone();
            published.scheduled = scheduled.and_then(|first| ScheduledHandle::new(first.due, first.places));
        }
        for delayed in std::mem::take(&mut self.delayed) {
            let published = &mut self.published[delayed.message];
            if !published.duplicate {
                let places = delayed.entries.into_iter().map(|(entry, queue)| (queue, appended.positions[entry]));
                published.scheduled = ScheduledHandle::new(delayed.due, places.collect());
            }
        }
        (routed, appended.duplicates.len())
    }
}
