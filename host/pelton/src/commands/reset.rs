//! `pelton reset`: close a consumer's breaker.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{Client, RemoteArgs, segment};
use crate::output;

/// Close a consumer's breaker, so that it gets deliveries again at once
///
/// A breaker opens when delivery after delivery fails, each of another message, and tries a single one from time to time.
/// Once what was broken is mended, there is no need to wait for the next try.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The consumer
    consumer: String,
    /// Print what it is now as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Deserialize, Serialize)]
struct Answer {
    consumer: String,
    /// `closed`; none where it is switched off.
    breaker: Option<String>,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let path = format!("/v1/consumers/{}/reset", segment(&args.consumer));
    let answer: Answer = client.post(&path, &json!({})).await?;
    if args.json {
        return Ok(output::json(&answer)?);
    }
    let Answer { consumer, breaker } = answer;
    Ok(output::line(&match breaker {
        Some(state) => format!("breaker of consumer {consumer}: {state}"),
        None => format!("consumer {consumer} has no breaker"),
    })?)
}
