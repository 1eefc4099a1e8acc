//! One transaction: what was staged becomes rows, grouped by table and in the order of keys, then one synced commit.
//!
//! Memory follows the disk: windows, waiting messages and figures change only after the commit succeeded.

use std::collections::BTreeMap;

use redb::{ReadableTable, Table, WriteTransaction};

use super::effects::Effects;
use super::leases::Place;
use super::live::Live;
use super::queue::{Delta, WindowEntry};
use super::reader::missing;
use super::stage::{Fresh, Taken};
use super::{Failed, Replies};
use crate::command::{Now, Ticket};
use crate::failure::Failure;
use crate::open::Disk;
use crate::prepare::PreparedBody;
use crate::records::Counters;
use crate::row::BodyRef;
use crate::tables::{
    ATTEMPTS, BODIES, BODY_REFS, COUNTERS, COUNTERS_GLOBAL, COUNTERS_QUEUE, DUE, DueKey, HELD, RANK, READY, ReadyKey,
};

/// Rows to take from which on a run of neighbours is taken in one pass over the tree.
const RUN_ROWS_MIN: usize = 4;
/// Positions between two rows up to which they count as neighbours.
const RUN_GAP_MAX: u64 = 32;

type ReadyTable<'txn> = Table<'txn, ReadyKey, &'static [u8]>;
type DueTable<'txn> = Table<'txn, DueKey, &'static [u8]>;

impl<T: Ticket> Live<T> {
    /// Writes what is staged, answers it, and serves who waits.
    pub(super) fn commit(&mut self, disk: &dyn Disk, now: Now, replies: &mut Replies<T>) -> Result<(), Failed> {
        if !self.stage.is_empty() {
            let quick_repair = disk.bytes() >= self.tuning.quick_repair_bytes;
            self.write(quick_repair)?;
            self.tidy_at = (!quick_repair).then(|| now.monotonic.plus(self.tuning.idle));
        } else if self.tidy_at.is_some_and(|at| at <= now.monotonic) {
            self.write_global(true)?;
            self.tidy_at = None;
        }
        replies.extend(self.stage.answers.drain(..).map(|(ticket, answer)| (ticket, answer.given())));
        self.serve_changed(now, replies)?;
        self.end_waits(now, replies);
        Ok(())
    }

    fn write(&mut self, quick_repair: bool) -> Result<(), Failed> {
        self.reader = None;
        self.tally.messages += self.stage.messages();
        let mut effects = Effects { attempts_kept: self.tuning.attempts_kept.max(1), ..Effects::default() };
        for fresh in std::mem::take(&mut self.stage.fresh) {
            effects.add_fresh(fresh);
        }
        for (queue, position, row) in std::mem::take(&mut self.stage.held) {
            effects.add_due((queue, HELD, position), row);
        }
        let taken = std::mem::take(&mut self.stage.taken);
        let bodies = std::mem::take(&mut self.stage.bodies);
        let mut txn = self.database.begin_write()?;
        txn.set_quick_repair(quick_repair);
        write_messages(&txn, taken, &mut effects)?;
        write_bodies(&txn, bodies, &effects.bodies_released, self.tuning.chunk_bytes)?;
        write_attempts(&txn, &mut effects)?;
        let counters = self.write_counters(&txn, &effects.deltas)?;
        txn.commit().map_err(|error| Failed { failure: error.into(), unknown: true })?;
        self.tally.commits += 1;
        self.follow(effects, counters);
        Ok(())
    }

    /// A commit that changes nothing but what is global.
    pub(super) fn write_global(&mut self, quick_repair: bool) -> Result<(), Failed> {
        self.reader = None;
        let mut txn = self.database.begin_write()?;
        txn.set_quick_repair(quick_repair);
        self.write_counters(&txn, &BTreeMap::new())?;
        txn.commit().map_err(|error| Failed { failure: error.into(), unknown: true })?;
        self.tally.commits += 1;
        Ok(())
    }

