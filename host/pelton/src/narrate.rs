//! Deliveries as lines: what `pelton dev` shows, one line each with the guest's logs indented beneath.
//!
//! Invariant: a slow terminal never slows a delivery down. Lines wait in a bounded channel for a thread of their own; what
//! does not fit is counted and said.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use pelton_core::dispatch::{DeliveryReport, Next, Observer};
use pelton_core::runtime::Outcome;
use serde::Serialize;

use crate::output::{self, Paint};

/// Deliveries that may wait to be printed.
const WAITING_MAX: usize = 4096;
/// How long the end waits for what is still to be printed.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// Lines that are shown of what one delivery logged.
const LOG_LINES: usize = 20;
/// Columns for a queue's name; longer ones push the line to the right.
const QUEUE_COLUMNS: usize = 18;

/// How a delivery is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    Text(Paint),
    Json,
}

/// Shows every delivery on stdout.
pub(crate) struct Narrator {
    form: Form,
    orders: SyncSender<Order>,
    missed: Arc<AtomicU64>,
}

enum Order {
    Print(String),
    /// Answer once everything before it is printed.
    Flush(SyncSender<()>),
}

impl Narrator {
    /// A narrator and the thread that prints; the thread ends when the narrator is dropped.
    pub(crate) fn start(form: Form) -> std::io::Result<Self> {
        let (orders, waiting) = sync_channel(WAITING_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        let counter = missed.clone();
        std::thread::Builder::new().name("printer".into()).spawn(move || obey(&waiting, &counter))?;
        Ok(Self { form, orders, missed })
    }

    /// Waits until everything so far is printed, within a bound: the terminal may be stopped.
    pub(crate) fn flush(&self) {
        let (done, printed) = sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            let _ = printed.recv_timeout(FLUSH_WITHIN);
        }
    }
}

fn obey(waiting: &Receiver<Order>, missed: &AtomicU64) {
    while let Ok(order) = waiting.recv() {
        let lost = missed.swap(0, Ordering::Relaxed);
        if lost > 0 {
            output::note(&format!("({} not shown: more than can be printed)", deliveries(lost)));
        }
        match order {
            // A closed stdout only means that nobody looks; the broker goes on.
            Order::Print(text) => drop(output::line(&text)),
            Order::Flush(done) => drop(done.send(())),
        }
    }
}

fn deliveries(count: u64) -> String {
    if count == 1 { "1 delivery".to_owned() } else { format!("{} deliveries", output::grouped(count)) }
}

