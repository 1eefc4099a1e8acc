//! `pelton publish`: one message from the command line, a file or stdin, or many from JSON lines.

mod lines;

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use pelton_core::broker::PRIORITY;
use pelton_core::engine::DELAY_MAX;
use pelton_core::message::{Attributes, Message};
use pelton_core::plan::KEY_DEFAULT;
use pelton_door_http::limits::TTL_MAX;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::client::{Client, RemoteArgs, segment};
use crate::exit::{Exit, Failure};
use crate::lines::Template;
use crate::output;
use crate::publish::now;
use crate::values::{moment, priority, time_within};

/// A body larger than the broker takes in any case.
const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The CloudEvents source of what is published here, unless --source says otherwise.
const SOURCE: &str = "/pelton/cli";
/// The shortest time to live.
const TTL_MIN: Duration = Duration::from_millis(1);

/// Publish one message, or every line of a JSON lines file
///
/// One message:   pelton publish orders.created '{"id": 7}'
/// Many:          pelton publish 'github.{event}' --jsonl events.jsonl --body payload
///
/// With --jsonl, {field} in the topic stands for a field of the line. Consecutive lines of one topic share a request,
/// which is accepted whole or not at all; lines at fault are found, reported and left out, and the others are accepted.
///
/// A message with --delay or --at waits for its time: its handle is printed behind its id, and `pelton cancel HANDLE` takes
/// it back until then.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The topic; with --jsonl it may have {field}s of a line
    topic: String,
    /// The body; without it, --file and --jsonl, stdin is the body
    #[arg(value_name = "BODY", conflicts_with_all = ["file", "jsonl"])]
    text: Option<String>,
    /// Take the body from a file; '-' is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "jsonl")]
    file: Option<PathBuf>,
    /// Publish each line of a file of JSON lines; '-' is stdin
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// The field of a line that is the body [default: the whole line]
    #[arg(long, value_name = "FIELD", requires = "jsonl")]
    body: Option<String>,
    /// The field of a line that is the message's id [default: a new one]
    #[arg(long, value_name = "FIELD", requires = "jsonl")]
    id_field: Option<String>,
    /// The message's id [default: a new one]
    #[arg(long, conflicts_with = "jsonl")]
    id: Option<String>,
    /// The CloudEvents type [default: the topic]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The CloudEvents source [default: /pelton/cli]
    #[arg(long)]
    source: Option<String>,
    /// The CloudEvents subject
    #[arg(long)]
    subject: Option<String>,
    /// The body's media type [default: JSON where it is JSON, else text or bytes]
    #[arg(long, conflicts_with = "jsonl")]
    content_type: Option<String>,
    /// A CloudEvents extension; may be given several times
    #[arg(long = "ext", value_name = "NAME=VALUE", value_parser = extension)]
    extensions: Vec<(String, String)>,
    #[command(flatten)]
    when: WhenArgs,
    /// 0 to 9, the highest first, in queues that keep priorities [default: 4]
    #[arg(long, value_parser = priority)]
    priority: Option<u8>,
    /// Messages with the same key are delivered in order, in queues that keep it: the extension partitionkey
    #[arg(long)]
    key: Option<String>,
    /// The field of a line that is the message's key
    #[arg(long, value_name = "FIELD", requires = "jsonl", conflicts_with = "key")]
    key_field: Option<String>,
    /// Print id and handle of each line that waits for its time; what became of all goes to stderr
    #[arg(long, requires = "jsonl", conflicts_with = "json")]
    handles: bool,
    /// Most messages per request
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch: u16,
    /// Print what became of it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// When messages may be delivered.
#[derive(Debug, clap::Args)]
struct WhenArgs {
    /// Not before this time has passed, like 10m
    #[arg(long, value_name = "TIME", conflicts_with = "at", value_parser = time_within(Duration::ZERO, DELAY_MAX))]
    delay: Option<String>,
    /// Not before this moment, like 2026-01-31T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    at: Option<String>,
    /// Not after this time from when they could be delivered first, like 1h
    #[arg(long, value_name = "TIME", value_parser = time_within(TTL_MIN, TTL_MAX))]
    ttl: Option<String>,
}

