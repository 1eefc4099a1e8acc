//! `pelton dead`: list, show, redrive and discard dead letters.

mod letter;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use self::letter::{Letter, row, text};
use crate::client::{Client, RemoteArgs, segment};
use crate::commands::queues;
use crate::exit::{Exit, Failure};
use crate::output::{self, Paint, table};

/// List, show, redrive or discard dead letters
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the dead letters of a queue, or of all queues
    List {
        /// A queue or its dead-letter queue [default: all]
        queue: Option<String>,
        /// Most dead letters per queue; 0: all
        #[arg(long, default_value_t = 100)]
        max: usize,
        /// Print one dead letter per line as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show a dead letter with its body and the history of every attempt
    Show {
        /// The queue or its dead-letter queue
        queue: String,
        /// The message's id, or its position
        id: String,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Send dead letters back to the queue that they died in; their attempts start anew
    Redrive {
        #[command(flatten)]
        which: Which,
        /// To this queue instead
        #[arg(long, value_name = "QUEUE")]
        to: Option<String>,
        /// Print what was done as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Delete dead letters for good
    Discard {
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Print what was done as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The queue or its dead-letter queue
    queue: String,
    /// Ids or positions of the messages
    ids: Vec<String>,
    /// All of the queue's dead letters
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

#[derive(Debug, Deserialize)]
struct Page {
    messages: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// Messages per page; the most that the API gives.
const PAGE: usize = 1000;
/// Positions per call; the most that the API takes.
const POSITIONS_MAX: usize = 1000;

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List { queue, max, json, remote } => list(&Client::new(&remote)?, queue.as_deref(), max, json).await,
        Command::Show { queue, id, json, remote } => show(&Client::new(&remote)?, &queue, &id, json).await,
        Command::Redrive { which, to, json, remote } => {
            let extra = to.map_or(json!({}), |to| json!({ "to": to }));
            bulk(&Client::new(&remote)?, "redrive", &which, &extra, json).await
        }
        Command::Discard { which, yes, json, remote } => {
            if which.all && !yes && !confirmed(&which.queue)? {
                return Err(Failure::usage("nothing was deleted: it was not confirmed; --yes confirms it").into());
            }
            bulk(&Client::new(&remote)?, "discard", &which, &json!({}), json).await
        }
    }
}

fn confirmed(queue: &str) -> std::io::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    output::note(&format!("Delete all dead letters of {queue} for good? [y/N]"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn list(client: &Client, queue: Option<&str>, max: usize, json: bool) -> anyhow::Result<()> {
    let holders: BTreeSet<String> = match queue {
        Some(queue) => [queue.to_owned()].into(),
        // Several queues may share a dead-letter queue: each of those is listed once.
        None => {
            let all = queues::all(client).await?;
            let undeclared = all.iter().filter(|queue| !queue.declared).map(|queue| queue.name.clone());
            all.iter().filter_map(|queue| queue.dead_letter.clone()).chain(undeclared).collect()
        }
    };
    let mut rows = Vec::new();
    let mut more = false;
    for holder in &holders {
        let mut after: Option<String> = None;
        let mut left = if max == 0 { usize::MAX } else { max };
        while left > 0 {
            let mut path = format!("/v1/queues/{}/dead?max={}", segment(holder), left.min(PAGE));
            if let Some(after) = &after {
                let _ = write!(path, "&after={}", segment(after));
            }
            let page: Page = client.get(&path).await?;
            left -= page.messages.len().min(left);
            for message in &page.messages {
                let letter: Letter = serde_json::from_str(message.get())?;
                // An undeclared queue may hold messages that are alive.
                if letter.dead.is_none() {
                    continue;
                }
                if json {
                    output::line(message.get())?;
                } else {
                    rows.push(row(&letter));
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        more |= after.is_some();
    }
    if json {
        return Ok(());
    }
    if rows.is_empty() {
        output::note("There are no dead letters.");
        return Ok(());
    }
    let header = ["QUEUE", "POSITION", "ID", "TOPIC", "ATTEMPTS", "CODE", "AT", "REASON"];
    table(&header, &[0, 2, 3, 5, 6, 7], &rows, Paint::stdout()).iter().try_for_each(|line| output::line(line))?;
    if more {
        output::note("There are more; --max 0 lists all.");
    }
    Ok(())
}

async fn find(client: &Client, queue: &str, id: &str) -> anyhow::Result<Box<RawValue>> {
    Ok(client.get(&format!("/v1/queues/{}/dead/{}", segment(queue), segment(id))).await?)
}

async fn show(client: &Client, queue: &str, id: &str, json: bool) -> anyhow::Result<()> {
    let raw = find(client, queue, id).await?;
    if json {
        return Ok(output::line(raw.get())?);
    }
    let letter: Letter = serde_json::from_str(raw.get())?;
    Ok(output::line(&text(&letter, Paint::stdout()))?)
}

#[derive(Debug, Deserialize)]
struct BulkAnswer {
    changed: u64,
    skipped: u64,
    next: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Done {
    changed: u64,
    skipped: u64,
}

async fn bulk(client: &Client, call: &str, which: &Which, extra: &Value, json: bool) -> anyhow::Result<()> {
    if which.ids.is_empty() && !which.all {
        let message = format!(
            "say which dead letters of {}: their ids or positions, as `pelton dead list` shows them, or --all",
            which.queue
        );
        return Err(Failure::usage(message).into());
    }
    let path = format!("/v1/queues/{}/{call}", segment(&which.queue));
    let mut done = Done::default();
    let selections = if which.all { vec![json!({"all": true})] } else { positions(client, which).await? };
    let bar = output::spinner(if call == "redrive" { "Redriving" } else { "Discarding" }, json);
    for selection in selections {
        let mut after: Option<String> = None;
        loop {
            let mut body = selection.clone();
            merge(&mut body, extra);
            if let Some(after) = &after {
                body["after"] = json!(after);
            }
            let answer: BulkAnswer =
                client.post(&path, &body).await.map_err(|error| so_far(call, &done, error.into()))?;
            done.changed += answer.changed;
            done.skipped += answer.skipped;
            bar.set_position(done.changed);
            after = answer.next;
            if after.is_none() {
                break;
            }
        }
    }
    bar.finish_and_clear();
    if json {
        return Ok(output::json(&done)?);
    }
    let verb = if call == "redrive" { "redrove" } else { "discarded" };
    let mut line = format!("{verb} {}", output::count(done.changed, "dead letter"));
    if done.skipped > 0 {
        let _ = write!(line, "; passed over, as leased or with no queue to go to: {}", output::grouped(done.skipped));
    }
    Ok(output::line(&line)?)
}

fn so_far(call: &str, done: &Done, failure: Failure) -> Failure {
    if done.changed == 0 {
        return failure;
    }
    let exit = if failure.exit == Exit::Refused { Exit::Partial } else { failure.exit };
    Failure::new(
        exit,
        format!("{}\nbefore that, {call} changed {}; run it again for the rest", failure.message, done.changed),
    )
}

fn merge(body: &mut Value, extra: &Value) {
    if let (Some(body), Some(extra)) = (body.as_object_mut(), extra.as_object()) {
        body.extend(extra.clone());
    }
}

/// The positions of the messages named, in calls of bounded size. All are looked up before anything is changed.
async fn positions(client: &Client, which: &Which) -> anyhow::Result<Vec<Value>> {
    let mut positions = Vec::with_capacity(which.ids.len());
    for id in &which.ids {
        let letter: Letter = serde_json::from_str(find(client, &which.queue, id).await?.get())?;
        positions.push(letter.position);
    }
    Ok(positions.chunks(POSITIONS_MAX).map(|part| json!({ "positions": part })).collect())
}
