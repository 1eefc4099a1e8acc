//! What is run: the `pelton` binary, the guests of tests/guests and the shim of tests/shim, each built once per test run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The target that components are built for.
const WASM_TARGET: &str = "wasm32-wasip2";

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the root's tests folder")
}

/// The `pelton` binary, built in the profile and target folder of this test binary.
///
/// Cargo gives tests of another package no path to a binary, so cargo is asked for it: mostly it only answers.
pub(crate) fn pelton_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let own = std::env::current_exe().expect("a running program has a path");
        let profile_folder = own.ancestors().nth(2).expect("TARGET/PROFILE/deps/end_to_end");
        let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") => "dev",
            Some(name) => name,
            None => panic!("{} is not in a profile's folder", own.display()),
        };
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--package",
            "pelton",
            "--bin",
            "pelton",
            "--profile",
            profile,
            "--message-format=json-render-diagnostics",
        ]);
        cargo.arg("--target-dir").arg(profile_folder.parent().expect("a profile's folder is in the target folder"));
        let stdout = run(cargo.current_dir(root()));
        let messages = stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut executables = messages.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
        executables.next().expect("cargo names the executable it built")
    })
}

/// The component of the package `name` in tests/guests.
pub(crate) fn guest(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        add_wasm_target();
        let target = root().join("target/guests");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--workspace", "--target", WASM_TARGET]);
        run(cargo.current_dir(root().join("tests/guests")).env("CARGO_TARGET_DIR", &target));
        target.join(WASM_TARGET).join("release")
    });
    let path = folder.join(format!("{}.wasm", name.replace('-', "_")));
    assert!(path.is_file(), "{} does not exist: is '{name}' a package of tests/guests?", path.display());
    path
}

/// The library of tests/shim.
pub(crate) fn shim() -> PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let target = root().join("target/shim");
        let mut cargo = Command::new(env!("CARGO"));
        run(cargo.args(["build", "--release"]).current_dir(root().join("tests/shim")).env("CARGO_TARGET_DIR", &target));
        target.join("release/libpelton_shim.so")
    };
    LIBRARY.get_or_init(build).clone()
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests should know that their toolchain changes")]
fn add_wasm_target() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut question = Command::new(rustc);
    let libraries = run(question.args(["--print", "target-libdir", "--target", WASM_TARGET]).current_dir(root()));
    if !Path::new(libraries.trim()).is_dir() {
        eprintln!("The target {WASM_TARGET} is missing; adding it: rustup target add {WASM_TARGET}");
        run(Command::new("rustup").args(["target", "add", WASM_TARGET]).current_dir(root()));
    }
}

/// Runs `command` to its good end and returns its stdout.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("build tools print UTF-8")
}
