//! `pelton schedules`: what is published by the clock.

use serde::{Deserialize, Serialize};

use crate::client::{Client, RemoteArgs};
use crate::output::{self, Paint, table};

/// Show the schedules: topic, last and next time, and what becomes of missed ones
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
    last: Option<String>,
    next: Option<String>,
    /// Whatever else the broker tells, for --json.
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
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
    Ok(text(&schedules, Paint::stdout()).iter().try_for_each(|line| output::line(line))?)
}

fn text(schedules: &[Schedule], paint: Paint) -> Vec<String> {
    let or = |moment: &Option<String>, none: &str| moment.clone().unwrap_or_else(|| none.to_owned());
    let row = |Schedule { name, topic, missed, last, next, .. }: &Schedule| {
        vec![name.clone(), topic.clone(), or(last, "-"), or(next, "never"), missed.clone()]
    };
    let header = ["SCHEDULE", "TOPIC", "LAST", "NEXT", "MISSED"];
    table(&header, &[0, 1, 2, 3, 4], &schedules.iter().map(row).collect::<Vec<_>>(), paint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let schedules: Schedules = serde_json::from_str(
            r#"{"schedules": [
                {"name": "nightly", "cron": "0 3 * * *", "time_zone": "UTC", "topic": "reports.nightly", "missed": "once", "last": "2026-01-31T03:00:00.000Z", "next": "2026-02-01T03:00:00.000Z"},
                {"name": "new", "cron": "0 3 * * *", "time_zone": "UTC", "topic": "t", "missed": "all", "last": null, "next": null}
            ]}"#,
        )
        .expect("as the API writes it");
        let expected = "\
SCHEDULE  TOPIC            LAST                      NEXT                      MISSED
nightly   reports.nightly  2026-01-31T03:00:00.000Z  2026-02-01T03:00:00.000Z  once
new       t                -                         never                     all";
        assert_eq!(text(&schedules.schedules, Paint::plain()).join("\n"), expected);
    }
}