impl WhenArgs {
    /// The parameters of a request that says so.
    fn query(&self) -> Vec<(&'static str, String)> {
        let parameters = [("delay", &self.delay), ("at", &self.at), ("ttl", &self.ttl)];
        parameters.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

impl Args {
    /// All extensions that flags give, each at most once.
    fn extensions(&self) -> Result<Vec<(String, String)>, Failure> {
        let priority = self.priority.map(|priority| (PRIORITY.to_owned(), priority.to_string()));
        let key = self.key.clone().map(|key| (KEY_DEFAULT.to_owned(), key));
        let all: Vec<_> = self.extensions.iter().cloned().chain(priority).chain(key).collect();
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).chain(self.key_name()).collect();
        match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            Some((_, name)) => Err(Failure::usage(format!("the extension '{name}' is given twice"))),
            None => Ok(all),
        }
    }

    fn key_name(&self) -> Option<&'static str> {
        self.key_field.as_ref().map(|_| KEY_DEFAULT)
    }
}

fn extension(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    // The broker's own rules. HTTP would make small letters of large ones without a word.
    let extensions = [(name, value)];
    let attributes = Attributes { id: "x", source: "x", kind: "x", extensions: &extensions, ..Attributes::default() };
    Message::new(&attributes, b"").map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    match &args.jsonl {
        Some(file) => lines::publish(&client, &args, file).await,
        None => single(&client, &args).await,
    }
}

#[derive(Debug, Deserialize, Serialize)]
struct Published {
    id: String,
    targets: usize,
    /// Its handle, where it was put off.
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled: Option<String>,
    /// It was stored before, with the same id.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl Published {
    /// The id, and behind it the handle if there is one.
    fn line(&self) -> String {
        let handle = self.scheduled.iter().flat_map(|handle| [" ", handle.as_str()]);
        std::iter::once(self.id.as_str()).chain(handle).collect()
    }

