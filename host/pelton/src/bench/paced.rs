//! Open-loop load: messages leave at a fixed rate whatever the broker does, and each one's time runs from when it was
//! *meant* to leave, so that a stall counts for everyone it held up (no coordinated omission).
//!
//! The way out and back: published to a topic whose consumer emits each body on; the emit exists once the delivery is
//! settled, and is leased from the drain queue here. So a time spans publish, route, commit, invoke, settle and lease.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use hdrhistogram::Histogram;
use hyper::{Method, Request};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::body::{Run, Template, times};
use super::load::{Pool, Shape, histogram};
use super::wire::{Connection, Target};
use crate::client::segment;

/// Connections that wait for messages to come back.
const RECEIVERS: usize = 2;
/// Messages taken by one lease.
const LEASE_MAX: usize = 100;
/// Waiting for a connection; a broker that falls further behind than this has lost the race.
const WAITING_MAX: usize = 1_000_000;
/// Nothing coming back for so long means that nothing will.
const STALLED: Duration = Duration::from_secs(15);

/// What is measured.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    pub(super) per_second: f64,
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
    pub(super) drain_queue: String,
}

/// What came back.
pub(super) struct Paced {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Publish calls, from when they were meant to start.
    pub(super) call_us: Histogram<u64>,
    /// From when a message was meant to leave until it was back here.
    pub(super) round_us: Histogram<u64>,
}

struct Shared {
    started: Instant,
    recorded_from_us: u64,
    run: Run,
    waiting: RefCell<VecDeque<u64>>,
    work: Notify,
    all_scheduled: Cell<bool>,
    sent: Cell<u64>,
    received: Cell<u64>,
    call_us: RefCell<Histogram<u64>>,
    round_us: RefCell<Histogram<u64>>,
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn record(&self, into: &RefCell<Histogram<u64>>, meant_us: u64) {
        if meant_us >= self.recorded_from_us {
            into.borrow_mut().saturating_record(self.now_us().saturating_sub(meant_us).max(1));
        }
    }
}

/// Publishes at the pace and waits for everything to come back.
pub(super) async fn run(target: &Target, pool: Pool, shape: &Shape, pace: &Pace) -> anyhow::Result<Paced> {
    let settler = Connection::open(target).await?;
    let mut drains = Vec::new();
    for _ in 0..RECEIVERS {
        drains.push(Connection::open(target).await?);
    }
    let shared = Rc::new(Shared {
        started: Instant::now(),
        recorded_from_us: u64::try_from(pace.warm_up.as_micros()).unwrap_or(u64::MAX),
        run: shape.run,
        waiting: RefCell::new(VecDeque::new()),
        work: Notify::new(),
        all_scheduled: Cell::new(false),
        sent: Cell::new(0),
        received: Cell::new(0),
        call_us: RefCell::new(histogram()),
        round_us: RefCell::new(histogram()),
    });
    let (tokens, acks) = mpsc::channel(WAITING_MAX);
    let lease_head = head(target, &pace.drain_queue, "lease")?;
    let mut receivers: Vec<_> = drains
        .into_iter()
        .map(|drain| tokio::task::spawn_local(receive(drain, lease_head.clone(), shared.clone(), tokens.clone())))
        .collect();
    drop(tokens);
    let settle_head = head(target, &pace.drain_queue, "settle")?;
    let settling = tokio::task::spawn_local(settle(settler, settle_head, acks));
    let ticks = schedule(shared.started, pace)?;
    let publish_head = Rc::new(shape.head(target)?);
    let template = Rc::new(shape.template());
    let publishers: Vec<_> = pool
        .into_connections()
        .into_iter()
        .map(|connection| {
            tokio::task::spawn_local(publish(connection, publish_head.clone(), template.clone(), shared.clone()))
        })
        .collect();
    hand_out(ticks, &shared, &publishers).await?;
    for publisher in publishers {
        publisher.await??;
    }
    all_back(&shared, &mut receivers).await?;
    receivers.iter().for_each(JoinHandle::abort);
    drop(receivers);
    settling.await??;
    let (call_us, round_us) = (shared.call_us.borrow().clone(), shared.round_us.borrow().clone());
    Ok(Paced { sent: shared.sent.get(), received: shared.received.get(), call_us, round_us })
}

