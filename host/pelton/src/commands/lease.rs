//! `pelton lease`: pull messages from a queue, as JSON lines.

use std::time::Duration;

use pelton_door_http::limits::{LEASE_TTL_MAX, LEASE_TTL_MIN, LEASE_WAIT_MAX, PAGE_MAX, RETRY_AFTER_MAX};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::client::{Client, RemoteArgs, segment};
use crate::commands::settle::{self, Settlement};
use crate::output;
use crate::values::{count_up_to, time_within};

/// Lease messages of a queue and print them, one per line, as JSON
///
/// Without --ack, --retry or --reject the leases stay until they run out: settle them with `pelton settle QUEUE TOKEN`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The queue
    queue: String,
    /// Most messages
    #[arg(long, default_value = "1", value_parser = count_up_to(PAGE_MAX))]
    max: usize,
    /// How long to wait for the first one
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time_within(Duration::ZERO, LEASE_WAIT_MAX))]
    wait: String,
    /// How long the leases last
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time_within(LEASE_TTL_MIN, LEASE_TTL_MAX))]
    ttl: String,
    #[command(flatten)]
    outcome: OutcomeArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What to do with messages once they are printed.
#[derive(Debug, clap::Args)]
pub(crate) struct OutcomeArgs {
    /// Then acknowledge them: they are handled and gone
    #[arg(long, group = "outcome")]
    ack: bool,
    /// Then give them back for another try
    #[arg(long, group = "outcome")]
    retry: bool,
    /// Then reject them: they are dead-lettered
    #[arg(long, group = "outcome")]
    reject: bool,
    /// With --retry: not before this time has passed [default: the queue's backoff]
    #[arg(long, value_name = "TIME", requires = "retry", conflicts_with_all = ["ack", "reject"], value_parser = time_within(Duration::ZERO, RETRY_AFTER_MAX))]
    after: Option<String>,
    /// With --retry or --reject: why, for the message's history
    #[arg(long, conflicts_with = "ack", requires = "outcome")]
    reason: Option<String>,
}

impl OutcomeArgs {
    /// The settlement of each of `tokens`, if an outcome was chosen.
    pub(crate) fn settlements(&self, tokens: impl IntoIterator<Item = String>) -> Option<Vec<Settlement>> {
        let outcome = match (self.ack, self.retry, self.reject) {
            (true, ..) => "ack",
            (_, true, _) => "retry",
            (.., true) => "reject",
            _ => return None,
        };
        let settlement = |token| Settlement { token, outcome, after: self.after.clone(), reason: self.reason.clone() };
        Some(tokens.into_iter().map(settlement).collect())
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    messages: Vec<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct Token {
    token: String,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let path = format!("/v1/queues/{}/lease", segment(&args.queue));
    let want = json!({"max": args.max, "wait": args.wait, "ttl": args.ttl});
    let answer: Answer = client.post(&path, &want).await?;
    let mut tokens = Vec::new();
    for message in &answer.messages {
        // Printed before it is settled: if nobody could read it, nothing is lost.
        output::line(message.get())?;
        tokens.push(serde_json::from_str::<Token>(message.get())?.token);
    }
    if answer.messages.is_empty() {
        output::note(&format!("Queue {} had nothing to lease.", args.queue));
        return Ok(());
    }
    match args.outcome.settlements(tokens) {
        Some(settlements) => settle::settle(&client, &args.queue, &settlements).await,
        None => Ok(()),
    }
}
