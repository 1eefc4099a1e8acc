//! `pelton bench`: flags of the load generator.

use std::time::Duration;

use crate::bench::{Mode, Settings, run};
use crate::client::RemoteArgs;
use crate::exit::Failure;
use crate::values::time;

/// `--delay-spread` where it is not given.
const DELAY_SPREAD: Duration = Duration::from_secs(10);

/// Measure a running broker over HTTP
///
/// Start a broker on examples/bench in another terminal first, from a release build: `pelton build && pelton serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum, default_value = "end-to-end")]
    mode: Mode,
    /// The topic to publish to [default: by mode]
    #[arg(long)]
    topic: Option<String>,
    /// end-to-end: the queue that has to become empty [default: bench-sink; by --keys bench-key, by --priority bench-priority]
    #[arg(long)]
    queue: Option<String>,
    /// latency, delay: the queue that emitted messages come back by [default: bench-done]
    #[arg(long)]
    drain_queue: Option<String>,
    /// Connections, each with one request at a time [default: 8; latency: 16]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: Option<u16>,
    /// Messages that may be accepted and not yet settled [default: no bound]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    window: Option<u64>,
    /// Messages per request [default: 100; latency: 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch: Option<u16>,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=64 * 1024 * 1024))]
    size: u32,
    /// How long to publish
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    duration: Duration,
    /// Publish so many messages instead
    #[arg(long, value_name = "COUNT", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// How long to publish before anything is measured
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    warm_up: Duration,
    /// latency: messages per second
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Give each message a partitionkey, one of so many at random
    #[arg(long, value_name = "COUNT", conflicts_with = "priority", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: Option<u64>,
    /// Give each message a priority, 0 to 9 at random
    #[arg(long)]
    priority: bool,
    /// end-to-end: publish everything while the queue is paused, then measure how it is worked off, tenth by tenth
    #[arg(long, conflicts_with = "window")]
    backlog: bool,
    /// delay: no message is due before this time from the start
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
    delay_after: Duration,
    /// delay: each message is due at a random moment of this time [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    delay_spread: Option<Duration>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub(crate) fn execute(args: Args) -> anyhow::Result<()> {
    let of_mode = |flag: &str, given: bool, mode: Mode, name: &str| match given && args.mode != mode {
        true => Err(Failure::usage(format!("{flag} belongs to `pelton bench {name}`"))),
        false => Ok(()),
    };
    of_mode("--backlog", args.backlog, Mode::EndToEnd, "end-to-end")?;
    of_mode("--delay-spread", args.delay_spread.is_some(), Mode::Delay, "delay")?;
    of_mode("--delay-after", !args.delay_after.is_zero(), Mode::Delay, "delay")?;
    let settings = Settings {
        mode: args.mode,
        topic: args.topic,
        queue: args.queue,
        drain_queue: args.drain_queue,
        connections: args.connections.map(usize::from),
        window: args.window,
        batch: args.batch.map(usize::from),
        size_bytes: args.size as usize,
        duration: args.duration,
        messages: args.messages,
        warm_up: args.warm_up,
        rate: f64::from(args.rate),
        keys: args.keys,
        priority: args.priority,
        backlog: args.backlog,
        delay_after: args.delay_after,
        delay_spread: args.delay_spread.unwrap_or(DELAY_SPREAD),
        json: args.json,
    };
    // One thread: the broker, on the same machine, needs the other ones.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run(&args.remote, &settings))
}