/// The moments, in microseconds after the start, at which messages are meant to leave, each handed over when it comes.
///
/// A thread of its own sleeps for them: the executor's timer has steps of a millisecond.
fn schedule(started: Instant, pace: &Pace) -> anyhow::Result<mpsc::Receiver<u64>> {
    let (sender, ticks) = mpsc::channel(WAITING_MAX);
    let total = ((pace.warm_up + pace.duration).as_secs_f64() * pace.per_second) as u64;
    let per_second = pace.per_second;
    std::thread::Builder::new().name("schedule".into()).spawn(move || {
        for at in 0..total {
            let meant = Duration::from_secs_f64(at as f64 / per_second);
            std::thread::sleep(meant.saturating_sub(started.elapsed()));
            let meant_us = u64::try_from(meant.as_micros()).unwrap_or(u64::MAX);
            if sender.blocking_send(meant_us).is_err() {
                return;
            }
        }
    })?;
    Ok(ticks)
}

async fn hand_out(
    mut ticks: mpsc::Receiver<u64>,
    shared: &Shared,
    publishers: &[JoinHandle<anyhow::Result<()>>],
) -> anyhow::Result<()> {
    while let Some(meant_us) = ticks.recv().await {
        // Before everything is scheduled, a publisher only ends by an error, which its caller finds.
        if publishers.iter().any(JoinHandle::is_finished) {
            break;
        }
        if shared.waiting.borrow().len() >= WAITING_MAX {
            bail!(
                "the broker is so far behind the rate that {WAITING_MAX} messages wait to be sent; choose a lower --rate"
            );
        }
        shared.waiting.borrow_mut().push_back(meant_us);
        shared.work.notify_one();
    }
    shared.all_scheduled.set(true);
    shared.work.notify_waiters();
    Ok(())
}

async fn publish(
    mut connection: Connection,
    head: Rc<Request<()>>,
    template: Rc<Template>,
    shared: Rc<Shared>,
) -> anyhow::Result<()> {
    loop {
        let next = shared.waiting.borrow_mut().pop_front();
        let Some(meant_us) = next else {
            if shared.all_scheduled.get() {
                return Ok(());
            }
            shared.work.notified().await;
            continue;
        };
        connection.call(&head, template.fill(meant_us, meant_us)).await?.success()?;
        shared.record(&shared.call_us, meant_us);
        shared.sent.set(shared.sent.get() + 1);
    }
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

fn head(target: &Target, queue: &str, call: &str) -> anyhow::Result<Request<()>> {
    target.request(Method::POST, &format!("/v1/queues/{}/{call}", segment(queue)), "application/json")
}

async fn receive(
    mut connection: Connection,
    head: Request<()>,
    shared: Rc<Shared>,
    tokens: mpsc::Sender<String>,
) -> anyhow::Result<()> {
    let want = Bytes::from(serde_json::to_vec(&serde_json::json!({"max": LEASE_MAX, "wait": "10s", "ttl": "60s"}))?);
    loop {
        let body = connection.call(&head, want.clone()).await?.success()?;
        for meant_us in times(shared.run, &body) {
            shared.record(&shared.round_us, meant_us);
            shared.received.set(shared.received.get() + 1);
        }
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

/// Waits until everything sent came back.
async fn all_back(shared: &Shared, receivers: &mut [JoinHandle<anyhow::Result<()>>]) -> anyhow::Result<()> {
    let (mut last, mut moved) = (shared.received.get(), Instant::now());
    while shared.received.get() < shared.sent.get() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        // A receiver only ends by an error.
        if let Some(ended) = receivers.iter_mut().find(|receiver| receiver.is_finished()) {
            return ended.await?;
        }
        if shared.received.get() != last {
            (last, moved) = (shared.received.get(), Instant::now());
        } else if moved.elapsed() > STALLED {
            let missing = shared.sent.get() - shared.received.get();
            bail!(
                "{missing} of {} messages did not come back; does a consumer emit them on to the drain queue (`pelton consumers`)?",
                shared.sent.get()
            );
        }
    }
    Ok(())
}
