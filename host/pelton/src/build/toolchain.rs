//! The Rust toolchain: whether it can build components, and adding the target where it can't yet.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::TARGET;
use crate::exit::Failure;
use crate::output;

const NO_CARGO: &str = "cargo, which builds consumers given as `source`, is not there\n\
    help: install Rust from https://rustup.rs, or give the consumers as `component = \"NAME.wasm\"`";

/// What is known about the toolchain of each folder; a folder may pin its own by rust-toolchain.toml.
#[derive(Debug, Default)]
pub(crate) struct Toolchain {
    ready: BTreeSet<PathBuf>,
}

/// A tool of the toolchain that is in force in `folder`.
///
/// Where cargo started us (`cargo run -- dev`), it has fixed its own toolchain for its children; the consumers' folder
/// decides for itself.
pub(super) fn tool(name: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(name);
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    if std::env::var_os("CARGO").is_some() {
        command.env_remove("RUSTUP_TOOLCHAIN");
    }
    command
}

/// What to say when `name` could not be started.
pub(super) fn not_started(name: &str, error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::NotFound {
        Failure::component(NO_CARGO)
    } else {
        Failure::component(format!("{name} can't be started: {error}"))
    }
}

impl Toolchain {
    /// Makes sure that the target is installed for builds in `folder`; adds it where rustup can.
    pub(super) async fn ensure_target(&mut self, folder: &Path) -> Result<(), Failure> {
        if self.ready.contains(folder) {
            return Ok(());
        }
        if !has_target(folder).await? {
            add_target(folder).await?;
        }
        self.ready.insert(folder.to_owned());
        Ok(())
    }
}

/// Whether the standard library of the target is where rustc looks for it.
async fn has_target(folder: &Path) -> Result<bool, Failure> {
    let mut rustc = tool("rustc", folder);
    rustc.args(["--print", "target-libdir", "--target", TARGET]).stderr(Stdio::null());
    let output = rustc.output().await.map_err(|error| not_started("rustc", &error))?;
    let libdir = String::from_utf8_lossy(&output.stdout);
    Ok(output.status.success() && Path::new(libdir.trim()).is_dir())
}

async fn add_target(folder: &Path) -> Result<(), Failure> {
    let without = |why: String| {
        Failure::component(format!(
            "the Rust target {TARGET}, which components are built for, is not installed, and {why}\n\
             help: install Rust from https://rustup.rs and run `rustup target add {TARGET}`, or your distribution's package of it"
        ))
    };
    output::note(&format!(
        "Adding the Rust target {TARGET}, which components are built for: rustup target add {TARGET}"
    ));
    let status = tool("rustup", folder).args(["target", "add", TARGET]).stdout(Stdio::null()).status().await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(without(format!("`rustup target add {TARGET}` failed, as said above"))),
        Err(_) => Err(without("rustup, which could add it, is not there".to_owned())),
    }
}
