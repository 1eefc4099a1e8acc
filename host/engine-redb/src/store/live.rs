//! An open database with everything that is known about it in memory. Dropped as a whole when the disk fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pelton_core::clock::{Monotonic, WallMs};
use pelton_core::engine::{EngineError, QueueCounts, QueueId, RequestError};
use pelton_core::name::{ConsumerName, NameError, QueueName, ScheduleName};
use redb::{Builder, CompactionError, Database, ReadableDatabase, ReadableTable as _};

use super::dedup::Generations;
use super::leases::{Leases, Place};
use super::queue::Queue;
use super::reader::Reader;
use super::stage::Stage;
use super::sweep::Sweep;
use super::waiting::Waiting;
use super::{Failed, Replies, Tally};
use crate::browse::Snapshot;
use crate::command::{Now, Reply, Request, Ticket};
use crate::failure::Failure;
use crate::format::{Identity, check_format};
use crate::open::{Disk, OpenError};
use crate::panics;
use crate::records::{Counters, Global, NameRecord};
use crate::row::Row;
use crate::seal::unseal;
use crate::tables::{COUNTERS, COUNTERS_GLOBAL, COUNTERS_QUEUE, NAMES, NAMES_PAUSED_CONSUMER, NAMES_QUEUE, SCHEDULES};
use crate::tuning::Tuning;

/// By how much the wall clock may fall behind the monotonic one, as clocks that are set do, before it counts as a step back.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

pub(crate) struct Live<T> {
    pub(super) tuning: Arc<Tuning>,
    pub(super) database: Database,
    /// As committed, but for positions given to what is staged.
    pub(super) global: Global,
    /// By id: ids are dense and never reused.
    pub(super) queues: Vec<Queue>,
    pub(super) by_name: BTreeMap<QueueName, u32>,
    pub(super) leases: Leases,
    pub(super) waiting: Waiting<T>,
    pub(super) stage: Stage<T>,
    /// A view of what is committed, for one call; never kept across a commit.
    pub(super) reader: Option<Reader>,
    pub(super) random: fastrand::Rng,
    pub(super) tally: Tally,
    /// Queues to look at again: something may have become available.
    pub(super) changed: Marks,
    /// Queues of which nothing was leased because there are too many leases in all.
    pub(super) turned_away: Marks,
    /// There were too many leases, and have not been much fewer since.
    pub(super) leases_full: bool,
    /// Queues whose figures are to be published.
    pub(super) uncounted: Marks,
    /// When to record the allocator state, if nothing else happens.
    pub(super) tidy_at: Option<Monotonic>,
    /// The last tick of each schedule that is declared.
    pub(super) ticks: BTreeMap<ScheduleName, WallMs>,
    pub(super) paused_consumers: BTreeSet<ConsumerName>,
    /// Whether the paused consumers are to be told again.
    pub(super) paused_changed: bool,
    pub(super) generations: Generations,
    pub(super) sweep: Sweep,
    pub(super) free_bytes_min: u64,
    /// The disk is too full for more messages.
    pub(super) disk_full: bool,
    /// The moment of the last batch, to notice a wall clock that steps back.
    last: Option<Now>,
}

/// A set of queues, cheap to mark and to drain in the order of marking.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    list: Vec<u32>,
    marked: Vec<bool>,
}

impl Marks {
    pub(super) fn mark(&mut self, queue: u32) {
        let at = queue as usize;
        if self.marked.len() <= at {
            self.marked.resize(at + 1, false);
        }
        if !std::mem::replace(&mut self.marked[at], true) {
            self.list.push(queue);
        }
    }

    pub(super) fn list(&self) -> Vec<u32> {
        self.list.clone()
    }

    pub(super) fn drain(&mut self) -> Vec<u32> {
        for queue in &self.list {
            self.marked[*queue as usize] = false;
        }
        std::mem::take(&mut self.list)
    }
}

