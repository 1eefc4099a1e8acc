//! What the engine in memory holds: queues, their messages, leases; how messages come in, and how they die.
//!
//! Invariants: a message lies in exactly one queue; it is leased if and only if `leases` has its entry; a command
//! checks all that it was given before it changes anything.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::admit::Doubles;
use crate::clock::{Monotonic, WallMs};
use crate::engine::{
    Attempt, DeadLetter, DeadReason, Defined, Definitions, EngineError, EntryId, LeaseToken, NewEntry, Order, OrderKey,
    Pausable, Place, Position, QueueDefinition, QueueId, RequestError,
};
use crate::message::Message;
use crate::name::{ConsumerName, QueueName, ScheduleName, Topic};
use crate::testing::Moment;

/// The due time of what is held: it never comes.
pub(super) const HELD: WallMs = WallMs(u64::MAX);
/// What the disk, which is none, has to give.
const FREE_BYTES: u64 = 1 << 50;
/// How many settled leases are remembered, to tell "settled before" from "lost".
pub(super) const SETTLED_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct Store {
    closed: bool,
    failing: Option<EngineError>,
    /// A test says so.
    filled: bool,
    /// Less is free than the plan wants.
    below_floor: bool,
    pub(super) epoch: u64,
    pub(super) next_position: u64,
    names: BTreeMap<QueueName, QueueId>,
    pub(super) queues: BTreeMap<QueueId, Queue>,
    pub(super) leases: BTreeMap<EntryId, Lease>,
    /// Settled leases of this epoch, oldest first, and the same as a set.
    pub(super) settled: VecDeque<LeaseToken>,
    pub(super) settled_set: HashSet<LeaseToken>,
    /// The last tick of every schedule.
    pub(super) ticks: BTreeMap<ScheduleName, WallMs>,
    pub(super) doubles: Doubles,
    pub(super) paused_consumers: BTreeSet<ConsumerName>,
    /// Before this nothing expires or comes due, so that nobody need look.
    pub(super) sweep_at: WallMs,
}

pub(super) struct Queue {
    pub(super) definition: QueueDefinition,
    pub(super) declared: bool,
    pub(super) paused: bool,
    /// In which messages are leased: the one defined, as soon as nothing is leased in another.
    pub(super) order: Order,
    pub(super) entries: BTreeMap<Position, Entry>,
    pub(super) dropped: u64,
    pub(super) expired: u64,
}

pub(super) struct Entry {
    pub(super) entry: EntryId,
    pub(super) topic: Topic,
    pub(super) message: Message,
    pub(super) hops: u8,
    pub(super) accepted: WallMs,
    pub(super) attempts: u32,
    pub(super) wait: Wait,
    pub(super) expires: Option<WallMs>,
    pub(super) priority: u8,
    pub(super) key: Option<OrderKey>,
    pub(super) alone: bool,
    pub(super) dead: Option<DeadLetter>,
    pub(super) history: Vec<Attempt>,
}

/// What a message waits for, or waited for when it was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// Since it was accepted.
    Delay(WallMs),
    Retry {
        at: WallMs,
        chosen: bool,
    },
    Held,
}

impl Wait {
    pub(super) fn due(self) -> Option<WallMs> {
        match self {
            Self::Nothing => None,
            Self::Delay(at) | Self::Retry { at, .. } => Some(at),
            Self::Held => Some(HELD),
        }
    }
}

impl Entry {
    /// Whether its time has come.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.wait.due().is_none_or(|due| due <= now.wall)
    }

    /// Bytes that it takes in its queue.
    pub(super) fn bytes(&self) -> u64 {
        bytes(&self.message)
    }

    pub(super) fn place(&self, position: Position) -> Place {
        let due = self.wait.due();
        Place { position, detail: due.map_or(0, |due| due.0), kind: u8::from(due.is_some()) }
    }
}

