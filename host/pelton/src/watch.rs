//! Watching what a running `pelton dev` is made of: broker.toml, component files and source folders.
//!
//! No event is queued: each only sets a flag, so a storm of them costs nothing. Folders are watched one by one, without
//! their build outputs and data, because those change all the time and nobody means them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Editors and git write in several steps; this long after the last one they are done.
const QUIET: Duration = Duration::from_millis(150);
/// Something that never gets quiet is looked at all the same.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Most folders watched; the kernel has a limit too.
const FOLDERS_MAX: usize = 4096;
/// Folders that are made, not written.
const IGNORED: [&str; 3] = ["target", "node_modules", "__pycache__"];

const CONFIG: u8 = 1;
const COMPONENTS: u8 = 2;
const SOURCES: u8 = 4;

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    pub(crate) config: bool,
    pub(crate) components: bool,
    pub(crate) sources: bool,
}

/// What is to be watched. Paths need not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Coverage {
    pub(crate) config: PathBuf,
    pub(crate) components: BTreeSet<PathBuf>,
    pub(crate) sources: BTreeSet<PathBuf>,
    /// Left out, with all below: the data folder.
    pub(crate) ignored: BTreeSet<PathBuf>,
}

/// Says what has changed.
pub(crate) struct Watch {
    watcher: RecommendedWatcher,
    shared: Arc<Shared>,
    watched: BTreeSet<PathBuf>,
}

#[derive(Default)]
struct Shared {
    coverage: Mutex<Coverage>,
    flags: AtomicU8,
    changed: Notify,
}

impl Watch {
    /// Watches `coverage`.
    pub(crate) fn new(coverage: Coverage) -> notify::Result<Self> {
        let shared = Arc::new(Shared::default());
        let seen = shared.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| seen.see(event))?;
        let mut watch = Self { watcher, shared, watched: BTreeSet::new() };
        watch.cover(coverage);
        Ok(watch)
    }

    /// Watches `coverage` from now on, with folders that have appeared since. Folders that can't be watched are left out.
    pub(crate) fn cover(&mut self, coverage: Coverage) {
        let coverage = coverage.canonical();
        let wanted = coverage.folders();
        *self.shared.coverage.lock().unwrap_or_else(PoisonError::into_inner) = coverage;
        for gone in self.watched.difference(&wanted) {
            let _ = self.watcher.unwatch(gone);
        }
        let new = wanted.difference(&self.watched);
        let failed: Vec<PathBuf> =
            new.filter(|folder| self.watcher.watch(folder, RecursiveMode::NonRecursive).is_err()).cloned().collect();
        self.watched = wanted;
        self.watched.retain(|folder| !failed.contains(folder));
    }

    /// Waits until something has changed and then been quiet for a moment. Cancel-safe: a change is not forgotten.
    pub(crate) async fn next(&self) -> Changes {
        loop {
            if self.shared.flags.load(Ordering::Acquire) == 0 {
                self.shared.changed.notified().await;
            }
            let latest = Instant::now() + QUIET_MAX;
            while Instant::now() < latest && tokio::time::timeout(QUIET, self.shared.changed.notified()).await.is_ok() {
            }
            let flags = self.shared.flags.swap(0, Ordering::AcqRel);
            if flags != 0 {
                let has = |flag| flags & flag != 0;
                return Changes { config: has(CONFIG), components: has(COMPONENTS), sources: has(SOURCES) };
            }
        }
    }
}

impl Shared {
    fn see(&self, event: notify::Result<notify::Event>) {
        let Ok(event) = event else { return };
        // Reading is no change, and a file closed after writing was reported as modified before.
        if matches!(event.kind, EventKind::Access(_)) {
            return;
        }
        let coverage = self.coverage.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = event.paths.iter().fold(0, |flags, path| flags | coverage.classify(path));
        drop(coverage);
        if flags != 0 {
            self.flags.fetch_or(flags, Ordering::AcqRel);
            self.changed.notify_one();
        }
    }
}

