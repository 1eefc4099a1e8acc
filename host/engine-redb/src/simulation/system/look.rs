//! Everything that lies in a store, at one moment.

use std::collections::BTreeMap;

use pelton_core::engine::{Browse, EntryId, Position, QueueId, Stored};

use crate::browse::Snapshot;

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) queue: String,
    pub(super) message: String,
    /// Until somebody acts.
    pub(super) held: bool,
}

/// A delivery that was settled as done, as its emit says.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) emit: String,
    pub(super) message: String,
    pub(super) consumer: String,
    /// Its place in the order of commits.
    pub(super) position: Position,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) present: BTreeMap<EntryId, Item>,
    /// By the entry that was handled.
    pub(super) sink: BTreeMap<EntryId, Done>,
    /// The ids of ticks, in order.
    pub(super) ticks: Vec<String>,
}

/// What a handler writes into its emit.
pub(super) fn receipt(entry: EntryId, message: &str, consumer: &str) -> String {
    format!("{} {message} {consumer}", entry.0)
}

impl Looked {
    /// All of `queues`.
    pub(super) fn at(snapshot: &Snapshot, queues: &[(QueueId, String)], page_bytes: usize) -> Result<Self, String> {
        let mut looked = Self::default();
        for (id, name) in queues {
            let mut after = None;
            loop {
                let what = Browse { queue: *id, after, max: 7 };
                let page = snapshot.page(&what, page_bytes).map_err(|error| error.to_string())?;
                page.items.into_iter().try_for_each(|stored| looked.add(name, &stored))?;
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        looked.ticks.sort_unstable();
        Ok(looked)
    }

    fn add(&mut self, queue: &str, stored: &Stored) -> Result<(), String> {
        let message = stored.message.id().to_owned();
        match queue {
            "ticks" => {
                self.ticks.push(message);
                Ok(())
            }
            "sink" => self.add_done(message, stored),
            _ => {
                let held = stored.due.is_some_and(|due| due.0 == u64::MAX);
                let item = Item { queue: queue.to_owned(), message, held };
                match self.present.insert(stored.entry, item) {
                    Some(twin) => Err(format!("entry {} is in '{queue}', and twice: {twin:?}", stored.entry.0)),
                    None => Ok(()),
                }
            }
        }
    }

    fn add_done(&mut self, emit: String, stored: &Stored) -> Result<(), String> {
        let text = String::from_utf8_lossy(stored.message.data());
        let mut parts = text.split(' ');
        let entry = parts.next().and_then(|part| part.parse().ok());
        let (Some(entry), Some(message), Some(consumer)) = (entry, parts.next(), parts.next()) else {
            return Err(format!("'{emit}' was emitted by a delivery that was not done: {text}"));
        };
        let done = Done { emit, message: message.to_owned(), consumer: consumer.to_owned(), position: stored.position };
        match self.sink.insert(EntryId(entry), done) {
            Some(twin) => Err(format!("entry {entry} ({message}) was handled twice: {twin:?}")),
            None => Ok(()),
        }
    }
}
