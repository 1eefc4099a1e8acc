//! `pelton consumers`: what runs.

use serde::{Deserialize, Serialize};

use crate::client::{Client, RemoteArgs};
use crate::output::{self, Paint, table};

/// Show the consumers: queue, concurrency, state, component
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one consumer per line as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Deserialize, Serialize)]
struct Consumer {
    name: String,
    queue: String,
    concurrency: usize,
    state: String,
    digest: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Consumers {
    consumers: Vec<Consumer>,
}

/// Characters of a digest that tell components apart well enough for people.
const DIGEST_SHOWN: usize = 12;

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let consumers = client.get::<Consumers>("/v1/consumers").await?.consumers;
    if args.json {
        return Ok(consumers.iter().try_for_each(output::json)?);
    }
    let row = |consumer: &Consumer| {
        let digest = consumer.digest.as_deref().unwrap_or("-");
        let digest = digest.get(..DIGEST_SHOWN).unwrap_or(digest).to_owned();
        let Consumer { name, queue, concurrency, state, .. } = consumer;
        vec![name.clone(), queue.clone(), concurrency.to_string(), state.clone(), digest]
    };
    let header = ["CONSUMER", "QUEUE", "CONCURRENCY", "STATE", "COMPONENT"];
    let rows: Vec<_> = consumers.iter().map(row).collect();
    Ok(table(&header, &[0, 1, 3, 4], &rows, Paint::stdout()).iter().try_for_each(|line| output::line(line))?)
}
