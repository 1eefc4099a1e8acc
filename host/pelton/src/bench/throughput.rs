//! How much: publishing alone, or until everything is handled; with a backlog, how the handling of it goes from first to last.

use super::load::{Pool, Window, publish};
use super::report::{Points, Report, cpu_time};
use super::scrape::Scraper;
use super::tenths::{Sample, tenths};
use super::wire::Target;
use super::{Mode, Settings, say, shape, until};
use crate::output;

/// Topic and queue where no flag names others: those of examples/bench with the feature that is asked for.
fn names(settings: &Settings) -> (&'static str, &'static str) {
    match settings.mode {
        Mode::EndToEnd if settings.keys.is_some() => ("bench.key", "bench-key"),
        Mode::EndToEnd if settings.priority => ("bench.priority", "bench-priority"),
        Mode::EndToEnd => ("bench.sink", "bench-sink"),
        _ => ("bench.null", "bench-null"),
    }
}

pub(super) async fn run(target: &Target, settings: &Settings) -> anyhow::Result<Report> {
    let end_to_end = settings.mode == Mode::EndToEnd;
    let (topic, queue) = names(settings);
    let shape = shape(settings, topic, 8, 100);
    let queue = settings.queue.clone().unwrap_or_else(|| queue.to_owned());
    let window = settings.window.map(|messages| Window { messages, queue: queue.clone() });
    let mut scraper = Scraper::open(target).await?;
    let mut pool = Pool::open(target, shape.connections).await?;
    if end_to_end {
        say(settings, &format!("Waiting for queue {queue} to be empty."));
        scraper.drained(&queue, |_| ()).await?;
    }
    if !settings.warm_up.is_zero() {
        say(settings, &format!("Warming up for {}.", output::duration(settings.warm_up)));
        let warm_up = super::Until::Elapsed(settings.warm_up);
        publish(&mut pool, target, &shape, warm_up, window.clone()).await?;
        if end_to_end {
            scraper.drained(&queue, |_| ()).await?;
        }
    }
    if settings.backlog {
        scraper.set_paused(&queue, true).await?;
    }
    say(settings, "Measuring.");
    let (before, cpu_before) = (scraper.counters().await?, cpu_time());
    let sent = publish(&mut pool, target, &shape, until(settings), window).await;
    // Whatever came of it, the queue is not left paused.
    if settings.backlog {
        scraper.set_paused(&queue, false).await?;
    }
    let sent = sent?;
    let resumed = settings.backlog.then(std::time::Instant::now);
    let mut samples: Vec<Sample> = Vec::new();
    let drained = if end_to_end {
        let bar = output::bar(sent.messages, "Handled", settings.json || !settings.backlog);
        let drained = scraper.drained(&queue, |sample| {
            bar.set_position(sent.messages.saturating_sub(sample.left));
            samples.push(sample);
        });
        let drained = drained.await?;
        bar.finish_and_clear();
        Some(drained)
    } else {
        None
    };
    let ended = drained.unwrap_or(sent.ended);
    let cpu = cpu_time().saturating_sub(cpu_before);
    let counted = scraper.counters().await?.since(before);
    let publish_seconds = (sent.ended - sent.started).as_secs_f64();
    let from = resumed.unwrap_or(sent.started);
    let drained_seconds = drained.map(|drained| drained.max(sent.ended).duration_since(from).as_secs_f64());
    let mut report = Report {
        window: settings.window,
        messages: sent.messages,
        requests: sent.requests,
        publish_seconds,
        accepted_per_second: sent.messages as f64 / publish_seconds,
        drained_seconds,
        end_to_end_per_second: drained_seconds.map(|seconds| sent.messages as f64 / seconds.max(1e-9)),
        tenths_per_second: resumed.map(|resumed| tenths(resumed, sent.messages, &samples)),
        publish_us: Points::of(&sent.call_us),
        generator_cpu_seconds: cpu.as_secs_f64(),
        ..Report::of(if end_to_end { "end-to-end" } else { "accept" }, &shape)
    };
    report.count(counted, ended.duration_since(sent.started));
    Ok(report)
}