impl<T: Ticket> Live<T> {
    /// Opens the database, raises its epoch and reads names and counters: no scan, however long the queues.
    ///
    /// redb asserts what only a damaged file breaks; its panic becomes an error here.
    pub(super) fn open(
        disk: &mut dyn Disk,
        tuning: &Arc<Tuning>,
        random: &mut fastrand::Rng,
    ) -> Result<(Self, Identity), OpenError> {
        panics::quietly(|| Self::open_database(&mut *disk, tuning, random)).unwrap_or_else(|panic| {
            Err(OpenError::Damaged { file: disk.path().to_owned(), reason: panics::told(&panic) })
        })
    }

    fn open_database(
        disk: &mut dyn Disk,
        tuning: &Arc<Tuning>,
        random: &mut fastrand::Rng,
    ) -> Result<(Self, Identity), OpenError> {
        let mut builder = Builder::new();
        builder.set_cache_size(tuning.cache_bytes);
        let database = disk.open(&builder).map_err(|error| OpenError::from_redb(disk.path(), error))?;
        let identity = check_format(&database, disk.path(), &Identity::draw(random))?;
        let live = Self::load(database, Arc::clone(tuning), random.fork())
            .map_err(|failure| OpenError::from_failure(disk.path(), failure))?;
        Ok((live, identity))
    }

    fn load(database: Database, tuning: Arc<Tuning>, random: fastrand::Rng) -> Result<Self, Failure> {
        let Records { mut global, queues, ticks, paused_consumers } = read_records(&database)?;
        global.epoch += 1;
        let generations = Generations::read(&database)?;
        let mut live = Self {
            by_name: (0..).zip(&queues).map(|(id, queue)| (queue.name.clone(), id)).collect(),
            leases: Leases::new(tuning.settled_remembered),
            waiting: Waiting::default(),
            stage: Stage::default(),
            reader: None,
            tally: Tally::default(),
            changed: Marks::default(),
            turned_away: Marks::default(),
            leases_full: false,
            uncounted: Marks::default(),
            tidy_at: None,
            ticks,
            paused_consumers,
            paused_changed: true,
            generations,
            sweep: Sweep::default(),
            free_bytes_min: 0,
            disk_full: false,
            last: None,
            tuning,
            database,
            global,
            queues,
            random,
        };
        live.write_global(false).map_err(|failed| failed.failure)?;
        for queue in 0..live.queue_count() {
            live.touch(queue);
            for line in 0..live.queues[queue as usize].lines.len() {
                live.refill(queue, line, 1)?;
            }
            live.note_oldest_parked(queue)?;
            live.queues[queue as usize].check_whole()?;
        }
        live.reader = None;
        Ok(live)
    }

    /// The figures want to know how old a queue's messages are; among those parked the first stands for all.
    fn note_oldest_parked(&mut self, queue: u32) -> Result<(), Failure> {
        if self.queues[queue as usize].stored.parked == 0 {
            return Ok(());
        }
        let reader = self.reader()?;
        let oldest = match reader.parked.range((queue, 0, 0)..=(queue, u64::MAX, u64::MAX))?.next() {
            Some(row) => {
                let (key, row) = row?;
                let (queue, key, position) = key.value();
                Some(Row::at(queue, Place::Parked { key, position }, row.value())?.accepted())
            }
            None => None,
        };
        self.queues[queue as usize].keys.parked_oldest = oldest;
        Ok(())
    }

    /// Gives what the file does not need back to the disk. Not while somebody looks at messages: another time, then.
    pub(super) fn compact(&mut self) -> Result<(), Failed> {
        self.reader = None;
        match self.database.compact() {
            Ok(compacted) => {
                tracing::info!(compacted, "The data file was compacted, since the disk is full.");
                Ok(())
            }
            Err(CompactionError::Storage(error)) => Err(error.into()),
            Err(_) => Ok(()),
        }
    }

