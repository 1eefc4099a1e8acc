//! Running `pelton` commands to their end.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::binary::pelton_binary;
use super::wait::BOUND;

/// How a command ended and what it printed.
#[derive(Debug)]
pub(crate) struct Output {
    /// The exit code.
    pub(crate) status: i32,
    /// Data.
    pub(crate) stdout: String,
    /// For people.
    pub(crate) stderr: String,
}

impl Output {
    /// The output of a command that did what it was asked to.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 0, "{self}");
        self
    }

    /// Its stdout as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("stdout is not JSON: {error}\n{self}"))
    }

    /// Its stdout as a JSON value per line.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}\n{self}"));
        self.stdout.lines().map(parse).collect()
    }
}

impl fmt::Display for Output {
    /// As snapshots show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}", self.status)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "\n--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// A `pelton` command in `folder`, without what the developer's environment says to it.
pub(crate) fn command(folder: &Path) -> Command {
    command_by(&[], folder)
}

/// The same, run by the program and arguments `by`, if there are any.
pub(crate) fn command_by(by: &[OsString], folder: &Path) -> Command {
    let mut command = match by {
        [] => Command::new(pelton_binary()),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(pelton_binary());
            command
        }
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PELTON_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_BACKTRACE").env("NO_COLOR", "1").current_dir(folder).stdin(Stdio::null());
    command
}

/// Runs `pelton` with `args` in `folder` to its end.
pub(crate) async fn pelton(folder: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    let mut command = command(folder);
    command.args(args);
    finish(command, BOUND).await
}

/// Runs `command` to its end; one that does not end within `bound` is killed and fails the test.
pub(crate) async fn finish(command: Command, bound: Duration) -> Output {
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the binary starts");
    let finished = tokio::time::timeout(bound, child.wait_with_output()).await;
    let output = finished.unwrap_or_else(|_| panic!("{command:?} does not end")).expect("its output can be read");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("pelton prints UTF-8");
    let status = output.status.code().expect("nobody else kills commands");
    Output { status, stdout: text(output.stdout), stderr: text(output.stderr) }
}
