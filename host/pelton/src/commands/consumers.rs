//! `pelton consumers`: what runs.

use serde::{Deserialize, Serialize};

use crate::client::{Client, RemoteArgs};
use crate::output::{self, Paint, table};

/// Show the consumers: queue, concurrency, component, and whether one is paused or its breaker open
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
    paused: bool,
    digest: Option<String>,
    breaker: Option<Breaker>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Breaker {
    state: String,
    since: Option<String>,
    next_probe: Option<String>,
    last_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Consumers {
    consumers: Vec<Consumer>,
}

/// Characters of a digest that tell components apart well enough for people.
const DIGEST_SHOWN: usize = 12;
/// Characters of the reason why a breaker is open.
const REASON_SHOWN: usize = 80;

impl Consumer {
    /// Whether it gets deliveries, and what keeps them from it.
    fn state(&self) -> &str {
        let breaker = self.breaker.as_ref().map(|breaker| breaker.state.as_str()).filter(|state| *state != "closed");
        match breaker {
            _ if self.state != "ready" => &self.state,
            _ if self.paused => "paused",
            Some(breaker) => breaker,
            None => &self.state,
        }
    }

    /// Why its breaker is open.
    fn note(&self) -> String {
        let Some(breaker) = self.breaker.as_ref().filter(|breaker| breaker.state != "closed") else {
            return String::new();
        };
        let reason: String = breaker.last_reason.iter().flat_map(|text| text.chars()).take(REASON_SHOWN).collect();
        let parts = [
            breaker.since.as_ref().map(|since| format!("breaker open since {since}")),
            breaker.next_probe.as_ref().map(|next| format!("next try at {next}")),
            (!reason.is_empty()).then(|| output::tame(reason.lines().next().unwrap_or_default()).into_owned()),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let consumers = client.get::<Consumers>("/v1/consumers").await?.consumers;
    if args.json {
        return Ok(consumers.iter().try_for_each(output::json)?);
    }
    Ok(text(&consumers, Paint::stdout()).iter().try_for_each(|line| output::line(line))?)
}

fn text(consumers: &[Consumer], paint: Paint) -> Vec<String> {
    let row = |consumer: &Consumer| {
        let digest = consumer.digest.as_deref().unwrap_or("-");
        let digest = digest.get(..DIGEST_SHOWN).unwrap_or(digest).to_owned();
        let Consumer { name, queue, concurrency, .. } = consumer;
        let (state, note) = (consumer.state().to_owned(), consumer.note());
        vec![name.clone(), queue.clone(), concurrency.to_string(), state, digest, note]
    };
    let header = ["CONSUMER", "QUEUE", "CONCURRENCY", "STATE", "COMPONENT", ""];
    table(&header, &[0, 1, 3, 4, 5], &consumers.iter().map(row).collect::<Vec<_>>(), paint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let consumers: Consumers = serde_json::from_str(
            r#"{"consumers": [
                {"name": "a", "queue": "q", "concurrency": 16, "state": "ready", "paused": false, "digest": "9f86d081884c7d65", "breaker": null},
                {"name": "b", "queue": "q", "concurrency": 1, "state": "ready", "paused": true, "digest": "9f86d081884c7d65",
                 "breaker": {"state": "closed", "since": null, "next_probe": null, "last_reason": null}},
                {"name": "c", "queue": "r", "concurrency": 1, "state": "ready", "paused": false, "digest": "9f86d081884c7d65",
                 "breaker": {"state": "open", "since": "2026-01-31T12:00:00.000Z", "next_probe": "2026-01-31T12:00:04.000Z", "last_reason": "trap: gone\nfurther"}},
                {"name": "d", "queue": "r", "concurrency": 1, "state": "no-component", "paused": true, "breaker": null}
            ]}"#,
        )
        .expect("as the API writes it");
        let expected = "\
CONSUMER  QUEUE  CONCURRENCY  STATE         COMPONENT
a         q               16  ready         9f86d081884c
b         q                1  paused        9f86d081884c
c         r                1  open          9f86d081884c  breaker open since 2026-01-31T12:00:00.000Z; next try at 2026-01-31T12:00:04.000Z; trap: gone
d         r                1  no-component  -";
        assert_eq!(text(&consumers.consumers, Paint::plain()).join("\n"), expected);
    }
}
