//! The redb engine without its thread: the real store on the simulated disk, fed by a task in batches that the seed cuts.
//!
//! Callers prepare and open messages as with [`crate::RedbEngine`], and the same lines decide what comes into a batch. The disk takes
//! its time between a batch's answers from memory and those of its commit. Once the power is off nobody gets an answer any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pelton_core::engine::{
    Append, Appended, Browse, Bulk, Counts, Defined, Definitions, Engine, EngineError, Fut, Guarantees, Health,
    LeaseRequest, LeaseToken, Leased, Lost, Page, Pausable, Position, Progress, QueueCounts, QueueId, RequestError,
    SettleError, Settlement, StoreId, Stored,
};
use tokio::sync::{Notify, oneshot, watch};

use super::look::Looked;
use super::world::World;
use crate::command::{Command, Grant, Now, Reply, Request, Ticket};
use crate::engine::GUARANTEES;
use crate::hash::Secret;
use crate::lines::Lines;
use crate::open::OpenError;
use crate::prepare::{prepare_append, prepare_settlement};
use crate::store::Store;

/// What a store says that was closed in order.
const CLOSED: &str = "the store is closed";

/// Where a reply goes; none: to nobody.
pub(super) struct Address {
    number: u64,
    reply_to: Option<oneshot::Sender<Delivered>>,
}

impl Ticket for Address {
    fn abandoned(&self) -> bool {
        self.reply_to.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// A reply on its way, and the moment that it was made at. Leases in it that nobody takes are given back.
struct Delivered {
    reply: Option<Reply>,
    at: Now,
    shared: Arc<Shared>,
}

impl Drop for Delivered {
    fn drop(&mut self) {
        if let Some(Reply::Leased(Ok(grants))) = self.reply.take() {
            let tokens = grants.iter().map(Grant::token).collect();
            self.shared.push(None, Request::Release(tokens));
        }
    }
}

/// The store and what waits for it.
struct Machine {
    store: Option<Store<Address>>,
    lines: Lines<Address>,
    counts: Counts,
    next_number: u64,
    /// Who waits for the end.
    closing: Option<oneshot::Sender<()>>,
    /// Requests and answers that ended with the power.
    lost: Vec<(Address, Reply)>,
}

struct Shared {
    world: Arc<World>,
    machine: Mutex<Machine>,
    work: Notify,
    health: watch::Sender<Health>,
    crashed: Notify,
    off: AtomicBool,
}

/// See the module's head. Clones are the same engine.
#[derive(Clone)]
pub(super) struct SimEngine {
    id: StoreId,
    secret: Secret,
    shared: Arc<Shared>,
}

impl Shared {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, reply_to: Option<oneshot::Sender<Delivered>>, request: Request) {
        let mut machine = self.machine();
        machine.next_number += 1;
        let ticket = Address { number: machine.next_number, reply_to };
        machine.lines.push(Command { ticket, request });
        drop(machine);
        self.work.notify_one();
    }
}

impl SimEngine {
    pub(super) fn open(world: &Arc<World>) -> Result<Self, OpenError> {
        let seed = world.state().random.u64(..);
        let disk = Box::new(world.disk.clone());
        let store = Store::open(disk, world.tuning.clone(), seed)?;
        let (id, secret) = (store.id(), store.secret());
        let machine = Machine {
            store: Some(store),
            lines: Lines::default(),
            counts: Counts::default(),
            next_number: 0,
            closing: None,
            lost: Vec::new(),
        };
        let shared = Shared {
            world: world.clone(),
            machine: Mutex::new(machine),
            work: Notify::new(),
            health: watch::Sender::new(Health::Ready),
            crashed: Notify::new(),
            off: AtomicBool::new(false),
        };
        let engine = Self { id, secret, shared: Arc::new(shared) };
        engine.publish(&mut engine.shared.machine());
        Ok(engine)
    }

    /// Returns when the power went off.
    pub(super) async fn crashed(&self) {
        if !self.shared.off.load(Ordering::Relaxed) {
            self.shared.crashed.notified().await;
        }
    }

