//! What the next transaction will do: validated requests, not yet written. Positions are given here, in the order of the
//! requests.

use pelton_core::clock::WallMs;
use pelton_core::engine::{
    Appended, DeadReason, EngineError, LeaseToken, Position, Progress, QueueId, RequestError, SettleError,
};

use super::Replies;
use super::leases::{Lease, Place};
use super::live::Live;
use crate::command::{Content, Now, Reply, Ticket};
use crate::prepare::{PreparedBody, PreparedEntries, PreparedEntry, PreparedSettlement, PreparedVerdict};
use crate::row::{Death, RowBuffer};
use crate::tables::HELD;

/// A row that will be inserted into `ready`.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) queue: u32,
    pub(crate) position: u64,
    pub(crate) row: RowBuffer,
    /// For the window, where it is at hand.
    pub(crate) content: Option<Content>,
}

/// Where a dead message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grave {
    /// To the end of its dead-letter queue.
    Queue { queue: u32, position: u64 },
    /// Nowhere: it is held in its own queue.
    Held,
}

/// What happens to a row that exists.
#[derive(Debug)]
pub(crate) enum Take {
    /// It leaves for good, with its body and history.
    Remove,
    /// It waits until `due`; the attempt counts.
    Wait { due: u64, attempt: Option<Vec<u8>> },
    /// It stays where it is; the attempt counts.
    Stay { attempt: Vec<u8> },
    /// It is a dead letter.
    Die { death: Death, grave: Grave, attempt: Option<Vec<u8>> },
    /// It starts anew at the end of a queue.
    Revive { queue: u32, position: u64 },
}

/// A row that exists, and what happens to it.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) queue: u32,
    pub(crate) place: Place,
    pub(crate) entry: u64,
    pub(crate) accepted: WallMs,
    pub(crate) take: Take,
}

/// The answer to give when the transaction is committed.
#[derive(Debug)]
pub(crate) enum Answer {
    Appended(Vec<Position>),
    Settled(Vec<Result<(), SettleError>>),
    Progress(Progress),
}

impl Answer {
    pub(crate) fn given(self) -> Reply {
        match self {
            Self::Appended(positions) => Reply::Appended(Ok(Appended { positions, duplicates: Vec::new() })),
            Self::Settled(results) => Reply::Settled(results),
            Self::Progress(progress) => Reply::Progress(Ok(progress)),
        }
    }

    /// The transaction failed. What was refused anyway stays refused.
    pub(crate) fn refused(self, error: &EngineError) -> Reply {
        let refuse = |result: Result<(), SettleError>| result.and_then(|()| Err(error.clone().into()));
        match self {
            Self::Appended(_) => Reply::Appended(Err(error.clone().into())),
            Self::Settled(results) => Reply::Settled(results.into_iter().map(refuse).collect()),
            Self::Progress(_) => Reply::Progress(Err(error.clone().into())),
        }
    }
}

/// Everything that the next transaction will do.
#[derive(Debug)]
pub(crate) struct Stage<T> {
    pub(crate) fresh: Vec<Fresh>,
    /// Rows for `due` that are held from the start: (queue, position, row).
    pub(crate) held: Vec<(u32, u64, RowBuffer)>,
    pub(crate) bodies: Vec<(u64, PreparedBody)>,
    pub(crate) taken: Vec<Taken>,
    pub(crate) answers: Vec<(T, Answer)>,
    pub(crate) settled: u64,
    pub(crate) dead: u64,
}

impl<T> Default for Stage<T> {
    fn default() -> Self {
        Self {
            fresh: Vec::new(),
            held: Vec::new(),
            bodies: Vec::new(),
            taken: Vec::new(),
            answers: Vec::new(),
            settled: 0,
            dead: 0,
        }
    }
}

impl<T> Stage<T> {
    /// Whether a transaction would change nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.held.is_empty() && self.taken.is_empty()
    }

    pub(crate) fn messages(&self) -> u64 {
        (self.fresh.len() + self.held.len() + self.taken.len()) as u64
    }
}

impl<T: Ticket> Live<T> {
    /// Whether there is something to write or to answer.
    pub(super) fn has_staged(&self) -> bool {
        !self.stage.is_empty() || !self.stage.answers.is_empty()
    }

    pub(super) fn append(&mut self, ticket: T, entries: PreparedEntries, now: Now, replies: &mut Replies<T>) {
        if let Some(unknown) = self.unknown_queue(&entries) {
            replies.push((ticket, Reply::Appended(Err(RequestError::UnknownQueue(unknown)))));
            return;
        }
        let positions = self.stage_entries(entries, now);
        self.stage.answers.push((ticket, Answer::Appended(positions)));
    }

