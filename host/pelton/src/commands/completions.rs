//! `pelton completions`: a completion script for a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::cli::Cli::command(), "pelton", &mut script);
    let text = String::from_utf8(script)?;
    Ok(crate::output::line(text.trim_end())?)
}
