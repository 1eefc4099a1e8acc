//! Making the queues of a plan exist. Ids are dense and never reused; nothing is ever deleted here.

use std::collections::{BTreeMap, BTreeSet};

use pelton_core::engine::{Defined, Definitions, EngineError, QueueId};
use pelton_core::name::QueueName;
use pelton_core::retry::RetryPolicy;

use super::live::Live;
use super::queue::Queue;
use super::{Failed, Replies};
use crate::command::{Reply, Ticket};
use crate::records::{Counters, NameRecord};
use crate::tables::{NAMES, NAMES_QUEUE};

impl<T: Ticket> Live<T> {
    pub(super) fn answer_define(
        &mut self,
        ticket: T,
        definitions: &Definitions,
        replies: &mut Replies<T>,
    ) -> Result<(), Failed> {
        match self.define(definitions) {
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

    pub(super) fn define(&mut self, definitions: &Definitions) -> Result<Defined, Failed> {
        let mut retries: BTreeMap<&QueueName, &RetryPolicy> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for queue in &definitions.queues {
            retries.insert(&queue.name, &queue.retry);
            names.insert(queue.name.clone());
            names.extend(queue.dead_letter.clone());
        }
        let mut ids = self.by_name.clone();
        let mut next = self.global.next_queue;
        for name in &names {
            ids.entry(name.clone()).or_insert_with(|| {
                next += 1;
                next - 1
            });
        }
        let mut records: BTreeMap<&QueueName, NameRecord> = BTreeMap::new();
        for (name, id) in &ids {
            let dead_letter = self.queues.get(*id as usize).and_then(|queue| queue.dead_letter);
            records.insert(name, NameRecord { id: *id, declared: names.contains(name), dead_letter });
        }
        for queue in &definitions.queues {
            if let Some(record) = records.get_mut(&queue.name) {
                record.dead_letter = queue.dead_letter.as_ref().and_then(|name| ids.get(name).copied());
            }
        }
        self.write_names(&records, next)?;
        for (name, record) in records {
            self.take_up(name, record, retries.get(name).copied());
        }
        self.by_name = ids;
        Ok(self.defined(definitions))
    }

    /// Commits the records that differ from what is known, if there are any.
    fn write_names(&mut self, records: &BTreeMap<&QueueName, NameRecord>, next_queue: u32) -> Result<(), Failed> {
        let known = |record: &NameRecord| {
            let queue = self.queues.get(record.id as usize)?;
            Some(NameRecord { id: record.id, declared: queue.declared, dead_letter: queue.dead_letter })
        };
        let changed: Vec<_> = records.iter().filter(|(_, record)| known(record) != Some(**record)).collect();
        if changed.is_empty() {
            return Ok(());
        }
        self.reader = None;
        self.global.next_queue = next_queue;
        let txn = self.database.begin_write()?;
        {
            let mut table = txn.open_table(NAMES)?;
            for (name, record) in changed {
                table.insert((NAMES_QUEUE, name.as_str()), &record.encode()[..])?;
            }
        }
        self.write_counters(&txn, &BTreeMap::new())?;
        txn.commit().map_err(|error| Failed { failure: error.into(), unknown: true })?;
        self.tally.commits += 1;
        Ok(())
    }

    fn take_up(&mut self, name: &QueueName, record: NameRecord, retry: Option<&RetryPolicy>) {
        let NameRecord { id, declared, dead_letter } = record;
        if id as usize == self.queues.len() {
            self.queues.push(Queue::new(name.clone(), declared, dead_letter, Counters::default()));
        }
        let queue = &mut self.queues[id as usize];
        queue.declared = declared;
        queue.dead_letter = dead_letter;
        if let Some(retry) = retry {
            queue.retry = retry.clone();
        }
        self.touch(id);
    }

    fn defined(&self, definitions: &Definitions) -> Defined {
        let id = |name: &QueueName| Some((name.clone(), QueueId(*self.by_name.get(name)?)));
        let holds_something = |queue: &&Queue| queue.stored.ready + queue.stored.due > 0;
        let undeclared = self.queues.iter().filter(|queue| !queue.declared).filter(holds_something);
        Defined {
            queues: definitions.queues.iter().filter_map(|queue| id(&queue.name)).collect(),
            undeclared: undeclared.map(|queue| queue.name.clone()).collect(),
            ticks: BTreeMap::new(),
        }
    }
}
