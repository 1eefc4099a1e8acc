//! `pelton export`: the messages of a store as lines of JSON.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use pelton_core::name::QueueName;
use pelton_engine_redb::{ExportError, Exported, export};
use serde::Serialize;

use crate::client::{Client, RemoteArgs};
use crate::commands::backup;
use crate::config::folder_of;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::storage::{self, NewFile, Progress};

/// Write the messages of a running broker as lines of JSON, as one moment saw them
///
/// Each line is a message in a queue, with all that is known of it: `pelton import` reads them. Nothing is leased or changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to write; '-' is stdout
    file: PathBuf,
    /// Only messages of this queue; may be given several times
    #[arg(long = "queue", value_name = "QUEUE", value_parser = queue)]
    queues: Vec<QueueName>,
    /// From this data folder instead, which no broker uses, or from this backup
    #[arg(long, value_name = "PLACE")]
    data: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

fn queue(text: &str) -> Result<QueueName, String> {
    QueueName::new(text).map_err(|error| error.to_string())
}

#[derive(Debug, Serialize)]
struct Summary<'a> {
    messages: u64,
    queues: BTreeMap<&'a str, u64>,
    problems: &'a [String],
    problems_left_out: u64,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let is_stdout = args.file == Path::new("-");
    let mut new = if is_stdout { None } else { Some(NewFile::begin(&args.file, args.force)?) };
    // Made here and removed at the end: the copy of a running broker's store.
    let folder;
    let place = match &args.data {
        Some(place) => place.clone(),
        None => {
            // Where the lines will be, there is room.
            let beside = if is_stdout { std::env::temp_dir() } else { folder_of(&args.file) };
            folder = tempfile::Builder::new().prefix("pelton-export.").suffix(".part").tempdir_in(beside)?;
            let place = folder.path().join("store");
            let mut copy = NewFile::begin(&place, false)?;
            backup::download(&Client::new(&args.remote)?, &mut copy, args.json).await?;
            copy.finish()?;
            place
        }
    };
    let exported = match &mut new {
        Some(file) => {
            let exported = write(&place, &args, file)?;
            if let Some(file) = new {
                file.finish()?;
            }
            exported
        }
        None => write(&place, &args, &mut std::io::stdout().lock())?,
    };
    tell(&exported, &args, is_stdout)?;
    verdict(&exported, &args)
}

fn write(place: &Path, args: &Args, out: &mut dyn Write) -> anyhow::Result<Exported> {
    let wanted = |name: &QueueName| args.queues.is_empty() || args.queues.contains(name);
    let mut progress = Progress::new(args.json);
    let exported = export(place, &wanted, &mut BufWriter::new(out), &mut |work| progress.show(work));
    exported.map_err(|error| match error {
        ExportError::Open(error) => storage::failure(error).into(),
        ExportError::Output(error) => anyhow::Error::from(error).context("the messages can't be written"),
    })
}

fn tell(exported: &Exported, args: &Args, is_stdout: bool) -> anyhow::Result<()> {
    for unknown in unknown(exported, args) {
        output::warning(&format!("there is no queue '{unknown}', so nothing of it was written"));
    }
    let problems = exported.problems.as_slice();
    if args.json && !is_stdout {
        let queues = exported.queues.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        let (messages, problems_left_out) = (exported.messages(), exported.problems_left_out);
        return Ok(output::json(&Summary { messages, queues, problems, problems_left_out })?);
    }
    problems.iter().for_each(|problem| output::warning(&output::tame(problem)));
    let queues = exported.queues.iter().filter(|(_, count)| *count > 0).count();
    let (messages, queues) = (output::count(exported.messages(), "message"), output::count(queues as u64, "queue"));
    let line = format!("exported {messages} of {queues}");
    if is_stdout {
        output::note(&line);
        return Ok(());
    }
    Ok(output::line(&line)?)
}

/// The queues that were named and that there are not.
fn unknown<'a>(exported: &Exported, args: &'a Args) -> impl Iterator<Item = &'a QueueName> {
    let is_unknown = move |queue: &&QueueName| exported.queues.iter().all(|(name, _)| name != *queue);
    args.queues.iter().filter(is_unknown)
}

fn verdict(exported: &Exported, args: &Args) -> anyhow::Result<()> {
    let unknown = unknown(exported, args).count() as u64;
    match unknown + exported.problems.len() as u64 + exported.problems_left_out {
        0 => Ok(()),
        problems => {
            let problems = output::count(problems, "problem");
            let message = format!("not everything could be written as it is: {problems}; the rest is written");
            Err(Failure::new(Exit::Partial, message).into())
        }
    }
}
