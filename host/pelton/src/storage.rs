//! What the commands on data files share: which folder, how far the work is, files that are not overwritten unasked.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use pelton_engine_redb::{Report, Work};
use tempfile::NamedTempFile;

use crate::config::{self, ConfigArgs, folder_of};
use crate::exit::{Exit, Failure};
use crate::output::{self, Paint, grouped, table};

/// Which data folder.
#[derive(Debug, clap::Args)]
pub(crate) struct DataArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The data folder [default: that of broker.toml]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

impl DataArgs {
    /// The folder that is meant.
    pub(crate) fn folder(&self) -> Result<PathBuf, Failure> {
        match &self.data {
            Some(folder) => Ok(folder.clone()),
            None => Ok(config::load(&self.config.find()?)?.broker.data),
        }
    }
}

/// An error about a data file.
pub(crate) fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Data, error.to_string())
}

/// Shows how far the work on a data file is.
pub(crate) struct Progress {
    hidden: bool,
    /// The size of what is read, where it is known before.
    input_bytes: Option<u64>,
    /// What is shown now.
    stage: Option<(&'static str, ProgressBar)>,
}

impl Progress {
    pub(crate) fn new(hidden: bool) -> Self {
        Self::of_input(hidden, None)
    }

    /// While lines of so many bytes are read.
    pub(crate) fn of_input(hidden: bool, input_bytes: Option<u64>) -> Self {
        Self { hidden, input_bytes, stage: None }
    }

    pub(crate) fn show(&mut self, work: Work) {
        match work {
            Work::Copying { done, of } => self.bar("Copying", |hidden| output::bytes_bar(of, "Copying", hidden), done),
            Work::Pages => self.bar("Pages", |hidden| output::spinner("Checking pages", hidden), 0),
            Work::Rows { done, of } => self.bar("Rows", |hidden| output::bar(of, "Reading rows", hidden), done),
            Work::Lines { lines, bytes } => match self.input_bytes {
                Some(of) => self.bar("Lines", |hidden| output::bytes_bar(of, "Reading lines", hidden), bytes),
                None => self.bar("Lines", |hidden| output::spinner("Reading lines", hidden), lines),
            },
        }
    }

    fn bar(&mut self, stage: &'static str, new: impl FnOnce(bool) -> ProgressBar, done: u64) {
        if self.stage.as_ref().is_none_or(|(before, _)| *before != stage) {
            self.clear();
            let bar = new(self.hidden);
            // Drawn at once: what follows may take long to take its first step.
            bar.tick();
            self.stage = Some((stage, bar));
        }
        if let Some((_, bar)) = &self.stage {
            bar.set_position(done);
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.stage.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A file that appears whole or not at all, readable by its owner only: it holds messages.
pub(crate) struct NewFile {
    path: PathBuf,
    force: bool,
    file: NamedTempFile<File>,
}

/// Of a file with messages in it.
const MODE: u32 = 0o600;

impl NewFile {
    /// Begins the file at `path`, which is replaced only by `force`.
    ///
    /// # Errors
    /// Where it is there, or its folder can't be written to.
    pub(crate) fn begin(path: &Path, force: bool) -> Result<Self, Failure> {
        if path.is_dir() {
            return Err(Failure::usage(format!("{} is a folder; name a file in it", path.display())));
        }
        if !force && path.symlink_metadata().is_ok() {
            return Err(Self::exists(path));
        }
        // Whoever is interrupted leaves it behind, so that its name says what it is.
        let prefix = path.file_name().map(|name| format!("{}.", name.to_string_lossy())).unwrap_or_default();
        // Opened here, because tempfile would add its own path to errors, which means nothing to anybody.
        let open = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
        let begun = tempfile::Builder::new().prefix(&prefix).suffix(".part").make_in(folder_of(path), open);
        let file = begun.map_err(|error| Self::not_written(path, &error))?;
        Ok(Self { path: path.to_owned(), force, file })
    }

    fn exists(path: &Path) -> Failure {
        Failure::usage(format!("{} exists already; --force replaces it", path.display()))
    }

    fn not_written(path: &Path, error: &std::io::Error) -> Failure {
        Failure::new(Exit::Failed, format!("{} can't be written: {error}", path.display()))
    }

    /// Where it is built.
    pub(crate) fn building(&self) -> &Path {
        self.file.path()
    }

    /// Writes on.
    ///
    /// # Errors
    /// Where the disk won't.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| Self::not_written(&self.path, &error))
    }

    /// Puts it in its place, durably.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let Self { path, force, file } = self;
        let io = |error: std::io::Error| Self::not_written(&path, &error);
        // By its path: what was built there may be another file than the one that was begun.
        File::open(file.path()).and_then(|built| built.sync_all()).map_err(io)?;
        let placed = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        placed.map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => Self::exists(&path),
            _ => Self::not_written(&path, &error.error),
        })?;
        File::open(folder_of(&path)).and_then(|folder| folder.sync_all()).map_err(io)
    }
}

