//! Watching what a running `pelton dev` is made of: broker.toml, component files and source folders.
//!
//! No event is queued: each only sets a flag, so a storm of them costs nothing. Folders are watched one by one, without
//! their build outputs and data, because those change all the time and nobody means them. What is not there yet is waited
//! for in the nearest folder that is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::ModifyKind;
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
    /// For each file or folder that is not there, the first missing part of the way to it, and what it leads to. Found out here.
    pub(crate) awaited: BTreeMap<PathBuf, u8>,
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
    /// Paths that were removed or moved: a watch on one of them no longer sees what has its name now.
    gone: Mutex<BTreeSet<PathBuf>>,
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
        let gone = std::mem::take(&mut *self.shared.gone.lock().unwrap_or_else(PoisonError::into_inner));
        let is_blind = |folder: &PathBuf| gone.iter().any(|gone| folder.starts_with(gone));
        for old in self.watched.extract_if(.., |folder| !wanted.contains(folder) || is_blind(folder)) {
            let _ = self.watcher.unwatch(&old);
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
            if matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
                let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
                // More than so many are not watched either.
                let room = FOLDERS_MAX.saturating_sub(gone.len());
                gone.extend(event.paths.into_iter().take(room));
            }
            self.flags.fetch_or(flags, Ordering::AcqRel);
            self.changed.notify_one();
        }
    }
}

impl Coverage {
    /// With real paths, as events name them, and with what is missing of them now.
    fn canonical(self) -> Self {
        let all = |paths: BTreeSet<PathBuf>| paths.iter().map(|path| real(path)).collect();
        let mut real = Self {
            config: real(&self.config),
            components: all(self.components),
            sources: all(self.sources),
            ignored: all(self.ignored),
            awaited: BTreeMap::new(),
        };
        let wanted = [
            (CONFIG, &BTreeSet::from([real.config.clone()])),
            (COMPONENTS, &real.components),
            (SOURCES, &real.sources),
        ];
        for (flag, paths) in wanted {
            for missing in paths.iter().filter_map(|path| first_missing(path)) {
                *real.awaited.entry(missing.to_owned()).or_default() |= flag;
            }
        }
        real
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let files = self.components.iter().chain([&self.config]).filter(|file| file.exists());
        let seen_in = files.chain(self.awaited.keys()).filter_map(|path| path.parent());
        let mut folders: BTreeSet<PathBuf> = seen_in.map(Path::to_owned).collect();
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
        let mut flags = self.awaited.get(path).copied().unwrap_or(0);
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

/// The first part of `path` that is not there; none where all of it is.
fn first_missing(path: &Path) -> Option<&Path> {
    path.ancestors().take_while(|part| !part.exists()).last()
}

/// `path` without links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    for part in path.ancestors() {
        let there = if part == Path::new("") { Path::new(".") } else { part };
        if let (Ok(real), Ok(rest)) = (there.canonicalize(), path.strip_prefix(part)) {
            return if rest == Path::new("") { real } else { real.join(rest) };
        }
    }
    path.to_owned()
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
            ..Coverage::default()
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

    #[test]
    fn what_is_missing_is_waited_for_where_its_way_begins() {
        let (folder, mut coverage) = tree();
        let root = folder.path().canonicalize().expect("real");
        coverage.sources.insert(folder.path().join("later/pack/age"));
        coverage.components.insert(folder.path().join("later/b.wasm"));
        let coverage = coverage.canonical();
        let check = |path: &str, expected| assert_eq!(coverage.classify(&root.join(path)), expected, "{path}");
        check("later", COMPONENTS | SOURCES);
        check("other", 0);
        check("later/b.wasm", COMPONENTS);
        check("later/pack", 0);
        assert!(coverage.folders().contains(&root) && !coverage.folders().contains(&root.join("later")));
    }

    /// Waits until `watch` says `expected`; what comes before may be part of it.
    async fn seen(watch: &mut Watch, coverage: &Coverage, expected: Changes) {
        let all = async {
            while watch.next().await != expected {
                watch.cover(coverage.clone());
            }
        };
        tokio::time::timeout(WITHIN, all).await.expect("the change is seen");
        watch.cover(coverage.clone());
    }

    #[tokio::test]
    async fn folders_and_files_may_come_go_and_come_back() {
        let (folder, mut coverage) = tree();
        let source = folder.path().join("later/pack/age");
        let component = folder.path().join("later/b.wasm");
        coverage.sources.insert(source.clone());
        coverage.components.insert(component.clone());
        let (sources, components) =
            (Changes { sources: true, ..Changes::default() }, Changes { components: true, ..Changes::default() });
        let mut watch = Watch::new(coverage.clone()).expect("watches");
        std::fs::create_dir(folder.path().join("later")).expect("makes");
        seen(&mut watch, &coverage, Changes { sources: true, ..components }).await;
        std::fs::write(&component, b"1").expect("writes");
        seen(&mut watch, &coverage, components).await;
        for round in 0..3 {
            std::fs::create_dir_all(&source).expect("makes");
            seen(&mut watch, &coverage, sources).await;
            std::fs::write(source.join("lib.rs"), format!("{round}")).expect("writes");
            seen(&mut watch, &coverage, sources).await;
            std::fs::remove_dir_all(folder.path().join("later/pack")).expect("removes");
            seen(&mut watch, &coverage, sources).await;
        }
        // Gone and back before anybody looks.
        std::fs::create_dir_all(&source).expect("makes");
        seen(&mut watch, &coverage, sources).await;
        std::fs::remove_dir_all(&source).expect("removes");
        std::fs::create_dir_all(&source).expect("makes");
        seen(&mut watch, &coverage, sources).await;
        std::fs::write(source.join("lib.rs"), b"new").expect("writes");
        seen(&mut watch, &coverage, sources).await;
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
