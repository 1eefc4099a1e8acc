//! Publishing the lines of a file: reading, progress, and what became of all of them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use indicatif::ProgressBar;
use pelton_core::name::Topic;
use pelton_core::plan::KEY_DEFAULT;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Args, SOURCE, new_id};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::lines::{Lines, Record, Shape, Template};
use crate::output;
use crate::publish::{Event, Item, Publisher, RefusedItem, Stopped, Tally, now};

/// Refused lines that are shown; the count is always given in full, and --json lists more.
const REFUSED_SHOWN_MAX: usize = 20;

pub(super) async fn publish(client: &Client, args: &Args, file: &Path) -> anyhow::Result<()> {
    let topic = Template::parse(&args.topic).map_err(Failure::usage)?;
    let shape = Shape { topic, body: args.body.clone(), id: args.id_field.clone(), key: args.key_field.clone() };
    let extensions: BTreeMap<String, String> = args.extensions()?.into_iter().collect();
    let (reader, bar): (Box<dyn BufRead>, _) = if file == Path::new("-") {
        (Box::new(BufReader::new(std::io::stdin())), output::spinner("Publishing", args.json))
    } else {
        let opened = std::fs::File::open(file).with_context(|| format!("{} can't be read", file.display()))?;
        let total = Lines::new(BufReader::new(std::fs::File::open(file)?)).map_while(Result::ok).count();
        (Box::new(BufReader::new(opened)), output::bar(total as u64, "Publishing", args.json))
    };
    let started = Instant::now();
    let mut publisher = Publisher::new(client, usize::from(args.batch), args.when.query());
    let stopped = send_all(&mut publisher, reader, &shape, args, &extensions, &bar).await;
    bar.finish_and_clear();
    publisher.tally.refusals.sort_by_key(|refused| refused.line);
    let summary = Summary { tally: publisher.tally, seconds: started.elapsed().as_secs_f64() };
    summary.print(args, stopped.is_err())?;
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
        print_handles(publisher, args)?;
    }
    publisher.flush().await?;
    print_handles(publisher, args)
}

/// Prints the handles that have come since the last time; drops them where nobody asked for them.
fn print_handles(publisher: &mut Publisher<'_>, args: &Args) -> Result<(), Stopped> {
    for (id, handle) in std::mem::take(&mut publisher.scheduled) {
        if args.handles {
            let printed = output::line(&format!("{id} {handle}"));
            printed.map_err(|error| Stopped {
                failure: Failure::new(Exit::Failed, format!("handles can't be printed on: {error}")),
                unknown: None,
            })?;
        }
    }
    Ok(())
}

fn item(record: Record, args: &Args, extensions: &BTreeMap<String, String>) -> Result<(Topic, Item), String> {
    let at = |error: serde_json::Error| format!("line {}: {error}", record.line);
    let data: &RawValue = serde_json::from_str(&record.body).map_err(at)?;
    let id = record.id.clone().unwrap_or_else(new_id);
    let source = args.source.as_deref().unwrap_or(SOURCE);
    let kind = args.kind.as_deref().unwrap_or(record.topic.as_str());
    let time = now();
    let own = record.key.as_ref().map(|key| {
        let key = (KEY_DEFAULT.to_owned(), key.clone());
        extensions.iter().map(|(name, value)| (name.clone(), value.clone())).chain([key]).collect()
    });
    let mut event = Event::new(&id, source, kind, &time, own.as_ref().unwrap_or(extensions), data);
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
    fn print(&self, args: &Args, stopped: bool) -> std::io::Result<()> {
        if args.json {
            return output::json(self);
        }
        let Tally { accepted, filtered, duplicates, scheduled, refused, requests, refusals } = &self.tally;
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
        if *duplicates > 0 {
            line.push_str(&format!(
                ", of which {} were accepted before, with the same ids",
                output::grouped(*duplicates)
            ));
        }
        if *scheduled > 0 {
            line.push_str(&format!(", of which {} wait for their time", output::grouped(*scheduled)));
        }
        if *refused > 0 {
            line.push_str(&format!("; refused {}", messages(*refused)));
        }
        if args.handles {
            output::note(&line);
            return Ok(());
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