impl Coverage {
    /// With real paths, as events name them. A file that is missing is found by its folder.
    fn canonical(self) -> Self {
        let all = |paths: BTreeSet<PathBuf>| paths.iter().map(|path| real(path)).collect();
        Self {
            config: real(&self.config),
            components: all(self.components),
            sources: all(self.sources),
            ignored: all(self.ignored),
        }
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let files = self.components.iter().chain([&self.config]);
        let mut folders: BTreeSet<PathBuf> = files.filter_map(|file| file.parent()).map(Path::to_owned).collect();
        self.sources.iter().for_each(|root| self.walk(root, &mut folders));
        folders
    }

    fn walk(&self, root: &Path, folders: &mut BTreeSet<PathBuf>) {
        let mut open = vec![root.to_owned()];
        while let Some(folder) = open.pop() {
            if folders.len() >= FOLDERS_MAX {
                return;
            }
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            folders.insert(folder);
            let is_folder = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            let below = entries.flatten().filter(is_folder).map(|entry| entry.path());
            open.extend(below.filter(|path| !self.is_ignored(root, path)));
        }
    }

    fn is_ignored(&self, root: &Path, path: &Path) -> bool {
        let made = |name: &str| IGNORED.contains(&name) || name.starts_with('.') || name.ends_with('~');
        let below = path.strip_prefix(root).unwrap_or(path);
        below.iter().any(|part| part.to_str().is_some_and(made))
            || self.ignored.iter().any(|ignored| path.starts_with(ignored))
    }

    fn classify(&self, path: &Path) -> u8 {
        let is_source = |root: &PathBuf| path.starts_with(root) && !self.is_ignored(root, path);
        let mut flags = 0;
        if path == self.config {
            flags |= CONFIG;
        } else if self.components.contains(path) {
            flags |= COMPONENTS;
        } else if self.sources.iter().any(is_source) {
            flags |= SOURCES;
        }
        flags
    }
}

fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longest wait for an event that must come.
    const WITHIN: Duration = Duration::from_secs(20);

    fn tree() -> (tempfile::TempDir, Coverage) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        for below in ["code/src/deep", "code/target/release", "code/data", "parts"] {
            std::fs::create_dir_all(root.join(below)).expect("a folder");
        }
        let coverage = Coverage {
            config: root.join("broker.toml"),
            components: [root.join("parts/a.wasm")].into(),
            sources: [root.join("code")].into(),
            ignored: [root.join("code/data")].into(),
        };
        (folder, coverage)
    }

    #[test]
    fn paths_are_told_apart() {
        let (folder, coverage) = tree();
        let coverage = coverage.canonical();
        let root = folder.path().canonicalize().expect("real");
        let check = |path: &str, expected| assert_eq!(coverage.classify(&root.join(path)), expected, "{path}");
        check("broker.toml", CONFIG);
        check("other.toml", 0);
        check("parts/a.wasm", COMPONENTS);
        check("parts/b.wasm", 0);
        check("code/src/deep/lib.rs", SOURCES);
        check("code/target/release/x", 0);
        check("code/src/.lib.rs.swp", 0);
        check("code/data/x", 0);
        let watched: Vec<String> = coverage
            .folders()
            .iter()
            .filter_map(|path| Some(path.strip_prefix(&root).ok()?.display().to_string()))
            .collect();
        assert_eq!(watched, ["", "code", "code/src", "code/src/deep", "parts"]);
    }

    #[tokio::test]
    async fn a_burst_of_writes_is_one_change_and_outputs_are_none() {
        let (folder, coverage) = tree();
        let watch = Watch::new(coverage).expect("watches");
        std::fs::write(folder.path().join("code/target/release/x"), b"1").expect("writes");
        for round in 0..20 {
            std::fs::write(folder.path().join("code/src/lib.rs"), format!("{round}")).expect("writes");
        }
        let changes = tokio::time::timeout(WITHIN, watch.next()).await.expect("a change");
        assert_eq!(changes, Changes { sources: true, ..Changes::default() });
        std::fs::write(folder.path().join("broker.toml"), b"x").expect("writes");
        let changes = tokio::time::timeout(WITHIN, watch.next()).await.expect("a change");
        assert_eq!(changes, Changes { config: true, ..Changes::default() });
    }
}