impl Observer for Narrator {
    fn delivered(&self, report: &DeliveryReport<'_>) {
        let text = match self.form {
            Form::Text(paint) => text(report, paint),
            Form::Json => serde_json::to_string(&JsonLine::of(report)).unwrap_or_default(),
        };
        if self.orders.try_send(Order::Print(text)).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn text(report: &DeliveryReport<'_>, paint: Paint) -> String {
    let word = format!("{:<9}", report.outcome.word());
    let word = match report.outcome {
        Outcome::Done => paint.green(&word),
        Outcome::Retry { .. } => paint.yellow(&word),
        Outcome::Reject { .. } | Outcome::Fault { .. } => paint.red(&word),
    };
    let us = output::grouped(u64::try_from(report.duration.as_micros()).unwrap_or(u64::MAX));
    let mut line = format!(
        "{:<QUEUE_COLUMNS$}  {}  attempt {}  {word} {us:>9} us",
        report.queue,
        output::tame(report.message.id()),
        report.attempt,
    );
    let next = next(report);
    if !next.is_empty() {
        let _ = write!(line, "  {next}");
    }
    for logged in report.log.lines().take(LOG_LINES) {
        let _ = write!(line, "\n    {}", paint.dim(&output::tame(logged)));
    }
    let more = report.log.lines().count().saturating_sub(LOG_LINES);
    if more > 0 {
        // Only a dead letter keeps what was logged.
        let place =
            if matches!(report.outcome, Outcome::Done) { "--json shows all" } else { "pelton dead show has the tail" };
        let more = format!("... {} ({place})", output::count(more as u64, "more line"));
        let _ = write!(line, "\n    {}", paint.dim(&more));
    }
    line
}

/// What becomes of the message, and why.
fn next(report: &DeliveryReport<'_>) -> String {
    let reason = output::tame(match report.outcome {
        Outcome::Done => "",
        Outcome::Retry { reason, .. } | Outcome::Reject { reason } | Outcome::Fault { reason, .. } => reason,
    });
    match report.next {
        Next::Done { emitted: 0 } => String::new(),
        Next::Done { emitted } => format!("emitted {emitted}"),
        Next::Again(after) => format!("retry in {}: {reason}", output::duration(after)),
        Next::Dead(dead) => format!("dead ({}): {}", dead.code.as_str(), output::tame(&dead.detail)),
        Next::Released => format!("given back: {reason}"),
    }
}

/// A delivery for machines.
#[derive(Debug, Serialize)]
struct JsonLine<'a> {
    queue: &'a str,
    consumer: &'a str,
    topic: &'a str,
    id: &'a str,
    attempt: u32,
    outcome: &'static str,
    reason: Option<&'a str>,
    duration_us: u64,
    next: &'static str,
    emitted: Option<usize>,
    retry_in_ms: Option<u64>,
    dead_reason: Option<&'a str>,
    log: Vec<&'a str>,
}

impl<'a> JsonLine<'a> {
    fn of(report: &'a DeliveryReport<'a>) -> Self {
        let reason = match report.outcome {
            Outcome::Done => None,
            Outcome::Retry { reason, .. } | Outcome::Reject { reason } | Outcome::Fault { reason, .. } => {
                Some(reason.as_str())
            }
        };
        let (next, emitted, retry_in_ms, dead_reason) = match report.next {
            Next::Done { emitted } => ("gone", Some(emitted), None, None),
            Next::Again(after) => ("retry", None, u64::try_from(after.as_millis()).ok(), None),
            Next::Dead(dead) => ("dead", None, None, Some(dead.detail.as_str())),
            Next::Released => ("released", None, None, None),
        };
        Self {
            queue: report.queue.as_str(),
            consumer: report.consumer.as_str(),
            topic: report.topic.as_str(),
            id: report.message.id(),
            attempt: report.attempt,
            outcome: report.outcome.word(),
            reason,
            duration_us: u64::try_from(report.duration.as_micros()).unwrap_or(u64::MAX),
            next,
            emitted,
            retry_in_ms,
            dead_reason,
            log: report.log.lines().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use pelton_core::engine::{DeadCode, DeadReason};
    use pelton_core::message::{Attributes, Message};
    use pelton_core::name::{ConsumerName, QueueName, Topic};

    use super::*;

    /// The line of a delivery that ended with `outcome` and `next`, in plain text.
    fn check(outcome: &Outcome, next: Next<'_>, log: &str, expected: &str) {
        let attributes = Attributes { id: "m-1", source: "/s", kind: "t", ..Attributes::default() };
        let message = Message::new(&attributes, b"{}").expect("valid");
        let (consumer, queue) = (ConsumerName::new("c").expect("valid"), QueueName::new("reviews").expect("valid"));
        let topic = Topic::new("a.b").expect("valid");
        let report = DeliveryReport {
            consumer: &consumer,
            queue: &queue,
            topic: &topic,
            message: &message,
            attempt: 2,
            outcome,
            duration: Duration::from_micros(1312),
            log,
            next,
        };
        assert_eq!(text(&report, Paint::plain()), expected);
    }

    #[test]
    fn lines() {
        check(
            &Outcome::Done,
            Next::Done { emitted: 0 },
            "",
            "reviews             m-1  attempt 2  done          1,312 us",
        );
        check(
            &Outcome::Done,
            Next::Done { emitted: 2 },
            "INFO : one\nstdout: two\x1b[31m",
            "reviews             m-1  attempt 2  done          1,312 us  emitted 2\n    INFO : one\n    stdout: two?[31m",
        );
        let log = (1..=22).map(|line| format!("{line}\n")).collect::<String>();
        let shown = (1..=20).map(|line| format!("\n    {line}")).collect::<String>();
        check(
            &Outcome::Done,
            Next::Done { emitted: 0 },
            &log,
            &format!(
                "reviews             m-1  attempt 2  done          1,312 us{shown}\n    ... 2 more lines (--json shows all)"
            ),
        );
        check(
            &Outcome::Retry { reason: "down".into(), after: None },
            Next::Again(Duration::from_secs(1)),
            "",
            "reviews             m-1  attempt 2  retry         1,312 us  retry in 1 s: down",
        );
        let dead = DeadReason { code: DeadCode::Rejected, detail: "no".into() };
        check(
            &Outcome::Reject { reason: "no".into() },
            Next::Dead(&dead),
            "",
            "reviews             m-1  attempt 2  reject        1,312 us  dead (rejected): no",
        );
    }
}
