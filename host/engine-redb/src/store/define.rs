//! Making the queues and schedules of a plan exist, and pausing. Ids are dense and never reused; nothing is ever deleted here.

use std::collections::{BTreeMap, BTreeSet};

use pelton_core::clock::WallMs;
use pelton_core::engine::{Defined, Definitions, EngineError, Pausable, QueueDefinition, QueueId, RequestError};
use pelton_core::name::{QueueName, ScheduleName};

use super::live::Live;
use super::queue::Queue;
use super::{Failed, Replies};
use crate::command::{Now, Reply, Ticket};
use crate::records::{Counters, NameRecord, Settings};
use crate::seal::seal;
use crate::tables::{COUNTERS, COUNTERS_QUEUE, NAMES, NAMES_PAUSED_CONSUMER, NAMES_QUEUE, SCHEDULES};

impl<T: Ticket> Live<T> {
    pub(super) fn answer_define(
        &mut self,
        ticket: T,
        definitions: &Definitions,
        now: Now,
        replies: &mut Replies<T>,
    ) -> Result<(), Failed> {
        match self.define(definitions, now) {
            Ok(defined) => {
                replies.push((ticket, Reply::Defined(Ok(defined))));
                Ok(())
            }
            Err(failed) => {
                let error = if failed.unknown { EngineError::Unknown } else { failed.failure.undone() };
                replies.push((ticket, Reply::Defined(Err(error))));
                Err(failed)
            }
        }
    }

    pub(super) fn define(&mut self, definitions: &Definitions, now: Now) -> Result<Defined, Failed> {
        let declared: BTreeMap<&QueueName, &QueueDefinition> =
            definitions.queues.iter().map(|queue| (&queue.name, queue)).collect();
        let mut names: BTreeSet<QueueName> = declared.keys().map(|name| (*name).clone()).collect();
        names.extend(definitions.queues.iter().filter_map(|queue| queue.dead_letter.clone()));
        let mut ids = self.by_name.clone();
        let mut next = self.global.next_queue;
        for name in &names {
            ids.entry(name.clone()).or_insert_with(|| {
                next += 1;
                next - 1
            });
        }
        let record = |(name, id): (&QueueName, &u32)| {
            let known = self.queues.get(*id as usize);
            let mut record = known.map_or_else(|| NameRecord::new(*id), |queue| queue.record.clone());
            record.declared = names.contains(name);
            // What is no longer declared goes on as it was.
            if let Some(definition) = declared.get(name) {
                record.settings = Settings::of(definition);
                record.ranked |= record.settings.priority;
                record.dead_letter = definition.dead_letter.as_ref().and_then(|name| ids.get(name).copied());
            }
            let has_another_order = |queue: &Queue| queue.turn.is_some() || queue.keyed != record.settings.order_by_key;
            record.turning = known.is_some_and(has_another_order);
            (name.clone(), record)
        };
        let records: BTreeMap<QueueName, NameRecord> = ids.iter().map(record).collect();
        let ticks = self.ticks_of(definitions, now);
        self.write_names(&records, &ticks, next)?;
        for (name, record) in records {
            self.take_up(name, record);
        }
        self.by_name = ids;
        self.ticks = ticks;
        self.free_bytes_min = definitions.free_bytes_min;
        Ok(self.defined(definitions))
    }

    /// The last tick of each schedule that is declared; a new one counts as having ticked just now.
    fn ticks_of(&self, definitions: &Definitions, now: Now) -> BTreeMap<ScheduleName, WallMs> {
        let last = |name: &ScheduleName| self.ticks.get(name).copied().unwrap_or(now.wall);
        definitions.schedules.iter().map(|name| (name.clone(), last(name))).collect()
    }