    pub(super) fn settle(&mut self, ticket: T, batch: Vec<PreparedSettlement>, now: Now) {
        let results = batch.into_iter().map(|settlement| self.stage_settlement(settlement, now)).collect();
        self.stage.answers.push((ticket, Answer::Settled(results)));
    }

    fn unknown_queue(&self, entries: &PreparedEntries) -> Option<QueueId> {
        let known = self.queue_count();
        entries.entries.iter().find(|entry| entry.queue >= known).map(|entry| QueueId(entry.queue))
    }

    pub(super) fn next_position(&mut self) -> u64 {
        let position = self.global.next_position;
        self.global.next_position += 1;
        position
    }

    /// Gives the messages their positions, in their order.
    fn stage_entries(&mut self, entries: PreparedEntries, now: Now) -> Vec<Position> {
        let PreparedEntries { entries, bodies } = entries;
        // A body is named by the position of the first message that has it.
        let mut body_ids = vec![None; bodies.len()];
        let mut positions = Vec::with_capacity(entries.len());
        self.stage.fresh.reserve(entries.len());
        for entry in entries {
            let position = self.next_position();
            let body = entry.body.map(|body| *body_ids[body].get_or_insert(position));
            positions.push(Position(position));
            self.stage_entry(entry, position, body, now);
        }
        let placed = body_ids.into_iter().zip(bodies).filter_map(|(id, body)| Some((id?, body)));
        self.stage.bodies.extend(placed);
        positions
    }

    fn stage_entry(&mut self, entry: PreparedEntry, position: u64, body: Option<u64>, now: Now) {
        let PreparedEntry { queue: origin, topic, message, mut row, dead, .. } = entry;
        row.stamp(position, now.wall, body);
        let mut queue = origin;
        if dead {
            row.stamp_death(origin, now.wall);
            self.stage.dead += 1;
            match self.queues[origin as usize].dead_letter {
                Some(dead_letter) => queue = dead_letter,
                None => {
                    self.stage.held.push((origin, position, row));
                    return;
                }
            }
        }
        let content = Some(Content::Live { topic, message });
        self.stage.fresh.push(Fresh { queue, position, row, content });
    }

    /// Ends the lease and stages what becomes of its message, together with its emits.
    fn stage_settlement(&mut self, settlement: PreparedSettlement, now: Now) -> Result<(), SettleError> {
        let PreparedSettlement { lease: token, attempt, verdict } = settlement;
        let lease = self.leases.find(&token, self.global.epoch)?;
        if let PreparedVerdict::Done(emits) = &verdict
            && let Some(unknown) = self.unknown_queue(emits)
        {
            let error = format!("a settlement emits into the queue with id {}, which does not exist", unknown.0);
            return Err(EngineError::Corrupt(error).into());
        }
        let entry = token.entry.0;
        self.remember(&token);
        self.stage.settled += 1;
        match verdict {
            PreparedVerdict::Done(emits) => {
                self.stage_take(entry, &lease, Take::Remove);
                self.stage_entries(emits, now);
            }
            PreparedVerdict::Again(at) => {
                // The largest time means held, which only the dead are.
                self.stage_take(entry, &lease, Take::Wait { due: at.min(HELD - 1), attempt });
            }
            PreparedVerdict::Dead(reason) => self.stage_death(entry, &lease, reason, attempt, now),
        }
        Ok(())
    }

    fn remember(&mut self, token: &LeaseToken) {
        self.leases.remember_settled(token);
    }

    pub(super) fn stage_death(
        &mut self,
        entry: u64,
        lease: &Lease,
        reason: DeadReason,
        attempt: Option<Vec<u8>>,
        now: Now,
    ) {
        let grave = match self.queues[lease.queue as usize].dead_letter {
            Some(queue) => Grave::Queue { queue, position: self.next_position() },
            None => Grave::Held,
        };
        self.stage.dead += 1;
        let death = Death { origin: lease.queue, at: now.wall, reason };
        self.stage_take(entry, lease, Take::Die { death, grave, attempt });
    }

    /// Ends the lease; until the commit its message counts as leased still.
    pub(super) fn stage_take(&mut self, entry: u64, lease: &Lease, take: Take) {
        self.end_lease(entry, lease);
        let queue = &mut self.queues[lease.queue as usize];
        queue.staged += 1;
        queue.staged_due += u64::from(matches!(lease.place, Place::Due { .. }));
        let Lease { queue, place, accepted, .. } = *lease;
        self.stage.taken.push(Taken { queue, place, entry, accepted, take });
    }
}
