//! Compiling in a child process. Without a harness: this program is its own child.

mod support;

use std::process::ExitCode;

use pelton_core::runtime::{Outcome, Runtime as _};
use pelton_runtime_wasm::{COMPILE_COMMAND, Compiler, RuntimeOptions, WasmRuntime, compile_child_main};

use crate::support::{delivery, guest, limits, spec};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(COMPILE_COMMAND) {
        return compile_child_main();
    }
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
    executor.block_on(async {
        what_a_child_compiled_runs().await;
        what_is_wrong_comes_through().await;
        a_child_that_can_not_start_is_named().await;
    });
    ExitCode::SUCCESS
}

fn runtime(compiler: Compiler, backtrace_lines: bool) -> WasmRuntime {
    let options = RuntimeOptions { slots: 4, compiler, backtrace_lines, ..RuntimeOptions::default() };
    WasmRuntime::new(options).expect("a runtime")
}

async fn what_a_child_compiled_runs() {
    for backtrace_lines in [false, true] {
        let runtime = runtime(Compiler::this_program(), backtrace_lines);
        let handler = runtime.load(spec(guest("runtime_guest"), limits())).await.expect("it loads");
        assert_eq!(handler.invoke(delivery(b"")).await.outcome, Outcome::Done);
    }
}

async fn what_is_wrong_comes_through() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged.wasm");
    let mut damaged = std::fs::read(guest("runtime_guest")).expect("read");
    damaged.truncate(damaged.len() / 2);
    std::fs::write(&path, damaged).expect("written");
    let error = runtime(Compiler::this_program(), false).load(spec(path, limits())).await.err().expect("refused");
    assert!(error.problem.starts_with("not a valid component: "), "{error}");
}

async fn a_child_that_can_not_start_is_named() {
    let compiler = Compiler::Child { program: "/nowhere".into(), arguments: Vec::new() };
    let error = runtime(compiler, false).load(spec(guest("runtime_guest"), limits())).await.err().expect("refused");
    assert!(error.problem.starts_with("the compiling process can't be run: "), "{error}");
    let compiler = Compiler::Child { program: "/bin/false".into(), arguments: Vec::new() };
    let error = runtime(compiler, false).load(spec(guest("runtime_guest"), limits())).await.err().expect("refused");
    assert!(error.problem.starts_with("compiling it failed (exit status: 1; it may use 4096 MiB"), "{error}");
}
