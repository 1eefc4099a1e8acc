//! `pelton queues`: the figures of all queues, or of one.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::{Client, RemoteArgs, segment};
use crate::output::{self, Paint, grouped, table};

/// Show the queues: ready, leased, scheduled, dead, age of the oldest, and whether one is paused or full
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this queue
    name: Option<String>,
    /// Print one queue per line as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// A queue as the API shows it.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) declared: bool,
    paused: bool,
    full: bool,
    pub(crate) ready: u64,
    pub(crate) leased: u64,
    pub(crate) scheduled: u64,
    pub(crate) dead: u64,
    pub(crate) oldest_age_ms: Option<u64>,
    pub(crate) dead_letter: Option<String>,
    /// Whatever else the broker tells, for --json.
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

impl Queue {
    /// All messages in it.
    pub(crate) fn messages(&self) -> u64 {
        self.ready + self.leased + self.scheduled
    }
}

#[derive(Debug, Deserialize)]
struct Queues {
    queues: Vec<Queue>,
}

/// All queues of the broker.
pub(crate) async fn all(client: &Client) -> anyhow::Result<Vec<Queue>> {
    Ok(client.get::<Queues>("/v1/queues").await?.queues)
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let queues = match &args.name {
        Some(name) => vec![client.get::<Queue>(&format!("/v1/queues/{}", segment(name))).await?],
        None => all(&client).await?,
    };
    if args.json {
        return Ok(queues.iter().try_for_each(output::json)?);
    }
    Ok(text(&queues, Paint::stdout()).iter().try_for_each(|line| output::line(line))?)
}

fn text(queues: &[Queue], paint: Paint) -> Vec<String> {
    let row = |queue: &Queue| {
        let age = queue.oldest_age_ms.map_or("-".to_owned(), |ms| output::duration(Duration::from_millis(ms)));
        // The dead of a queue that holds dead letters are what lies in it.
        let dead = if queue.dead_letter.is_some() { grouped(queue.dead) } else { "-".to_owned() };
        let notes = [(queue.paused, "paused"), (queue.full, "full"), (!queue.declared, "not in broker.toml")];
        let notes: Vec<&str> = notes.iter().filter(|(applies, _)| *applies).map(|(_, note)| *note).collect();
        let Queue { name, ready, leased, scheduled, .. } = queue;
        vec![name.clone(), grouped(*ready), grouped(*leased), grouped(*scheduled), dead, age, notes.join(", ")]
    };
    let header = ["QUEUE", "READY", "LEASED", "SCHEDULED", "DEAD", "OLDEST", ""];
    table(&header, &[0, 6], &queues.iter().map(row).collect::<Vec<_>>(), paint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let queues: Queues = serde_json::from_str(
            r#"{"queues": [
                {"name": "reviews", "declared": true, "paused": true, "full": true, "ready": 1200, "leased": 4, "scheduled": 1, "dead": 2, "bytes": 9, "oldest_age_ms": 250, "dead_letter": "reviews.dead"},
                {"name": "reviews.dead", "declared": false, "paused": false, "full": false, "ready": 2, "leased": 0, "scheduled": 0, "dead": 0, "bytes": 9, "oldest_age_ms": null, "dead_letter": null}
            ]}"#,
        )
        .expect("as the API writes it");
        let expected = "\
QUEUE         READY  LEASED  SCHEDULED  DEAD  OLDEST
reviews       1,200       4          1     2  250 ms  paused, full
reviews.dead      2       0          0     -       -  not in broker.toml";
        assert_eq!(text(&queues.queues, Paint::plain()).join("\n"), expected);
    }
}
