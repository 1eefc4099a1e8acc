//! What the tests and the benchmark share: the guests, built once, and short ways to load and invoke them.

#![allow(dead_code, reason = "each of the programs that include this uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pelton_core::message::{Attributes, Message};
use pelton_core::name::{ConsumerName, Topic};
use pelton_core::runtime::{ComponentSpec, Delivery, EmitGate, Limits};

const TARGET: &str = "wasm32-wasip2";

/// The file of a guest: `runtime_guest`, `program`, `examples/stateful`, `examples/filter`.
pub(crate) fn guest(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build).join(format!("{name}.wasm"))
}

fn build() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = package.join("../../target/guests");
    add_target(package);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--release", "--target", TARGET, "--lib", "--bins", "--examples"]);
    cargo.arg("--manifest-path").arg(package.join("tests/guest/Cargo.toml")).arg("--target-dir").arg(&target);
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
    assert!(cargo.status().expect("cargo runs").success(), "the guests can't be built");
    target.join(TARGET).join("release")
}

/// Adds the target that the guests are built for, if it is missing.
#[expect(clippy::print_stderr, reason = "a test that installs something says so")]
fn add_target(package: &Path) {
    let rustc = || {
        let mut command = Command::new("rustc");
        command.current_dir(package);
        command
    };
    let folder = rustc().args(["--print", "target-libdir", "--target", TARGET]).output().expect("rustc runs").stdout;
    if Path::new(String::from_utf8_lossy(&folder).trim()).exists() {
        return;
    }
    eprintln!("Adding the target {TARGET}, which the guests of the tests are built for: rustup target add {TARGET}");
    let status = Command::new("rustup").args(["target", "add", TARGET]).current_dir(package).status();
    assert!(status.expect("rustup runs").success(), "the target {TARGET} can't be added");
}

/// Limits that nothing in the tests runs into unless it means to.
pub(crate) fn limits() -> Limits {
    Limits {
        memory_bytes: 64 << 20,
        timeout: Duration::from_secs(20),
        emits_max: 100,
        emit_bytes_max: 1 << 20,
        log_bytes_max: 64 * 1024,
    }
}

/// The consumer `tester` made of `path`.
pub(crate) fn spec(path: PathBuf, limits: Limits) -> ComponentSpec {
    let consumer = ConsumerName::new("tester").expect("a name");
    let config = vec![("threshold".to_owned(), "3".to_owned()), ("region".to_owned(), "eu".to_owned())];
    ComponentSpec { consumer, path, limits, config }
}

/// Routes `orders.*`.
struct Orders;

impl EmitGate for Orders {
    fn routes(&self, topic: &Topic) -> bool {
        topic.as_str().starts_with("orders.")
    }
}

/// A delivery whose message says `data`.
pub(crate) fn delivery(data: &[u8]) -> Delivery {
    let attributes = Attributes {
        id: "1",
        source: "/shop",
        kind: "order.created",
        subject: Some("order/7"),
        content_type: Some("text/plain"),
        extensions: &[("traceparent", "00-x")],
        ..Attributes::default()
    };
    Delivery {
        consumer: ConsumerName::new("tester").expect("a name"),
        source: "queue:orders".into(),
        topic: Topic::new("orders.created").expect("a topic"),
        message: Message::new(&attributes, data).expect("a message"),
        attempt: 2,
        idempotency_key: "store-queue-7".into(),
        gate: Arc::new(Orders),
    }
}
