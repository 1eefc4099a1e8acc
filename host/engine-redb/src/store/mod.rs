//! The store: one synchronous, deterministic machine that owns the database and everything known about it in memory.
//!
//! [`Store::accept`] serves what memory can serve (leases, releases) and validates and stages the rest; [`Store::commit`]
//! writes what was staged in one transaction, answers it, and hands what is new to whoever waits for it. Between the two
//! nothing is promised yet. After any failure of the disk all memory is dropped and the database reopened with a higher
//! epoch, which ends all leases: what a failed commit left behind is unknown until then.
//!
//! No locks, clocks or threads: [`crate::RedbEngine`] is the shell that has those.

mod append;
mod bulk;
mod dedup;
mod define;
mod due;
mod due_window;
mod effects;
mod keyed;
mod keys;
mod lease;
mod leases;
mod live;
mod lost;
mod order;
mod queue;
mod reader;
mod stage;
mod sweep;
mod waiting;
mod whole;
mod window;
mod write;

pub(crate) use bulk::{find, walk};
pub(crate) use dedup::Known;
pub(crate) use leases::Place;
pub(crate) use reader::Reader;

use std::sync::Arc;
use std::time::Duration;

use pelton_core::clock::{Monotonic, WallMs};
use pelton_core::engine::{Definitions, EngineError, Health, QueueCounts, StoreId};
use pelton_core::name::ConsumerName;

use crate::command::{Command, Now, Reply, Request, Ticket};
use crate::failure::Failure;
use crate::format::Identity;
use crate::hash::Secret;
use crate::open::{Disk, OpenError};
use crate::panics;
use crate::space::{is_full, is_worth_compacting};
use crate::tuning::Tuning;
use live::Live;

/// Replies with the tickets that they belong to, in the order in which they came about.
pub(crate) type Replies<T> = Vec<(T, Reply)>;

/// What a store has done since it was last asked: for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Transactions committed.
    pub commits: u64,
    /// Messages written or settled by them.
    pub messages: u64,
    /// Settlements committed.
    pub settled: u64,
    /// Messages moved to dead letters.
    pub dead: u64,
}

/// A failure, and whether what was being committed may nevertheless be on disk.
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) unknown: bool,
}

impl<E: Into<Failure>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { failure: error.into(), unknown: false }
    }
}

enum State<T> {
    Up(Box<Live<T>>),
    Down { retry_at: Monotonic, wait: Duration },
    Stopped(String),
    Closed,
}

/// See the module's head. `T` is the address of a reply.
pub struct Store<T> {
    tuning: Arc<Tuning>,
    disk: Box<dyn Disk>,
    random: fastrand::Rng,
    identity: Identity,
    /// The last that were asked for; they outlive a reopening.
    definitions: Option<Definitions>,
    state: State<T>,
    tally: Tally,
    /// When the disk is asked for its room again.
    space_at: Monotonic,
    /// The disk was full, and there has not been much room since.
    was_full: bool,
}

impl<T: Ticket> Store<T> {
    /// Opens the database on `disk`. All randomness (nonces, a new store's id) comes from `seed`.
    ///
    /// # Errors
    /// [`OpenError`], also where the disk fails.
    pub fn open(mut disk: Box<dyn Disk>, tuning: Tuning, seed: u64) -> Result<Self, OpenError> {
        let tuning = Arc::new(tuning);
        let mut random = fastrand::Rng::with_seed(seed);
        let (live, identity) = Live::open(&mut *disk, &tuning, &mut random)?;
        let state = State::Up(Box::new(live));
        Ok(Self {
            tuning,
            disk,
            random,
            identity,
            definitions: None,
            state,
            tally: Tally::default(),
            space_at: Monotonic(0),
            was_full: false,
        })
    }

    /// Which store this is.
    pub fn id(&self) -> StoreId {
        StoreId(self.identity.store)
    }

    /// The key of its hashes.
    pub fn secret(&self) -> Secret {
        self.identity.secret
    }

    /// How the store is.
    pub fn health(&self) -> Health {
        match &self.state {
            State::Up(live) if live.disk_full => Health::Full,
            State::Up(_) => Health::Ready,
            State::Down { .. } => Health::Recovering,
            State::Stopped(reason) => Health::Failed(reason.clone()),
            State::Closed => Health::Failed("the store is closed".to_owned()),
        }
    }

    /// What has been done since this was last called.
    pub fn take_tally(&mut self) -> Tally {
        if let State::Up(live) = &mut self.state {
            let done = std::mem::take(&mut live.tally);
            self.tally.commits += done.commits;
            self.tally.messages += done.messages;
            self.tally.settled += done.settled;
            self.tally.dead += done.dead;
        }
        std::mem::take(&mut self.tally)
    }

    /// The paused consumers, if they changed since this was last called.
    pub fn take_paused(&mut self) -> Option<Vec<ConsumerName>> {
        match &mut self.state {
            State::Up(live) => live.take_paused(),
            _ => None,
        }
    }

    /// The figures of the queues that changed since this was last called.
    pub fn take_changed_counts(&mut self) -> Vec<QueueCounts> {
        match &mut self.state {
            State::Up(live) => live.take_changed_counts(),
            _ => Vec::new(),
        }
    }