    /// Whether it was closed in order.
    pub(super) fn is_closed(&self) -> bool {
        matches!(&*self.shared.health.borrow(), Health::Failed(reason) if reason == CLOSED)
    }

    /// All that is committed, from a single view. Also checks every invariant of the file.
    pub(super) fn look(&self) -> Result<Looked, String> {
        let now = self.shared.world.clock.now();
        let mut machine = self.shared.machine();
        let store = machine.store.as_mut().ok_or("the store is closed")?;
        store.verify().map_err(|problems| problems.join("; "))?;
        let (sender, _receiver) = oneshot::channel();
        let ticket = Address { number: u64::MAX, reply_to: Some(sender) };
        let mut replies = Vec::new();
        store.accept(vec![Command { ticket, request: Request::Snapshot(None) }], now, &mut replies);
        store.commit(now, &mut replies);
        self.publish(&mut machine);
        let queues: Vec<(QueueId, String)> =
            machine.counts.queues.iter().map(|queue| (queue.id, queue.name.to_string())).collect();
        drop(machine);
        let mut snapshot = None;
        for (address, reply) in replies {
            match reply {
                Reply::Snapshot(made) if address.number == u64::MAX => snapshot = Some(made),
                // Time passed meanwhile, so that somebody who waited is served.
                reply => self.deliver(address, reply, now),
            }
        }
        let snapshot = snapshot.ok_or("there was no snapshot")?.map_err(|error| error.to_string())?;
        Looked::at(&snapshot, &queues, self.shared.world.tuning.page_bytes)
    }

    /// Serves requests until the store is closed, or for ever after the power went off.
    pub(super) async fn serve(self) {
        loop {
            self.wait().await;
            let world = &self.shared.world;
            // More requests come while the writer is woken.
            for _ in 0..world.below(4) {
                tokio::task::yield_now().await;
            }
            let (batch, closing) = {
                let mut machine = self.shared.machine();
                let closing = machine.closing.take();
                let all = closing.is_some();
                let batch = if all { machine.lines.take_all() } else { machine.lines.take(&world.tuning) };
                (batch, closing)
            };
            self.step(|store, now, replies| store.accept(batch, now, replies)).await;
            let staged = self.shared.machine().store.as_ref().is_some_and(Store::has_staged);
            if staged && world.chance(0.7) {
                tokio::time::sleep(Duration::from_millis(world.below(4))).await;
            }
            self.step(|store, now, replies| store.commit(now, replies)).await;
            self.step(|store, _, replies| store.read_ahead(replies)).await;
            if let Some(closing) = closing {
                self.step(|store, now, replies| store.close(now, replies)).await;
                let _ = closing.send(());
                return;
            }
        }
    }

    /// Waits for a request or for the store's next deadline.
    async fn wait(&self) {
        let deadline = {
            let machine = self.shared.machine();
            if !machine.lines.is_empty() || machine.closing.is_some() {
                return;
            }
            machine.store.as_ref().and_then(|store| store.next_deadline(self.shared.world.clock.now()))
        };
        let tick = self.shared.world.tuning.tick * 10;
        match deadline {
            // Work in the background: it takes its time.
            Some(Duration::ZERO) => tokio::time::sleep(Duration::from_millis(1)).await,
            Some(wait) => {
                let _ = tokio::time::timeout(wait.min(tick), self.shared.work.notified()).await;
            }
            None => self.shared.work.notified().await,
        }
    }

    /// Has the store do something, and answers; never returns once the power is off.
    async fn step(&self, work: impl FnOnce(&mut Store<Address>, Now, &mut Vec<(Address, Reply)>)) {
        let world = &self.shared.world;
        let now = world.clock.now();
        let mut replies = Vec::new();
        let off = {
            let mut machine = self.shared.machine();
            if let Some(store) = &mut machine.store {
                work(store, now, &mut replies);
            }
            let off = world.disk.is_off();
            if off {
                machine.lost = std::mem::take(&mut replies);
            } else {
                self.publish(&mut machine);
            }
            off
        };
        if off {
            self.shared.off.store(true, Ordering::Relaxed);
            self.shared.crashed.notify_one();
            std::future::pending::<()>().await;
        }
        for (address, reply) in replies {
            self.deliver(address, reply, now);
        }
    }

