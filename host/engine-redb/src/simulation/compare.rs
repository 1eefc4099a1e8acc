//! Everything that is stored, held against the model while nothing goes on: what is on disk, what browsing shows, who is leased.

use std::collections::BTreeSet;

use pelton_core::engine::{Browse, Cursor, EntryId, QueueId};

use super::disk::Faults;
use super::model::{identify, is_shown};
use super::plan::{QUEUES, number_of};
use super::world::{Asked, Caller, World};
use crate::command::{Command, Reply, Request};

impl World {
    /// Compares everything on disk with what should be there, and with what browsing shows.
    pub(super) fn compare(&mut self) -> Result<(), String> {
        self.disk.set_faults(Faults::default());
        self.settle_down()?;
        let summary = self.store().verify().map_err(|wrong| wrong.join("; "))?;
        self.ask_held()?;
        let shown = self.browse()?;
        let parked: usize = summary.parked.values().map(Vec::len).sum();
        let rows: usize = summary.queues.values().map(|(ready, due)| ready.len() + due.len()).sum();
        if rows + parked != shown || shown != self.model.entries.len() {
            return Err(format!("{rows} rows, {parked} of them parked, and browsing shows {shown}"));
        }
        self.count("compared");
        Ok(())
    }

    /// The store knows who is leased.
    fn ask_held(&mut self) -> Result<(), String> {
        let ids = self.model.entries.keys();
        let known = ids.filter_map(|id| Some((EntryId(self.facts[id].entry?), self.leases.contains_key(id))));
        let (entries, held) = known.unzip();
        let ticket = self.listener(Asked::Held(held));
        self.apply(vec![Command { ticket, request: Request::Held(entries) }])
    }

    fn browse(&mut self) -> Result<usize, String> {
        let mut shown = BTreeSet::new();
        for queue in 0..QUEUES.len() as u32 {
            let mut after: Option<Cursor> = None;
            loop {
                let (now, mut replies) = (self.now(), Vec::new());
                let ticket = Caller { number: 0, listens: true };
                let command = Command { ticket, request: Request::Snapshot(Some(QueueId(queue))) };
                self.store().accept(vec![command], now, &mut replies);
                let mut snapshot = None;
                for (caller, reply) in replies {
                    match reply {
                        Reply::Snapshot(made) => snapshot = made.ok(),
                        // Somebody who waited may be served.
                        reply => self.check_reply(caller, reply)?,
                    }
                }
                let snapshot = snapshot.ok_or("there was no snapshot")?;
                let what = Browse { queue: QueueId(queue), after, max: self.random.usize(1..10) };
                let page = snapshot.page(&what, self.tuning.page_bytes).map_err(|error| error.to_string())?;
                for item in page.items {
                    let id = identify(&item.message, &item.topic, &self.doubles)?;
                    let entry =
                        self.model.entries.get(&id).ok_or_else(|| format!("message {id} should not be there"))?;
                    if entry.queue != queue || !is_shown(entry, self.facts[&id].priority, &item, number_of) {
                        return Err(format!("message {id} is {entry:?}, and is shown as {item:?}"));
                    }
                    if !shown.insert(id) {
                        return Err(format!("message {id} is there twice"));
                    }
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(shown.len())
    }
}
