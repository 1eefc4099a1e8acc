//! What the engine in memory holds, and each of its commands as a plain function of the store and the time.
//!
//! Invariants: a message lies in exactly one queue; it is leased if and only if `leases` has its entry; a command
//! checks all that it was given before it changes anything.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use crate::clock::{Monotonic, WallMs};
use crate::engine::{
    Append, Appended, Attempt, DeadLetter, DeadReason, Defined, Definitions, EngineError, EntryId, LeaseRequest,
    LeaseToken, Leased, NewEntry, Position, QueueDefinition, QueueId, RequestError, SettleError, Settlement, Verdict,
};
use crate::message::Message;
use crate::name::{QueueName, Topic};
use crate::testing::Moment;

/// A message that is not tried again until somebody acts.
const HELD: WallMs = WallMs(u64::MAX);
/// How many settled leases are remembered, to tell "settled before" from "lost".
const SETTLED_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct Store {
    closed: bool,
    failing: Option<EngineError>,
    epoch: u64,
    pub(super) next_position: u64,
    names: BTreeMap<QueueName, QueueId>,
    pub(super) queues: BTreeMap<QueueId, Queue>,
    pub(super) leases: BTreeMap<EntryId, Lease>,
    /// Settled leases of this epoch, oldest first, and the same as a set.
    settled: VecDeque<LeaseToken>,
    settled_set: HashSet<LeaseToken>,
}

pub(super) struct Queue {
    pub(super) definition: QueueDefinition,
    pub(super) declared: bool,
    pub(super) entries: BTreeMap<Position, Entry>,
}

pub(super) struct Entry {
    pub(super) entry: EntryId,
    pub(super) topic: Topic,
    pub(super) message: Message,
    pub(super) hops: u8,
    pub(super) accepted: WallMs,
    pub(super) attempts: u32,
    pub(super) due: Option<WallMs>,
    pub(super) dead: Option<DeadLetter>,
    pub(super) history: Vec<Attempt>,
}

impl Entry {
    /// Whether its time has come.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.due.is_none_or(|due| due <= now.wall)
    }
}

pub(super) struct Lease {
    token: LeaseToken,
    position: Position,
    since: Moment,
    ends: Option<Monotonic>,
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

