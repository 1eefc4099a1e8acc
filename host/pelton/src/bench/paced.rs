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
use hdrhistogram::Histogram;
use hyper::Request;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::back::Back;
use super::body::Template;
use super::load::{Pool, Shape, histogram};
use super::wire::{Connection, Target};

/// Waiting for a connection; a broker that falls further behind than this has lost the race.
const WAITING_MAX: usize = 1_000_000;

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
    waiting: RefCell<VecDeque<u64>>,
    work: Notify,
    all_scheduled: Cell<bool>,
    sent: Cell<u64>,
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
    let shared = Rc::new(Shared {
        started: Instant::now(),
        recorded_from_us: u64::try_from(pace.warm_up.as_micros()).unwrap_or(u64::MAX),
        waiting: RefCell::new(VecDeque::new()),
        work: Notify::new(),
        all_scheduled: Cell::new(false),
        sent: Cell::new(0),
        call_us: RefCell::new(histogram()),
        round_us: RefCell::new(histogram()),
    });
    let back = {
        let shared = shared.clone();
        let on_time = move |meant_us| shared.record(&shared.round_us, meant_us);
        Back::start(target, &pace.drain_queue, shape.run, on_time).await?
    };
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
    let received = back.all(shared.sent.get(), Instant::now()).await?;
    let (call_us, round_us) = (shared.call_us.borrow().clone(), shared.round_us.borrow().clone());
    Ok(Paced { sent: shared.sent.get(), received, call_us, round_us })
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
