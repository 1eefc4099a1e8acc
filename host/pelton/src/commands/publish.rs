//! `pelton publish`: one message from the command line, a file or stdin, or many from JSON lines.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use indicatif::ProgressBar;
use pelton_core::message::{Attributes, Message};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::client::{Client, RemoteArgs, segment};
use crate::exit::{Exit, Failure};
use crate::lines::{Lines, Record, Shape, Template};
use crate::output;
use crate::publish::{Event, Item, Publisher, RefusedItem, Stopped, Tally, now};

/// A body larger than the broker takes in any case.
const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The CloudEvents source of what is published here, unless --source says otherwise.
const SOURCE: &str = "/pelton/cli";
/// Refused lines that are shown; the count is always given in full, and --json lists more.
const REFUSED_SHOWN_MAX: usize = 20;

/// Publish one message, or every line of a JSON lines file
///
/// One message:   pelton publish orders.created '{"id": 7}'
/// Many:          pelton publish 'github.{event}' --jsonl events.jsonl --body payload
///
/// With --jsonl, {field} in the topic stands for a field of the line. Consecutive lines of one topic share a request,
/// which is accepted whole or not at all; lines at fault are found, reported and left out, and the others are accepted.
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
    /// Most messages per request
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch: u16,
    /// Print what became of it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
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
        Some(file) => lines(&client, &args, file).await,
        None => single(&client, &args).await,
    }
}

