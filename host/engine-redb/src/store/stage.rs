//! What the next transaction will do: validated requests, not yet written. Positions are given here, in the order of the
//! requests.

use std::collections::HashMap;

use pelton_core::engine::{Appended, DeadReason, EngineError, LeaseToken, Position, Progress, QueueId, SettleError};
use pelton_core::name::ScheduleName;

use super::dedup::Known;
use super::leases::{Lease, Place};
use super::live::Live;
use super::window::WindowEntry;
use crate::command::{Content, Now, Reply, Ticket};
use crate::prepare::{PreparedBody, PreparedEntries, PreparedEntry, PreparedSettlement, PreparedVerdict};
use crate::row::{Death, RowBuffer};
use crate::tables::{DedupKey, HELD, IN_READY, ParkedKey};

/// A row that will be inserted into `ready`.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) queue: u32,
    pub(crate) rank: u8,
    pub(crate) position: u64,
    pub(crate) row: RowBuffer,
    /// For the window, where it is at hand.
    pub(crate) content: Option<Content>,
}

/// A row that will be inserted into `due`.
#[derive(Debug)]
pub(crate) struct FreshDue {
    pub(crate) queue: u32,
    pub(crate) due: u64,
    pub(crate) position: u64,
    pub(crate) row: RowBuffer,
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
    Wait { due: u64, chosen: bool, attempt: Option<Vec<u8>> },
    /// It stays where it is; the attempt counts.
    Stay { attempt: Vec<u8> },
    /// It stays where it is; the attempt counts, and the next one has to be made alone.
    Lose { attempt: Vec<u8> },
    /// It is a dead letter.
    Die { death: Death, grave: Grave, attempt: Option<Vec<u8>> },
    /// It starts anew at the end of a queue.
    Revive { queue: u32, position: u64 },
    /// It waits for its key, out of the way.
    Park,
    /// It waits for its key no longer, or has no priority any more: it is in line at its old position.
    Align,
    /// Its time has come: it joins the others at the end of its queue.
    Promote { position: u64 },
    /// It waits until another time.
    Retime { due: u64 },
}

/// A row that exists, and what happens to it.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) queue: u32,
    pub(crate) place: Place,
    pub(crate) entry: u64,
    /// Set when it was leased in a queue that keeps order by key: the commit frees this key.
    pub(crate) frees: Option<u64>,
    /// Set when it waited for its time, so that it was not in line.
    pub(crate) waited: bool,
    /// Set when it lies in `ready` and `retrying` says so.
    pub(crate) marked: bool,
    pub(crate) take: Take,
}

/// The answer to give when the transaction is committed.
#[derive(Debug)]
pub(crate) enum Answer {
    Appended(Appended),
    Settled(Vec<Result<(), SettleError>>),
    Progress(Progress),
    Lost(u64),
}

impl Answer {
    pub(crate) fn given(self) -> Reply {
        match self {
            Self::Appended(appended) => Reply::Appended(Ok(appended)),
            Self::Settled(results) => Reply::Settled(results),
            Self::Progress(progress) => Reply::Progress(Ok(progress)),
            Self::Lost(count) => Reply::Lost(Ok(count)),
        }
    }

    /// The transaction failed. What was refused anyway stays refused.
    pub(crate) fn refused(self, error: &EngineError) -> Reply {
        let refuse = |result: Result<(), SettleError>| result.and_then(|()| Err(error.clone().into()));
        match self {
            Self::Appended(_) => Reply::Appended(Err(error.clone().into())),
            Self::Settled(results) => Reply::Settled(results.into_iter().map(refuse).collect()),
            Self::Progress(_) => Reply::Progress(Err(error.clone().into())),
            Self::Lost(_) => Reply::Lost(Err(error.clone())),
        }
    }
}

/// Everything that the next transaction will do.
#[derive(Debug)]
pub(crate) struct Stage<T> {
    pub(crate) fresh: Vec<Fresh>,
    pub(crate) fresh_due: Vec<FreshDue>,
    pub(crate) bodies: Vec<(u64, PreparedBody)>,
    pub(crate) taken: Vec<Taken>,
    /// Messages that come before those parked of their key from now on, with their time in `due` or [`crate::tables::IN_READY`].
    pub(crate) marks: Vec<(ParkedKey, u64)>,
    /// Such that do so no longer.
    pub(crate) unmarks: Vec<ParkedKey>,
    /// Queues whose change of order is complete.
    pub(crate) turned: Vec<u32>,
    /// How many expired or were dropped, by queue.
    pub(crate) ended: Vec<(u32, Ended)>,
    /// Identities of messages among the fresh, and their rows.
    pub(crate) identities: HashMap<(u32, u128), Known>,
    pub(crate) dedup: Vec<(DedupKey, Known)>,
    pub(crate) ticks: Vec<(ScheduleName, u64)>,
    pub(crate) answers: Vec<(T, Answer)>,
    pub(crate) settled: u64,
    pub(crate) dead: u64,
}

