//! The load generator behind `pelton bench`: a process of its own that talks HTTP to a running broker.
//!
//! [`load`] publishes as fast as the broker answers (how much?), [`paced`] at a fixed rate (how fast?). One thread does it
//! all, because the broker needs the machine; requests are prebuilt and answers not parsed.

mod body;
mod load;
mod paced;
mod report;
mod scrape;
mod wire;

use std::time::{Duration, Instant};

use self::body::Run;
use self::load::{Pool, Shape, Until, Window};
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
        Mode::Accept | Mode::EndToEnd => throughput(&target, settings).await?,
        Mode::Latency => latency(&target, settings).await?,
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
        run: Run::new(),
    }
}

async fn throughput(target: &Target, settings: &Settings) -> anyhow::Result<Report> {
    let end_to_end = settings.mode == Mode::EndToEnd;
    let shape = shape(settings, if end_to_end { "bench.sink" } else { "bench.null" }, 8, 100);
    let queue = settings.queue.clone().unwrap_or_else(|| "bench-sink".to_owned());
    let window = settings.window.map(|messages| Window { messages, queue: queue.clone() });
    let mut scraper = Scraper::open(target).await?;
    let mut pool = Pool::open(target, shape.connections).await?;
    if end_to_end {
        say(settings, &format!("Waiting for queue {queue} to be empty."));
        scraper.drained(&queue).await?;
    }
    if !settings.warm_up.is_zero() {
        say(settings, &format!("Warming up for {}.", output::duration(settings.warm_up)));
        load::publish(&mut pool, target, &shape, Until::Elapsed(settings.warm_up), window.clone()).await?;
        if end_to_end {
            scraper.drained(&queue).await?;
        }
    }
    let until = settings.messages.map_or(Until::Elapsed(settings.duration), Until::Messages);
    say(settings, "Measuring.");
    let (before, cpu_before) = (scraper.counters().await?, cpu_time());
    let sent = load::publish(&mut pool, target, &shape, until, window).await?;
    let drained = if end_to_end { Some(scraper.drained(&queue).await?) } else { None };
    let ended = drained.unwrap_or(sent.ended);
    let cpu = cpu_time().saturating_sub(cpu_before);
    let counted = scraper.counters().await?.since(before);
    let publish_seconds = (sent.ended - sent.started).as_secs_f64();
    let drained_seconds = drained.map(|drained| drained.max(sent.ended).duration_since(sent.started).as_secs_f64());
    let mut report = Report {
        mode: if end_to_end { "end-to-end" } else { "accept" },
        topic: shape.topic,
        connections: shape.connections,
        batch: shape.batch,
        size_bytes: shape.size_bytes,
        rate: None,
        window: settings.window,
        messages: sent.messages,
        requests: sent.requests,
        publish_seconds,
        accepted_per_second: sent.messages as f64 / publish_seconds,
        drained_seconds,
        end_to_end_per_second: drained_seconds.map(|seconds| sent.messages as f64 / seconds),
        publish_us: Points::of(&sent.call_us),
        round_us: None,
        commits_per_second: 0.0,
        mean_batch_messages: 0.0,
        settled: 0.0,
        generator_cpu_seconds: cpu.as_secs_f64(),
    };
    report.count(counted, ended.duration_since(sent.started));
    Ok(report)
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
        drain_queue: settings.drain_queue.clone().unwrap_or_else(|| "bench-done".to_owned()),
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
        mode: "latency",
        topic: shape.topic,
        connections: shape.connections,
        batch: 1,
        size_bytes: shape.size_bytes,
        rate: Some(pace.per_second),
        window: None,
        messages: paced.received,
        requests: paced.sent,
        publish_seconds: elapsed.as_secs_f64(),
        accepted_per_second: paced.sent as f64 / whole.as_secs_f64(),
        drained_seconds: None,
        end_to_end_per_second: None,
        publish_us: Points::of(&paced.call_us),
        round_us: Some(Points::of(&paced.round_us)),
        commits_per_second: 0.0,
        mean_batch_messages: 0.0,
        settled: 0.0,
        generator_cpu_seconds: cpu.as_secs_f64(),
    };
    report.count(counted, elapsed);
    Ok(report)
}

fn say(settings: &Settings, text: &str) {
    if !settings.json {
        output::note(text);
    }
}