    /// When [`accept`](Self::accept) should be called at the latest, from `now`, though there are no commands.
    pub fn next_deadline(&self, now: Now) -> Option<Duration> {
        match &self.state {
            State::Up(live) => live.next_deadline(now),
            State::Down { retry_at, .. } => Some(retry_at.since(now.monotonic)),
            State::Stopped(_) | State::Closed => None,
        }
    }

    /// [`accept`](Self::accept), [`commit`](Self::commit) and [`read_ahead`](Self::read_ahead).
    pub fn apply(&mut self, commands: Vec<Command<T>>, now: Now) -> Vec<(T, Reply)> {
        let mut replies = Vec::new();
        self.accept(commands, now, &mut replies);
        self.commit(now, &mut replies);
        self.read_ahead(&mut replies);
        replies
    }

    /// Takes `commands` in their order: leases, releases and extensions are served from memory at once, everything else
    /// is validated and staged. Time is seen to as well: leases that ran out, messages that are due.
    pub fn accept(&mut self, commands: Vec<Command<T>>, now: Now, replies: &mut Vec<(T, Reply)>) {
        self.try_reopen(now);
        self.look_at_space(now, replies);
        if let State::Up(live) = &mut self.state {
            match live.advance(now) {
                Ok(true) => self.commit(now, replies),
                Ok(false) => {}
                Err(failed) => self.fail(failed, now, replies),
            }
        }
        for command in commands {
            // These read and write the tables by themselves, so that what came before them has to be there.
            let alone = matches!(
                command.request,
                Request::Define(_) | Request::Bulk(_) | Request::Pause(..) | Request::Lost(_)
            );
            if alone {
                self.commit(now, replies);
            }
            self.accept_one(command, now, replies);
            if alone {
                self.commit(now, replies);
            }
        }
        if let State::Up(live) = &mut self.state
            && let Err(failed) = live.serve_changed(now, replies)
        {
            self.fail(failed, now, replies);
        }
    }

    fn accept_one(&mut self, command: Command<T>, now: Now, replies: &mut Replies<T>) {
        let Command { ticket, request } = command;
        if let Request::Define(definitions) = &request {
            self.definitions = Some(definitions.clone());
        }
        let error = match &mut self.state {
            State::Up(live) => {
                if let Err(failed) = live.handle(ticket, request, now, replies) {
                    self.fail(failed, now, replies);
                }
                return;
            }
            State::Stopped(reason) => EngineError::Corrupt(reason.clone()),
            State::Down { .. } | State::Closed => EngineError::Unavailable,
        };
        replies.push((ticket, request.refuse(&error)));
    }

    /// Whether there is something to commit.
    pub fn has_staged(&self) -> bool {
        matches!(&self.state, State::Up(live) if live.has_staged())
    }

    /// Commits what is staged, answers it, then serves those who wait for messages and those who waited long enough.
    pub fn commit(&mut self, now: Now, replies: &mut Vec<(T, Reply)>) {
        if let State::Up(live) = &mut self.state
            && let Err(failed) = live.commit(&*self.disk, now, replies)
        {
            self.fail(failed, now, replies);
        }
    }

    /// Reads from disk what is wanted next, after everybody has been answered.
    pub fn read_ahead(&mut self, replies: &mut Vec<(T, Reply)>) {
        if let State::Up(live) = &mut self.state
            && let Err(failed) = live.read_ahead()
        {
            // Nobody waits for this, so that there is no moment to give: the next call reopens.
            let now = Now { wall: WallMs(0), monotonic: Monotonic(0) };
            self.fail(failed, now, replies);
        }
    }

    /// Commits what is staged and closes the database in order. Whoever waits is told that the store is unavailable.
    pub fn close(&mut self, now: Now, replies: &mut Vec<(T, Reply)>) {
        self.commit(now, replies);
        if let State::Up(live) = std::mem::replace(&mut self.state, State::Closed) {
            live.abandon(&EngineError::Unavailable, replies);
        }
    }

    /// Gives up for good, after a panic while it was at work: what is in memory, and redb's own state, may be half changed.
    /// Nobody knows what became of the last requests; later ones are refused. `panic` is what it said.
    pub fn give_up(&mut self, panic: &str, replies: &mut Vec<(T, Reply)>) {
        self.take_into_tally();
        let path = self.disk.path().display();
        let reason =
            format!("the work on '{path}' panicked ({panic}); if the file is damaged, restore it from a backup");
        tracing::error!(%reason, "The store failed; nothing is stored any more until a restart.");
        if let State::Up(live) = std::mem::replace(&mut self.state, State::Stopped(reason)) {
            let dropped = panics::quietly(|| live.abandon(&EngineError::Unknown, replies));
            if let Err(panic) = dropped {
                tracing::debug!(%panic, "Closing the database after a panic failed as well.");
            }
        }
    }

