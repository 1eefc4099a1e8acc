//! What can be loaded, and what each file that can't be is told.

use std::path::{Path, PathBuf};

use pelton_core::runtime::{Limits, Outcome, Runtime};
use pelton_runtime_wasm::{RuntimeOptions, WasmRuntime};

use crate::support::{delivery, guest, limits, spec};

fn runtime(cache_dir: Option<&Path>) -> WasmRuntime {
    let cache_dir = cache_dir.map(Path::to_owned);
    WasmRuntime::new(RuntimeOptions { slots: 4, cache_dir, ..RuntimeOptions::default() }).expect("a runtime")
}

/// The problem that loading `path` with `limits` comes to.
async fn problem_with(path: PathBuf, limits: Limits) -> String {
    let error = runtime(None).load(spec(path.clone(), limits)).await.err().expect("it is refused");
    assert!(error.to_string().starts_with(&format!("consumer 'tester': {}: ", path.display())), "{error}");
    error.problem
}

async fn problem(path: PathBuf) -> String {
    problem_with(path, limits()).await
}

#[tokio::test]
async fn files_that_are_no_component() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let missing = problem(folder.path().join("none.wasm")).await;
    assert_eq!(missing, "there is no such file; build the consumer, or correct its path");
    assert!(problem(folder.path().to_owned()).await.starts_with("it can't be read: "));
    let text = problem(file("text.wasm", b"(component)")).await;
    assert_eq!(text, "not WebAssembly: build the consumer for wasm32-wasip2 and give its .wasm file");
    let empty = problem(file("empty.wasm", b"")).await;
    assert_eq!(empty, text);
    let module = problem(file("module.wasm", b"\0asm\x01\0\0\0")).await;
    assert_eq!(module, "a core WebAssembly module, not a component: build for wasm32-wasip2");
    let damaged = problem(file("damaged.wasm", b"\0asm\x0d\0\x01\0\xff\xff\xff")).await;
    assert!(damaged.starts_with("not a valid component: "), "{damaged}");
    let engine = wasmtime::Engine::default();
    let native = engine.precompile_component(b"\0asm\x0d\0\x01\0").expect("an empty component");
    let native = problem(file("native.cwasm", &native)).await;
    assert_eq!(native, "native code that some wasmtime compiled, which is not accepted: give the .wasm it was made of");
}

#[tokio::test]
async fn components_that_are_no_consumer_of_this_version() {
    let program = problem(guest("program")).await;
    assert!(program.starts_with("it is a program (it exports wasi:cli/run), not a consumer"), "{program}");
    let filter = problem(guest("examples/filter")).await;
    assert_eq!(
        filter,
        "it exports pelton:broker/message-filter@0.1.0, and this Pelton does not run filters written as components yet; \
         export pelton:broker/handler@0.1.0"
    );
    let stateful = problem(guest("examples/stateful")).await;
    assert_eq!(
        stateful,
        "it imports what this Pelton does not provide: wasi:keyvalue/store@0.2.0-draft2 (state \
         (wasi:keyvalue@0.2.0-draft2) comes with a later version of Pelton)"
    );
}

#[tokio::test]
async fn memory_limits_that_can_not_work() {
    let path = guest("runtime_guest");
    let small = problem_with(path.clone(), Limits { memory_bytes: 1 << 20, ..limits() }).await;
    assert_eq!(small, "it needs at least 1.1 MiB; set memory = \"2MiB\" or more");
    let large = problem_with(path, Limits { memory_bytes: 2 << 30, ..limits() }).await;
    assert_eq!(large, "memory = 2048 MiB is more than the 1024 MiB there can be");
}

#[tokio::test]
async fn impossible_numbers_of_slots() {
    for slots in [0, 1_000_000] {
        let error = WasmRuntime::new(RuntimeOptions { slots, ..RuntimeOptions::default() }).err().expect("refused");
        assert_eq!(error.to_string(), format!("{slots} sandbox slots: from 1 to 10000 are possible"));
    }
    WasmRuntime::new(RuntimeOptions { slots: 10_000, ..RuntimeOptions::default() }).expect("the most fit");
}

/// The files of the only folder in `cache`, by their ending.
fn cached(cache: &Path, ending: &str) -> Vec<PathBuf> {
    let mut folders = std::fs::read_dir(cache).expect("a folder").map(|entry| entry.expect("an entry").path());
    let folder = folders.next().expect("one for this version");
    assert_eq!(folders.next(), None);
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

#[tokio::test]
async fn compiled_code_is_kept_and_found_again() {
    let cache = tempfile::tempdir().expect("a folder");
    let spec = || spec(guest("runtime_guest"), limits());
    let first = runtime(Some(cache.path())).load(spec()).await.expect("it loads");
    let code = cached(cache.path(), "cwasm");
    assert_eq!(code.len(), 1);
    assert!(code[0].ends_with(format!("{}.cwasm", first.digest())), "{code:?}");
    assert_eq!(cached(cache.path(), "tmp"), Vec::<PathBuf>::new());
    let modified = || std::fs::metadata(&code[0]).expect("it is there").modified().expect("a time");
    let before = modified();
    let second = runtime(Some(cache.path())).load(spec()).await.expect("it loads");
    assert_eq!(modified(), before, "not compiled again");
    assert_eq!(second.invoke(delivery(b"")).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn damaged_code_is_compiled_again_and_never_run() {
    let cache = tempfile::tempdir().expect("a folder");
    let spec = || spec(guest("runtime_guest"), limits());
    runtime(Some(cache.path())).load(spec()).await.expect("it loads");
    let code = cached(cache.path(), "cwasm").remove(0);
    let whole = std::fs::read(&code).expect("read");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for bytes in [&whole[..whole.len() / 2], &damaged, b""] {
        std::fs::write(&code, bytes).expect("written");
        let handler = runtime(Some(cache.path())).load(spec()).await.expect("it loads");
        assert_eq!(handler.invoke(delivery(b"")).await.outcome, Outcome::Done);
        assert_eq!(std::fs::read(&code).expect("read").len(), whole.len(), "made anew");
    }
}

#[tokio::test]
async fn a_cache_that_can_not_be_made_is_done_without() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = folder.path().join("file");
    std::fs::write(&taken, b"").expect("written");
    let handler = runtime(Some(&taken)).load(spec(guest("runtime_guest"), limits())).await.expect("it loads");
    assert_eq!(handler.invoke(delivery(b"")).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn many_at_once_are_compiled_once() {
    let cache = tempfile::tempdir().expect("a folder");
    let runtime = runtime(Some(cache.path()));
    let load = || runtime.load(spec(guest("runtime_guest"), limits()));
    let (one, two, three) = tokio::join!(load(), load(), load());
    let digests = [one, two, three].map(|loaded| loaded.expect("it loads").digest());
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    assert_eq!(cached(cache.path(), "cwasm").len(), 1);
}
