//! The shell around the store, as an [`Engine`]: callers on one side of a channel, the writer's thread on the other.
//!
//! Invariants: rows are encoded and messages decoded on the caller's thread; one reply per command; a lease whose receiver
//! is gone is given back, wherever between the two sides it got lost.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use pelton_core::clock::Clock;
use pelton_core::engine::{
    Append, Appended, Browse, Bulk, Counts, Defined, Definitions, Engine, EngineError, EntryId, Fut, Guarantees,
    Health, LeaseRequest, LeaseToken, Leased, Lost, Page, Pausable, Position, Progress, QueueId, RequestError,
    SettleError, Settlement, StoreId, Stored,
};
use pelton_core::metrics::EngineMetrics;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::browse::Snapshot;
use crate::command::{Command, Grant, Reply, Request};
use crate::format::Identity;
use crate::hash::Secret;
use crate::open::{Disk, FileDisk, OpenError};
use crate::panics;
use crate::prepare::{PreparedSettlement, prepare_append, prepare_settlement};
use crate::store::Store;
use crate::tuning::Tuning;
use crate::writer::{Address, Board, Message, Outlets, Writer};

/// How an engine is opened.
pub struct OpenOptions {
    /// The data folder; made if it is not there.
    pub dir: PathBuf,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// What it counts.
    pub metrics: EngineMetrics,
    /// Its thresholds.
    pub tuning: Tuning,
    /// Where all randomness comes from: different at each start, but in tests.
    pub seed: u64,
}

/// Messages in a redb file.
pub struct RedbEngine {
    id: StoreId,
    secret: Secret,
    pub(crate) tuning: Tuning,
    pub(crate) file: PathBuf,
    sender: mpsc::Sender<Message>,
    /// Bytes of appends that may yet be sent; a permit is a byte.
    room: Semaphore,
    board: Arc<Board>,
    health: watch::Receiver<Health>,
    end: Arc<End>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Whether the writer ended in order, having answered all that it took up.
#[derive(Debug, Default)]
pub(crate) struct End(AtomicBool);

impl End {
    pub(crate) fn set_orderly(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The reply; without one: nothing was done if the writer ended in order, else nobody knows.
    async fn answer(&self, receiver: oneshot::Receiver<Delivered>) -> Result<Reply, EngineError> {
        let lost = |_| if self.0.load(Ordering::Acquire) { EngineError::Unavailable } else { EngineError::Unknown };
        receiver.await.map(Delivered::take).map_err(lost)
    }
}

/// What is said in place of a reply of the kind that was asked for.
fn unanswered(reply: Result<Reply, EngineError>) -> EngineError {
    reply.err().unwrap_or(EngineError::Unknown)
}

/// What this engine promises: all that there is.
pub const GUARANTEES: Guarantees = Guarantees::ALL;

impl RedbEngine {
    /// Opens the data folder and starts the writer's thread.
    ///
    /// # Errors
    /// [`OpenError`], which names the place and the remedy.
    pub fn open(options: OpenOptions) -> Result<Self, OpenError> {
        let identity = Identity::draw(&mut fastrand::Rng::with_seed(options.seed));
        let disk = FileDisk::take(&options.dir, &identity, options.tuning.reserve_bytes)?;
        Self::open_on(Box::new(disk), options)
    }