impl<T> Default for Stage<T> {
    fn default() -> Self {
        Self {
            fresh: Vec::new(),
            fresh_due: Vec::new(),
            bodies: Vec::new(),
            taken: Vec::new(),
            marks: Vec::new(),
            unmarks: Vec::new(),
            turned: Vec::new(),
            ended: Vec::new(),
            identities: HashMap::new(),
            dedup: Vec::new(),
            ticks: Vec::new(),
            answers: Vec::new(),
            settled: 0,
            dead: 0,
        }
    }
}

impl<T> Stage<T> {
    /// Whether a transaction would change nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.fresh.is_empty()
            && self.fresh_due.is_empty()
            && self.taken.is_empty()
            && self.ticks.is_empty()
            && self.marks.is_empty()
            && self.unmarks.is_empty()
            && self.turned.is_empty()
    }

    pub(crate) fn messages(&self) -> u64 {
        (self.fresh.len() + self.fresh_due.len() + self.taken.len()) as u64
    }
}

impl<T: Ticket> Live<T> {
    /// Whether there is something to write or to answer.
    pub(super) fn has_staged(&self) -> bool {
        !self.stage.is_empty() || !self.stage.answers.is_empty()
    }

    pub(super) fn settle(&mut self, ticket: T, batch: Vec<PreparedSettlement>, now: Now) {
        let results = batch.into_iter().map(|settlement| self.stage_settlement(settlement, now)).collect();
        self.stage.answers.push((ticket, Answer::Settled(results)));
    }

    pub(super) fn unknown_queue(&self, entries: &PreparedEntries) -> Option<QueueId> {
        let known = self.queue_count();
        entries.entries.iter().find(|entry| entry.queue >= known).map(|entry| QueueId(entry.queue))
    }

    pub(super) fn next_position(&mut self) -> u64 {
        let position = self.global.next_position;
        self.global.next_position += 1;
        position
    }

    /// Gives the messages their positions, in their order, and stages each by its fate.
    pub(super) fn stage_entries(
        &mut self,
        entries: PreparedEntries,
        now: Now,
        mut fate: impl FnMut(usize) -> Fate,
    ) -> Vec<Option<Position>> {
        let PreparedEntries { entries, mut bodies } = entries;
        // A body is named by the position of the first message that has it.
        let mut body_ids = vec![None; bodies.len()];
        let mut positions = Vec::with_capacity(entries.len());
        self.stage.fresh.reserve(entries.len());
        for (at, entry) in entries.into_iter().enumerate() {
            let overflow = match fate(at) {
                Fate::Stored => None,
                Fate::Dead(reason) => Some(reason),
                Fate::Known => {
                    if let Some(body) = entry.body {
                        bodies[body].users -= 1;
                    }
                    positions.push(None);
                    continue;
                }
            };
            let position = self.next_position();
            let body = entry.body.map(|body| *body_ids[body].get_or_insert(position));
            positions.push(Some(Position(position)));
            self.stage_entry(entry, position, body, overflow, now);
        }
        let placed = body_ids.into_iter().zip(bodies).filter_map(|(id, body)| Some((id?, body)));
        self.stage.bodies.extend(placed);
        positions
    }

