//! What becomes of a publish request before it is stored: each message is checked, routed, and marked where its doubles are
//! recognised. Pure.

use std::time::Duration;

use super::Active;
use super::options::PublishOptions;
use super::publish::{Publish, Published, Refusal, RefusalCode};
use super::routing::Incoming;
use crate::clock::WallMs;
use crate::engine::{Append, Identity, NewEntry, QueueId};
use crate::name::Topic;
use crate::plan::{DedupPlan, Plan};

/// A request on its way to the engine.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    pub(super) append: Append,
    /// Of each message, in the order of the request, as if none were a double.
    pub(super) published: Vec<Published>,
    /// The message of each identity.
    pub(super) identified: Vec<usize>,
    /// Messages that wait for their time.
    pub(super) delayed: Vec<Delayed>,
}

/// A message that waits for its time, to be named when it has its positions.
#[derive(Debug)]
pub(super) struct Delayed {
    pub(super) message: usize,
    pub(super) due: WallMs,
    /// The entries that wait, as indices into [`Append::entries`], and their queues.
    pub(super) entries: Vec<(usize, QueueId)>,
}

impl Active {
    /// The request, routed; or all that is wrong with it.
    pub(super) fn admit(
        &self,
        batch: &[Publish],
        options: PublishOptions,
        now: WallMs,
    ) -> Result<Admitted, Vec<Refusal>> {
        let mut admitted = Admitted { published: Vec::with_capacity(batch.len()), ..Admitted::default() };
        admitted.append.entries.reserve(batch.len());
        let mut refusals = Vec::new();
        let incoming = Incoming { now, hops: 0, options };
        for (index, publish) in batch.iter().enumerate() {
            let before = admitted.append.entries.len();
            match self.route(index, publish, incoming, &mut admitted.append.entries) {
                Ok(true) => admitted.push(index, publish, before, &self.plan.dedup),
                Ok(false) => {
                    // Only the first is worth the search: mostly the others have the same mistake.
                    let detail = unroutable(&self.plan, &publish.topic, refusals.is_empty());
                    refusals.push(Refusal::new(index, RefusalCode::Unroutable, detail));
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
        if refusals.is_empty() { Ok(admitted) } else { Err(refusals) }
    }

    /// Adds the entries of message `index`; whether any route matches its topic.
    fn route(
        &self,
        index: usize,
        publish: &Publish,
        incoming: Incoming,
        into: &mut Vec<NewEntry>,
    ) -> Result<bool, Refusal> {
        let Publish { topic, message } = publish;
        let (bytes, bytes_max) = (message.data().len(), self.plan.broker.message_bytes_max);
        if bytes as u64 > bytes_max {
            let detail = format!("the body has {bytes} bytes; at most {bytes_max} are allowed ([broker] max-message)");
            return Err(Refusal::new(index, RefusalCode::TooLarge, detail));
        }
        self.routing.entries(topic, message, incoming, into).map_err(|error| {
            let refusal = Refusal::new(index, RefusalCode::InvalidAttribute, error.to_string());
            Refusal { attribute: Some(error.attribute), ..refusal }
        })
    }
}

impl Admitted {
    /// Adds a message whose entries begin at `before`.
    fn push(&mut self, index: usize, publish: &Publish, before: usize, dedup: &[DedupPlan]) {
        let entries = &self.append.entries[before..];
        let Publish { topic, message } = publish;
        self.published.push(Published {
            id: message.id().to_owned(),
            targets: entries.len(),
            duplicate: false,
            scheduled: None,
        });
        if let Some(due) = entries.iter().find_map(|entry| entry.options.due) {
            let waits = |(at, entry): (usize, &NewEntry)| entry.options.due.map(|_| (before + at, entry.queue));
            let entries = entries.iter().enumerate().filter_map(waits).collect();
            self.delayed.push(Delayed { message: index, due, entries });
        }
        let entries = before..self.append.entries.len();
        if !entries.is_empty()
            && let Some(window) = window(dedup, topic)
        {
            let (topic, message) = (topic.clone(), message.clone());
            self.append.identities.push(Identity { entries, topic, message, window });
            self.identified.push(index);
        }
    }
}

/// For how long the doubles of messages to `topic` are recognised.
pub(super) fn window(dedup: &[DedupPlan], topic: &Topic) -> Option<Duration> {
    dedup.iter().find(|plan| plan.topics.matches(topic.as_str())).map(|plan| plan.window)
}

fn unroutable(plan: &Plan, topic: &Topic, look_for_nearest: bool) -> String {
    let near = look_for_nearest.then(|| plan.router.nearest(topic)).flatten();
    let near = near.map(|pattern| format!(" (the nearest is '{pattern}')")).unwrap_or_default();
    format!("no route matches topic '{topic}'{near}; add one to [[routes]] or mend the topic")
}
