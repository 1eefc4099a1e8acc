//! What a benchmark found, as a table for people and as JSON.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::load::Shape;
use super::scrape::Counters;
use crate::output::{count, duration, grouped};

/// Points of a distribution, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Points {
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) p99_9: u64,
    pub(super) max: u64,
}

impl Points {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: histogram.max() }
    }

    fn text(&self) -> String {
        let show = |us| duration(Duration::from_micros(us));
        format!(
            "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            show(self.p50),
            show(self.p90),
            show(self.p99),
            show(self.p99_9),
            show(self.max)
        )
    }
}

/// The findings. Rates are per second.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    pub(super) mode: &'static str,
    pub(super) topic: String,
    pub(super) connections: usize,
    pub(super) batch: usize,
    pub(super) size_bytes: usize,
    /// The rate asked for, where there was one.
    pub(super) rate: Option<f64>,
    /// Messages that may be unsettled at a time, where bounded.
    pub(super) window: Option<u64>,
    pub(super) messages: u64,
    pub(super) requests: u64,
    /// From the first request to the last answer.
    pub(super) publish_seconds: f64,
    pub(super) accepted_per_second: f64,
    /// How many partition keys there were.
    pub(super) keys: Option<u64>,
    /// Whether messages had a priority.
    pub(super) priority: bool,
    /// From the first request, or from resuming a backlog, to the empty queue.
    pub(super) drained_seconds: Option<f64>,
    pub(super) end_to_end_per_second: Option<f64>,
    /// The same over each tenth of a backlog.
    pub(super) tenths_per_second: Option<Vec<f64>>,
    /// Delayed messages that became due.
    pub(super) due_per_second: Option<f64>,
    /// Whether all were published before the first was due.
    pub(super) is_apart: Option<bool>,
    /// The publish call.
    pub(super) publish_us: Points,
    /// From the moment a message was meant to leave until what its handler emitted was here.
    pub(super) round_us: Option<Points>,
    /// From when a delayed message was due until it, or what its handler emitted, was here.
    pub(super) late_us: Option<Points>,
    /// How many were here before they were due: none, unless something is wrong.
    pub(super) early: Option<u64>,
    /// Commits, each one fsync.
    pub(super) commits_per_second: f64,
    pub(super) mean_batch_messages: f64,
    pub(super) settled: f64,
    /// Processor time that this load generator took.
    pub(super) generator_cpu_seconds: f64,
}

impl Report {
    /// A report on such a load, without any findings yet.
    pub(super) fn of(mode: &'static str, shape: &Shape) -> Self {
        Self {
            mode,
            topic: shape.topic.clone(),
            connections: shape.connections,
            batch: shape.batch,
            size_bytes: shape.size_bytes,
            keys: shape.features.keys,
            priority: shape.features.priority,
            ..Self::default()
        }
    }

    /// Fills in what the broker counted over `elapsed`.
    pub(super) fn count(&mut self, counted: Counters, elapsed: Duration) {
        self.commits_per_second = counted.commits / elapsed.as_secs_f64().max(1e-9);
        self.mean_batch_messages = counted.mean_batch();
        self.settled = counted.settled;
    }

    fn features(&self) -> String {
        let keys = self.keys.map_or(String::new(), |keys| format!(", {}", count(keys, "key")));
        if self.priority { keys + ", ten priorities" } else { keys }
    }