    /// Opens the database on `disk`, whatever that is; `options.dir` is not looked at.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Box<dyn Disk>, options: OpenOptions) -> Result<Self, OpenError> {
        let OpenOptions { dir: _, clock, metrics, tuning, seed } = options;
        let file = disk.path().to_owned();
        let store = Store::open(disk, tuning.clone(), seed)?;
        let (id, secret) = (store.id(), store.secret());
        let (sender, receiver) = mpsc::channel();
        let board = Arc::new(Board::default());
        let (health_sender, health) = watch::channel(Health::Ready);
        let end = Arc::new(End::default());
        let outlets = Outlets { metrics, board: Arc::clone(&board), health: health_sender, end: Arc::clone(&end) };
        let writer = Writer::new(store, clock, tuning.clone(), receiver, outlets);
        let thread = std::thread::Builder::new().name("pelton-writer".to_owned()).spawn(move || writer.run()).map_err(
            |error| OpenError::Io { file: file.clone(), reason: format!("no thread for the writer: {error}") },
        )?;
        let room = Semaphore::new(tuning.backlog_bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize)));
        Ok(Self { id, secret, tuning, file, sender, room, board, health, end, thread: Mutex::new(Some(thread)) })
    }

    /// Makes the writer look at its clock now, rather than within a [`Tuning::tick`]: for clocks that tests move.
    pub fn look_at_the_clock(&self) {
        let _ = self.sender.send(Message::GiveBack(Vec::new()));
    }

    fn send(&self, request: Request) -> oneshot::Receiver<Delivered> {
        let (sender, receiver) = oneshot::channel();
        let address = Address::new(sender, self.sender.clone());
        // A writer that is gone has dropped its end and what was in it, and the receiver will say so.
        let _ = self.sender.send(Message::Command(Command { ticket: address, request }));
        receiver
    }

    async fn ask(&self, request: Request) -> Result<Reply, EngineError> {
        let receiver = self.send(request);
        self.end.answer(receiver).await
    }

    async fn append_prepared(&self, append: Append) -> Result<Appended, RequestError> {
        let append = prepare_append(append, &self.tuning, &self.secret);
        let bytes = append.bytes().clamp(1, self.tuning.backlog_bytes.max(1));
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(_room) = self.room.acquire_many(permits).await else {
            return Err(EngineError::Unavailable.into());
        };
        match self.ask(Request::Append(append)).await {
            Ok(Reply::Appended(result)) => result,
            other => Err(unanswered(other).into()),
        }
    }

    async fn lease_opened(&self, want: LeaseRequest) -> Result<Vec<Leased>, RequestError> {
        match self.ask(Request::Lease(want)).await {
            Ok(Reply::Leased(grants)) => self.open_all(grants?),
            other => Err(unanswered(other).into()),
        }
    }

    /// Decodes what was leased. Damage stops the store, as it does where the writer meets it: nobody should go on.
    fn open_all(&self, grants: Vec<Grant>) -> Result<Vec<Leased>, RequestError> {
        let opened = grants.into_iter().map(Grant::open).collect::<Result<Vec<_>, _>>();
        opened.map_err(|error| {
            let what = if let EngineError::Corrupt(what) = &error { what.clone() } else { error.to_string() };
            let _ = self.sender.send(Message::Damaged(what));
            error.into()
        })
    }

    async fn browse_page(&self, what: Browse) -> Result<Page, RequestError> {
        let snapshot = self.snapshot(Some(what.queue)).await?;
        let page_bytes = self.tuning.page_bytes;
        let mut page = aside(move || snapshot.page(&what, page_bytes)).await??;
        self.mark_leased(&mut page.items).await;
        Ok(page)
    }

    async fn read_message(&self, queue: QueueId, position: Position) -> Result<Option<Stored>, RequestError> {
        let snapshot = self.snapshot(Some(queue)).await?;
        let mut message = aside(move || snapshot.message(queue, position)).await??;
        self.mark_leased(message.as_mut_slice()).await;
        Ok(message)
    }

    /// A view of what is committed; it pins pages as long as it lives.
    pub(crate) async fn snapshot(&self, queue: Option<QueueId>) -> Result<Snapshot, RequestError> {
        match self.ask(Request::Snapshot(queue)).await {
            Ok(Reply::Snapshot(snapshot)) => snapshot,
            other => Err(unanswered(other).into()),
        }
    }

    async fn mark_leased(&self, items: &mut [Stored]) {
        let entries: Vec<EntryId> = items.iter().map(|item| item.entry).collect();
        if let Ok(Reply::Held(held)) = self.ask(Request::Held(entries)).await {
            items.iter_mut().zip(held).for_each(|(item, held)| item.leased = held);
        }
    }

    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("The writer's thread panicked.");
        }
    }
}

/// Does `work`, which waits for the disk, on a thread that may wait. A panic of redb means that the file is damaged.
async fn aside<V: Send + 'static>(work: impl FnOnce() -> V + Send + 'static) -> Result<V, EngineError> {
    match tokio::task::spawn_blocking(|| panics::quietly(work)).await {
        Ok(done) => done.map_err(|panic| EngineError::Corrupt(panics::told(&panic))),
        Err(_cancelled) => Err(EngineError::Unavailable),
    }
}

