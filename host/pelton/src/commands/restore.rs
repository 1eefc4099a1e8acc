//! `pelton restore`: makes a backup the data of a folder that has none.

use std::path::PathBuf;

use crate::storage::{self, DataArgs, Progress};

/// Make a backup the data of a folder that has none yet
///
/// The copy is read whole before it counts. What was accepted after the backup was made is not in it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What `pelton backup` wrote
    file: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Print what was restored as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<()> {
    let folder = args.data.folder()?;
    let mut progress = Progress::new(args.json);
    let restored = pelton_engine_redb::restore(&args.file, &folder, fastrand::u64(..), &mut |work| progress.show(work));
    let report = restored.map_err(storage::failure)?;
    drop(progress);
    storage::show(&report, args.json)
}