impl std::io::Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Prints what is in a data file; everything that is wrong with it goes to stderr and makes an error.
pub(crate) fn show(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        output::json(report)?;
    } else {
        text(report, Paint::stdout()).iter().try_for_each(|line| output::line(line))?;
        report.problems.iter().for_each(|problem| output::error(&output::tame(problem)));
        if report.problems_left_out > 0 {
            output::note(&format!("... and {} more", grouped(report.problems_left_out)));
        }
    }
    match report.problems.len() as u64 + report.problems_left_out {
        0 => Ok(()),
        problems => {
            let what = if problems == 1 { "one thing is wrong" } else { "several things are wrong" };
            Err(failure(format!("{what} with {}; restore it from a backup", report.file.display())).into())
        }
    }
}

fn text(report: &Report, paint: Paint) -> Vec<String> {
    let row = |queue: &pelton_engine_redb::QueueReport| {
        let note = if queue.declared { "" } else { "not in broker.toml" };
        let (messages, scheduled) = (grouped(queue.messages), grouped(queue.scheduled));
        vec![queue.name.clone(), messages, scheduled, grouped(queue.bytes), note.to_owned()]
    };
    let closed = if report.closed_in_order { "closed in order" } else { "not closed in order" };
    let mut lines =
        vec![format!("{}: {} B, format {}, {closed}", report.file.display(), grouped(report.bytes), report.format)];
    if !report.queues.is_empty() {
        let header = ["QUEUE", "MESSAGES", "SCHEDULED", "BYTES", ""];
        lines.extend(table(&header, &[0, 4], &report.queues.iter().map(row).collect::<Vec<_>>(), paint));
    }
    let messages = report.queues.iter().map(|queue| queue.messages).sum();
    lines.push(format!(
        "{} in {}, {} with bodies apart, {} in their histories, {} known for doubles",
        output::count(messages, "message"),
        output::count(report.queues.len() as u64, "queue"),
        grouped(report.bodies),
        output::count(report.attempts, "attempt"),
        grouped(report.identities)
    ));
    if report.is_clean() {
        lines.push("Everything is right.".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use pelton_engine_redb::QueueReport;

    use super::*;

    #[test]
    fn files_are_not_replaced_unasked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("backup");
        let write = |force, text: &str| {
            let mut file = NewFile::begin(&path, force)?;
            file.append(text.as_bytes())?;
            file.finish()
        };
        write(false, "one").expect("writes");
        let error = write(false, "two").expect_err("it is there");
        assert!(error.exit == Exit::Usage && error.message.contains("--force replaces it"), "{}", error.message);
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "one");
        write(true, "three").expect("told to");
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "three");
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "only its owner reads it");

        let late = folder.path().join("late");
        let file = NewFile::begin(&late, false).expect("begins");
        std::fs::write(&late, "somebody else's").expect("writes");
        file.finish().expect_err("it is there now");
        assert_eq!(std::fs::read_to_string(&late).expect("reads"), "somebody else's");
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 2, "nothing else is left behind");

        let nowhere = NewFile::begin(&folder.path().join("nowhere/x"), false).map(|_| ()).expect_err("no folder");
        assert!(nowhere.message.ends_with("nowhere/x can't be written: No such file or directory (os error 2)"));
        let over = NewFile::begin(folder.path(), true).map(|_| ()).expect_err("a folder");
        assert!(over.message.ends_with("is a folder; name a file in it"), "{}", over.message);
    }

    #[test]
    fn a_report_reads_well() {
        let queue = |name: &str, declared, messages| QueueReport {
            name: name.to_owned(),
            declared,
            messages,
            scheduled: 1,
            bytes: messages * 100,
        };
        let report = Report {
            file: PathBuf::from("data/pelton.redb"),
            bytes: 1_572_864,
            format: 2,
            store: 7,
            closed_in_order: true,
            queues: vec![queue("orders", true, 1200), queue("old", false, 1)],
            bodies: 3,
            attempts: 1,
            identities: 0,
            problems: Vec::new(),
            problems_left_out: 0,
        };
        let expected = "\
data/pelton.redb: 1,572,864 B, format 2, closed in order
QUEUE   MESSAGES  SCHEDULED    BYTES
orders     1,200          1  120,000
old            1          1      100  not in broker.toml
1,201 messages in 2 queues, 3 with bodies apart, 1 attempt in their histories, 0 known for doubles
Everything is right.";
        assert_eq!(text(&report, Paint::plain()).join("\n"), expected);
    }
}
