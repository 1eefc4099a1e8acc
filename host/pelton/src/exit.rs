//! The one table of exit codes, and the error that carries one to `main`.
//!
//! Invariant: every way a command can end has its code here; `--help` and CLI.md show the same table.

use std::fmt;
use std::process::ExitCode;

/// How a command ended, as a shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All was done.
    Done = 0,
    /// Something that has no code of its own.
    Failed = 1,
    /// The command line is wrong; clap uses this code too.
    Usage = 2,
    /// broker.toml is missing or wrong.
    Config = 3,
    /// A component can't be built or used.
    Component = 4,
    /// The address can't be listened on.
    Address = 5,
    /// The data folder can't be used.
    Data = 6,
    /// No broker answers.
    Unreachable = 7,
    /// The broker refused; nothing was done.
    Refused = 8,
    /// Some was done, some was refused.
    Partial = 9,
    /// The broker could not, or does not know whether it did.
    Unavailable = 10,
}

impl Exit {
    /// Every code, in order.
    #[cfg(test)]
    const ALL: [Self; 11] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Config,
        Self::Component,
        Self::Address,
        Self::Data,
        Self::Unreachable,
        Self::Refused,
        Self::Partial,
        Self::Unavailable,
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The table as `--help` shows it.
pub(crate) const TABLE: &str = "\
Exit codes:
   0  done
   1  failed in a way that has no code of its own
   2  wrong command line
   3  broker.toml is missing or wrong
   4  a component can't be built or used
   5  the address can't be listened on
   6  the data folder can't be used: in use, read-only, not ours, newer or damaged
   7  no broker answers at the URL
   8  the broker refused the request; nothing was done
   9  part of it was done and part was refused
  10  the broker could not do it right now, or does not know whether it was done; repeat it";

/// An error whose text is for people, complete with its remedy, and whose exit code is known.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(Exit::Config, message)
    }

    pub(crate) fn component(message: impl Into<String>) -> Self {
        Self::new(Exit::Component, message)
    }

    /// Several problems as one: a single one as it is, more of them each with its own `error:`.
    pub(crate) fn several(exit: Exit, problems: &[String]) -> Self {
        match problems {
            [only] => Self::new(exit, only.as_str()),
            several => {
                let each: Vec<_> = several.iter().map(|problem| format!("error: {problem}")).collect();
                Self::new(exit, each.join("\n\n"))
            }
        }
    }

    /// Several problems with components as one.
    pub(crate) fn components(problems: &[String]) -> Self {
        Self::several(Exit::Component, problems)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The code that `error` ends the process with.
pub(crate) fn code_of(error: &anyhow::Error) -> Exit {
    error.downcast_ref::<Failure>().map_or(Exit::Failed, |failure| failure.exit)
}

/// Whether somebody closed our stdout: `pelton queues | head -1`. Nothing is wrong then, and nothing is said.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let broken = |io: &std::io::Error| io.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(broken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_code_once() {
        let listed: Vec<u8> = TABLE.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| *exit as u8).collect();
        assert_eq!(listed, codes);
    }

    #[test]
    fn the_reference_has_the_same_table() {
        let reference = include_str!("../CLI.md");
        for line in TABLE.lines().skip(1) {
            let (code, meaning) = line.trim().split_once("  ").expect("code and meaning");
            let row = format!("| {code} | {meaning} |");
            assert!(reference.contains(&row), "CLI.md lacks the row {row:?}");
        }
    }

    #[test]
    fn errors_carry_their_code_through_context() {
        let error = anyhow::Error::from(Failure::config("wrong")).context("while starting");
        assert_eq!(code_of(&error), Exit::Config);
        assert_eq!(code_of(&anyhow::anyhow!("other")), Exit::Failed);
    }
}