    /// Bytes of all messages.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.queues.iter().map(|queue| queue.stored.bytes).sum()
    }

    pub(super) fn queue_count(&self) -> u32 {
        self.global.next_queue
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// Marks a queue in which something changed.
    pub(super) fn touch(&mut self, queue: u32) {
        self.changed.mark(queue);
        self.uncounted.mark(queue);
    }

    pub(super) fn check_queue(&self, queue: QueueId) -> Result<u32, RequestError> {
        if queue.0 < self.queue_count() { Ok(queue.0) } else { Err(RequestError::UnknownQueue(queue)) }
    }

    pub(super) fn handle(
        &mut self,
        ticket: T,
        request: Request,
        now: Now,
        replies: &mut Replies<T>,
    ) -> Result<(), Failed> {
        match request {
            Request::Append(append) => self.append(ticket, append, now, replies)?,
            Request::Settle(batch) => self.settle(ticket, batch, now),
            Request::Lease(want) => self.lease(ticket, &want, now, replies)?,
            Request::Extend(leases) => {
                let results = leases.into_iter().map(|(token, by)| self.extend(token, by, now)).collect();
                replies.push((ticket, Reply::Extended(results)));
            }
            Request::Release(tokens) => {
                tokens.into_iter().for_each(|token| self.release(token));
                replies.push((ticket, Reply::Released));
            }
            Request::Define(definitions) => self.answer_define(ticket, &definitions, now, replies)?,
            Request::Pause(what, paused) => self.pause(ticket, &what, paused, replies)?,
            Request::Lost(lost) => self.lost(ticket, &lost, now, replies)?,
            Request::Bulk(job) => self.bulk(ticket, &job, replies)?,
            Request::Snapshot(queue) => self.snapshot(ticket, queue, replies)?,
            Request::Held(entries) => {
                let held = entries.iter().map(|entry| self.leases.holds(entry.0)).collect();
                replies.push((ticket, Reply::Held(held)));
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, ticket: T, queue: Option<QueueId>, replies: &mut Replies<T>) -> Result<(), Failed> {
        if let Some(Err(error)) = queue.map(|queue| self.check_queue(queue)) {
            replies.push((ticket, Reply::Snapshot(Err(error))));
            return Ok(());
        }
        let names = self.queues.iter().map(|queue| queue.name.clone()).collect();
        match self.database.begin_read() {
            Ok(txn) => {
                replies.push((ticket, Reply::Snapshot(Ok(Snapshot::new(txn, names)))));
                Ok(())
            }
            Err(error) => {
                let failure = Failure::from(error);
                replies.push((ticket, Reply::Snapshot(Err(failure.undone().into()))));
                Err(failure.into())
            }
        }
    }

    /// Sees to time: leases that ran out, messages that are due, expired or in an order that is to change. Whether what it staged has
    /// to be committed before anything else is done.
    pub(super) fn advance(&mut self, now: Now) -> Result<bool, Failed> {
        let nothing_staged = !self.has_staged();
        if nothing_staged {
            self.follow_clock(now);
            self.follow_orders()?;
            if self.has_staged() || self.sweep(now)? {
                return Ok(true);
            }
        }
        // In this order: what is staged by the second must not be loaded again by the first.
        self.ripen_due(now)?;
        self.expire_leases(now);
        self.park_crowds(now.monotonic);
        Ok(false)
    }

    /// Looks again at what waits for its time when the wall clock went back: its retries were stored with a time that was wrong.
    fn follow_clock(&mut self, now: Now) {
        let stepped_back = |last: Now| {
            let elapsed = now.monotonic.since(last.monotonic);
            now.wall.plus(CLOCK_SLACK) < last.wall.plus(elapsed)
        };
        if self.last.is_some_and(stepped_back) {
            self.reload_due();
        }
        self.last = Some(now);
    }

    fn follow_orders(&mut self) -> Result<(), Failure> {
        for queue in 0..self.queue_count() {
            if self.queues[queue as usize].may_change_order() {
                self.turn_order(queue)?;
            }
        }
        Ok(())
    }

    pub(super) fn next_deadline(&self, now: Now) -> Option<Duration> {
        if self.has_staged() || self.queues.iter().any(Queue::may_change_order) {
            return Some(Duration::ZERO);
        }
        let lease = self.leases.next_end();
        let sweep = self.has_expiring().then_some(self.sweep.at);
        let monotonic = [self.waiting.next_end(), lease, self.tidy_at, sweep].into_iter().flatten().min();
        let due = self.next_due().map(|due| due.since(now.wall));
        let parking = (0..self.queue_count()).filter_map(|queue| self.parking_in(queue, now.monotonic)).min();
        monotonic.map(|at| at.since(now.monotonic)).into_iter().chain(due).chain(parking).min()
    }

    pub(super) fn take_paused(&mut self) -> Option<Vec<ConsumerName>> {
        std::mem::take(&mut self.paused_changed).then(|| self.paused_consumers.iter().cloned().collect())
    }

    pub(super) fn take_changed_counts(&mut self) -> Vec<QueueCounts> {
        self.uncounted.drain().into_iter().map(|id| self.queues[id as usize].counts(id)).collect()
    }

    /// Answers everybody who waits for something with `error`, or, where nothing can have been done, with the milder
    /// [`EngineError::Unavailable`].
    pub(super) fn abandon(self, error: &EngineError, replies: &mut Replies<T>) {
        let undone = if *error == EngineError::Unknown { &EngineError::Unavailable } else { error };
        for (ticket, answer) in self.stage.answers {
            replies.push((ticket, answer.refused(error)));
        }
        for ticket in self.waiting.into_tickets() {
            replies.push((ticket, Reply::Leased(Err(undone.clone().into()))));
        }
    }
}

/// What is read at start, however long the queues.
struct Records {
    global: Global,
    queues: Vec<Queue>,
    ticks: BTreeMap<ScheduleName, WallMs>,
    paused_consumers: BTreeSet<ConsumerName>,
}

fn read_records(database: &Database) -> Result<Records, Failure> {
    let txn = database.begin_read()?;
    let counters = txn.open_table(COUNTERS)?;
    let damaged = |what: &str| Failure::Damaged(what.to_owned());
    let invalid = |error: NameError| Failure::Damaged(error.to_string());
    let key = (COUNTERS_GLOBAL, 0);
    let global = match counters.get(key)? {
        Some(value) => Global::decode(unseal(COUNTERS, &key, value.value())?)?,
        None => return Err(damaged("the global counters are missing")),
    };
    let names = txn.open_table(NAMES)?;
    let mut by_id = BTreeMap::new();
    for row in names.range((NAMES_QUEUE, "")..(NAMES_QUEUE + 1, ""))? {
        let (key, value) = row?;
        let name = QueueName::new(key.value().1).map_err(invalid)?;
        let record = NameRecord::decode(unseal(NAMES, &key.value(), value.value())?)?;
        let key = (COUNTERS_QUEUE, record.id);
        let stored = match counters.get(key)? {
            Some(value) => Counters::decode(unseal(COUNTERS, &key, value.value())?)?,
            None => return Err(Failure::Damaged(format!("the counters of queue '{name}' are missing"))),
        };
        by_id.insert(record.id, Queue::new(name, record, stored));
    }
    let dense = by_id.keys().copied().eq(0..global.next_queue);
    if !dense {
        return Err(damaged("the ids of the queues have holes"));
    }
    let mut paused_consumers = BTreeSet::new();
    for row in names.range((NAMES_PAUSED_CONSUMER, "")..(NAMES_PAUSED_CONSUMER + 1, ""))? {
        let (key, value) = row?;
        unseal(NAMES, &key.value(), value.value())?;
        paused_consumers.insert(ConsumerName::new(key.value().1).map_err(invalid)?);
    }
    let mut ticks = BTreeMap::new();
    for row in txn.open_table(SCHEDULES)?.iter()? {
        let (name, at) = row?;
        let at = unseal(SCHEDULES, &name.value(), at.value())?;
        ticks.insert(ScheduleName::new(name.value()).map_err(invalid)?, WallMs(at));
    }
    Ok(Records { global, queues: by_id.into_values().collect(), ticks, paused_consumers })
}
