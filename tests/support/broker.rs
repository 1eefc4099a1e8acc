//! A broker of one's own: the real binary on a free port with a folder of its own.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::api::Api;
use super::binary::{guest, root};
use super::command::{Output, command_by, pelton};
use super::disk::SmallDisk;
use super::faults::Faults;
use super::wait::{BOUND, eventually};

/// A running `pelton serve` or `pelton dev`. Its process ends with it; when its test fails, what it said is shown.
pub(crate) struct TestBroker {
    /// Its data and what it says; for `serve`, its broker.toml too.
    folder: tempfile::TempDir,
    config: PathBuf,
    /// The command and its flags, as far as they differ.
    args: Vec<&'static str>,
    /// The program that runs it, with its arguments; none: it is run as it is.
    run_by: Vec<OsString>,
    /// What its environment has besides.
    environment: Vec<(&'static str, OsString)>,
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
/// The folder of its store.
const DATA: &str = "data";
/// The file in which it says where it listens.
const READY: &str = "ready";

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
        let mut broker = Self::prepare(toml);
        broker.args.extend(more);
        broker.restart().await;
        broker
    }

    /// Starts `pelton dev --json` with `more` flags on the broker.toml in `home`, with data elsewhere, and waits until it is ready.
    pub(crate) async fn dev(home: &Path, more: &[&'static str]) -> Self {
        let mut broker = Self::new(new_folder(), home.join("broker.toml"), &[&["dev", "--json"], more].concat());
        broker.restart().await;
        broker
    }

    /// Starts `pelton serve` with this broker.toml in surroundings that can be made to fail.
    pub(crate) async fn start_faulty(toml: &str) -> (Self, Faults) {
        let mut broker = Self::prepare(toml);
        let faults = Faults::new(broker.folder());
        broker.environment = faults.environment();
        broker.restart().await;
        (broker, faults)
    }

    /// Starts `pelton serve` with this broker.toml and its data on a disk of so many bytes; none where no disk can be made.
    pub(crate) async fn start_on_small_disk(toml: &str, bytes: u64) -> Option<(Self, SmallDisk)> {
        let mut broker = Self::prepare(toml);
        let disk = SmallDisk::mount(&broker.folder().join(DATA), bytes)?;
        broker.run_by = disk.run_by(broker.folder());
        broker.restart().await;
        Some((broker, disk))
    }

    /// A `pelton serve` with this broker.toml that was not started yet.
    pub(crate) fn prepare(toml: &str) -> Self {
        let folder = new_folder();
        let config = folder.path().join("broker.toml");
        std::fs::write(&config, with_guests(toml)).expect("the folder is writable");
        Self::new(folder, config, &["serve"])
    }

    fn new(folder: tempfile::TempDir, config: PathBuf, args: &[&'static str]) -> Self {
        let api = Api::new(String::new());
        Self { folder, config, args: args.to_vec(), run_by: Vec::new(), environment: Vec::new(), child: None, api }
    }

    /// Starts it again on the data it has, after [`kill_9`](Self::kill_9) or [`sigterm`](Self::sigterm), and waits until it is
    /// ready.
    pub(crate) async fn restart(&mut self) {
        self.spawn();
        if let Err(status) = self.ready().await {
            panic!("the broker ended with {status} instead of starting");
        }
    }

    /// Starts its process and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let _ = std::fs::remove_file(self.folder().join(READY));
        let mut broker = command_by(&self.run_by, self.folder());
        broker.args(&self.args).args(["--listen", "127.0.0.1:0", "--ready-file", READY, "--data", DATA, "--config"]);
        broker.arg(&self.config).env("CARGO_TARGET_DIR", example_target());
        broker.envs(self.environment.iter().cloned());
        broker.stdout(self.log(DELIVERIES)).stderr(self.log(LOG));
        self.child = Some(broker.spawn().expect("the binary starts"));
    }

    /// Waits until it is ready, or has ended instead.
    pub(crate) async fn ready(&mut self) -> Result<(), ExitStatus> {
        let ready_file = self.folder().join(READY);
        let started = eventually("the broker is ready", START_BOUND, async || match self.exited() {
            Some(status) => Ok(Err(status)),
            None => read_ready(&ready_file).map(Ok),
        })
        .await;
        match started {
            Ok(url) => {
                self.api = Api::new(url);
                Ok(())
            }
            Err(status) => {
                self.child = None;
                Err(status)
            }
        }
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
