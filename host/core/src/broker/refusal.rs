//! What an engine's refusal of a publish request means to its producer: which message, which bound, and what to do about it.
//!
//! The engine names queues and identities by number. The message behind one is looked for only here, when it was refused.

use bytesize::ByteSize;

use super::Active;
use super::admit::window;
use super::publish::{Publish, Refusal, RefusalCode};
use super::routing::Incoming;
use crate::engine::{Bounds, EngineError, Overflow, QueueId, RequestError};
use crate::plan::QueuePlan;

/// The refusal that `error` means for `batch`, whose messages with an identity are `identified`.
///
/// # Errors
/// [`EngineError`] where it is none.
pub(super) fn of(
    active: &Active,
    batch: &[Publish],
    incoming: Incoming,
    identified: &[usize],
    error: RequestError,
) -> Result<Refusal, EngineError> {
    match error {
        RequestError::QueueFull(id) => Ok(queue_full(active, batch, incoming, id)),
        RequestError::IdReused(identity) => Ok(id_reused(active, batch, identified, identity)),
        RequestError::DiskFull => Ok(disk_full(active)),
        RequestError::Engine(error) => Err(error),
        // Ids come from `define` and queues are never removed, so only a reopened, other store could say so.
        RequestError::UnknownQueue(id) => Err(EngineError::Corrupt(format!("the queue with id {} vanished", id.0))),
        RequestError::Ticked(_) | RequestError::InvalidCursor(_) => {
            Err(EngineError::Corrupt(format!("an append was answered: {error}")))
        }
    }
}

fn queue_full(active: &Active, batch: &[Publish], incoming: Incoming, id: QueueId) -> Refusal {
    let index = if batch.len() > 1 { first_to(active, batch, incoming, id) } else { 0 };
    // None only if the plan was swapped meanwhile.
    let queue = active.queue(id);
    let detail = queue.map_or_else(|| "a queue that it goes to is full; try again later".to_owned(), full);
    let refusal = Refusal::new(index, RefusalCode::QueueFull, detail);
    Refusal { queue: queue.map(|queue| queue.name.clone()), ..refusal }
}

/// The first message that goes to the queue `id`.
fn first_to(active: &Active, batch: &[Publish], incoming: Incoming, id: QueueId) -> usize {
    let mut entries = Vec::new();
    let goes_there = |publish: &Publish| {
        entries.clear();
        let routed = active.routing.entries(&publish.topic, &publish.message, incoming, &mut entries);
        routed.is_ok() && entries.iter().any(|entry| entry.queue == id)
    };
    batch.iter().position(goes_there).unwrap_or_default()
}

fn full(queue: &QueuePlan) -> String {
    let QueuePlan { name, bounds, .. } = queue;
    let Bounds { messages_max, bytes_max, overflow } = bounds;
    let messages = messages_max.map(|max| format!("{max} messages (max-messages)"));
    let bytes = bytes_max.map(|max| format!("{} (max-bytes)", ByteSize::b(max)));
    let most: Vec<_> = messages.into_iter().chain(bytes).collect();
    // All of it is leased, or the request alone is too much.
    let dropping = if *overflow == Overflow::DropOldest { ", and dropping its oldest makes no room" } else { "" };
    format!(
        "queue '{name}' is full: it holds at most {}{dropping}; try again when consumers have caught up, or raise the bound in [queues.{name}]",
        most.join(" and ")
    )
}

fn id_reused(active: &Active, batch: &[Publish], identified: &[usize], identity: usize) -> Refusal {
    let index = identified.get(identity).copied().unwrap_or_default();
    let detail = batch.get(index).map(|Publish { topic, message }| {
        let within = window(&active.plan.dedup, topic)
            .map(|window| format!(" within {}", humantime::format_duration(window)))
            .unwrap_or_default();
        format!(
            "a message with id '{}' and source '{}' was published to '{topic}'{within} with another body; give every message \
             an id of its own",
            shown(message.id()),
            shown(message.source())
        )
    });
    Refusal::new(index, RefusalCode::IdReused, detail.unwrap_or_default())
}

/// The beginning of an attribute that may be long.
fn shown(text: &str) -> &str {
    const SHOWN_BYTES_MAX: usize = 80;
    &text[..text.floor_char_boundary(SHOWN_BYTES_MAX)]
}

fn disk_full(active: &Active) -> Refusal {
    let detail = format!(
        "the disk has less than {} free ([broker] min-free-disk), so no messages are taken; consuming goes on. Free some \
         space, or let consumers catch up, and try again",
        ByteSize::b(active.plan.broker.free_disk_min)
    );
    Refusal::new(0, RefusalCode::DiskFull, detail)
}
