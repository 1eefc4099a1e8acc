//! The command line as a whole: every command, and which executor it runs on.

use clap::{Parser, Subcommand};

use crate::commands;
use crate::exit::TABLE;

/// A message broker that runs your consumers
///
/// It stores messages durably, routes them by rules in broker.toml, and invokes a sandboxed WebAssembly component for
/// every delivery. `pelton dev` builds and runs what broker.toml describes; `pelton serve` runs it in production.
#[derive(Debug, Parser)]
#[command(name = "pelton", version, after_help = TABLE, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dev(commands::dev::Args),
    Serve(commands::serve::Args),
    Check(commands::check::Args),
    Build(commands::build::Args),
    Publish(commands::publish::Args),
    Lease(commands::lease::Args),
    Settle(commands::settle::Args),
    Cancel(commands::cancel::Args),
    Queues(commands::queues::Args),
    Consumers(commands::consumers::Args),
    Schedules(commands::schedules::Args),
    Pause(commands::pause::Args),
    Resume(commands::resume::Args),
    Reset(commands::reset::Args),
    Purge(commands::purge::Args),
    Dead(commands::dead::Args),
    Reload(commands::reload::Args),
    Backup(commands::backup::Args),
    Restore(commands::restore::Args),
    Verify(commands::verify::Args),
    Export(commands::export::Args),
    Import(commands::import::Args),
    Bench(commands::bench::Args),
    Completions(commands::completions::Args),
}

/// Does what was asked.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Dev(args) => commands::dev::execute(args),
        Command::Serve(args) => commands::serve::execute(args),
        Command::Check(args) => on_one_thread(commands::check::execute(args)),
        Command::Build(args) => on_one_thread(commands::build::execute(args)),
        Command::Publish(args) => on_one_thread(commands::publish::execute(args)),
        Command::Lease(args) => on_one_thread(commands::lease::execute(args)),
        Command::Settle(args) => on_one_thread(commands::settle::execute(args)),
        Command::Queues(args) => on_one_thread(commands::queues::execute(args)),
        Command::Consumers(args) => on_one_thread(commands::consumers::execute(args)),
        Command::Cancel(args) => on_one_thread(commands::cancel::execute(args)),
        Command::Pause(args) => on_one_thread(commands::pause::execute(args)),
        Command::Resume(args) => on_one_thread(commands::resume::execute(args)),
        Command::Reset(args) => on_one_thread(commands::reset::execute(args)),
        Command::Purge(args) => on_one_thread(commands::purge::execute(args)),
        Command::Reload(args) => on_one_thread(commands::reload::execute(args)),
        Command::Backup(args) => on_one_thread(commands::backup::execute(args)),
        Command::Restore(args) => commands::restore::execute(&args),
        Command::Verify(args) => commands::verify::execute(&args),
        Command::Export(args) => on_one_thread(commands::export::execute(args)),
        Command::Import(args) => commands::import::execute(&args),
        Command::Schedules(args) => on_one_thread(commands::schedules::execute(args)),
        Command::Dead(args) => on_one_thread(commands::dead::execute(args)),
        Command::Bench(args) => commands::bench::execute(args),
        Command::Completions(args) => commands::completions::execute(&args),
    }
}

fn on_one_thread(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command, flag and value has its place in the reference.
    #[test]
    fn the_reference_is_complete() {
        let reference = include_str!("../CLI.md");
        let mut open: Vec<(String, clap::Command)> = vec![(String::new(), Cli::command())];
        while let Some((path, command)) = open.pop() {
            for below in command.get_subcommands() {
                let path = format!("{path}{} ", below.get_name());
                open.push((path, below.clone()));
            }
            if path.is_empty() {
                continue;
            }
            assert!(
                reference.contains(&format!("pelton {}", path.trim_end())),
                "CLI.md does not mention 'pelton {path}'"
            );
            for flag in command.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| *flag != "help") {
                assert!(
                    reference.contains(&format!("--{flag}")),
                    "CLI.md does not mention --{flag} of 'pelton {path}'"
                );
            }
        }
    }

    #[test]
    fn the_help_shows_the_exit_codes() {
        assert!(Cli::command().render_help().to_string().contains(TABLE));
    }
}
