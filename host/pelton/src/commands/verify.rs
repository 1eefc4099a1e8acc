//! `pelton verify`: reads a data file whole and says what is in it and what is wrong with it.

use std::path::PathBuf;

use pelton_engine_redb::OpenError;

use crate::storage::{self, DataArgs, Progress};

/// Read a data file or a backup whole, and report what is in it and whether everything is right
///
/// No broker may use it meanwhile: of a store that is in use, verify a backup. Nothing is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A data file, a backup, or a data folder [default: the data folder]
    #[arg(conflicts_with = "data")]
    file: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<()> {
    let place = args.file.clone().map_or_else(|| args.data.folder(), Ok)?;
    let mut progress = Progress::new(args.json);
    let report = pelton_engine_redb::report(&place, &mut |work| progress.show(work)).map_err(|error| match error {
        OpenError::InUse { .. } => {
            storage::failure(format!("{error}\nhelp: or take a `pelton backup`, and verify that"))
        }
        other => storage::failure(other),
    })?;
    drop(progress);
    storage::show(&report, args.json)
}