/// Bytes that a message takes in a queue.
pub(super) fn bytes(message: &Message) -> u64 {
    message.as_bytes().len() as u64
}

pub(super) struct Lease {
    pub(super) token: LeaseToken,
    pub(super) position: Position,
    pub(super) since: Moment,
    pub(super) ends: Option<Monotonic>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self { epoch: 1, next_position: 1, ..Self::default() }
    }

    pub(super) fn check_open(&self) -> Result<(), EngineError> {
        match &self.failing {
            _ if self.closed => Err(EngineError::Unavailable),
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    pub(super) fn fail(&mut self, error: EngineError) {
        self.failing = Some(error);
    }

    pub(super) fn fill(&mut self, full: bool) {
        self.filled = full;
    }

    pub(super) fn disk_full(&self) -> bool {
        self.filled || self.below_floor
    }

    pub(super) fn recover(&mut self, now: Moment) {
        if !self.closed {
            *self = self.crash(now);
        }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Closes this store; what a restart would find on disk is returned.
    pub(super) fn crash(&mut self, now: Moment) -> Self {
        self.closed = true;
        let mut after = Self {
            epoch: self.epoch + 1,
            next_position: self.next_position,
            filled: self.filled,
            names: std::mem::take(&mut self.names),
            queues: std::mem::take(&mut self.queues),
            ticks: std::mem::take(&mut self.ticks),
            doubles: std::mem::take(&mut self.doubles),
            paused_consumers: std::mem::take(&mut self.paused_consumers),
            ..Self::default()
        };
        after.queues.values_mut().for_each(|queue| queue.reopen(now));
        after
    }

    pub(super) fn define(&mut self, definitions: Definitions, now: Moment) -> Defined {
        self.below_floor = definitions.free_bytes_min > FREE_BYTES;
        self.queues.values_mut().for_each(|queue| queue.declared = false);
        let mut defined = Defined::default();
        for definition in definitions.queues {
            let name = definition.name.clone();
            let next = QueueId(u32::try_from(self.names.len() + 1).expect("a test defines fewer than 2^32 queues"));
            let id = *self.names.entry(name.clone()).or_insert(next);
            let queue = self.queues.entry(id).or_insert_with(|| Queue::new(definition.clone()));
            queue.definition = definition;
            queue.declared = true;
            defined.queues.insert(name, id);
        }
        let undeclared = self.queues.values().filter(|queue| !queue.declared && !queue.entries.is_empty());
        defined.undeclared = undeclared.map(|queue| queue.definition.name.clone()).collect();
        defined.undeclared.sort();
        let kept = self.queues.iter().filter(|(_, queue)| !queue.declared);
        defined.kept_retries = kept.map(|(id, queue)| (*id, queue.definition.retry.clone())).collect();
        let last = |name: &ScheduleName| self.ticks.get(name).copied().unwrap_or(now.wall);
        defined.ticks = definitions.schedules.into_iter().map(|name| (name.clone(), last(&name))).collect();
        self.ticks.clone_from(&defined.ticks);
        defined
    }

    pub(super) fn pause(&mut self, what: Pausable, paused: bool) -> Result<(), RequestError> {
        match what {
            Pausable::Queue(id) => {
                self.queues.get_mut(&id).ok_or(RequestError::UnknownQueue(id))?.paused = paused;
            }
            Pausable::Consumer(name) if paused => drop(self.paused_consumers.insert(name)),
            Pausable::Consumer(name) => drop(self.paused_consumers.remove(&name)),
        }
        Ok(())
    }

    /// Stores a new message in its queue, or in that queue's dead letters.
    pub(super) fn insert(&mut self, position: Position, new: NewEntry, now: Moment) {
        let options = new.options;
        let mut entry = Entry {
            entry: EntryId(position.0),
            topic: new.topic,
            message: new.message,
            hops: new.hops,
            accepted: now.wall,
            attempts: 0,
            wait: options.due.filter(|due| *due > now.wall).map_or(Wait::Nothing, Wait::Delay),
            expires: options.expires,
            priority: options.priority,
            key: options.key,
            alone: false,
            dead: None,
            history: Vec::new(),
        };
        let grave = new.dead.and_then(|reason| self.die(new.queue, &mut entry, reason, now));
        self.put(grave.unwrap_or(new.queue), position, entry);
    }

    /// Moves a message, already taken out of `queue`, to the end of its dead letters; holds it in place where it has none.
    pub(super) fn bury(
        &mut self,
        queue: QueueId,
        position: Position,
        mut entry: Entry,
        reason: DeadReason,
        now: Moment,
    ) {
        match self.die(queue, &mut entry, reason, now) {
            Some(grave) => {
                let position = self.next_place();
                self.put(grave, position, entry);
            }
            None => self.put(queue, position, entry),
        }
    }

    /// Makes a message of `queue` a dead letter; the queue that it belongs to from now on, none where it is held in place.
    ///
    /// What dies again in a dead-letter queue keeps the origin that it came with: that is where a redrive belongs.
    fn die(&self, queue: QueueId, entry: &mut Entry, reason: DeadReason, now: Moment) -> Option<QueueId> {
        let name = &self.queue(queue).definition.name;
        let origin = entry.dead.take().map_or_else(|| name.clone(), |before| before.origin);
        entry.dead = Some(DeadLetter { origin, at: now.wall, reason });
        entry.expires = None;
        entry.alone = false;
        entry.wait = Wait::Held;
        let grave = self.dead_letters_of(queue)?;
        entry.wait = Wait::Nothing;
        entry.attempts = 0;
        Some(grave)
    }

    /// The queue that takes the dead letters of `queue`.
    pub(super) fn dead_letters_of(&self, queue: QueueId) -> Option<QueueId> {
        self.queue(queue).definition.dead_letter.as_ref().and_then(|name| self.names.get(name)).copied()
    }

    pub(super) fn next_place(&mut self) -> Position {
        let position = Position(self.next_position);
        self.next_position += 1;
        position
    }

    /// The queue called `name` that the plan names.
    pub(super) fn declared(&self, name: &QueueName) -> Option<QueueId> {
        self.names.get(name).copied().filter(|id| self.queue(*id).declared)
    }

    pub(super) fn known(&self, queue: QueueId) -> Result<&Queue, RequestError> {
        self.queues.get(&queue).ok_or(RequestError::UnknownQueue(queue))
    }

    pub(super) fn take(&mut self, queue: QueueId, position: Position) -> Entry {
        let entries = &mut self.queue_mut(queue).entries;
        entries.remove(&position).expect("a lease or a look just now found it there")
    }

    pub(super) fn put(&mut self, queue: QueueId, position: Position, entry: Entry) {
        self.sweep_at = self.sweep_at.min(entry.sweep_at(WallMs(0)));
        self.queue_mut(queue).entries.insert(position, entry);
    }

    pub(super) fn queue(&self, id: QueueId) -> &Queue {
        self.queues.get(&id).expect("queues are never removed")
    }

    pub(super) fn queue_mut(&mut self, id: QueueId) -> &mut Queue {
        self.queues.get_mut(&id).expect("queues are never removed")
    }
}

impl Queue {
    fn new(definition: QueueDefinition) -> Self {
        let order = definition.order;
        Self { definition, declared: true, paused: false, order, entries: BTreeMap::new(), dropped: 0, expired: 0 }
    }

    /// Counts anew, and brings retries forward whose time can only come from a clock that was wrong.
    fn reopen(&mut self, now: Moment) {
        (self.dropped, self.expired) = (0, 0);
        let latest = now.wall.plus(self.definition.retry.backoff.max);
        for entry in self.entries.values_mut() {
            if let Wait::Retry { at, chosen: false } = &mut entry.wait {
                *at = latest.min(*at);
            }
        }
    }
}