    /// What became of it, for people.
    fn note(&self) -> String {
        let queues = output::count(self.targets as u64, "queue");
        match (self.targets, self.duplicate, &self.scheduled) {
            (_, true, _) => "It was accepted before, with the same id; nothing was stored again.".to_owned(),
            (0, ..) => "Accepted, but every matching route filtered it out.".to_owned(),
            (_, _, Some(handle)) => {
                format!(
                    "Accepted into {queues}; it waits for its time. `pelton cancel {handle}` takes it back until then."
                )
            }
            _ => format!("Accepted into {queues}."),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    messages: Vec<Published>,
}

async fn single(client: &Client, args: &Args) -> anyhow::Result<()> {
    let topic = Template::parse(&args.topic).and_then(|template| template.plain()).map_err(Failure::usage)?;
    let body = body_of(args)?;
    let content_type = args.content_type.as_deref().unwrap_or_else(|| guess(&body));
    let id = args.id.clone().unwrap_or_else(new_id);
    let mut request = client
        .request(Method::POST, &format!("/v1/topics/{}", segment(topic.as_str())))
        .query(&args.when.query())
        .header(CONTENT_TYPE, content_type)
        .header("ce-specversion", "1.0")
        .header("ce-id", header_text(&id))
        .header("ce-time", now())
        .header("ce-source", header_text(args.source.as_deref().unwrap_or(SOURCE)))
        .header("ce-type", header_text(args.kind.as_deref().unwrap_or(topic.as_str())));
    if let Some(subject) = &args.subject {
        request = request.header("ce-subject", header_text(subject));
    }
    for (name, value) in args.extensions()? {
        request = request.header(format!("ce-{name}"), header_text(&value));
    }
    let answer: Answer = client.json(request.body(body)).await?;
    for published in answer.messages {
        if args.json {
            output::json(&published)?;
        } else {
            output::line(&published.line())?;
            output::note(&published.note());
        }
    }
    Ok(())
}

fn body_of(args: &Args) -> anyhow::Result<Vec<u8>> {
    if let Some(text) = &args.text {
        return Ok(text.clone().into_bytes());
    }
    let mut body = Vec::new();
    match &args.file {
        Some(file) if file != Path::new("-") => {
            let opened = std::fs::File::open(file).with_context(|| format!("{} can't be read", file.display()))?;
            opened.take(BODY_BYTES_MAX + 1).read_to_end(&mut body)?;
        }
        None if std::io::stdin().is_terminal() => {
            return Err(
                Failure::usage("there is no body: give it behind the topic, or by --file, --jsonl or stdin").into()
            );
        }
        _ => drop(std::io::stdin().lock().take(BODY_BYTES_MAX + 1).read_to_end(&mut body)?),
    }
    if body.len() as u64 > BODY_BYTES_MAX {
        return Err(Failure::new(
            Exit::Refused,
            format!("the body has more than {BODY_BYTES_MAX} bytes, which no broker takes"),
        )
        .into());
    }
    Ok(body)
}

fn guess(body: &[u8]) -> &'static str {
    match std::str::from_utf8(body) {
        Ok(text) if serde_json::from_str::<&RawValue>(text).is_ok() => "application/json",
        Ok(_) => "text/plain; charset=utf-8",
        Err(_) => "application/octet-stream",
    }
}

fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// An attribute's value as a header field: CloudEvents HTTP binding 1.0.2, section 3.1.3.2.
fn header_text(value: &str) -> String {
    let plain = |c: char| matches!(c, '\u{21}'..='\u{7e}') && c != '"' && c != '%';
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if plain(c) {
            text.push(c);
        } else {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_have_the_names_that_the_broker_takes() {
        assert_eq!(extension("tenant1=a=b"), Ok(("tenant1".into(), "a=b".into())));
        for (bad, why) in [
            ("FOO=1", "a-z and 0-9"),
            ("a-b=1", "a-z and 0-9"),
            ("id=1", "of CloudEvents itself"),
            ("=1", "name"),
            ("a", "NAME=VALUE"),
        ] {
            let error = extension(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn header_values_are_escaped() {
        assert_eq!(header_text("/a b\"%\u{e9}"), "/a%20b%22%25%C3%A9");
    }

    #[test]
    fn media_types_are_guessed() {
        assert_eq!(guess(b"{\"a\":1}"), "application/json");
        assert_eq!(guess(b"hello there"), "text/plain; charset=utf-8");
        assert_eq!(guess(b"\xff"), "application/octet-stream");
    }

    #[test]
    fn handles_stand_behind_ids() {
        let check = |json: &str, line: &str, note: &str| {
            let published: Published = serde_json::from_str(json).expect("as the API writes it");
            assert_eq!((published.line().as_str(), published.note().as_str()), (line, note));
        };
        check(r#"{"id": "a", "targets": 1}"#, "a", "Accepted into 1 queue.");
        check(r#"{"id": "a", "targets": 0}"#, "a", "Accepted, but every matching route filtered it out.");
        check(
            r#"{"id": "a", "targets": 1, "duplicate": true}"#,
            "a",
            "It was accepted before, with the same id; nothing was stored again.",
        );
        check(
            r#"{"id": "a", "targets": 1, "duplicate": true, "scheduled": "1.2-3.c0ffee00"}"#,
            "a 1.2-3.c0ffee00",
            "It was accepted before, with the same id; nothing was stored again.",
        );
        check(
            r#"{"id": "a", "targets": 2, "scheduled": "1.2-3.c0ffee00"}"#,
            "a 1.2-3.c0ffee00",
            "Accepted into 2 queues; it waits for its time. `pelton cancel 1.2-3.c0ffee00` takes it back until then.",
        );
    }
}