    fn stage_entry(
        &mut self,
        entry: PreparedEntry,
        position: u64,
        body: Option<u64>,
        overflow: Option<DeadReason>,
        now: Now,
    ) {
        let PreparedEntry { queue: origin, topic, message, mut row, due, dead, .. } = entry;
        row.stamp(position, now.wall, body);
        let dies = dead || overflow.is_some();
        if let Some(reason) = overflow {
            row = row.view().died(&Death { origin, at: now.wall, reason });
        } else if dead {
            row.stamp_death(origin, now.wall);
        }
        let mut queue = origin;
        let mut due = due.filter(|due| !dies && *due > now.wall).map(|due| due.0.min(HELD - 1));
        if dies {
            self.stage.dead += 1;
            match self.queues[origin as usize].record.dead_letter {
                Some(dead_letter) => queue = dead_letter,
                None => due = Some(HELD),
            }
        }
        let state = &mut self.queues[queue as usize];
        if state.bounds.are_set() {
            state.incoming.add(row.view().cost());
        }
        if let Some(due) = due {
            self.stage.fresh_due.push(FreshDue { queue, due, position, row });
            return;
        }
        let rank = state.rank(row.view().priority());
        let content = Some(Content::Live { topic, message });
        self.stage.fresh.push(Fresh { queue, rank, position, row, content });
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
                self.stage_entries(emits, now, |_| Fate::Stored);
            }
            PreparedVerdict::Again { at, chosen } => {
                // Backoff was counted by a clock that may have gone back since. The largest time means held, which only the dead are.
                let latest = now.wall.plus(self.queues[lease.queue as usize].retry.backoff.max).0;
                let due = if chosen { at } else { at.min(latest) };
                self.mark_before(&lease);
                self.stage_take(entry, &lease, Take::Wait { due: due.min(HELD - 1), chosen, attempt });
            }
            PreparedVerdict::Dead(reason) => self.stage_death(entry, &lease, reason, attempt, now),
        }
        Ok(())
    }

    /// A message that will be tried again is found by its time after a restart, and those of its key before it must be found then too.
    fn mark_before(&mut self, lease: &Lease) {
        let (queue, position) = (lease.queue, lease.place.position());
        let state = &mut self.queues[queue as usize];
        let Some(key) = lease.key.filter(|_| state.keyed) else { return };
        let marks = state.keys.mark_before(key, position);
        self.stage.marks.extend(marks.into_iter().map(|position| ((queue, key, position), IN_READY)));
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
        let grave = self.grave(lease.queue).unwrap_or(Grave::Held);
        self.stage.dead += 1;
        let death = Death { origin: lease.queue, at: now.wall, reason };
        self.stage_take(entry, lease, Take::Die { death, grave, attempt });
    }

    /// A place in the dead-letter queue of a queue that has one.
    pub(super) fn grave(&mut self, queue: u32) -> Option<Grave> {
        let queue = self.queues[queue as usize].record.dead_letter?;
        Some(Grave::Queue { queue, position: self.next_position() })
    }

    /// Ends the lease; until the commit its message counts as leased still.
    pub(super) fn stage_take(&mut self, entry: u64, lease: &Lease, take: Take) {
        self.end_lease(entry, lease);
        let queue = &mut self.queues[lease.queue as usize];
        queue.staged += 1;
        queue.staged_bytes += lease.cost;
        queue.staged_due += u64::from(matches!(lease.place, Place::Due { .. }));
        let frees = lease.key.filter(|_| queue.keyed);
        let stays = matches!(take, Take::Stay { .. } | Take::Lose { .. });
        let marked = frees.is_some_and(|key| !stays && queue.keys.leave(key, lease.place.position()));
        // Nobody else may come upon it where it lies, for as long as it does.
        if let Place::Parked { position, .. } | Place::Due { position, .. } = lease.place {
            queue.keys.gone.insert(position);
        }
        let Lease { queue, place, .. } = *lease;
        self.stage.taken.push(Taken { queue, place, entry, frees, waited: false, marked, take });
    }

    /// Stages what becomes of a message that nobody holds and that memory has let go.
    pub(super) fn stage_free(&mut self, queue: u32, place: Place, entry: u64, take: Take) {
        if let Place::Parked { position, .. } | Place::Due { position, .. } = place {
            self.queues[queue as usize].keys.gone.insert(position);
        }
        self.stage.taken.push(Taken { queue, place, entry, frees: None, waited: false, marked: false, take });
        self.touch(queue);
    }

    /// Stages the end of a message that was found to have expired when it was to be leased. Its key is busy until the commit.
    pub(super) fn stage_expired(&mut self, queue: u32, place: Place, entry: &WindowEntry, now: Now) {
        let take = self.expiry(queue, now);
        self.stage_free(queue, place, entry.entry, take);
        let state = &mut self.queues[queue as usize];
        if let Some(key) = entry.key.filter(|_| state.keyed)
            && let Some(taken) = self.stage.taken.last_mut()
        {
            taken.marked = state.keys.leave(key, place.position());
            taken.frees = Some(key);
            state.keys.lease(key, place);
            state.keys.leave(key, place.position());
        }
    }

    /// What becomes of a message of this queue that expired; it is counted.
    pub(super) fn expiry(&mut self, queue: u32, now: Now) -> Take {
        self.stage.ended.push((queue, Ended::Expired));
        let dropped = self.queues[queue as usize].record.settings.expired_dropped;
        let grave = if dropped { None } else { self.grave(queue) };
        let Some(grave) = grave else { return Take::Remove };
        self.stage.dead += 1;
        Take::Die { death: Death { origin: queue, at: now.wall, reason: expired() }, grave, attempt: None }
    }
}

fn expired() -> DeadReason {
    let detail = "its time to live was over before it could be delivered".to_owned();
    DeadReason { code: pelton_core::engine::DeadCode::Expired, detail }
}

/// An end that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its time to live was over.
    Expired,
    /// It made room for others.
    Dropped,
}

/// What becomes of a new message.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It is stored in its queue.
    Stored,
    /// It was stored before.
    Known,
    /// It is stored as a dead letter of its queue.
    Dead(DeadReason),
}
