//! One transaction: what was staged becomes rows, grouped by table and in the order of keys, then one synced commit.
//!
//! Memory follows the disk: windows, waiting messages and figures change only after the commit succeeded.

use std::collections::BTreeMap;

use pelton_core::name::ScheduleName;
use redb::{ReadableTable, Table, WriteTransaction};

use super::dedup::write_dedup;
use super::effects::{Effects, Habits};
use super::leases::Place;
use super::live::Live;
use super::queue::{Delta, Load, Queue};
use super::reader::missing;
use super::stage::{Ended, Fresh, Taken};
use super::window::WindowEntry;
use super::{Failed, Replies};
use crate::command::{Now, Ticket};
use crate::failure::Failure;
use crate::open::Disk;
use crate::prepare::PreparedBody;
use crate::records::{Counters, NameRecord};
use crate::row::BodyRef;
use crate::seal::{Sealed, seal, unseal};
use crate::tables::{
    ATTEMPTS, BODIES, BODY_REFS, COUNTERS, COUNTERS_GLOBAL, COUNTERS_QUEUE, DUE, DueKey, NAMES, NAMES_QUEUE, PARKED,
    ParkedKey, READY, RETRYING, ReadyKey, SCHEDULES,
};

/// Transactions in one batch that only clear the way for those who wait.
const ROUNDS_MAX: usize = 4;
/// Rows to take from which on a run of neighbours is taken in one pass over the tree.
const RUN_ROWS_MIN: usize = 4;
/// Positions between two rows up to which they count as neighbours.
const RUN_GAP_MAX: u64 = 32;

type ReadyTable<'txn> = Table<'txn, ReadyKey, &'static [u8]>;
type DueTable<'txn> = Table<'txn, DueKey, &'static [u8]>;
type ParkedTable<'txn> = Table<'txn, ParkedKey, &'static [u8]>;

impl<T: Ticket> Live<T> {
    /// Writes what is staged, answers it, and serves who waits.
    pub(super) fn commit(&mut self, disk: &dyn Disk, now: Now, replies: &mut Replies<T>) -> Result<(), Failed> {
        if !self.stage.is_empty() {
            let quick_repair = disk.bytes() >= self.tuning.quick_repair_bytes;
            self.write(quick_repair, now)?;
            self.tidy_at = (!quick_repair).then(|| now.monotonic.plus(self.tuning.idle));
        } else if self.tidy_at.is_some_and(|at| at <= now.monotonic) {
            if self.generations.first_dead(now.wall).is_some() {
                self.write(false, now)?;
            } else {
                self.write_global(true)?;
                self.tidy_at = None;
            }
        }
        replies.extend(self.stage.answers.drain(..).map(|(ticket, answer)| (ticket, answer.given())));
        self.serve_changed(now, replies)?;
        // Whoever was served may have found expired or blocked messages, and what is behind those.
        for _ in 0..ROUNDS_MAX {
            if self.stage.is_empty() {
                break;
            }
            self.write(disk.bytes() >= self.tuning.quick_repair_bytes, now)?;
            self.serve_changed(now, replies)?;
        }
        self.end_waits(now, replies);
        Ok(())
    }