    /// Figures go out before the replies that depend on them.
    fn publish(&self, machine: &mut Machine) {
        let Some(store) = &mut machine.store else { return };
        let (changed, paused, health) = (store.take_changed_counts(), store.take_paused(), store.health());
        for counts in changed {
            match machine.counts.queues.iter_mut().find(|known: &&mut QueueCounts| known.id == counts.id) {
                Some(known) => *known = counts,
                None => machine.counts.queues.push(counts),
            }
        }
        machine.counts.queues.sort_by(|one, other| one.name.cmp(&other.name));
        if let Some(paused) = paused {
            machine.counts.paused_consumers = paused;
        }
        let world = &self.shared.world;
        self.shared.health.send_if_modified(|known| {
            let changed = *known != health;
            if changed && health == Health::Recovering {
                let mut state = world.state();
                state.reopened = true;
                state.count("storage failed");
            }
            if let Health::Failed(reason) = &health
                && reason != CLOSED
            {
                world.wrong(format!("the store stopped: {reason}"));
            }
            *known = health;
            changed
        });
    }

    fn deliver(&self, address: Address, reply: Reply, at: Now) {
        let text = match &reply {
            Reply::Leased(Ok(grants)) => format!("{:?}", grants.iter().map(Grant::token).collect::<Vec<_>>()),
            Reply::Snapshot(_) => String::new(),
            other => format!("{other:?}"),
        };
        self.shared.world.trace((address.number, text));
        if let Some(reply_to) = address.reply_to {
            let _ = reply_to.send(Delivered { reply: Some(reply), at, shared: self.shared.clone() });
        }
    }

    fn send(&self, request: Request) -> oneshot::Receiver<Delivered> {
        let (sender, receiver) = oneshot::channel();
        self.shared.push(Some(sender), request);
        receiver
    }

    async fn ask(&self, request: Request) -> Result<(Reply, Now), EngineError> {
        taken(self.send(request)).await
    }

    async fn lease_opened(&self, want: LeaseRequest) -> Result<Vec<Leased>, RequestError> {
        let (reply, at) = self.ask(Request::Lease(want)).await?;
        let Reply::Leased(grants) = reply else { return Err(EngineError::Unknown.into()) };
        let leased: Vec<Leased> = grants?.into_iter().map(Grant::open).collect::<Result<_, _>>()?;
        leased.iter().for_each(|leased| self.check_times(leased, at));
        Ok(leased)
    }

    /// Nothing is leased after it expired, nor before it is due.
    fn check_times(&self, leased: &Leased, at: Now) {
        let world = &self.shared.world;
        let latest = world.clock.latest();
        let mut state = world.state();
        let place = (leased.message.id().to_owned(), leased.token.queue.0);
        let Some((due, expires)) = state.ledger.times.get(&place).copied() else { return };
        if expires.is_some_and(|expires| expires < at.wall) {
            state.wrong(format!("{place:?} expired at {expires:?}, and was leased at {at:?}"));
        }
        if due.is_some_and(|due| due > latest) {
            state.wrong(format!("{place:?} is due at {due:?}, and was leased at {at:?}"));
        }
    }

    fn note_times(&self, append: &Append) {
        let mut state = self.shared.world.state();
        for entry in append.entries.iter().filter(|entry| entry.dead.is_none()) {
            let options = &entry.options;
            state.ledger.note_times(entry.message.id(), entry.queue.0, options.due, options.expires);
        }
    }

    async fn snapshot(&self, queue: QueueId) -> Result<crate::browse::Snapshot, RequestError> {
        match self.ask(Request::Snapshot(Some(queue))).await? {
            (Reply::Snapshot(snapshot), _) => snapshot,
            _ => Err(EngineError::Unknown.into()),
        }
    }
}

/// The reply; without one nobody knows what was done.
async fn taken(receiver: oneshot::Receiver<Delivered>) -> Result<(Reply, Now), EngineError> {
    let mut delivered = receiver.await.map_err(|_| EngineError::Unknown)?;
    let reply = delivered.reply.take().ok_or(EngineError::Unknown)?;
    Ok((reply, delivered.at))
}

impl Engine for SimEngine {
    fn guarantees(&self) -> &Guarantees {
        &GUARANTEES
    }

