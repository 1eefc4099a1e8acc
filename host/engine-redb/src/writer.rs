//! The writer's thread: waits for commands or for time, feeds the store in batches, sends its replies.
//!
//! Invariant: figures are published before the replies that depend on them are sent, so that a lease shows in the counts
//! before anybody has it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use pelton_core::clock::{Clock, Monotonic};
use pelton_core::engine::{Counts, Health, LeaseToken, QueueCounts};
use pelton_core::metrics::EngineMetrics;
use pelton_core::name::ConsumerName;
use tokio::sync::{oneshot, watch};

use crate::command::{Command, Now, Reply, Request, Ticket};
use crate::engine::{Delivered, End};
use crate::lines::Lines;
use crate::panics;
use crate::store::Store;
use crate::tuning::Tuning;

/// What comes to the writer.
pub(crate) enum Message {
    Command(Command<Address>),
    /// Leases that nobody received.
    GiveBack(Vec<LeaseToken>),
    /// A row could not be decoded, for this reason: nobody should go on.
    Damaged(String),
    /// Finish and close; the answer says that it is done.
    Close(Option<oneshot::Sender<()>>),
}

/// Where a reply goes.
pub(crate) struct Address {
    reply_to: Option<oneshot::Sender<Delivered>>,
    back: Option<mpsc::Sender<Message>>,
}

impl Address {
    pub(crate) fn new(reply_to: oneshot::Sender<Delivered>, back: mpsc::Sender<Message>) -> Self {
        Self { reply_to: Some(reply_to), back: Some(back) }
    }

    fn nobody() -> Self {
        Self { reply_to: None, back: None }
    }

    fn deliver(self, reply: Reply) {
        if let (Some(reply_to), Some(back)) = (self.reply_to, self.back) {
            // What nobody takes is dropped, which gives its leases back.
            let _ = reply_to.send(Delivered::new(reply, back));
        }
    }
}

impl Ticket for Address {
    fn abandoned(&self) -> bool {
        self.reply_to.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// The figures of all queues, by id, and the paused consumers.
#[derive(Default)]
pub(crate) struct Board(Mutex<Counts>);

impl Board {
    fn publish(&self, changed: Vec<QueueCounts>) {
        if changed.is_empty() {
            return;
        }
        let queues = &mut self.0.lock().unwrap_or_else(PoisonError::into_inner).queues;
        for counts in changed {
            match queues.iter_mut().find(|known| known.id == counts.id) {
                Some(known) => *known = counts,
                None => queues.push(counts),
            }
        }
    }

    fn publish_paused(&self, paused: Vec<ConsumerName>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).paused_consumers = paused;
    }

    /// All figures, by name.
    pub(crate) fn read(&self) -> Arc<Counts> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        counts.queues.sort_by(|one, other| one.name.cmp(&other.name));
        Arc::new(counts)
    }
}

/// Where the writer tells what is going on.
pub(crate) struct Outlets {
    pub(crate) metrics: EngineMetrics,
    pub(crate) board: Arc<Board>,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) end: Arc<End>,
}

/// The thread's state.
pub(crate) struct Writer {
    store: Store<Address>,
    clock: Arc<dyn Clock>,
    receiver: mpsc::Receiver<Message>,
    outlets: Outlets,
    tuning: Tuning,
    /// What was received and waits for a batch.
    lines: Lines<Address>,
    /// Writing commands that are worth waiting for.
    expected: usize,
}

/// What closing is answered with; none: nobody asked for an answer.
type Closing = Option<oneshot::Sender<()>>;

impl Writer {
    pub(crate) fn new(
        store: Store<Address>,
        clock: Arc<dyn Clock>,
        tuning: Tuning,
        receiver: mpsc::Receiver<Message>,
        outlets: Outlets,
    ) -> Self {
        Self { store, clock, receiver, outlets, tuning, lines: Lines::default(), expected: 0 }
    }

