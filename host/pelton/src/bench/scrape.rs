//! What the broker says of itself before and after: commits from `/metrics`, depth from `/v1/queues/NAME`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use hyper::{Method, Request};

use super::tenths::Sample;
use super::wire::{Connection, Target};
use crate::client::segment;

/// How often the depth is asked for.
pub(super) const POLL: Duration = Duration::from_millis(5);
/// A queue whose depth does not move for so long is not being consumed.
const STALLED: Duration = Duration::from_secs(30);

/// Counters of the broker at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counters {
    pub(super) commits: f64,
    pub(super) batch_sum: f64,
    pub(super) batch_count: f64,
    pub(super) settled: f64,
}

impl Counters {
    /// What was added since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            commits: self.commits - before.commits,
            batch_sum: self.batch_sum - before.batch_sum,
            batch_count: self.batch_count - before.batch_count,
            settled: self.settled - before.settled,
        }
    }

    /// Messages per commit.
    pub(super) fn mean_batch(self) -> f64 {
        if self.batch_count > 0.0 { self.batch_sum / self.batch_count } else { 0.0 }
    }

    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0.0)
        };
        Self {
            commits: value("pelton_commits_total"),
            batch_sum: value("pelton_commit_batch_messages_sum"),
            batch_count: value("pelton_commit_batch_messages_count"),
            settled: value("pelton_settled_total"),
        }
    }
}

/// A connection for questions, apart from the load.
pub(super) struct Scraper {
    connection: Connection,
    metrics: Request<()>,
    target: Target,
}

impl Scraper {
    pub(super) async fn open(target: &Target) -> anyhow::Result<Self> {
        let connection = Connection::open(target).await?;
        let metrics = target.request(Method::GET, "/metrics", "text/plain")?;
        Ok(Self { connection, metrics, target: target.clone() })
    }

    pub(super) async fn counters(&mut self) -> anyhow::Result<Counters> {
        // Long runs leave the connection idle for longer than the broker keeps one.
        self.connection = Connection::open(&self.target).await?;
        let body = self.connection.call(&self.metrics, Bytes::new()).await?.success()?;
        Ok(Counters::parse(&String::from_utf8_lossy(&body)))
    }

    /// Messages in `queue`: ready, leased or scheduled.
    pub(super) async fn depth(&mut self, queue: &str) -> anyhow::Result<u64> {
        let request =
            self.target.request(Method::GET, &format!("/v1/queues/{}", segment(queue)), "application/json")?;
        let body = self.connection.call(&request, Bytes::new()).await?.success()?;
        let counts: serde_json::Value = serde_json::from_slice(&body)?;
        let count = |name: &str| counts.get(name).and_then(serde_json::Value::as_u64);
        let sum = [count("ready"), count("leased"), count("scheduled")].into_iter().sum::<Option<u64>>();
        sum.with_context(|| format!("the broker's counts of queue '{queue}' are not what was expected"))
    }

    /// Pauses or resumes `queue`.
    pub(super) async fn set_paused(&mut self, queue: &str, paused: bool) -> anyhow::Result<()> {
        let call = if paused { "pause" } else { "resume" };
        let path = format!("/v1/queues/{}/{call}", segment(queue));
        let request = self.target.request(Method::POST, &path, "application/json")?;
        self.connection.call(&request, Bytes::new()).await?.success()?;
        Ok(())
    }

    /// Waits until `queue` is empty and returns when that was seen first; `on_sample` gets what was left at each look.
    pub(super) async fn drained(&mut self, queue: &str, mut on_sample: impl FnMut(Sample)) -> anyhow::Result<Instant> {
        let (mut last, mut moved) = (u64::MAX, Instant::now());
        let mut empty_since = None;
        loop {
            let depth = self.depth(queue).await?;
            on_sample(Sample { at: Instant::now(), left: depth });
            match (depth, empty_since) {
                // The counts may lag behind for a moment: twice empty is empty.
                (0, Some(since)) => return Ok(since),
                (0, None) => empty_since = Some(Instant::now()),
                _ => empty_since = None,
            }
            if depth != last {
                (last, moved) = (depth, Instant::now());
            } else if moved.elapsed() > STALLED && depth > 0 {
                bail!(
                    "queue '{queue}' holds {depth} messages that nobody consumes; does its consumer run (`pelton consumers`)?"
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_text_format() {
        let text = "# TYPE pelton_commits counter\npelton_commits_total 12\npelton_settled_total 7\n\
            pelton_commit_batch_messages_sum 30.0\npelton_commit_batch_messages_count 10\n\
            pelton_commit_batch_messages_bucket{le=\"1.0\"} 3\n# EOF\n";
        let counters = Counters::parse(text);
        assert_eq!(counters, Counters { commits: 12.0, batch_sum: 30.0, batch_count: 10.0, settled: 7.0 });
        assert!((counters.mean_batch() - 3.0).abs() < 1e-9);
    }
}