    fn store_id(&self) -> StoreId {
        self.id
    }

    fn define(&self, definitions: Definitions) -> Fut<'_, Result<Defined, EngineError>> {
        Box::pin(async move {
            match self.ask(Request::Define(definitions)).await? {
                (Reply::Defined(result), _) => result,
                _ => Err(EngineError::Unknown),
            }
        })
    }

    fn append(&self, append: Append) -> Fut<'_, Result<Appended, RequestError>> {
        Box::pin(async move {
            self.note_times(&append);
            let prepared = prepare_append(append, &self.shared.world.tuning, &self.secret);
            match self.ask(Request::Append(prepared)).await? {
                (Reply::Appended(result), _) => result,
                _ => Err(EngineError::Unknown.into()),
            }
        })
    }

    fn lease(&self, want: LeaseRequest) -> Fut<'_, Result<Vec<Leased>, RequestError>> {
        Box::pin(self.lease_opened(want))
    }

    fn extend(&self, leases: Vec<(LeaseToken, Duration)>) -> Fut<'_, Vec<Result<(), SettleError>>> {
        let count = leases.len();
        let receiver = self.send(Request::Extend(leases));
        Box::pin(async move {
            match taken(receiver).await {
                Ok((Reply::Extended(results), _)) => results,
                _ => vec![Err(EngineError::Unknown.into()); count],
            }
        })
    }

    fn release(&self, leases: Vec<LeaseToken>) -> Fut<'_, ()> {
        let receiver = self.send(Request::Release(leases));
        Box::pin(async move {
            let _ = receiver.await;
        })
    }

    fn settle(&self, batch: Vec<Settlement>) -> Fut<'static, Vec<Result<(), SettleError>>> {
        let count = batch.len();
        let tuning = &self.shared.world.tuning;
        let batch = batch.into_iter().map(|settlement| prepare_settlement(settlement, tuning, &self.secret)).collect();
        let receiver = self.send(Request::Settle(batch));
        Box::pin(async move {
            match taken(receiver).await {
                Ok((Reply::Settled(results), _)) => results,
                _ => vec![Err(EngineError::Unknown.into()); count],
            }
        })
    }

    fn browse(&self, what: Browse) -> Fut<'_, Result<Page, RequestError>> {
        Box::pin(async move { self.snapshot(what.queue).await?.page(&what, self.shared.world.tuning.page_bytes) })
    }

    fn bulk(&self, job: Bulk) -> Fut<'_, Result<Progress, RequestError>> {
        Box::pin(async move {
            match self.ask(Request::Bulk(job)).await? {
                (Reply::Progress(result), _) => result,
                _ => Err(EngineError::Unknown.into()),
            }
        })
    }

    fn read(&self, queue: QueueId, position: Position) -> Fut<'_, Result<Option<Stored>, RequestError>> {
        Box::pin(async move { Ok(self.snapshot(queue).await?.message(queue, position)?) })
    }

    fn pause(&self, what: Pausable, paused: bool) -> Fut<'_, Result<(), RequestError>> {
        Box::pin(async move {
            match self.ask(Request::Pause(what, paused)).await? {
                (Reply::Paused(result), _) => result,
                _ => Err(EngineError::Unknown.into()),
            }
        })
    }

    fn lost(&self, lost: Vec<Lost>) -> Fut<'_, Result<u64, EngineError>> {
        Box::pin(async move {
            match self.ask(Request::Lost(lost)).await? {
                (Reply::Lost(result), _) => result,
                _ => Err(EngineError::Unknown),
            }
        })
    }

    fn counts(&self) -> Arc<Counts> {
        Arc::new(self.shared.machine().counts.clone())
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    fn close(&self, within: Duration) -> Fut<'_, ()> {
        Box::pin(async move {
            let (sender, receiver) = oneshot::channel();
            self.shared.machine().closing = Some(sender);
            self.shared.work.notify_one();
            if tokio::time::timeout(within, receiver).await.is_err() {
                self.shared.world.wrong("the store was not closed in time".to_owned());
            }
        })
    }
}
