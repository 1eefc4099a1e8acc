//! From a message to the entries that are stored: the routes of a plan with what its queues look at.

use std::sync::Arc;
use std::time::Duration;

use super::options::{InvalidAttribute, PublishOptions, QueueTarget, Times};
use crate::clock::WallMs;
use crate::engine::{DELAY_MAX, DeadCode, DeadReason, EntryOptions, Guarantees, NewEntry, QueueId};
use crate::message::Message;
use crate::name::Topic;
use crate::plan::Plan;
use crate::route::{Routed, Router};

/// The routes of a plan, with its queues as the engine knows them. Shared by all that publish: doors, consumers, schedules.
#[derive(Debug)]
pub struct Routing {
    router: Arc<Router>,
    /// By [`crate::plan::QueueIndex`].
    queues: Box<[QueueTarget]>,
    delay_max: Duration,
}

/// How a message comes in.
#[derive(Debug, Clone, Copy)]
pub struct Incoming {
    /// When.
    pub now: WallMs,
    /// How many emits lie between it and a producer outside.
    pub hops: u8,
    /// What is asked for it beside what it says itself.
    pub options: PublishOptions,
}

impl Routing {
    /// The routing of `plan`, whose queues have these ids, on an engine with these guarantees.
    #[must_use]
    pub fn new(plan: &Plan, ids: &[QueueId], guarantees: &Guarantees) -> Self {
        let queues = plan.queues.iter().zip(ids).map(|(queue, id)| QueueTarget::new(queue, *id)).collect();
        Self { router: plan.router.clone(), queues, delay_max: guarantees.longest_delay.min(DELAY_MAX) }
    }

    /// The routes alone.
    #[must_use]
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// Adds to `into` what the routes make of `message`; whether any route's pattern matched.
    ///
    /// # Errors
    /// [`InvalidAttribute`] when it says something about its delivery that can't be met; nothing is added then.
    pub fn entries(
        &self,
        topic: &Topic,
        message: &Message,
        incoming: Incoming,
        into: &mut Vec<NewEntry>,
    ) -> Result<bool, InvalidAttribute> {
        let Incoming { now, hops, options } = incoming;
        let times = Times::of(message, options, now, self.delay_max)?;
        let Routed { matched, entries } = self.router.route(topic, message);
        let before = into.len();
        for entry in entries {
            let queue = &self.queues[entry.queue.0];
            let options = times.in_queue(queue, topic, &entry.message).inspect_err(|_| into.truncate(before))?;
            let dead = entry.failed.map(|detail| DeadReason { code: DeadCode::RouteFailed, detail });
            // A dead letter neither waits for its time nor expires.
            let options = if dead.is_some() { EntryOptions { due: None, expires: None, ..options } } else { options };
            into.push(NewEntry { queue: queue.id, topic: topic.clone(), message: entry.message, hops, options, dead });
        }
        Ok(matched)
    }
}
