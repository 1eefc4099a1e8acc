//! Compiling components, where it can't hurt deliveries: in a process of its own, or on a thread of its own.
//!
//! Cranelift can be neither interrupted nor bounded from within, so the process is the bound: it is nice, and its memory and
//! CPU time are limited. One runs at a time. The component goes in through stdin, the compiled code comes out of stdout,
//! what is wrong with the component comes out of stderr.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};
use wasmtime::Engine;

use crate::pool::compile_config;

/// The first argument of a process that is to compile: a program that gives [`Compiler::this_program`] to the runtime calls
/// [`compile_child_main`] when it finds this argument, before it does anything else.
pub const COMPILE_COMMAND: &str = "compile-component";

const BACKTRACE_LINES: &str = "--backtrace-lines";
/// How nice a compilation is to everything else.
const NICENESS: i32 = 10;
/// Memory of a compiling process, in bytes. Compiling an 18 MB component from Python takes about a gigabyte.
const COMPILE_BYTES_MAX: u64 = 4 << 30;
/// CPU time of a compiling process over all its threads, in seconds.
const COMPILE_CPU_SECONDS_MAX: u64 = 300;
/// Threads of a compiling process.
const COMPILE_THREADS_MAX: usize = 4;
/// Longest account of what is wrong with a component, in bytes.
const PROBLEM_BYTES_MAX: usize = 2048;

/// Where components are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// In a process: this program with these arguments, which ends up in [`compile_child_main`].
    Child {
        /// The program.
        program: PathBuf,
        /// Its arguments, [`COMPILE_COMMAND`] among them.
        arguments: Vec<OsString>,
    },
    /// On a nice thread of this process. Unbounded: for tests, and where no process can be started.
    InProcess,
}

impl Compiler {
    /// The running program as its own compiler: `PROGRAM compile-component`.
    #[must_use]
    pub fn this_program() -> Self {
        let arguments = vec![COMPILE_COMMAND.into()];
        // On Linux this names the running program also after its file was replaced.
        if cfg!(target_os = "linux") {
            return Self::Child { program: "/proc/self/exe".into(), arguments };
        }
        match std::env::current_exe() {
            Ok(program) => Self::Child { program, arguments },
            Err(_) => Self::InProcess,
        }
    }

    /// The compiled form of `wasm`. Blocks for milliseconds to minutes.
    ///
    /// # Errors
    /// What is wrong with the component, or why it could not be compiled.
    pub(crate) fn compile(&self, wasm: &[u8], backtrace_lines: bool) -> Result<Vec<u8>, String> {
        match self {
            Self::Child { program, arguments } => {
                let mut command = Command::new(program);
                command.args(arguments).args(backtrace_lines.then_some(BACKTRACE_LINES));
                compile_in_child(command, wasm)
            }
            Self::InProcess => std::thread::scope(|scope| {
                let compiling = std::thread::Builder::new().name("pelton-compile".into()).spawn_scoped(scope, || {
                    // On Linux niceness is a thread's, and this one ends with the compilation.
                    if cfg!(target_os = "linux") {
                        let _ = rustix::process::nice(NICENESS);
                    }
                    compile(wasm, backtrace_lines, false)
                });
                let compiling = compiling.map_err(|error| format!("no thread to compile it on: {error}"))?;
                compiling.join().unwrap_or_else(|_| Err("the compiler panicked".into()))
            }),
        }
    }
}

fn compile(wasm: &[u8], backtrace_lines: bool, parallel: bool) -> Result<Vec<u8>, String> {
    let mut config = compile_config(backtrace_lines);
    config.parallel_compilation(parallel);
    let engine = Engine::new(&config).map_err(|error| format!("{error:#}"))?;
    engine.precompile_component(wasm).map_err(|error| format!("not a valid component: {error:#}"))
}

fn compile_in_child(mut command: Command, wasm: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("the compiling process can't be run: {error}");
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(COMPILE_THREADS_MAX);
    // Nothing that the environment holds is of use to it, and what it compiles is not trusted.
    command.env_clear().env("RAYON_NUM_THREADS", threads.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // It reads all before it writes anything. Where it ended early, its status tells more than a broken pipe does.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(wasm);
    }
    let Output { status, stdout, stderr } = child.wait_with_output().map_err(failed)?;
    if status.success() {
        return Ok(stdout);
    }
    let mut problem = String::from_utf8_lossy(&stderr).trim().to_owned();
    problem.truncate(problem.floor_char_boundary(PROBLEM_BYTES_MAX));
    if status.code() == Some(i32::from(EXIT_PROBLEM)) {
        return Err(problem);
    }
    let limits =
        format!("{} of memory and {COMPILE_CPU_SECONDS_MAX} s of CPU time", crate::fault::mib(COMPILE_BYTES_MAX));
    Err(format!("compiling it failed ({status}; it may use {limits}) {problem}").trim_end().to_owned())
}

/// The exit status that says: the component is wrong, and stderr says why.
const EXIT_PROBLEM: u8 = 3;

/// The whole life of a compiling process: limits itself, compiles stdin to stdout.
///
/// Call it, and return what it returns from `main`, when the first argument is [`COMPILE_COMMAND`].
#[must_use]
pub fn compile_child_main() -> ExitCode {
    let backtrace_lines = std::env::args_os().any(|argument| argument == BACKTRACE_LINES);
    let result = limit_this_process().and_then(|()| {
        let mut wasm = Vec::new();
        std::io::stdin().read_to_end(&mut wasm).map_err(|error| format!("it can't be read: {error}"))?;
        let code = compile(&wasm, backtrace_lines, true)?;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&code).and_then(|()| stdout.flush()).map_err(|error| format!("it can't be passed on: {error}"))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = std::io::stderr().write_all(problem.as_bytes());
            ExitCode::from(EXIT_PROBLEM)
        }
    }
}

fn limit_this_process() -> Result<(), String> {
    let limit = |resource, value| {
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        setrlimit(resource, limit).map_err(|error| format!("the compiling process can't be limited: {error}"))
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Cpu, COMPILE_CPU_SECONDS_MAX)?;
    // Not the address space: threads reserve far more of that than they use.
    limit(Resource::Data, COMPILE_BYTES_MAX)?;
    // Where memory runs out all the same, this process is the one to go. Elsewhere than on Linux there is no such file.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // A nicer start by its parent stays as it is.
    let _ = rustix::process::nice(NICENESS);
    Ok(())
}