    /// Commits the records that differ from what is known, if there are any.
    fn write_names(
        &mut self,
        records: &BTreeMap<QueueName, NameRecord>,
        ticks: &BTreeMap<ScheduleName, WallMs>,
        next_queue: u32,
    ) -> Result<(), Failed> {
        let known = |record: &NameRecord| self.queues.get(record.id as usize).map(|queue| &queue.record);
        let changed: Vec<_> = records.iter().filter(|(_, record)| known(record) != Some(record)).collect();
        if changed.is_empty() && *ticks == self.ticks {
            return Ok(());
        }
        self.reader = None;
        let txn = self.database.begin_write()?;
        {
            let mut table = txn.open_table(NAMES)?;
            for (name, record) in changed {
                let key = (NAMES_QUEUE, name.as_str());
                table.insert(key, seal(NAMES, &key, record.encode().as_slice()))?;
            }
            // Every queue has counters, also one that holds nothing: missing ones are damage.
            let mut table = txn.open_table(COUNTERS)?;
            for id in self.queue_count()..next_queue {
                let key = (COUNTERS_QUEUE, id);
                table.insert(key, seal(COUNTERS, &key, &Counters::default().encode()[..]))?;
            }
            let mut table = txn.open_table(SCHEDULES)?;
            for gone in self.ticks.keys().filter(|name| !ticks.contains_key(*name)) {
                table.remove(gone.as_str())?;
            }
            for (name, at) in ticks.iter().filter(|(name, _)| !self.ticks.contains_key(*name)) {
                table.insert(name.as_str(), seal(SCHEDULES, &name.as_str(), at.0))?;
            }
        }
        self.global.next_queue = next_queue;
        self.write_counters(&txn, &BTreeMap::new())?;
        txn.commit().map_err(|error| Failed { failure: error.into(), unknown: true })?;
        self.tally.commits += 1;
        Ok(())
    }

    fn take_up(&mut self, name: QueueName, record: NameRecord) {
        let id = record.id;
        if id as usize == self.queues.len() {
            self.queues.push(Queue::new(name, record, Counters::default()));
        } else {
            self.queues[id as usize].take_up(record);
        }
        self.touch(id);
    }

    /// Pauses or resumes, durably.
    pub(super) fn pause(
        &mut self,
        ticket: T,
        what: &Pausable,
        paused: bool,
        replies: &mut Replies<T>,
    ) -> Result<(), Failed> {
        match self.write_pause(what, paused) {
            Ok(result) => {
                replies.push((ticket, Reply::Paused(result)));
                Ok(())
            }
            Err(failed) => {
                let error = if failed.unknown { EngineError::Unknown } else { failed.failure.undone() };
                replies.push((ticket, Reply::Paused(Err(error.into()))));
                Err(failed)
            }
        }
    }

    fn write_pause(&mut self, what: &Pausable, paused: bool) -> Result<Result<(), RequestError>, Failed> {
        let queue = match what {
            Pausable::Queue(queue) => match self.check_queue(*queue) {
                Ok(queue) => Some(queue),
                Err(error) => return Ok(Err(error)),
            },
            Pausable::Consumer(_) => None,
        };
        self.reader = None;
        let txn = self.database.begin_write()?;
        {
            let mut table = txn.open_table(NAMES)?;
            match (what, queue) {
                (_, Some(queue)) => {
                    let state = &self.queues[queue as usize];
                    let record = NameRecord { paused, ..state.record.clone() };
                    let key = (NAMES_QUEUE, state.name.as_str());
                    table.insert(key, seal(NAMES, &key, record.encode().as_slice()))?;
                }
                (Pausable::Consumer(name), _) if paused => {
                    let key = (NAMES_PAUSED_CONSUMER, name.as_str());
                    table.insert(key, seal(NAMES, &key, &[][..]))?;
                }
                (Pausable::Consumer(name), _) => {
                    table.remove((NAMES_PAUSED_CONSUMER, name.as_str()))?;
                }
                (Pausable::Queue(_), None) => {}
            }
        }
        self.write_counters(&txn, &BTreeMap::new())?;
        txn.commit().map_err(|error| Failed { failure: error.into(), unknown: true })?;
        self.tally.commits += 1;
        if let Some(queue) = queue {
            self.queues[queue as usize].record.paused = paused;
            self.touch(queue);
        }
        if let Pausable::Consumer(name) = what {
            self.paused_changed = true;
            if paused {
                self.paused_consumers.insert(name.clone());
            } else {
                self.paused_consumers.remove(name);
            }
        }
        Ok(Ok(()))
    }

    fn defined(&self, definitions: &Definitions) -> Defined {
        let id = |name: &QueueName| Some((name.clone(), QueueId(*self.by_name.get(name)?)));
        let holds_something = |queue: &&Queue| queue.stored.messages() > 0;
        let undeclared = self.queues.iter().filter(|queue| !queue.record.declared).filter(holds_something);
        let undeclared_ids = self.queues.iter().zip(0..).filter(|(queue, _)| !queue.record.declared);
        Defined {
            queues: definitions.queues.iter().filter_map(|queue| id(&queue.name)).collect(),
            kept_retries: undeclared_ids.map(|(queue, id)| (QueueId(id), queue.retry.clone())).collect(),
            undeclared: undeclared.map(|queue| queue.name.clone()).collect(),
            ticks: self.ticks.clone(),
        }
    }
}