    pub(super) fn recover(&mut self) {
        if !self.closed {
            *self = self.crash();
        }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Closes this store; what a restart would find on disk is returned.
    pub(super) fn crash(&mut self) -> Self {
        self.closed = true;
        Self {
            epoch: self.epoch + 1,
            next_position: self.next_position,
            names: std::mem::take(&mut self.names),
            queues: std::mem::take(&mut self.queues),
            ..Self::default()
        }
    }

    pub(super) fn define(&mut self, definitions: Definitions) -> Defined {
        self.queues.values_mut().for_each(|queue| queue.declared = false);
        let mut defined = Defined::default();
        for definition in definitions.queues {
            let name = definition.name.clone();
            let next = QueueId(u32::try_from(self.names.len() + 1).expect("a test defines fewer than 2^32 queues"));
            let id = *self.names.entry(name.clone()).or_insert(next);
            let entries = self.queues.remove(&id).map(|queue| queue.entries).unwrap_or_default();
            self.queues.insert(id, Queue { definition, declared: true, entries });
            defined.queues.insert(name, id);
        }
        let undeclared = self.queues.values().filter(|queue| !queue.declared && !queue.entries.is_empty());
        defined.undeclared = undeclared.map(|queue| queue.definition.name.clone()).collect();
        defined.undeclared.sort();
        defined
    }

    pub(super) fn append(&mut self, append: Append, now: Moment) -> Result<Appended, RequestError> {
        for new in &append.entries {
            self.known(new.queue)?;
        }
        let positions = append.entries.into_iter().map(|new| self.insert(new, now)).collect();
        Ok(Appended { positions, duplicates: Vec::new() })
    }

    pub(super) fn lease(&mut self, want: &LeaseRequest, now: Moment) -> Result<Vec<Leased>, RequestError> {
        let queue = self.queues.get(&want.queue).ok_or(RequestError::UnknownQueue(want.queue))?;
        let free = |entry: &Entry| entry.is_due(now) && !self.leases.contains_key(&entry.entry);
        let available = queue.entries.iter().filter(|(_, entry)| free(entry)).take(want.max.max(1));
        let mut leases = Vec::new();
        let mut leased = Vec::new();
        for (position, entry) in available {
            let token = LeaseToken {
                queue: want.queue,
                entry: entry.entry,
                epoch: self.epoch,
                attempt: entry.attempts + 1,
                accepted: entry.accepted,
                nonce: fastrand::u64(..),
            };
            let ends = want.ttl.map(|ttl| now.monotonic.plus(ttl));
            leases.push((entry.entry, Lease { token, position: *position, since: now, ends }));
            leased.push(Leased {
                token,
                topic: entry.topic.clone(),
                message: entry.message.clone(),
                hops: entry.hops,
                accepted: entry.accepted,
                place: crate::engine::Place { position: *position, detail: 0, kind: 0 },
                key: None,
                alone: false,
            });
        }
        self.leases.extend(leases);
        Ok(leased)
    }

    /// How long until time alone may make something of `queue` available.
    pub(super) fn next_event(&self, queue: QueueId, now: Moment) -> Option<Duration> {
        let entries = self.queues.get(&queue).into_iter().flat_map(|queue| queue.entries.values());
        let due = entries.filter_map(|entry| entry.due).filter(|due| *due > now.wall).map(|due| due.since(now.wall));
        let ends = self.leases.values().filter_map(|lease| lease.ends).map(|ends| ends.since(now.monotonic));
        due.chain(ends).min()
    }

    pub(super) fn extend(&mut self, token: LeaseToken, by: Duration, now: Moment) -> Result<(), SettleError> {
        self.held(&token)?;
        if let Some(lease) = self.leases.get_mut(&token.entry)
            && lease.ends.is_some()
        {
            lease.ends = Some(now.monotonic.plus(by));
        }
        Ok(())
    }

    pub(super) fn release(&mut self, token: LeaseToken) {
        if self.held(&token).is_ok() {
            self.leases.remove(&token.entry);
        }
    }

    pub(super) fn settle(&mut self, settlement: Settlement, now: Moment) -> Result<(), SettleError> {
        let Settlement { lease: token, attempt, verdict } = settlement;
        let position = self.held(&token)?;
        if let Verdict::Done { emits } = &verdict
            && let Some(lost) = emits.iter().find(|emit| self.known(emit.queue).is_err())
        {
            let detail = format!("an emit is for the queue with id {}, which does not exist", lost.queue.0);
            return Err(EngineError::Corrupt(detail).into());
        }
        self.leases.remove(&token.entry);
        self.remember_settled(token);
        let mut entry = self.take(token.queue, position);
        entry.history.extend(attempt);
        match verdict {
            Verdict::Done { emits } => {
                for emit in emits {
                    self.insert(emit, now);
                }
            }
            Verdict::Again { at, .. } => {
                entry.attempts = token.attempt;
                entry.due = Some(at);
                self.put(token.queue, position, entry);
            }
            Verdict::Dead { reason } => {
                entry.attempts = token.attempt;
                self.bury(token.queue, position, entry, reason, now);
            }
        }
        Ok(())
    }

    /// Ends the leases that ran out, each as a failed attempt; whether there were any.
    pub(super) fn expire(&mut self, now: Moment) -> bool {
        let ran_out = |lease: &&Lease| lease.ends.is_some_and(|ends| ends <= now.monotonic);
        let mut expired: Vec<_> = self
            .leases
            .values()
            .filter(ran_out)
            .map(|lease| (lease.ends, lease.token, lease.position, lease.since))
            .collect();
        expired.sort_by_key(|(ends, token, ..)| (*ends, token.entry));
        let any = !expired.is_empty();
        for (_, token, position, since) in expired {
            self.leases.remove(&token.entry);
            self.run_out(token, position, since, now);
        }
        any
    }

    /// Counts an attempt; the message is available again at its old place, or dead when it was the last.
    fn run_out(&mut self, token: LeaseToken, position: Position, since: Moment, now: Moment) {
        let held_for = now.monotonic.since(since.monotonic);
        let reason = "the lease ran out before it was settled".to_owned();
        let mut entry = self.take(token.queue, position);
        entry.attempts = token.attempt;
        entry.history.push(Attempt {
            number: token.attempt,
            at_ms: since.wall.0,
            outcome: "lease-expired".to_owned(),
            reason: reason.clone(),
            duration_us: u64::try_from(held_for.as_micros()).unwrap_or(u64::MAX),
            digest: None,
            log_tail: String::new(),
        });
        let retry = &self.queue(token.queue).definition.retry;
        let ended = format!("lease-expired: {reason}");
        match retry.exhausted(token.attempt, now.wall.since(token.accepted), &ended) {
            Some(reason) => self.bury(token.queue, position, entry, reason, now),
            None => self.put(token.queue, position, entry),
        }
    }

    /// The place of the message that `token` is a valid lease of.
    fn held(&self, token: &LeaseToken) -> Result<Position, SettleError> {
        match self.leases.get(&token.entry) {
            Some(lease) if lease.token == *token => Ok(lease.position),
            _ if self.settled_set.contains(token) => Err(SettleError::AlreadySettled),
            _ => Err(SettleError::LeaseLost),
        }
    }

    fn remember_settled(&mut self, token: LeaseToken) {
        if self.settled.len() == SETTLED_MAX
            && let Some(oldest) = self.settled.pop_front()
        {
            self.settled_set.remove(&oldest);
        }
        self.settled.push_back(token);
        self.settled_set.insert(token);
    }

    /// Stores a new message in its queue, or in that queue's dead letters.
    fn insert(&mut self, new: NewEntry, now: Moment) -> Position {
        let position = self.next_place();
        let entry = Entry {
            entry: EntryId(position.0),
            topic: new.topic,
            message: new.message,
            hops: new.hops,
            accepted: now.wall,
            attempts: 0,
            due: None,
            dead: None,
            history: Vec::new(),
        };
        match new.dead {
            None => self.put(new.queue, position, entry),
            Some(reason) => self.bury(new.queue, position, entry, reason, now),
        }
        position
    }

    /// Moves a message, already taken out of `queue`, to the end of its dead letters; holds it in place where it has none.
    ///
    /// What dies again in a dead-letter queue keeps the origin that it came with: that is where a redrive belongs.
    fn bury(&mut self, queue: QueueId, position: Position, mut entry: Entry, reason: DeadReason, now: Moment) {
        let definition = &self.queue(queue).definition;
        let origin = entry.dead.take().map_or_else(|| definition.name.clone(), |before| before.origin);
        let target = definition.dead_letter.as_ref().and_then(|name| self.names.get(name)).copied();
        entry.dead = Some(DeadLetter { origin, at: now.wall, reason });
        entry.due = target.is_none().then_some(HELD);
        match target {
            Some(target) => {
                entry.attempts = 0;
                let position = self.next_place();
                self.put(target, position, entry);
            }
            None => self.put(queue, position, entry),
        }
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

    pub(super) fn known(&self, queue: QueueId) -> Result<(), RequestError> {
        self.queues.contains_key(&queue).then_some(()).ok_or(RequestError::UnknownQueue(queue))
    }

    pub(super) fn take(&mut self, queue: QueueId, position: Position) -> Entry {
        let entries = &mut self.queues.get_mut(&queue).expect("queues are never removed").entries;
        entries.remove(&position).expect("a lease or a look just now found it there")
    }

    pub(super) fn put(&mut self, queue: QueueId, position: Position, entry: Entry) {
        self.queues.get_mut(&queue).expect("queues are never removed").entries.insert(position, entry);
    }

    fn queue(&self, id: QueueId) -> &Queue {
        self.queues.get(&id).expect("queues are never removed")
    }
}
