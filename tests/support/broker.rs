//! A broker of one's own: the real binary on a free port with a folder of its own.

use std::fs::{File, OpenOptions};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::api::Api;
use super::binary::{guest, root};
use super::command::{Output, command, pelton};
use super::wait::{BOUND, eventually};

/// A running `pelton serve` or `pelton dev`. Its process ends with it; when its test fails, what it said is shown.
pub(crate) struct TestBroker {
    /// Its data and what it says; for `serve`, its broker.toml too.
    folder: tempfile::TempDir,
    config: PathBuf,
    /// The command and its flags, as far as they differ.
    args: Vec<&'static str>,
    child: Option<Child>,
    api: Api,
}

impl Deref for TestBroker {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

/// `dev` may have a lot to compile first.
const START_BOUND: Duration = Duration::from_secs(300);
/// The files of its folder that hold its stderr and its stdout.
const LOG: &str = "stderr.log";
const DELIVERIES: &str = "stdout.log";

fn new_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("pelton-test-").tempdir().expect("a temporary folder")
}

/// Where the examples are built: one folder for all, so that what they share is compiled once.
pub(crate) fn example_target() -> PathBuf {
    root().join("target/examples")
}

/// `toml` with every `"guest:NAME"` replaced by the path of that guest's component.
pub(crate) fn with_guests(toml: &str) -> String {
    let mut text = toml.to_owned();
    while let Some(start) = text.find("\"guest:") {
        let name = text[start + 7..].split('"').next().expect("split yields at least one part").to_owned();
        let path = guest(&name);
        text = text.replace(&format!("\"guest:{name}\""), &format!("{:?}", path.to_str().expect("paths are UTF-8")));
    }
    text
}

impl TestBroker {
    /// Starts `pelton serve` with this broker.toml, in which `component = "guest:NAME"` names a guest of tests/guests, and
    /// waits until it is ready.
    pub(crate) async fn start(toml: &str) -> Self {
        Self::start_with(toml, &[]).await
    }

    /// The same with `more` flags.
    pub(crate) async fn start_with(toml: &str, more: &[&'static str]) -> Self {
        let folder = new_folder();
        let config = folder.path().join("broker.toml");
        std::fs::write(&config, with_guests(toml)).expect("the folder is writable");
        Self::start_in(folder, config, &[&["serve"], more].concat()).await
    }

    /// Starts `pelton dev --json` with `more` flags on the broker.toml in `home`, with data elsewhere, and waits until it is ready.
    pub(crate) async fn dev(home: &Path, more: &[&'static str]) -> Self {
        Self::start_in(new_folder(), home.join("broker.toml"), &[&["dev", "--json"], more].concat()).await
    }

    async fn start_in(folder: tempfile::TempDir, config: PathBuf, args: &[&'static str]) -> Self {
        let mut broker = Self { folder, config, args: args.to_vec(), child: None, api: Api::new(String::new()) };
        broker.restart().await;
        broker
    }

    /// Starts it again on the data it has, after [`kill_9`](Self::kill_9) or [`sigterm`](Self::sigterm).
    pub(crate) async fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let ready_file = self.folder().join("ready");
        let _ = std::fs::remove_file(&ready_file);
        let mut broker = command(self.folder());
        broker.args(&self.args).args([
            "--listen",
            "127.0.0.1:0",
            "--ready-file",
            "ready",
            "--data",
            "data",
            "--config",
        ]);
        broker.arg(&self.config).env("CARGO_TARGET_DIR", example_target());
        broker.stdout(self.log(DELIVERIES)).stderr(self.log(LOG));
        self.child = Some(broker.spawn().expect("the binary starts"));
        let url = eventually("the broker is ready", START_BOUND, async || {
            if let Some(status) = self.exited() {
                panic!("the broker ended with {status} instead of starting");
            }
            read_ready(&ready_file)
        })
        .await;
        self.api = Api::new(url);
    }

    /// Kills it as a crash would: it gets no chance to finish anything.
    pub(crate) fn kill_9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it is ours to kill");
        child.wait().expect("it is our child");
    }

    /// Asks it to stop.
    pub(crate) fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to read its broker.toml again.
    pub(crate) fn sighup(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it is ours");
    }

    /// How it ended, once it has.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let status = eventually("the broker ends", BOUND, async || self.exited().ok_or("it runs")).await;
        self.child = None;
        status
    }

    /// Whether its process is there.
    pub(crate) fn runs(&mut self) -> bool {
        self.exited().is_none()
    }

    /// Changes its broker.toml; it reads it at the next start.
    pub(crate) fn rewrite(&self, change: impl FnOnce(&str) -> String) {
        let before = std::fs::read_to_string(&self.config).expect("it was written at the start");
        std::fs::write(&self.config, change(&before)).expect("the folder is writable");
    }

    /// Its API, to use beside it.
    pub(crate) fn api(&self) -> Api {
        self.api.clone()
    }

    /// Runs `pelton ARGS --url URL` against it.
    pub(crate) async fn cli<const N: usize>(&self, args: [&str; N]) -> Output {
        pelton(self.folder(), args.into_iter().chain(["--url", self.api.url()])).await
    }

    /// Where its data is; for `serve`, its broker.toml too.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        self.read(LOG)
    }

    /// The deliveries that `dev` has shown so far.
    pub(crate) fn deliveries(&self) -> Vec<Value> {
        let text = self.read(DELIVERIES);
        // The last line may still be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().expect("it was started").try_wait().expect("it is our child")
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder().join(name)).unwrap_or_default()
    }

    fn log(&self, name: &str) -> File {
        OpenOptions::new().create(true).append(true).open(self.folder().join(name)).expect("the folder is writable")
    }
}

impl Drop for TestBroker {
    #[expect(clippy::print_stderr, reason = "a failing test shows what its broker said")]
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the broker's stderr\n{}---", self.said());
        }
    }
}

/// The URL in a ready file, once it is there.
fn read_ready(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("ready file: {error}"))?;
    let url = text.trim();
    if url.starts_with("http://") { Ok(url.to_owned()) } else { Err(format!("ready file holds {text:?}")) }
}

/// A broker.toml without its consumers, which stand at its end: so that nothing moves while a test counts.
pub(crate) fn without_consumers(toml: &str) -> String {
    toml.split("\n[consumers.").next().expect("split yields at least one part").to_owned()
}