    pub(super) fn write_counters(
        &mut self,
        txn: &WriteTransaction,
        deltas: &BTreeMap<u32, Delta>,
    ) -> Result<Vec<(u32, Counters)>, Failure> {
        let mut table = txn.open_table(COUNTERS)?;
        let mut changed = Vec::with_capacity(deltas.len());
        for (queue, delta) in deltas {
            let below_zero = || Failure::Damaged(format!("the counters of queue {queue} are less than what it holds"));
            let counters = delta.apply(self.queues[*queue as usize].stored).ok_or_else(below_zero)?;
            table.insert((COUNTERS_QUEUE, *queue), &counters.encode()[..])?;
            changed.push((*queue, counters));
        }
        self.global.commit += 1;
        table.insert((COUNTERS_GLOBAL, 0), &self.global.encode()[..])?;
        Ok(changed)
    }

    /// Lets memory follow what was committed.
    fn follow(&mut self, effects: Effects, counters: Vec<(u32, Counters)>) {
        for (queue, stored) in counters {
            let state = &mut self.queues[queue as usize];
            state.stored = stored;
            state.staged = 0;
            state.staged_due = 0;
            self.touch(queue);
        }
        let bytes_max = self.tuning.window_bytes_of(self.queues.len());
        for fresh in effects.fresh {
            let window = &mut self.queues[fresh.queue as usize].window;
            let room = window.has_room(self.tuning.window_entries, bytes_max);
            window.live &= room && fresh.content.is_some();
            if let Some(content) = fresh.content
                && window.live
            {
                let row = fresh.row.view();
                window.push(WindowEntry {
                    position: fresh.position,
                    entry: row.entry(),
                    attempts: row.attempts(),
                    hops: row.hops(),
                    accepted: row.accepted(),
                    content,
                });
            }
        }
        for (queue, key, accepted) in effects.waiting {
            self.queues[queue as usize].due.insert(key, accepted, self.tuning.due_entries);
        }
        for (queue, place, accepted) in effects.back {
            self.put_back(queue, place, accepted);
        }
        let stage = &mut self.stage;
        self.tally.settled += std::mem::take(&mut stage.settled);
        self.tally.dead += std::mem::take(&mut stage.dead);
    }
}

fn write_messages(txn: &WriteTransaction, taken: Vec<Taken>, effects: &mut Effects) -> Result<(), Failure> {
    let (mut from_ready, mut from_due): (Vec<Taken>, Vec<Taken>) =
        taken.into_iter().partition(|taken| matches!(taken.place, Place::Ready { .. }));
    from_ready.sort_unstable_by_key(|taken| (taken.queue, taken.place.position()));
    from_due.sort_unstable_by_key(|taken| (taken.queue, taken.place));
    let mut ready = txn.open_table(READY)?;
    take_from_ready(&mut ready, &mut from_ready, effects)?;
    if !effects.due.is_empty() || !from_due.is_empty() {
        let mut due = txn.open_table(DUE)?;
        take_from_due(&mut due, &mut from_due, effects)?;
        effects.due.sort_unstable_by_key(|(key, _)| *key);
        for (key, row) in &effects.due {
            due.insert(key, row.as_bytes())?;
        }
    }
    for (key, row) in &effects.stays {
        ready.insert(key, row.as_bytes())?;
    }
    effects.fresh.sort_by_key(|fresh| (fresh.queue, fresh.position));
    for group in effects.fresh.chunk_by(|one, next| one.queue == next.queue) {
        insert_group(&mut ready, group)?;
    }
    Ok(())
}

/// Inserts rows of one queue, which come behind all that it has.
fn insert_group(ready: &mut ReadyTable<'_>, group: &[Fresh]) -> Result<(), Failure> {
    let key = |fresh: &Fresh| (fresh.queue, RANK, fresh.position);
    if group.len() < RUN_ROWS_MIN {
        for fresh in group {
            ready.insert(key(fresh), fresh.row.as_bytes())?;
        }
        return Ok(());
    }
    let mut cursor = ready.upper_bound_mut(std::ops::Bound::Excluded(key(&group[0])))?;
    for fresh in group {
        cursor.insert_before(key(fresh), fresh.row.as_bytes())?;
    }
    cursor.close()?;
    Ok(())
}