/// A reply on its way. Leases in it that nobody takes are given back.
pub(crate) struct Delivered {
    reply: Option<Reply>,
    sender: mpsc::Sender<Message>,
}

impl Delivered {
    pub(crate) fn new(reply: Reply, sender: mpsc::Sender<Message>) -> Self {
        Self { reply: Some(reply), sender }
    }

    fn take(mut self) -> Reply {
        self.reply.take().expect("a reply is taken once, by value")
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        if let Some(Reply::Leased(Ok(grants))) = self.reply.take() {
            let tokens = grants.iter().map(Grant::token).collect();
            let _ = self.sender.send(Message::GiveBack(tokens));
        }
    }
}

impl Engine for RedbEngine {
    fn guarantees(&self) -> &Guarantees {
        &GUARANTEES
    }

    fn store_id(&self) -> StoreId {
        self.id
    }

    fn define(&self, definitions: Definitions) -> Fut<'_, Result<Defined, EngineError>> {
        Box::pin(async move {
            match self.ask(Request::Define(definitions)).await {
                Ok(Reply::Defined(result)) => result,
                other => Err(unanswered(other)),
            }
        })
    }

    fn append(&self, append: Append) -> Fut<'_, Result<Appended, RequestError>> {
        Box::pin(self.append_prepared(append))
    }

    fn lease(&self, want: LeaseRequest) -> Fut<'_, Result<Vec<Leased>, RequestError>> {
        Box::pin(self.lease_opened(want))
    }

    fn extend(&self, leases: Vec<(LeaseToken, Duration)>) -> Fut<'_, Vec<Result<(), SettleError>>> {
        let count = leases.len();
        let receiver = self.send(Request::Extend(leases));
        Box::pin(async move {
            match self.end.answer(receiver).await {
                Ok(Reply::Extended(results)) => results,
                other => vec![Err(unanswered(other).into()); count],
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
        let batch: Vec<PreparedSettlement> =
            batch.into_iter().map(|settlement| prepare_settlement(settlement, &self.tuning, &self.secret)).collect();
        let receiver = self.send(Request::Settle(batch));
        let end = Arc::clone(&self.end);
        Box::pin(async move {
            match end.answer(receiver).await {
                Ok(Reply::Settled(results)) => results,
                other => vec![Err(unanswered(other).into()); count],
            }
        })
    }

    fn browse(&self, what: Browse) -> Fut<'_, Result<Page, RequestError>> {
        Box::pin(self.browse_page(what))
    }

    fn bulk(&self, job: Bulk) -> Fut<'_, Result<Progress, RequestError>> {
        Box::pin(async move {
            match self.ask(Request::Bulk(job)).await {
                Ok(Reply::Progress(result)) => result,
                other => Err(unanswered(other).into()),
            }
        })
    }

    fn read(&self, queue: QueueId, position: Position) -> Fut<'_, Result<Option<Stored>, RequestError>> {
        Box::pin(self.read_message(queue, position))
    }

    fn pause(&self, what: Pausable, paused: bool) -> Fut<'_, Result<(), RequestError>> {
        Box::pin(async move {
            match self.ask(Request::Pause(what, paused)).await {
                Ok(Reply::Paused(result)) => result,
                other => Err(unanswered(other).into()),
            }
        })
    }

    fn lost(&self, lost: Vec<Lost>) -> Fut<'_, Result<u64, EngineError>> {
        Box::pin(async move {
            match self.ask(Request::Lost(lost)).await {
                Ok(Reply::Lost(result)) => result,
                other => Err(unanswered(other)),
            }
        })
    }

    fn counts(&self) -> Arc<Counts> {
        self.board.read()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    fn close(&self, within: Duration) -> Fut<'_, ()> {
        Box::pin(async move {
            self.room.close();
            let (sender, receiver) = oneshot::channel();
            let _ = self.sender.send(Message::Close(Some(sender)));
            match tokio::time::timeout(within, receiver).await {
                // The thread has nothing left to do but to end.
                Ok(_) => self.join(),
                Err(_) => tracing::error!(?within, "The store was not closed in time."),
            }
        })
    }
}

impl Drop for RedbEngine {
    /// Ends the writer in order, waiting for what it does; [`Engine::close`] does so within a bound.
    fn drop(&mut self) {
        let _ = self.sender.send(Message::Close(None));
        self.join();
    }
}
