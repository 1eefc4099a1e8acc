//! Closed-loop load: each connection publishes, waits for the answer and publishes again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hyper::{Method, Request};
use tokio::sync::Notify;

use super::body::{Features, Run, Template};
use super::scrape::{POLL, Scraper};
use super::wire::{Connection, Target};
use crate::client::segment;

/// The longest time that a histogram holds, in microseconds.
const TIME_US_MAX: u64 = 600_000_000;
/// Ids that one connection has for itself; more than it can use in a day.
const IDS_PER_CONNECTION: u64 = 1_000_000_000_000;

/// An empty histogram of microseconds with three significant digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TIME_US_MAX, 3).expect("the bounds are constant and valid")
}

/// What to send.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) topic: String,
    pub(super) connections: usize,
    pub(super) batch: usize,
    pub(super) size_bytes: usize,
    pub(super) features: Features,
    pub(super) run: Run,
}

impl Shape {
    pub(super) fn template(&self) -> Template {
        Template::new(self.run, self.size_bytes, self.batch, &self.features)
    }

    pub(super) fn head(&self, target: &Target) -> anyhow::Result<Request<()>> {
        let is_plain = Template::is_plain(self.batch, &self.features);
        let content_type = if is_plain { "application/json" } else { "application/cloudevents-batch+json" };
        target.request(Method::POST, &format!("/v1/topics/{}", segment(&self.topic)), content_type)
    }
}

/// When to stop: after a time or a number of messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    Elapsed(Duration),
    Messages(u64),
}

/// A bound on messages that were accepted and not yet settled.
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub(super) messages: u64,
    pub(super) queue: String,
}

/// What the load came to.
pub(super) struct Sent {
    pub(super) messages: u64,
    pub(super) requests: u64,
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) call_us: Histogram<u64>,
}

struct Shared {
    until: Until,
    batch: u64,
    started: Instant,
    begun: Cell<u64>,
    accepted: Cell<u64>,
    /// Of those begun, how many are known to be settled; everything where there is no window.
    settled: Cell<u64>,
    window: Option<u64>,
    room: Notify,
    requests: Cell<u64>,
    call_us: RefCell<Histogram<u64>>,
}

impl Shared {
    /// Reserves a request's messages, or says that it is time to stop.
    fn begin(&self) -> bool {
        let more = match self.until {
            Until::Elapsed(duration) => self.started.elapsed() < duration,
            Until::Messages(count) => self.begun.get() < count,
        };
        if more {
            self.begun.set(self.begun.get() + self.batch);
        }
        more
    }

    async fn wait_for_room(&self) {
        let Some(window) = self.window else { return };
        // A window smaller than a batch lets one batch through at a time.
        while self.begun.get() > self.settled.get() && self.begun.get() - self.settled.get() + self.batch > window {
            self.room.notified().await;
        }
    }
}

/// Connections that are open before the clock starts, and their next ids.
pub(super) struct Pool {
    connections: Vec<Connection>,
    next_ids: Vec<u64>,
}

impl Pool {
    pub(super) async fn open(target: &Target, count: usize) -> anyhow::Result<Self> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(Connection::open(target).await?);
        }
        let next_ids = (0..count as u64).map(|at| at * IDS_PER_CONNECTION).collect();
        Ok(Self { connections, next_ids })
    }

    /// The connections, for who needs them otherwise.
    pub(super) fn into_connections(self) -> Vec<Connection> {
        self.connections
    }
}

/// Publishes until `until`; an answer that is no success ends it with an error.
pub(super) async fn publish(
    pool: &mut Pool,
    target: &Target,
    shape: &Shape,
    until: Until,
    window: Option<Window>,
) -> anyhow::Result<Sent> {
    let head = Rc::new(shape.head(target)?);
    let template = Rc::new(shape.template());
    let shared = Rc::new(Shared {
        until,
        batch: shape.batch as u64,
        started: Instant::now(),
        begun: Cell::new(0),
        accepted: Cell::new(0),
        settled: Cell::new(0),
        window: window.as_ref().map(|window| window.messages),
        room: Notify::new(),
        requests: Cell::new(0),
        call_us: RefCell::new(histogram()),
    });
    let watcher = match window {
        Some(window) => {
            let scraper = Scraper::open(target).await?;
            Some(tokio::task::spawn_local(watch_depth(scraper, window.queue, shared.clone())))
        }
        None => None,
    };
    let workers: Vec<_> = std::mem::take(&mut pool.connections)
        .into_iter()
        .zip(pool.next_ids.iter().copied())
        .map(|(connection, first_id)| {
            tokio::task::spawn_local(work(connection, first_id, head.clone(), template.clone(), shared.clone()))
        })
        .collect();
    let mut failed = None;
    for (at, worker) in workers.into_iter().enumerate() {
        match worker.await? {
            Ok((connection, next_id)) => {
                pool.connections.push(connection);
                pool.next_ids[at] = next_id;
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some(watcher) = watcher {
        watcher.abort();
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let call_us = shared.call_us.borrow().clone();
    let (messages, requests) = (shared.accepted.get(), shared.requests.get());
    Ok(Sent { messages, requests, started: shared.started, ended: Instant::now(), call_us })
}

async fn work(
    mut connection: Connection,
    mut id: u64,
    head: Rc<Request<()>>,
    template: Rc<Template>,
    shared: Rc<Shared>,
) -> anyhow::Result<(Connection, u64)> {
    loop {
        shared.wait_for_room().await;
        if !shared.begin() {
            return Ok((connection, id));
        }
        let body = template.fill(id, 0);
        id += shared.batch;
        let called = Instant::now();
        connection.call(&head, body).await?.success()?;
        let took = u64::try_from(called.elapsed().as_micros()).unwrap_or(TIME_US_MAX);
        shared.call_us.borrow_mut().saturating_record(took);
        shared.accepted.set(shared.accepted.get() + shared.batch);
        shared.requests.set(shared.requests.get() + 1);
    }
}

/// Keeps `settled` up to date: what was accepted before the question, less what still lies there.
async fn watch_depth(mut scraper: Scraper, queue: String, shared: Rc<Shared>) -> anyhow::Result<()> {
    loop {
        let accepted = shared.accepted.get();
        let depth = scraper.depth(&queue).await?;
        let settled = accepted.saturating_sub(depth);
        if settled > shared.settled.get() {
            shared.settled.set(settled);
            shared.room.notify_waiters();
        }
        tokio::time::sleep(POLL.min(Duration::from_millis(1))).await;
    }
}