    fn write(&mut self, quick_repair: bool, now: Now) -> Result<(), Failed> {
        self.reader = None;
        self.tally.messages += self.stage.messages();
        let habits = self.queues.iter().map(Habits::of).collect();
        let mut effects = Effects { attempts_kept: self.tuning.attempts_kept.max(1), habits, ..Effects::default() };
        for fresh in std::mem::take(&mut self.stage.fresh) {
            effects.add_fresh(fresh);
        }
        for fresh in std::mem::take(&mut self.stage.fresh_due) {
            effects.add_due(fresh);
        }
        effects.marks.append(&mut self.stage.marks);
        effects.unblocking.extend(std::mem::take(&mut self.stage.unmarks).into_iter().map(|mark| (mark, false)));
        let taken = std::mem::take(&mut self.stage.taken);
        let bodies = std::mem::take(&mut self.stage.bodies);
        let dedup = std::mem::take(&mut self.stage.dedup);
        self.stage.identities.clear();
        let dead = self.generations.first_dead(now.wall);
        let mut txn = self.database.begin_write()?;
        txn.set_quick_repair(quick_repair);
        write_messages(&txn, taken, &mut effects)?;
        write_bodies(&txn, bodies, &effects.bodies_released, self.tuning.chunk_bytes)?;
        write_attempts(&txn, &mut effects)?;
        let emptied = write_dedup(&txn, dedup, dead, self.tuning.dedup_delete_rows)?;
        write_ticks(&txn, std::mem::take(&mut self.stage.ticks))?;
        self.write_turned(&txn)?;
        let counters = self.write_counters(&txn, &effects.deltas)?;
        txn.commit().map_err(|error| Failed { failure: error.into(), unknown: true })?;
        self.tally.commits += 1;
        if let Some((window, generation)) = emptied {
            self.generations.remove(window, generation);
        }
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
            let key = (COUNTERS_QUEUE, *queue);
            table.insert(key, seal(COUNTERS, &key, &counters.encode()[..]))?;
            changed.push((*queue, counters));
        }
        self.global.commit += 1;
        let key = (COUNTERS_GLOBAL, 0);
        table.insert(key, seal(COUNTERS, &key, &self.global.encode()[..]))?;
        Ok(changed)
    }

    /// Notes which changes of order are complete.
    fn write_turned(&self, txn: &WriteTransaction) -> Result<(), Failure> {
        if self.stage.turned.is_empty() {
            return Ok(());
        }
        let mut names = txn.open_table(NAMES)?;
        for queue in &self.stage.turned {
            let Queue { name, record, .. } = &self.queues[*queue as usize];
            let record = NameRecord { turning: false, ..record.clone() };
            let key = (NAMES_QUEUE, name.as_str());
            names.insert(key, seal(NAMES, &key, record.encode().as_slice()))?;
        }
        Ok(())
    }

    /// Lets memory follow what was committed.
    fn follow(&mut self, effects: Effects, counters: Vec<(u32, Counters)>) {
        let turning: Vec<u32> = counters.iter().map(|(queue, _)| *queue).collect();
        for (queue, stored) in counters {
            let state = &mut self.queues[queue as usize];
            state.stored = stored;
            state.staged = 0;
            state.staged_due = 0;
            state.incoming = Load::default();
            state.outgoing = Load::default();
            state.staged_bytes = 0;
            state.keys.gone.clear();
            state.keys.parked();
            if stored.parked == 0 {
                state.keys.parked_oldest = None;
            }
            self.touch(queue);
        }
        let bytes_max = self.tuning.window_bytes_of(self.queues.len());
        for fresh in effects.fresh {
            let state = &mut self.queues[fresh.queue as usize];
            push_fresh(state, fresh, self.tuning.window_entries, bytes_max);
        }
        for (queue, key, accepted) in effects.waiting {
            self.queues[queue as usize].due.insert(key, accepted, self.tuning.due_entries);
        }
        // A key that waits for its retry is not free, so that this comes before it is freed.
        for ((queue, key, position), _) in effects.retrying {
            self.queues[queue as usize].keys.retry(key, position);
        }
        for back in effects.back {
            self.put_back(back.queue, back.place, back.whose);
        }
        for (queue, key, position) in effects.unretried {
            self.queues[queue as usize].keys.unretry(key, position);
        }
        for (queue, key, position) in effects.freed {
            let state = &mut self.queues[queue as usize];
            state.keys.unlease(key, position);
            // Most keys have nothing left: those need not stand in line to be forgotten.
            if state.stored.parked == 0 {
                state.keys.retire(key);
            }
            state.keys.offer(key);
        }
        for (queue, ended) in std::mem::take(&mut self.stage.ended) {
            let state = &mut self.queues[queue as usize];
            match ended {
                Ended::Expired => state.expired += 1,
                Ended::Dropped => state.dropped += 1,
            }
        }
        // Rows of a queue that changes its order go where memory has passed already.
        for queue in turning {
            let state = &mut self.queues[queue as usize];
            if state.turn.is_some() {
                state.forget_all();
            }
        }
        for queue in std::mem::take(&mut self.stage.turned) {
            self.queues[queue as usize].end_turn();
            self.touch(queue);
        }
        let stage = &mut self.stage;
        self.tally.settled += std::mem::take(&mut stage.settled);
        self.tally.dead += std::mem::take(&mut stage.dead);
    }
}