#[derive(Debug, Deserialize, Serialize)]
struct Published {
    id: String,
    targets: usize,
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
        .header(CONTENT_TYPE, content_type)
        .header("ce-specversion", "1.0")
        .header("ce-id", header_text(&id))
        .header("ce-time", now())
        .header("ce-source", header_text(args.source.as_deref().unwrap_or(SOURCE)))
        .header("ce-type", header_text(args.kind.as_deref().unwrap_or(topic.as_str())));
    if let Some(subject) = &args.subject {
        request = request.header("ce-subject", header_text(subject));
    }
    for (name, value) in &args.extensions {
        request = request.header(format!("ce-{name}"), header_text(value));
    }
    let answer: Answer = client.json(request.body(body)).await?;
    for published in answer.messages {
        if args.json {
            output::json(&published)?;
        } else {
            output::line(&published.id)?;
            match published.targets {
                0 => output::note("Accepted, but every matching route filtered it out."),
                1 => output::note("Accepted into 1 queue."),
                count => output::note(&format!("Accepted into {count} queues.")),
            }
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

async fn lines(client: &Client, args: &Args, file: &Path) -> anyhow::Result<()> {
    let topic = Template::parse(&args.topic).map_err(Failure::usage)?;
    let shape = Shape { topic, body: args.body.clone(), id: args.id_field.clone() };
    let extensions: BTreeMap<String, String> = args.extensions.iter().cloned().collect();
    let (reader, bar): (Box<dyn BufRead>, _) = if file == Path::new("-") {
        (Box::new(BufReader::new(std::io::stdin())), output::spinner("Publishing", args.json))
    } else {
        let opened = std::fs::File::open(file).with_context(|| format!("{} can't be read", file.display()))?;
        let total = Lines::new(BufReader::new(std::fs::File::open(file)?)).map_while(Result::ok).count();
        (Box::new(BufReader::new(opened)), output::bar(total as u64, "Publishing", args.json))
    };
    let started = Instant::now();
    let mut publisher = Publisher::new(client, usize::from(args.batch));
    let stopped = send_all(&mut publisher, reader, &shape, args, &extensions, &bar).await;
    bar.finish_and_clear();
    publisher.tally.refusals.sort_by_key(|refused| refused.line);
    let summary = Summary { tally: publisher.tally, seconds: started.elapsed().as_secs_f64() };
    summary.print(args.json, stopped.is_err())?;
    match stopped {
        Ok(()) => summary.verdict(),
        Err(stopped) => Err(summary.broken_off(stopped).into()),
    }
}

async fn send_all(
    publisher: &mut Publisher<'_>,
    reader: Box<dyn BufRead>,
    shape: &Shape,
    args: &Args,
    extensions: &BTreeMap<String, String>,
    bar: &ProgressBar,
) -> Result<(), Stopped> {
    for line in Lines::new(reader) {
        let (number, text) = line.map_err(|error| Stopped {
            failure: Failure::new(Exit::Failed, format!("the lines can't be read on: {error}")),
            unknown: None,
        })?;
        match shape.record(number, &text).and_then(|record| item(record, args, extensions)) {
            Ok((topic, item)) => publisher.push(&topic, item).await?,
            Err(detail) => publisher.tally.refuse(RefusedItem { line: number, code: "invalid-line".into(), detail }),
        }
        bar.set_position(publisher.tally.accepted + publisher.tally.refused);
    }
    publisher.flush().await
}

fn item(
    record: Record,
    args: &Args,
    extensions: &BTreeMap<String, String>,
) -> Result<(pelton_core::name::Topic, Item), String> {
    let at = |error: serde_json::Error| format!("line {}: {error}", record.line);
    let data: &RawValue = serde_json::from_str(&record.body).map_err(at)?;
    let id = record.id.clone().unwrap_or_else(new_id);
    let source = args.source.as_deref().unwrap_or(SOURCE);
    let kind = args.kind.as_deref().unwrap_or(record.topic.as_str());
    let time = now();
    let mut event = Event::new(&id, source, kind, &time, extensions, data);
    event.subject = args.subject.as_deref();
    let event = serde_json::value::to_raw_value(&event).map_err(at)?;
    Ok((record.topic.clone(), Item { line: record.line, event }))
}

/// What became of a file.
#[derive(Debug, Serialize)]
struct Summary {
    #[serde(flatten)]
    tally: Tally,
    seconds: f64,
}

impl Summary {
    /// Prints it; where nothing was done because something `stopped` it, the error says all there is to say.
    fn print(&self, json: bool, stopped: bool) -> std::io::Result<()> {
        if json {
            return output::json(self);
        }
        let Tally { accepted, filtered, refused, requests, refusals } = &self.tally;
        let paint = output::Paint::stderr();
        for RefusedItem { line, code, detail } in refusals.iter().take(REFUSED_SHOWN_MAX) {
            let place = format!("line {line}: ");
            let detail = detail.strip_prefix(&place).unwrap_or(detail);
            output::note(&format!("{} {place}{} ({code})", paint.red("refused:"), output::tame(detail)));
        }
        if *refused > REFUSED_SHOWN_MAX as u64 {
            output::note(&format!("... and {} more; --json lists them", refused - REFUSED_SHOWN_MAX as u64));
        }
        if stopped && *accepted == 0 {
            return Ok(());
        }
        let messages = |count| output::count(count, "message");
        let mut line = format!("accepted {} in {}", messages(*accepted), output::count(*requests, "request"));
        if *filtered > 0 {
            line.push_str(&format!(", of which {} filtered out by every route", output::grouped(*filtered)));
        }
        if *refused > 0 {
            line.push_str(&format!("; refused {}", messages(*refused)));
        }
        output::line(&line)
    }

    fn verdict(&self) -> anyhow::Result<()> {
        match (self.tally.accepted, self.tally.refused) {
            (_, 0) => Ok(()),
            (0, _) => Err(Failure::new(Exit::Refused, "every message was refused; none was accepted").into()),
            (_, refused) => {
                let were = if refused == 1 { "was" } else { "were" };
                let message = format!(
                    "{} of the messages {were} refused; the others were accepted and are durable",
                    output::grouped(refused)
                );
                Err(Failure::new(Exit::Partial, message).into())
            }
        }
    }

    fn broken_off(&self, stopped: Stopped) -> Failure {
        let Stopped { failure, unknown } = stopped;
        let mut message = failure.message;
        if let Some((first, last)) = unknown {
            message.push_str(&format!(
                "\nlines {first} to {last}: unknown whether they were accepted; nothing behind them was sent"
            ));
        } else if self.tally.accepted > 0 {
            message.push_str(&format!(
                "\naccepted before that: {}; nothing behind was sent",
                output::count(self.tally.accepted, "message")
            ));
        }
        Failure::new(failure.exit, message)
    }
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
}
