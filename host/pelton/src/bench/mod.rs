//! The load generator behind `pelton bench`: a process of its own that talks HTTP to a running broker.
//!
//! [`load`] publishes as fast as the broker answers (how much?), [`paced`] at a fixed rate (how fast?), [`delayed`] for later (how
//! late?); [`back`] receives what returns. One thread does it all, because the broker needs the machine; requests are prebuilt and
//! answers not parsed.

mod back;
mod body;
mod delayed;
mod load;
mod paced;
mod report;
mod scrape;
mod tenths;
mod throughput;
mod wire;

use std::time::{Duration, Instant};

use self::body::{Features, Run};
use self::delayed::Spread;
use self::load::{Pool, Shape, Until};
use self::paced::Pace;
use self::report::{Points, Report, cpu_time};
use self::scrape::Scraper;
use self::wire::Target;
use crate::client::RemoteArgs;
use crate::exit::Failure;
use crate::output;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Publishing alone: topic bench.null, whose queue nobody consumes
    Accept,
    /// Publish until the consumer has handled everything: topic bench.sink
    EndToEnd,
    /// Publish at a steady rate and time each message until what its consumer emits is here: topic bench.echo
    Latency,
    /// Publish messages that are due at scattered times and tell how late each was: topic bench.echo
    Delay,
}

/// Everything that shapes a run, defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    pub(crate) topic: Option<String>,
    pub(crate) queue: Option<String>,
    pub(crate) drain_queue: Option<String>,
    pub(crate) connections: Option<usize>,
    pub(crate) window: Option<u64>,
    pub(crate) batch: Option<usize>,
    pub(crate) size_bytes: usize,
    pub(crate) duration: Duration,
    pub(crate) messages: Option<u64>,
    pub(crate) warm_up: Duration,
    pub(crate) rate: f64,
    /// How many partition keys, where messages have one.
    pub(crate) keys: Option<u64>,
    /// Whether messages have a priority.
    pub(crate) priority: bool,
    /// Whether everything is published before anything is consumed.
    pub(crate) backlog: bool,
    pub(crate) delay_after: Duration,
    pub(crate) delay_spread: Duration,
    pub(crate) json: bool,
}

/// Runs it and prints what was found.
pub(crate) async fn run(remote: &RemoteArgs, settings: &Settings) -> anyhow::Result<()> {
    if settings.size_bytes < body::SIZE_MIN {
        let least = body::SIZE_MIN;
        return Err(Failure::usage(format!(
            "--size {} is too small; a timed body has at least {least} B",
            settings.size_bytes
        ))
        .into());
    }
    let target = Target::resolve(remote).await?;
    let report = match settings.mode {
        Mode::Accept | Mode::EndToEnd => throughput::run(&target, settings).await?,
        Mode::Latency => latency(&target, settings).await?,
        Mode::Delay => delay(&target, settings).await?,
    };
    if settings.json {
        output::json(&report)?;
    } else {
        report.lines().iter().try_for_each(|line| output::line(line))?;
    }
    Ok(())
}

fn shape(settings: &Settings, topic: &str, connections: usize, batch: usize) -> Shape {
    Shape {
        topic: settings.topic.clone().unwrap_or_else(|| topic.to_owned()),
        connections: settings.connections.unwrap_or(connections),
        batch: settings.batch.unwrap_or(batch),
        size_bytes: settings.size_bytes,
        features: Features { keys: settings.keys, priority: settings.priority, due_ms: None },
        run: Run::new(),
    }
}

fn until(settings: &Settings) -> Until {
    settings.messages.map_or(Until::Elapsed(settings.duration), Until::Messages)
}

fn drain_queue(settings: &Settings) -> String {
    settings.drain_queue.clone().unwrap_or_else(|| "bench-done".to_owned())
}

async fn latency(target: &Target, settings: &Settings) -> anyhow::Result<Report> {
    let shape = shape(settings, "bench.echo", 16, 1);
    if shape.batch != 1 {
        return Err(Failure::usage("a latency is that of single messages: leave out --batch").into());
    }
    let pace = Pace {
        per_second: settings.rate,
        warm_up: settings.warm_up,
        duration: settings
            .messages
            .map_or(settings.duration, |count| Duration::from_secs_f64(count as f64 / settings.rate)),
        drain_queue: drain_queue(settings),
    };
    let mut scraper = Scraper::open(target).await?;
    let pool = Pool::open(target, shape.connections).await?;
    let whole = pace.warm_up + pace.duration;
    say(settings, &format!("Publishing {}/s for {}.", pace.per_second, output::duration(whole)));
    let (before, cpu_before, started) = (scraper.counters().await?, cpu_time(), Instant::now());
    let paced = paced::run(target, pool, &shape, &pace).await?;
    let elapsed = started.elapsed();
    let cpu = cpu_time().saturating_sub(cpu_before);
    let counted = scraper.counters().await?.since(before);
    let mut report = Report {
        rate: Some(pace.per_second),
        messages: paced.received,
        requests: paced.sent,
        publish_seconds: elapsed.as_secs_f64(),
        accepted_per_second: paced.sent as f64 / whole.as_secs_f64(),
        publish_us: Points::of(&paced.call_us),
        round_us: Some(Points::of(&paced.round_us)),
        generator_cpu_seconds: cpu.as_secs_f64(),
        ..Report::of("latency", &shape)
    };
    report.count(counted, elapsed);
    Ok(report)
}

async fn delay(target: &Target, settings: &Settings) -> anyhow::Result<Report> {
    let shape = shape(settings, "bench.echo", 8, 100);
    let spread =
        Spread { after: settings.delay_after, within: settings.delay_spread, drain_queue: drain_queue(settings) };
    let mut scraper = Scraper::open(target).await?;
    let pool = Pool::open(target, shape.connections).await?;
    let (after, within) = (output::duration(spread.after), output::duration(spread.within));
    say(settings, &format!("Publishing messages that are due within {within}, from {after} after the start."));
    let bar = output::bar(settings.messages.unwrap_or_default(), "Delivered", settings.json);
    let (before, cpu_before, started) = (scraper.counters().await?, cpu_time(), Instant::now());
    let delayed = delayed::run(target, pool, shape.clone(), until(settings), &spread, bar).await?;
    let elapsed = started.elapsed();
    let cpu = cpu_time().saturating_sub(cpu_before);
    let counted = scraper.counters().await?.since(before);
    let publish_seconds = (delayed.sent.ended - delayed.sent.started).as_secs_f64();
    let mut report = Report {
        messages: delayed.received,
        requests: delayed.sent.requests,
        publish_seconds,
        accepted_per_second: delayed.sent.messages as f64 / publish_seconds,
        due_per_second: Some(delayed.received as f64 / spread.within.as_secs_f64().max(1e-3)),
        is_apart: Some(delayed.is_apart),
        publish_us: Points::of(&delayed.sent.call_us),
        late_us: Some(Points::of(&delayed.late_us)),
        early: Some(delayed.early),
        generator_cpu_seconds: cpu.as_secs_f64(),
        ..Report::of("delay", &shape)
    };
    report.count(counted, elapsed);
    Ok(report)
}

fn say(settings: &Settings, text: &str) {
    if !settings.json {
        output::note(text);
    }
}