impl Habits {
    fn of(queue: &Queue) -> Self {
        Self {
            keyed: queue.keyed,
            priority: queue.record.settings.priority,
            retrying: queue.keyed || queue.stored.retrying > 0,
        }
    }
}

/// Puts a message that was committed into its window, if that is live and has room.
fn push_fresh(state: &mut Queue, fresh: Fresh, entries_max: usize, bytes_max: usize) {
    let lines = state.lines.len();
    let window = &mut state.line(fresh.rank).window;
    let room = window.has_room(entries_max, bytes_max / lines);
    window.live &= room && fresh.content.is_some();
    let Some(content) = fresh.content.filter(|_| window.live) else { return };
    window.push(WindowEntry::of(fresh.position, fresh.row.view(), content));
}

fn write_ticks(txn: &WriteTransaction, ticks: Vec<(ScheduleName, u64)>) -> Result<(), Failure> {
    if ticks.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(SCHEDULES)?;
    for (schedule, at) in ticks {
        table.insert(schedule.as_str(), seal(SCHEDULES, &schedule.as_str(), at))?;
    }
    Ok(())
}

fn write_messages(txn: &WriteTransaction, taken: Vec<Taken>, effects: &mut Effects) -> Result<(), Failure> {
    let (mut from_ready, others): (Vec<Taken>, Vec<Taken>) =
        taken.into_iter().partition(|taken| matches!(taken.place, Place::Ready { .. }));
    let (mut from_due, mut from_parked): (Vec<Taken>, Vec<Taken>) =
        others.into_iter().partition(|taken| matches!(taken.place, Place::Due { .. }));
    from_ready.sort_unstable_by_key(|taken| (taken.queue, taken.place));
    from_due.sort_unstable_by_key(|taken| (taken.queue, taken.place));
    from_parked.sort_unstable_by_key(|taken| (taken.queue, taken.place));
    let mut ready = txn.open_table(READY)?;
    take_from_ready(&mut ready, &mut from_ready, effects)?;
    if !from_parked.is_empty() || !effects.parked.is_empty() {
        let mut parked = txn.open_table(PARKED)?;
        take_from_parked(&mut parked, &mut from_parked, effects)?;
    }
    if !effects.due.is_empty() || !from_due.is_empty() {
        let mut due = txn.open_table(DUE)?;
        take_from_due(&mut due, &mut from_due, effects)?;
        effects.due.sort_unstable_by_key(|(key, _)| *key);
        for (key, row) in &effects.due {
            due.insert(key, row.as_bytes())?;
        }
    }
    if !effects.parked.is_empty() {
        let mut parked = txn.open_table(PARKED)?;
        effects.parked.sort_unstable_by_key(|(key, _)| *key);
        for (key, row) in &effects.parked {
            parked.insert(key, row.as_bytes())?;
        }
    }
    write_retrying(txn, effects)?;
    for (key, row) in &effects.stays {
        ready.insert(key, row.as_bytes())?;
    }
    effects.fresh.sort_by_key(|fresh| (fresh.queue, fresh.rank, fresh.position));
    for group in effects.fresh.chunk_by(|one, next| (one.queue, one.rank) == (next.queue, next.rank)) {
        insert_group(&mut ready, group)?;
    }
    Ok(())
}

