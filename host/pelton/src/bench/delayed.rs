//! Messages that are due at scattered times: how late each one was.
//!
//! All are published as fast as the broker takes them, each due at a random moment of the spread. Its own time stands in its body, so that
//! lateness is measured here, by the same wall clock that the broker goes by, once the message, or what its consumer made of
//! it, is leased from the drain queue. A delivery before its time is counted apart: there must be none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;

use super::back::Back;
use super::load::{Pool, Sent, Shape, Until, histogram, publish};
use super::wire::Target;

/// When messages are due.
#[derive(Debug, Clone)]
pub(super) struct Spread {
    /// None before this, from the start.
    pub(super) after: Duration,
    /// All within this, from then on.
    pub(super) within: Duration,
    pub(super) drain_queue: String,
}

/// What came back.
pub(super) struct Delayed {
    pub(super) sent: Sent,
    pub(super) received: u64,
    /// From when each was due until it was here.
    pub(super) late_us: Histogram<u64>,
    /// How many were here before they were due.
    pub(super) early: u64,
    /// Whether the first was due after the last was published.
    pub(super) is_apart: bool,
}

struct Shared {
    late_us: RefCell<Histogram<u64>>,
    early: Cell<u64>,
    bar: ProgressBar,
}

impl Shared {
    fn record(&self, due_us: u64) {
        self.bar.inc(1);
        match wall_us().checked_sub(due_us) {
            Some(late_us) => self.late_us.borrow_mut().saturating_record(late_us.max(1)),
            None => self.early.set(self.early.get() + 1),
        }
    }
}

fn wall_us() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

/// Publishes until `until` and waits for everything to come back.
pub(super) async fn run(
    target: &Target,
    mut pool: Pool,
    mut shape: Shape,
    until: Until,
    spread: &Spread,
    bar: ProgressBar,
) -> anyhow::Result<Delayed> {
    let started = Instant::now();
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let first_ms = wall_us() / 1000 + ms(spread.after);
    shape.features.due_ms = Some(first_ms..first_ms.saturating_add(ms(spread.within)));
    let shared = Rc::new(Shared { late_us: RefCell::new(histogram()), early: Cell::new(0), bar });
    let back = {
        let shared = shared.clone();
        Back::start(target, &spread.drain_queue, shape.run, move |due_us| shared.record(due_us)).await?
    };
    let sent = publish(&mut pool, target, &shape, until, None).await?;
    shared.bar.set_length(sent.messages);
    let received = back.all(sent.messages, started + spread.after + spread.within).await?;
    shared.bar.finish_and_clear();
    let is_apart = sent.ended < started + spread.after;
    Ok(Delayed { sent, received, late_us: shared.late_us.borrow().clone(), early: shared.early.get(), is_apart })
}
