//! The way back: messages are leased from the drain queue, each one's time is handed to who measures, and they are
//! acknowledged.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use hyper::{Method, Request};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::body::{Run, times};
use super::wire::{Connection, Target};
use crate::client::segment;

/// Connections that wait for messages to come back.
const RECEIVERS: usize = 2;
/// Messages taken by one lease.
const LEASE_MAX: usize = 100;
/// Leases that wait to be settled.
const TOKENS_MAX: usize = 1_000_000;
/// Nothing coming back for so long means that nothing will.
const STALLED: Duration = Duration::from_secs(15);

/// Receives what comes back. Lives inside a `LocalSet`.
pub(super) struct Back {
    receivers: Vec<JoinHandle<anyhow::Result<()>>>,
    settling: JoinHandle<anyhow::Result<()>>,
    arrivals: Rc<Arrivals>,
}

struct Arrivals {
    run: Run,
    received: Cell<u64>,
    on_time: Box<dyn Fn(u64)>,
}

impl Arrivals {
    fn take(&self, body: &[u8]) {
        for time in times(self.run, body) {
            (self.on_time)(time);
            self.received.set(self.received.get() + 1);
        }
    }
}

impl Back {
    /// Receives from `queue` from now on; `on_time` gets the time that stands in each message of `run`.
    pub(super) async fn start(
        target: &Target,
        queue: &str,
        run: Run,
        on_time: impl Fn(u64) + 'static,
    ) -> anyhow::Result<Self> {
        let settler = Connection::open(target).await?;
        let mut drains = Vec::new();
        for _ in 0..RECEIVERS {
            drains.push(Connection::open(target).await?);
        }
        let arrivals = Rc::new(Arrivals { run, received: Cell::new(0), on_time: Box::new(on_time) });
        let (tokens, acks) = mpsc::channel(TOKENS_MAX);
        let lease_head = head(target, queue, "lease")?;
        let receivers = drains
            .into_iter()
            .map(|drain| tokio::task::spawn_local(receive(drain, lease_head.clone(), arrivals.clone(), tokens.clone())))
            .collect();
        let settling = tokio::task::spawn_local(settle(settler, head(target, queue, "settle")?, acks));
        Ok(Self { receivers, settling, arrivals })
    }

    /// Waits until all of `sent` came back and are acknowledged; before `due_by` it is no wonder if nothing comes.
    pub(super) async fn all(mut self, sent: u64, due_by: Instant) -> anyhow::Result<u64> {
        let (mut last, mut moved) = (self.received(), due_by.max(Instant::now()));
        while self.received() < sent {
            tokio::time::sleep(Duration::from_millis(5)).await;
            // A receiver only ends by an error.
            if let Some(ended) = self.receivers.iter_mut().find(|receiver| receiver.is_finished()) {
                ended.await??;
            }
            if self.received() != last {
                (last, moved) = (self.received(), due_by.max(Instant::now()));
            } else if moved.elapsed() > STALLED {
                let missing = sent - self.received();
                bail!(
                    "{missing} of {sent} messages did not come back; does a consumer emit them on to the drain queue (`pelton consumers`)?"
                );
            }
        }
        self.receivers.iter().for_each(JoinHandle::abort);
        let received = self.received();
        self.settling.await??;
        Ok(received)
    }
}

impl Back {
    fn received(&self) -> u64 {
        self.arrivals.received.get()
    }
}

fn head(target: &Target, queue: &str, call: &str) -> anyhow::Result<Request<()>> {
    target.request(Method::POST, &format!("/v1/queues/{}/{call}", segment(queue)), "application/json")
}

/// The part of a lease answer that is needed; the messages' bodies are searched as bytes.
#[derive(Debug, Deserialize)]
struct LeaseAnswer {
    messages: Vec<LeasedToken>,
}

#[derive(Debug, Deserialize)]
struct LeasedToken {
    token: String,
}

async fn receive(
    mut connection: Connection,
    head: Request<()>,
    arrivals: Rc<Arrivals>,
    tokens: mpsc::Sender<String>,
) -> anyhow::Result<()> {
    let want = Bytes::from(serde_json::to_vec(&serde_json::json!({"max": LEASE_MAX, "wait": "10s", "ttl": "60s"}))?);
    loop {
        let body = connection.call(&head, want.clone()).await?.success()?;
        arrivals.take(&body);
        let answer: LeaseAnswer = serde_json::from_slice(&body)?;
        for leased in answer.messages {
            tokens.send(leased.token).await?;
        }
    }
}

/// Acknowledges what was received, everything that waits in one call.
async fn settle(
    mut connection: Connection,
    head: Request<()>,
    mut tokens: mpsc::Receiver<String>,
) -> anyhow::Result<()> {
    let mut batch = Vec::new();
    while tokens.recv_many(&mut batch, 1000).await > 0 {
        let settlements: Vec<_> =
            batch.drain(..).map(|token| serde_json::json!({"token": token, "outcome": "ack"})).collect();
        let body = serde_json::to_vec(&serde_json::json!({ "settlements": settlements }))?;
        connection.call(&head, body.into()).await?.success()?;
    }
    Ok(())
}