    /// Stops for good because of damage that somebody else met. What was staged is answered as unknown.
    pub fn stop(&mut self, reason: &str, replies: &mut Vec<(T, Reply)>) {
        self.take_into_tally();
        let reason = self.damaged(reason);
        tracing::error!(%reason, "The store stopped; nothing is stored any more until a restart.");
        if let State::Up(live) = std::mem::replace(&mut self.state, State::Stopped(reason)) {
            live.abandon(&EngineError::Unknown, replies);
        }
    }

    fn damaged(&self, what: &str) -> String {
        format!("'{}' is damaged: {what}; restore it from a backup", self.disk.path().display())
    }

    /// Checks every invariant of what is committed; see [`crate::verify`].
    ///
    /// # Errors
    /// One sentence for each invariant that does not hold.
    pub fn verify(&self) -> Result<crate::Summary, Vec<String>> {
        match &self.state {
            State::Up(live) => crate::verify::verify(live.database()),
            _ => Err(vec!["the store is not open".to_owned()]),
        }
    }

    /// A view of what is committed; none while the store is not open.
    #[cfg(test)]
    pub(crate) fn look(&self) -> Option<redb::ReadTransaction> {
        use redb::ReadableDatabase as _;
        match &self.state {
            State::Up(live) => live.database().begin_read().ok(),
            _ => None,
        }
    }

    /// How many windows are behind: something lies on disk that they have to read.
    #[cfg(test)]
    pub(crate) fn behind(&self) -> usize {
        let State::Up(live) = &self.state else { return 0 };
        live.queues.iter().flat_map(|queue| &queue.lines).filter(|line| !line.window.live).count()
    }

    fn fail(&mut self, failed: Failed, now: Now, replies: &mut Replies<T>) {
        let Failed { failure, unknown } = failed;
        tracing::error!(error = %failure, path = %self.disk.path().display(), "Storage failed; everything in memory is dropped.");
        let wait = self.tuning.reopen_min;
        if let Failure::Full(_) = failure {
            self.was_full = true;
            self.disk.release_reserve();
        }
        let next = match &failure {
            Failure::Io(_) | Failure::Full(_) => State::Down { retry_at: now.monotonic.plus(wait), wait },
            Failure::Damaged(what) => State::Stopped(self.damaged(what)),
        };
        let error = if unknown { EngineError::Unknown } else { failure.undone() };
        self.take_into_tally();
        if let State::Up(live) = std::mem::replace(&mut self.state, next) {
            live.abandon(&error, replies);
        }
    }

    /// Asks the disk for its room now and then: whether it takes more messages, and whether the reserve can be built again.
    fn look_at_space(&mut self, now: Now, replies: &mut Replies<T>) {
        let State::Up(live) = &mut self.state else { return };
        if now.monotonic < self.space_at {
            return;
        }
        self.space_at = now.monotonic.plus(self.tuning.space_wait);
        let Some(mut space) = self.disk.space() else { return };
        // A disk that was full takes no more before there is room for the reserve as well.
        let reserved = if self.was_full { self.tuning.reserve_bytes.saturating_mul(2) } else { 0 };
        let (live_bytes, floor) = (live.stored_bytes(), live.free_bytes_min.max(reserved));
        if is_worth_compacting(space, live_bytes, floor) {
            if let Err(failed) = live.compact() {
                return self.fail(failed, now, replies);
            }
            space = self.disk.space().unwrap_or(space);
        }
        let is_full = is_full(space, live_bytes, floor, self.was_full);
        if is_full != live.disk_full {
            tracing::warn!(
                full = is_full,
                free_bytes = space.free,
                "Whether the disk has room for more messages changed."
            );
        }
        live.disk_full = is_full;
        // Settling needs room too, and is better given it before a commit fails.
        if is_full && space.free < self.tuning.reserve_bytes / 4 {
            self.disk.release_reserve();
        }
        if !is_full {
            self.was_full = false;
            self.disk.keep_reserve();
        }
    }

    fn take_into_tally(&mut self) {
        self.tally = self.take_tally();
    }

    /// Reopens a store that is down once its wait is over.
    fn try_reopen(&mut self, now: Now) {
        let State::Down { retry_at, wait } = self.state else { return };
        if now.monotonic < retry_at {
            return;
        }
        let reopened = Live::open(&mut *self.disk, &self.tuning, &mut self.random).and_then(|(mut live, _)| {
            if let Some(definitions) = &self.definitions {
                let failed = |failure| OpenError::from_failure(self.disk.path(), failure);
                live.define(definitions, now).map_err(|error| failed(error.failure))?;
            }
            Ok(live)
        });
        self.state = match reopened {
            Ok(live) => {
                self.space_at = Monotonic(0);
                tracing::warn!(path = %self.disk.path().display(), "Storage is open again; all leases have ended.");
                State::Up(Box::new(live))
            }
            Err(error) if error.is_passing() => {
                let wait = (wait * 2).min(self.tuning.reopen_max);
                tracing::error!(%error, "Storage can't be reopened yet.");
                State::Down { retry_at: now.monotonic.plus(wait), wait }
            }
            Err(error) => {
                tracing::error!(%error, "Storage can't be reopened.");
                State::Stopped(error.to_string())
            }
        };
    }
}
