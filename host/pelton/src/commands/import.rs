//! `pelton import`: messages from lines of JSON into a data folder.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pelton_core::clock::{Clock as _, SystemClock};
use pelton_engine_redb::{ImportError, ImportOptions, Imported, import};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output;
use crate::storage::{DataArgs, Progress};

/// Append messages to the queues of a data folder that no broker uses, from lines of JSON
///
/// The lines are as `pelton export` writes them. Bounds of queues don't hold here, and doubles are not recognised.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to read; '-' is stdin
    file: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Print what was imported as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Summary<'a> {
    messages: u64,
    queues: BTreeMap<&'a str, u64>,
    created: Vec<&'a str>,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<()> {
    let (mut input, bytes): (Box<dyn BufRead>, _) = if args.file == Path::new("-") {
        (Box::new(BufReader::new(std::io::stdin())), None)
    } else {
        let unreadable = || format!("{} can't be read", args.file.display());
        let opened = std::fs::File::open(&args.file).with_context(unreadable)?;
        let bytes = opened.metadata().with_context(unreadable)?.len();
        (Box::new(BufReader::new(opened)), Some(bytes))
    };
    let options = ImportOptions { dir: args.data.folder()?, now: SystemClock::new().wall(), seed: fastrand::u64(..) };
    let mut progress = Progress::of_input(args.json, bytes);
    let imported = import(&mut input, &options, &mut |work| progress.show(work));
    drop(progress);
    match imported {
        Ok(imported) => tell(&imported, args.json),
        Err(error) => {
            if let Some(imported) = error.in_store().filter(|imported| imported.messages > 0) {
                tell(imported, args.json)?;
            }
            Err(Failure::new(exit_of(&error), error.to_string()).into())
        }
    }
}

fn exit_of(error: &ImportError) -> Exit {
    match error {
        ImportError::Open(_) | ImportError::Storage { .. } => Exit::Data,
        ImportError::Line { imported, .. } | ImportError::Input { imported, .. } => {
            if imported.messages > 0 {
                Exit::Partial
            } else {
                Exit::Failed
            }
        }
    }
}

fn tell(imported: &Imported, json: bool) -> anyhow::Result<()> {
    let Imported { messages, queues, created } = imported;
    if json {
        let queues = queues.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        let created = created.iter().map(|name| name.as_str()).collect();
        return Ok(output::json(&Summary { messages: *messages, queues, created })?);
    }
    let count = output::count(queues.len() as u64, "queue");
    output::line(&format!("imported {} into {count}", output::count(*messages, "message")))?;
    for name in created {
        output::note(&format!("Queue {name} is new; it has every default until a broker.toml names it."));
    }
    Ok(())
}