fn take_from_ready(ready: &mut ReadyTable<'_>, taken: &mut [Taken], effects: &mut Effects) -> Result<(), Failure> {
    let neighbours = |one: &Taken, next: &Taken| {
        one.queue == next.queue && next.place.position() - one.place.position() <= RUN_GAP_MAX
    };
    for run in taken.chunk_by_mut(neighbours) {
        if run.len() < RUN_ROWS_MIN {
            for taken in run {
                let position = taken.place.position();
                let row = ready.remove((taken.queue, RANK, position))?;
                let row = row.ok_or_else(|| missing(taken.queue, position))?;
                effects.take(taken, row.value())?;
            }
        } else {
            take_run(ready, run, effects)?;
        }
    }
    Ok(())
}

/// Takes neighbouring rows in one pass.
fn take_run(ready: &mut ReadyTable<'_>, run: &mut [Taken], effects: &mut Effects) -> Result<(), Failure> {
    let positions: Vec<u64> = run.iter().map(|taken| taken.place.position()).collect();
    let (queue, first, last) = (run[0].queue, positions[0], positions[positions.len() - 1]);
    let mut next = 0;
    let wanted = |(_, _, position): ReadyKey, _: &[u8]| {
        while next < positions.len() && positions[next] < position {
            next += 1;
        }
        next < positions.len() && positions[next] == position
    };
    let mut rows = ready.extract_from_if((queue, RANK, first)..=(queue, RANK, last), wanted)?;
    let mut found = 0;
    for row in rows.by_ref() {
        let (key, value) = row?;
        let taken = run.get_mut(found).ok_or_else(|| missing(queue, last))?;
        if key.value().2 != taken.place.position() {
            return Err(missing(queue, taken.place.position()));
        }
        effects.take(taken, value.value())?;
        found += 1;
    }
    rows.close()?;
    match run.get(found) {
        None => Ok(()),
        Some(taken) => Err(missing(queue, taken.place.position())),
    }
}

fn take_from_due(due: &mut DueTable<'_>, taken: &mut [Taken], effects: &mut Effects) -> Result<(), Failure> {
    for taken in taken {
        let Place::Due { due: at, position } = taken.place else { continue };
        let row = due.remove((taken.queue, at, position))?;
        let row = row.ok_or_else(|| missing(taken.queue, position))?;
        effects.take(taken, row.value())?;
    }
    Ok(())
}

fn write_bodies(
    txn: &WriteTransaction,
    new: Vec<(u64, PreparedBody)>,
    released: &[BodyRef],
    chunk_bytes: usize,
) -> Result<(), Failure> {
    if new.is_empty() && released.is_empty() {
        return Ok(());
    }
    let mut bodies = txn.open_table(BODIES)?;
    let mut refs = txn.open_table(BODY_REFS)?;
    for (id, body) in new {
        for (number, chunk) in (0..).zip(body.bytes.chunks(chunk_bytes.max(1))) {
            bodies.insert((id, number), chunk)?;
        }
        if body.users > 1 {
            refs.insert(id, body.users)?;
        }
    }
    for body in released {
        let users_left = if body.shared { release_shared(&mut refs, body.id)? } else { 0 };
        if users_left == 0 {
            bodies.retain_in((body.id, 0)..=(body.id, u32::MAX), |_, _| false)?;
        }
    }
    Ok(())
}

/// Counts one user less; returns how many are left.
fn release_shared(refs: &mut Table<'_, u64, u32>, id: u64) -> Result<u32, Failure> {
    let users = refs.get(id)?.map(|users| users.value());
    match users.and_then(|users| users.checked_sub(1)) {
        Some(0) => {
            refs.remove(id)?;
            Ok(0)
        }
        Some(left) => {
            refs.insert(id, left)?;
            Ok(left)
        }
        None => Err(Failure::Damaged(format!("body {id} has more users than are counted"))),
    }
}

fn write_attempts(txn: &WriteTransaction, effects: &mut Effects) -> Result<(), Failure> {
    if effects.attempts.is_empty() && effects.histories_dropped.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(ATTEMPTS)?;
    effects.attempts.sort_unstable_by_key(|(key, _)| *key);
    for (key, attempt) in &effects.attempts {
        table.insert(key, attempt.as_slice())?;
    }
    for key in &effects.attempts_dropped {
        table.remove(key)?;
    }
    for entry in &effects.histories_dropped {
        table.retain_in((*entry, 0)..=(*entry, u32::MAX), |_, _| false)?;
    }
    Ok(())
}