    /// Runs until closed. After a panic of the store everything is refused, and the health says why.
    pub(crate) fn run(mut self) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let reason = match ended {
            Ok(closed) => {
                // Whoever comes late finds nobody: their reply's sender is dropped with the channel.
                if let Some(closed) = closed {
                    let _ = closed.send(());
                }
                return;
            }
            Err(panic) => panics::text(&*panic),
        };
        tracing::error!(%reason, "The writer failed; nothing is stored any more until a restart.");
        self.outlets.health.send_replace(Health::Failed(format!("the writer failed: {reason}")));
    }

    fn serve(&mut self) -> Closing {
        self.publish();
        loop {
            let (batch, closing) = self.gather();
            self.apply_guarded(batch);
            if let Some(answer) = closing {
                let mut replies = Vec::new();
                self.store.close(self.now(), &mut replies);
                self.send(replies);
                self.outlets.end.set_orderly();
                return answer;
            }
        }
    }

    fn now(&self) -> Now {
        Now { wall: self.clock.wall(), monotonic: self.clock.monotonic() }
    }

    /// Waits for a message or for the store's next deadline, then takes what else is there or about to come: the next
    /// batch, and whether it is the last.
    fn gather(&mut self) -> (Vec<Command<Address>>, Option<Closing>) {
        let deadline = if self.lines.is_empty() { self.store.next_deadline(self.now()) } else { Some(Duration::ZERO) };
        // The clocks may be stepped or not be the system's, so that a long wait is cut into ticks.
        let first = match deadline {
            Some(Duration::ZERO) => self.receiver.try_recv().ok(),
            Some(wait) => self.receiver.recv_timeout(wait.min(self.tuning.tick)).ok(),
            None => Some(self.receiver.recv().unwrap_or(Message::Close(None))),
        };
        let started = self.clock.monotonic();
        let mut next = first;
        while let Some(message) = next {
            match message {
                Message::Command(command) => self.lines.push(command),
                Message::GiveBack(tokens) => {
                    self.lines.push(Command { ticket: Address::nobody(), request: Request::Release(tokens) });
                }
                Message::Damaged(reason) => {
                    let mut replies = Vec::new();
                    self.store.stop(&reason, &mut replies);
                    self.publish();
                    self.send(replies);
                }
                Message::Close(answer) => return (self.lines.take_all(), Some(answer)),
            }
            if self.lines.is_full(&self.tuning) {
                break;
            }
            next = self.receiver.try_recv().ok().or_else(|| self.wait_for_more(started));
        }
        let batch = self.lines.take(&self.tuning);
        let writes = batch.iter().filter(|command| command.request.is_write()).count();
        let many = writes > self.tuning.gather_from;
        self.expected = if many { writes.min(self.tuning.gather_max) } else { 0 };
        (batch, None)
    }

    /// Those that were just answered are on their way back.
    fn wait_for_more(&self, started: Monotonic) -> Option<Message> {
        let left = self.tuning.gather.saturating_sub(self.clock.monotonic().since(started));
        let worth_it = self.lines.writes() < self.expected && !left.is_zero();
        worth_it.then(|| self.receiver.recv_timeout(left).ok()).flatten()
    }

    /// Applies the commands. redb asserts what only a damaged file breaks, at any time; whoever was in its hands then gets
    /// no reply, and so hears that nobody knows.
    fn apply_guarded(&mut self, commands: Vec<Command<Address>>) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.apply(commands))) else { return };
        let mut replies = Vec::new();
        self.store.give_up(&panics::text(&*panic), &mut replies);
        self.publish();
        self.send(replies);
    }

    fn apply(&mut self, commands: Vec<Command<Address>>) {
        let mut replies = Vec::new();
        self.store.accept(commands, self.now(), &mut replies);
        self.publish();
        self.send(std::mem::take(&mut replies));
        let started = self.clock.monotonic();
        let staged = self.store.has_staged();
        self.store.commit(self.now(), &mut replies);
        let took = self.clock.monotonic().since(started);
        self.publish();
        self.send(std::mem::take(&mut replies));
        self.store.read_ahead(&mut replies);
        self.publish();
        self.send(replies);
        let tally = self.store.take_tally();
        let metrics = &self.outlets.metrics;
        if tally.commits > 0 {
            metrics.commits.inc_by(tally.commits);
            metrics.settled.inc_by(tally.settled);
            metrics.dead.inc_by(tally.dead);
            if staged {
                metrics.commit_seconds.observe(took.as_secs_f64());
                metrics.batch_messages.observe(tally.messages as f64);
            }
        }
    }

    fn publish(&mut self) {
        self.outlets.board.publish(self.store.take_changed_counts());
        if let Some(paused) = self.store.take_paused() {
            self.outlets.board.publish_paused(paused);
        }
        let health = self.store.health();
        self.outlets.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }

    fn send(&self, replies: Vec<(Address, Reply)>) {
        for (address, reply) in replies {
            address.deliver(reply);
        }
    }
}
