//! `pelton dead`: list, show, redrive and discard dead letters.

mod letter;
mod which;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use self::letter::{Letter, row, text};
use self::which::Which;
use crate::bulk::{Done, Pace};
use crate::client::{Client, RemoteArgs, segment};
use crate::commands::queues;
use crate::confirm;
use crate::output::{self, Paint, table};
use crate::values::rate;

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
        /// At most so many in a time, like 100/s, 600/min or 1/h [default: as fast as can be]
        #[arg(long, value_parser = rate)]
        rate: Option<f64>,
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
        /// Do not ask, where they are not named one by one
        #[arg(long)]
        yes: bool,
        /// Print what was done as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

#[derive(Debug, Deserialize)]
struct Page {
    messages: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// Messages per page; the most that the API gives.
const PAGE: usize = 1000;

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List { queue, max, json, remote } => list(&Client::new(&remote)?, queue.as_deref(), max, json).await,
        Command::Show { queue, id, json, remote } => show(&Client::new(&remote)?, &queue, &id, json).await,
        Command::Redrive { which, to, rate, json, remote } => {
            which.check()?;
            change(&Client::new(&remote)?, Call::Redrive(to), &which, rate, json).await
        }
        Command::Discard { which, yes, json, remote } => {
            which.check()?;
            if !which.are_named() && !yes {
                let question = format!("Delete {} of {} for good?", which.words(), which.queue);
                confirm::ask(&question, "--yes confirms it")?;
            }
            change(&Client::new(&remote)?, Call::Discard, &which, None, json).await
        }
    }
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

/// Sends `call` for each of the dead letters, and says what became of them.
async fn change(client: &Client, call: Call, which: &Which, rate: Option<f64>, json: bool) -> anyhow::Result<()> {
    let path = format!("/v1/queues/{}/{}", segment(&which.queue), call.path());
    let selections = which.selections(client).await?;
    let all = dead_letters_of(client, &which.queue).await?;
    let bar = match which.count(all) {
        Some(total) => output::bar(total, call.doing(), json),
        None => output::spinner(call.doing(), json),
    };
    let (mut done, pace) = (Done::default(), Pace::new(rate));
    for selection in selections {
        let changing = done.run(&bar, &pace, call.done(), async |max, after| {
            let mut body = selection.clone();
            body.insert("max".to_owned(), json!(max));
            let to = call.to().map(|to| ("to", json!(to)));
            let after = after.map(|after| ("after", json!(after)));
            body.extend(to.into_iter().chain(after).map(|(name, value)| (name.to_owned(), value)));
            client.post(&path, &Value::Object(body)).await
        });
        changing.await?;
    }
    bar.finish_and_clear();
    if json {
        return Ok(output::json(&done)?);
    }
    let mut line = format!("{} {}", call.done(), output::count(done.changed, "dead letter"));
    if done.skipped > 0 {
        let why = if call.to().is_some() || matches!(call, Call::Discard) {
            "leased"
        } else {
            "leased or with no queue to go to"
        };
        let _ = write!(line, "; passed over, as {why}: {}", output::grouped(done.skipped));
    }
    Ok(output::line(&line)?)
}

/// What becomes of dead letters.
enum Call {
    /// Back, or to this queue.
    Redrive(Option<String>),
    Discard,
}

impl Call {
    fn path(&self) -> &'static str {
        match self {
            Self::Redrive(_) => "redrive",
            Self::Discard => "discard",
        }
    }

    fn to(&self) -> Option<&str> {
        match self {
            Self::Redrive(to) => to.as_deref(),
            Self::Discard => None,
        }
    }

    fn doing(&self) -> &'static str {
        match self {
            Self::Redrive(_) => "Redriving",
            Self::Discard => "Discarding",
        }
    }

    fn done(&self) -> &'static str {
        match self {
            Self::Redrive(_) => "redrove",
            Self::Discard => "discarded",
        }
    }
}

/// How many dead letters there are of `queue`, which may be the queue that holds them.
async fn dead_letters_of(client: &Client, queue: &str) -> anyhow::Result<u64> {
    let queue: queues::Queue = client.get(&format!("/v1/queues/{}", segment(queue))).await?;
    Ok(if queue.dead_letter.is_some() { queue.dead } else { queue.messages() })
}
