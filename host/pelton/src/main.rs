//! pelton: the binary. Command line, wiring of engine, runtime and door, and the dev runner.
//!
//! Code map: [`cli`] lists the commands, one file each under [`commands`]; [`node`] puts a broker together and takes it
//! down; [`dev`] is the dev runner; [`build`] compiles consumers, [`watch`] notices changes, [`reload`] takes them over, [`narrate`] shows deliveries; [`client`] talks to a running
//! broker; [`bench`] loads one; [`exit`] has the one table of exit codes. Everything that can be decided elsewhere is.

mod bench;
mod build;
mod bulk;
mod changes;
mod cli;
mod client;
mod commands;
mod config;
mod confirm;
mod dev;
mod exit;
mod files;
mod in_flight;
mod lines;
mod logging;
mod narrate;
mod node;
mod output;
mod publish;
mod reload;
mod sample;
mod signals;
mod storage;
mod values;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use pelton_runtime_wasm::{COMPILE_COMMAND, compile_child_main};

use crate::exit::Exit;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The runtime starts this program again for every compilation; that process does nothing else.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == COMPILE_COMMAND) {
        return compile_child_main();
    }
    match cli::run(cli::Cli::parse().command) {
        Ok(()) => Exit::Done.into(),
        Err(error) if exit::is_closed_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            output::error(&format!("{error:#}"));
            exit::code_of(&error).into()
        }
    }
}
