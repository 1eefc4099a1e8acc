//! Which dead letters a redrive or a discard is about, as flags and as the API wants it.

use pelton_core::engine::DeadCode;
use serde_json::{Map, Value, json};

use super::find;
use super::letter::Letter;
use crate::client::Client;
use crate::exit::Failure;
use crate::values::{pair, past_moment};

/// Positions per call; the most that the API takes.
const POSITIONS_MAX: usize = 1000;

#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// The queue or its dead-letter queue
    pub(super) queue: String,
    /// Ids or positions of the messages
    ids: Vec<String>,
    /// All of the queue's dead letters
    #[arg(long, conflicts_with_all = ["ids", "reason", "origin", "since", "until", "attributes"])]
    all: bool,
    /// Those that died for this reason, like max-attempts
    #[arg(long, value_parser = reason)]
    reason: Option<&'static str>,
    /// Those that died in this queue
    #[arg(long, value_name = "QUEUE")]
    origin: Option<String>,
    /// Those that died at this moment or later: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "MOMENT", value_parser = past_moment)]
    since: Option<String>,
    /// Those that died before this moment
    #[arg(long, value_name = "MOMENT", value_parser = past_moment)]
    until: Option<String>,
    /// Those with this value of an attribute (or of topic); may be given several times
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = pair)]
    attributes: Vec<(String, String)>,
}

fn reason(text: &str) -> Result<&'static str, String> {
    text.parse::<DeadCode>().map(DeadCode::as_str).map_err(|error| error.to_string())
}

impl Which {
    /// Whether each of them is named.
    pub(super) fn are_named(&self) -> bool {
        !self.ids.is_empty()
    }

    /// Of the named ones how many there are; of all there are, `all`; of those that pass a filter nobody knows.
    pub(super) fn count(&self, all: u64) -> Option<u64> {
        if self.all { Some(all) } else { self.filter().is_empty().then_some(self.ids.len() as u64) }
    }

    /// In words: `all dead letters`, `all dead letters with reason expired`.
    pub(super) fn words(&self) -> String {
        let texts = [
            ("reason", self.reason),
            ("origin", self.origin.as_deref()),
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
        ];
        let named = texts.iter().filter_map(|(name, text)| Some(format!("{name} {}", (*text)?)));
        let attributes = self.attributes.iter().map(|(name, value)| format!("{name} {value}"));
        let words: Vec<String> = named.chain(attributes).collect();
        if words.is_empty() {
            "all dead letters".to_owned()
        } else {
            format!("all dead letters with {}", words.join(", "))
        }
    }

    /// Whether anything says which: nothing stands for all of them by itself.
    ///
    /// # Errors
    /// Where nothing does.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.all || self.are_named() || !self.filter().is_empty() {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "say which dead letters of {}: their ids or positions, as `pelton dead list` shows them, --all, or a filter: \
             --reason, --origin, --since, --until or --attribute",
            self.queue
        )))
    }

    fn filter(&self) -> Map<String, Value> {
        let texts = [
            ("reason", self.reason.map(str::to_owned)),
            ("origin", self.origin.clone()),
            ("since", self.since.clone()),
            ("until", self.until.clone()),
        ];
        let mut filter: Map<String, Value> =
            texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text?)))).collect();
        if !self.attributes.is_empty() {
            let attributes: Map<String, Value> =
                self.attributes.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            filter.insert("attributes".to_owned(), json!(attributes));
        }
        filter
    }

    /// The members of each call that is needed. All messages that are named are looked up before anything is changed.
    pub(super) async fn selections(&self, client: &Client) -> anyhow::Result<Vec<Map<String, Value>>> {
        let filter = self.filter();
        if self.all {
            return Ok(vec![Map::from_iter([("all".to_owned(), json!(true))])]);
        }
        if self.ids.is_empty() {
            return Ok(vec![filter]);
        }
        let mut positions = Vec::with_capacity(self.ids.len());
        for id in &self.ids {
            let letter: Letter = serde_json::from_str(find(client, &self.queue, id).await?.get())?;
            positions.push(letter.position);
        }
        let selection = |part: &[u64]| {
            let mut selection = filter.clone();
            selection.insert("positions".to_owned(), json!(part));
            selection
        };
        Ok(positions.chunks(POSITIONS_MAX).map(selection).collect())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        which: Which,
    }

    fn which(flags: &[&str]) -> Result<Which, String> {
        let line = ["x", "orders"].iter().chain(flags);
        Line::try_parse_from(line).map(|line| line.which).map_err(|error| error.to_string())
    }

    #[test]
    fn something_has_to_say_which() {
        for flags in [&["--all"][..], &["17"], &["--reason", "expired"], &["--attribute", "type=order"]] {
            which(flags).expect("flags").check().expect("it says which");
        }
        let error = which(&[]).expect("flags").check().expect_err("nothing says which");
        assert!(error.message.contains("--all, or a filter"), "{}", error.message);
        for wrong in [&["--all", "17"][..], &["--all", "--reason", "expired"], &["--reason", "tired"]] {
            which(wrong).expect_err("refused");
        }
    }

    #[test]
    fn filters_read_well_and_are_as_the_api_takes_them() {
        let flags = [
            "--reason",
            "rejected",
            "--since",
            "2026-01-31T12:00:00Z",
            "--attribute",
            "type=order",
            "--attribute",
            "topic=a.b",
        ];
        let which = which(&flags).expect("flags");
        assert_eq!(
            which.words(),
            "all dead letters with reason rejected, since 2026-01-31T12:00:00Z, type order, topic a.b"
        );
        assert_eq!(
            Value::Object(which.filter()),
            json!({"reason": "rejected", "since": "2026-01-31T12:00:00Z", "attributes": {"type": "order", "topic": "a.b"}})
        );
        assert_eq!(which.count(7), None);
    }
}
