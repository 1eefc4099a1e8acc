//! `pelton pause`: stop deliveries from a queue, or to a consumer.

use serde_json::{Value, json};

use crate::client::{Client, RemoteArgs, segment};
use crate::output;

/// Pause a queue or a consumer; it stays so, also over restarts, until `pelton resume`
///
/// A paused queue takes messages and delivers none. A paused consumer gets no deliveries; its messages wait for it, or for another
/// consumer of its queue. What is being handled ends as ever.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What is paused or resumed.
#[derive(Debug, clap::Subcommand)]
pub(super) enum What {
    /// A queue
    Queue {
        /// The queue
        name: String,
        /// Print what it is now as JSON
        #[arg(long)]
        json: bool,
    },
    /// A consumer
    Consumer {
        /// The consumer
        name: String,
        /// Print what it is now as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    args.what.call(&Client::new(&args.remote)?, "pause", "paused").await
}

impl What {
    /// Makes the `call` and says that it is `done`.
    pub(super) async fn call(&self, client: &Client, call: &str, done: &str) -> anyhow::Result<()> {
        let (kind, kinds, name, json) = match self {
            Self::Queue { name, json } => ("queue", "queues", name, *json),
            Self::Consumer { name, json } => ("consumer", "consumers", name, *json),
        };
        let answer: Value = client.post(&format!("/v1/{kinds}/{}/{call}", segment(name)), &json!({})).await?;
        if json {
            return Ok(output::json(&answer)?);
        }
        Ok(output::line(&format!("{done} {kind} {name}"))?)
    }
}