    /// Lines for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let whole = |rate: f64| grouped(rate.round() as u64);
        let seconds = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        let mut lines = vec![
            format!(
                "{}: topic {}, {} messages of {} B in batches of {}, {} connections{}",
                self.mode,
                self.topic,
                grouped(self.messages),
                self.size_bytes,
                self.batch,
                self.connections,
                self.features()
            ),
            format!(
                "accepted      {:>10}/s  ({} requests in {})",
                whole(self.accepted_per_second),
                grouped(self.requests),
                seconds(self.publish_seconds)
            ),
        ];
        if let (Some(rate), Some(drained)) = (self.end_to_end_per_second, self.drained_seconds) {
            lines.push(format!("end to end    {:>10}/s  (queue empty after {})", whole(rate), seconds(drained)));
        }
        if let Some(tenths) = &self.tenths_per_second {
            let each: Vec<String> = tenths.iter().map(|rate| whole(*rate)).collect();
            lines.push(format!("by tenths     {} per second", each.join(" ")));
        }
        if let Some(rate) = self.due_per_second {
            let when = match self.is_apart {
                Some(true) => "all published before the first was due",
                _ => "published while others were due",
            };
            lines.push(format!("due           {:>10}/s  ({when})", whole(rate)));
        }
        lines.push(format!(
            "commits       {:>10}/s  (each one fsync, {:.1} messages on average)",
            whole(self.commits_per_second),
            self.mean_batch_messages
        ));
        lines.push(format!("publish call  {}", self.publish_us.text()));
        if let Some(round) = &self.round_us {
            lines.push(format!("to settled    {}", round.text()));
        }
        if let Some(late) = &self.late_us {
            let early = self.early.filter(|early| *early > 0);
            let early = early.map_or(String::new(), |early| format!("; {} came before their time", grouped(early)));
            lines.push(format!("late          {}{early}", late.text()));
        }
        lines.push(format!("generator     {} of processor time", seconds(self.generator_cpu_seconds)));
        lines
    }
}

/// Processor time of this process so far: user and system.
pub(super) fn cpu_time() -> Duration {
    // /proc/self/stat counts in ticks of 10 ms on every Linux that we know; elsewhere there is no such file.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<f64> = behind_name.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Duration::from_secs_f64(fields.iter().sum::<f64>() / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_read_well() {
        let points = Points { p50: 900, p90: 1_000, p99: 2_345, p99_9: 12_000, max: 15_000 };
        let mut report = Report {
            mode: "end-to-end",
            topic: "bench.sink".into(),
            connections: 8,
            batch: 100,
            size_bytes: 256,
            messages: 1_000_000,
            requests: 10_000,
            publish_seconds: 10.0,
            accepted_per_second: 100_000.0,
            drained_seconds: Some(12.5),
            end_to_end_per_second: Some(80_000.0),
            publish_us: points,
            generator_cpu_seconds: 1.5,
            ..Report::default()
        };
        let counted = Counters { commits: 12_500.0, batch_sum: 2e6, batch_count: 12_500.0, settled: 1e6 };
        report.count(counted, Duration::from_millis(12_500));
        let expected = "\
end-to-end: topic bench.sink, 1,000,000 messages of 256 B in batches of 100, 8 connections
accepted         100,000/s  (10,000 requests in 10 s)
end to end        80,000/s  (queue empty after 12.5 s)
commits            1,000/s  (each one fsync, 160.0 messages on average)
publish call  p50 900 us, p90 1 ms, p99 2.35 ms, p99.9 12 ms, max 15 ms
generator     1.5 s of processor time";
        assert_eq!(report.lines().join("\n"), expected);
    }

    #[test]
    fn reports_tell_of_features() {
        let report = Report {
            mode: "delay",
            topic: "bench.echo".into(),
            messages: 5_000,
            keys: Some(1),
            priority: true,
            tenths_per_second: Some(vec![1_000.4; 10]),
            due_per_second: Some(5_000.0),
            is_apart: Some(true),
            late_us: Some(Points { p50: 900, p90: 1_000, p99: 2_345, p99_9: 12_000, max: 15_000 }),
            early: Some(1),
            ..Report::default()
        };
        let text = report.lines().join("\n");
        for line in [
            "delay: topic bench.echo, 5,000 messages of 0 B in batches of 0, 0 connections, 1 key, ten priorities\n",
            "\nby tenths     1,000 1,000 1,000 1,000 1,000 1,000 1,000 1,000 1,000 1,000 per second\n",
            "\ndue                5,000/s  (all published before the first was due)\n",
            "\nlate          p50 900 us, p90 1 ms, p99 2.35 ms, p99.9 12 ms, max 15 ms; 1 came before their time\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
    }
}
