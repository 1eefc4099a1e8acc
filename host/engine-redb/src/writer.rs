//! The writer's thread: waits for commands or for time, feeds the store in batches, sends its replies.
//!
//! Invariant: figures are published before the replies that depend on them are sent, so that a lease shows in the counts
//! before anybody has it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use pelton_core::clock::Clock;
use pelton_core::engine::{Counts, Health, LeaseToken, QueueCounts};
use pelton_core::metrics::EngineMetrics;
use tokio::sync::{oneshot, watch};

use crate::command::{Command, Now, Reply, Request, Ticket};
use crate::engine::{Delivered, End};
use crate::store::Store;
use crate::tuning::Tuning;

/// What comes to the writer.
pub(crate) enum Message {
    Command(Command<Address>),
    /// Leases that nobody received.
    GiveBack(Vec<LeaseToken>),
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

/// The figures of all queues, by id.
#[derive(Default)]
pub(crate) struct Board(Mutex<Vec<QueueCounts>>);

impl Board {
    fn publish(&self, changed: Vec<QueueCounts>) {
        if changed.is_empty() {
            return;
        }
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for counts in changed {
            match queues.iter_mut().find(|known| known.id == counts.id) {
                Some(known) => *known = counts,
                None => queues.push(counts),
            }
        }
    }

    /// All figures, by name.
    pub(crate) fn read(&self) -> Arc<Counts> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        queues.sort_by(|one, other| one.name.cmp(&other.name));
        Arc::new(Counts { queues })
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
    /// Writing commands that are worth waiting for.
    expected: usize,
}

/// What one turn of the loop found to do.
#[derive(Default)]
struct Batch {
    commands: Vec<Command<Address>>,
    close: Option<Option<oneshot::Sender<()>>>,
    messages: usize,
    /// Commands that need a commit.
    writes: usize,
}

impl Batch {
    fn push(&mut self, message: Message) {
        match message {
            Message::Command(command) => {
                self.messages += command.request.messages();
                self.writes += usize::from(matches!(command.request, Request::Append(_) | Request::Settle(_)));
                self.commands.push(command);
            }
            Message::GiveBack(tokens) => {
                let request = Request::Release(tokens);
                self.commands.push(Command { ticket: Address::nobody(), request });
            }
            Message::Close(answer) => self.close = Some(answer),
        }
    }
}

impl Writer {
    pub(crate) fn new(
        store: Store<Address>,
        clock: Arc<dyn Clock>,
        tuning: Tuning,
        receiver: mpsc::Receiver<Message>,
        outlets: Outlets,
    ) -> Self {
        Self { store, clock, receiver, outlets, tuning, expected: 0 }
    }

    /// Runs until closed, or until a panic that leaves nothing to go on with.
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
            Err(panic) => panic_text(&*panic),
        };
        tracing::error!(%reason, "The writer failed; nothing is stored any more until a restart.");
        self.outlets.health.send_replace(Health::Failed(format!("the writer failed: {reason}")));
    }

    fn serve(&mut self) -> Option<oneshot::Sender<()>> {
        self.outlets.board.publish(self.store.take_changed_counts());
        loop {
            let Batch { commands, close, .. } = self.gather();
            self.apply(commands);
            if let Some(answer) = close {
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

    /// Waits for a message or for the store's next deadline, then takes what else is there or about to come.
    fn gather(&mut self) -> Batch {
        let mut batch = Batch::default();
        // The clocks may be stepped or not be the system's, so that a long wait is cut into ticks.
        let first = match self.store.next_deadline(self.now()) {
            Some(Duration::ZERO) => self.receiver.try_recv().ok(),
            Some(wait) => self.receiver.recv_timeout(wait.min(self.tuning.tick)).ok(),
            None => Some(self.receiver.recv().unwrap_or(Message::Close(None))),
        };
        let Some(first) = first else { return batch };
        batch.push(first);
        let started = self.clock.monotonic();
        while batch.close.is_none()
            && batch.messages < self.tuning.batch_messages
            && batch.commands.len() < self.tuning.batch_commands
        {
            let next = self.receiver.try_recv().ok().or_else(|| {
                let left = self.tuning.gather.saturating_sub(self.clock.monotonic().since(started));
                let worth_it = batch.writes < self.expected && !left.is_zero();
                worth_it.then(|| self.receiver.recv_timeout(left).ok()).flatten()
            });
            match next {
                Some(message) => batch.push(message),
                None => break,
            }
        }
        let many = batch.writes > self.tuning.gather_from;
        self.expected = if many { batch.writes.min(self.tuning.gather_max) } else { 0 };
        batch
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

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".to_owned())
}
