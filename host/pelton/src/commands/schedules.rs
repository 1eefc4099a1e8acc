//! `pelton schedules`: what is published by the clock.

use serde::{Deserialize, Serialize};

use crate::client::{Client, RemoteArgs};
use crate::output::{self, Paint, table};

/// Show the schedules: topic, next time, and what becomes of missed ones
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one schedule per line as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Deserialize, Serialize)]
struct Schedule {
    name: String,
    topic: String,
    missed: String,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Schedules {
    schedules: Vec<Schedule>,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let schedules = client.get::<Schedules>("/v1/schedules").await?.schedules;
    if args.json {
        return Ok(schedules.iter().try_for_each(output::json)?);
    }
    let row = |Schedule { name, topic, missed, next }: &Schedule| {
        vec![name.clone(), topic.clone(), next.clone().unwrap_or_else(|| "never".to_owned()), missed.clone()]
    };
    let header = ["SCHEDULE", "TOPIC", "NEXT", "MISSED"];
    let rows: Vec<_> = schedules.iter().map(row).collect();
    Ok(table(&header, &[0, 1, 2, 3], &rows, Paint::stdout()).iter().try_for_each(|line| output::line(line))?)
}
