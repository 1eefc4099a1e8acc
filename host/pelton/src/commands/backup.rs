//! `pelton backup`: a consistent copy of a store, of a running broker or of a data folder that none uses.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pelton_core::clock::SystemClock;
use pelton_core::engine::Engine as _;
use pelton_core::metrics::Metrics;
use pelton_core::operator::{Backup as _, BackupFile};
use pelton_engine_redb::{DATA_FILE, OpenOptions, RedbEngine, Tuning};
use reqwest::Method;
use serde::Serialize;

use crate::client::{Client, RemoteArgs};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::storage::{self, NewFile};

/// Making the copy may take as long as reading and writing the whole store, and nothing is sent before it is made.
const ANSWER_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// Copy the store of a running broker into a file, as one moment saw it
///
/// Publishing and consuming go on. `pelton restore` makes the file the data of a folder, `pelton verify` checks it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to write
    file: PathBuf,
    /// Copy this data folder instead, which no broker uses
    #[arg(long, value_name = "FOLDER")]
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

#[derive(Debug, Serialize)]
struct Written<'a> {
    file: &'a Path,
    bytes: u64,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let mut new = NewFile::begin(&args.file, args.force)?;
    tokio::select! {
        written = write(&args, &mut new) => written?,
        // What is there of it is removed on the way out.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            return Err(Failure::new(Exit::Failed, "interrupted; there is no backup").into());
        }
    }
    let bytes = std::fs::metadata(new.building()).map_or(0, |metadata| metadata.len());
    new.finish()?;
    let written = Written { file: &args.file, bytes };
    if args.json {
        return Ok(output::json(&written)?);
    }
    Ok(output::line(&format!("wrote {}, {} B", args.file.display(), output::grouped(bytes)))?)
}

async fn write(args: &Args, new: &mut NewFile) -> anyhow::Result<()> {
    match &args.data {
        None => download(&Client::new(&args.remote)?, new, args.json).await,
        Some(folder) => copy(folder, new, args.json).await,
    }
}

/// Writes the store of a running broker to `new`.
pub(crate) async fn download(client: &Client, new: &mut NewFile, quiet: bool) -> anyhow::Result<()> {
    let waiting = output::spinner("Waiting for the broker's copy", quiet);
    waiting.tick();
    let request = client.request(Method::GET, "/v1/backup").timeout(ANSWER_WITHIN);
    let mut response = client.send(request).await?;
    waiting.finish_and_clear();
    let bar = output::bytes_bar(response.content_length().unwrap_or_default(), "Copying", quiet);
    loop {
        // An answer that ends before its length is an error, too.
        let chunk = response.chunk().await.map_err(|error| {
            Failure::new(Exit::Unavailable, format!("the copy broke off, so there is no backup: {error}; try again"))
        })?;
        let Some(chunk) = chunk else { break };
        new.append(&chunk)?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Writes the store of the data folder `dir` to `new`.
async fn copy(dir: &Path, new: &mut NewFile, quiet: bool) -> anyhow::Result<()> {
    let file = dir.join(DATA_FILE);
    if !file.is_file() {
        return Err(storage::failure(format!("there is no data in {}: it has no {DATA_FILE}", dir.display())).into());
    }
    let spinner = output::spinner("Copying the store", quiet);
    spinner.tick();
    let engine = open(dir.to_owned()).await?;
    let copied = engine.backup().await;
    engine.close(CLOSE_WITHIN).await;
    spinner.finish_and_clear();
    let copied = copied.map_err(|error| storage::failure(format!("{} can't be copied: {error}", dir.display())))?;
    take(&copied, new, quiet)
}

async fn open(dir: PathBuf) -> anyhow::Result<RedbEngine> {
    let clock = Arc::new(SystemClock::new());
    let metrics = Metrics::new().engine.clone();
    let options = OpenOptions { dir, clock, metrics, tuning: Tuning::default(), seed: fastrand::u64(..) };
    let opened = tokio::task::spawn_blocking(move || RedbEngine::open(options)).await;
    Ok(opened.context("the store can't be opened")?.map_err(storage::failure)?)
}

/// Moves the copy, or where it lies on another disk copies it.
fn take(copied: &BackupFile, new: &mut NewFile, quiet: bool) -> anyhow::Result<()> {
    if std::fs::rename(copied.path(), new.building()).is_ok() {
        return Ok(());
    }
    let mut from = std::fs::File::open(copied.path()).context("the copy can't be read")?;
    let bar = output::bytes_bar(copied.bytes(), "Copying", quiet);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = std::io::Read::read(&mut from, &mut buffer).context("the copy can't be read")?;
        if read == 0 {
            bar.finish_and_clear();
            return Ok(());
        }
        new.append(&buffer[..read])?;
        bar.inc(read as u64);
    }
}