/// Keeps which messages come before those parked of their key.
fn write_retrying(txn: &WriteTransaction, effects: &mut Effects) -> Result<(), Failure> {
    if effects.marks.is_empty() && effects.unblocking.is_empty() && effects.retrying.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(RETRYING)?;
    // What was marked before it was settled is marked no more.
    for (key, due) in &effects.marks {
        if table.insert(key, seal(RETRYING, key, *due))?.is_none() {
            effects.deltas.entry(key.0).or_default().retrying += 1;
        }
    }
    for (key, waited) in std::mem::take(&mut effects.unblocking) {
        if table.remove(key)?.is_some() {
            effects.deltas.entry(key.0).or_default().retrying -= 1;
            if waited {
                effects.unretried.push(key);
            }
        }
    }
    for (key, due) in &effects.retrying {
        if table.insert(key, seal(RETRYING, key, *due))?.is_none() {
            effects.deltas.entry(key.0).or_default().retrying += 1;
        }
    }
    Ok(())
}

/// Inserts rows of one queue and rank, which come behind all that there are.
fn insert_group(ready: &mut ReadyTable<'_>, group: &[Fresh]) -> Result<(), Failure> {
    let key = |fresh: &Fresh| (fresh.queue, fresh.rank, fresh.position);
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

/// The key in `ready` of a row that lies there.
fn ready_key(taken: &Taken) -> ReadyKey {
    let rank = if let Place::Ready { rank, .. } = taken.place { rank } else { 0 };
    (taken.queue, rank, taken.place.position())
}

fn take_from_ready(ready: &mut ReadyTable<'_>, taken: &mut [Taken], effects: &mut Effects) -> Result<(), Failure> {
    let neighbours = |one: &Taken, next: &Taken| {
        let (one, next) = (ready_key(one), ready_key(next));
        (one.0, one.1) == (next.0, next.1) && next.2 - one.2 <= RUN_GAP_MAX
    };
    for run in taken.chunk_by_mut(neighbours) {
        if run.len() < RUN_ROWS_MIN {
            for taken in run {
                let key = ready_key(taken);
                let row = ready.remove(key)?;
                let row = row.ok_or_else(|| missing(key.0, key.2))?;
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
    let (first, last) = (ready_key(&run[0]), ready_key(&run[run.len() - 1]));
    let queue = first.0;
    let mut next = 0;
    let wanted = |(_, _, position): ReadyKey, _: &[u8]| {
        while next < positions.len() && positions[next] < position {
            next += 1;
        }
        next < positions.len() && positions[next] == position
    };
    let mut rows = ready.extract_from_if(first..=last, wanted)?;
    let mut found = 0;
    for row in rows.by_ref() {
        let (key, value) = row?;
        let taken = run.get_mut(found).ok_or_else(|| missing(queue, last.2))?;
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

fn take_from_parked(parked: &mut ParkedTable<'_>, taken: &mut [Taken], effects: &mut Effects) -> Result<(), Failure> {
    for taken in taken {
        let Place::Parked { key, position } = taken.place else { continue };
        let row = parked.remove((taken.queue, key, position))?;
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
        if body.shared {
            refs.insert(id, seal(BODY_REFS, &id, body.users))?;
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
fn release_shared(refs: &mut Table<'_, u64, Sealed<u32>>, id: u64) -> Result<u32, Failure> {
    let users = refs.get(id)?.map(|users| unseal(BODY_REFS, &id, users.value())).transpose()?;
    match users.and_then(|users| users.checked_sub(1)) {
        Some(0) => {
            refs.remove(id)?;
            Ok(0)
        }
        Some(left) => {
            refs.insert(id, seal(BODY_REFS, &id, left))?;
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
        table.insert(key, seal(ATTEMPTS, key, attempt.as_slice()))?;
    }
    for key in &effects.attempts_dropped {
        table.remove(key)?;
    }
    for entry in &effects.histories_dropped {
        table.retain_in((*entry, 0)..=(*entry, u32::MAX), |_, _| false)?;
    }
    Ok(())
}
