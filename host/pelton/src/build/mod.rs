//! Components out of source folders: which consumers need building, and where what was built lies.
//!
//! Invariant: a component that is to run lies at `target/pelton/CONSUMER.wasm` beside broker.toml, written whole or not at
//! all. So `dev`, `build` and `serve` agree on the place, and nobody ever reads what cargo is still writing.

mod cargo;
mod toolchain;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pelton_core::name::ConsumerName;
use pelton_core::plan::{ConsumerCode, Plan};

pub(crate) use self::toolchain::Toolchain;
use crate::config::{folder_of, placed};
use crate::exit::Failure;
use crate::files::{ignore_in_git, write_whole};

/// The target that components are built for.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// What a build came to.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// The component of each consumer that has one.
    pub(crate) components: BTreeMap<ConsumerName, PathBuf>,
    /// Consumers whose component could not be built, each with the reason.
    pub(crate) problems: Vec<Problem>,
    /// Whether any component was built anew, with other bytes.
    pub(crate) changed: bool,
    /// Folders of all local packages that went into them: what to watch.
    pub(crate) folders: BTreeSet<PathBuf>,
}

/// Why a consumer has no component.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) consumer: ConsumerName,
    pub(crate) text: String,
}

impl Problem {
    fn new(consumer: &ConsumerName, text: impl Into<String>) -> Self {
        Self { consumer: consumer.clone(), text: text.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "consumer '{}': {}", self.consumer, self.text)
    }
}

impl Problem {
    /// As it is shown, with its place in `config_file`.
    pub(crate) fn shown(&self, config_file: &Path) -> String {
        placed(config_file, &["consumers", self.consumer.as_str()], &["source"], &self.to_string())
    }
}

/// All problems as one error.
pub(crate) fn failure(config_file: &Path, problems: &[Problem]) -> Failure {
    Failure::components(&problems.iter().map(|problem| problem.shown(config_file)).collect::<Vec<_>>())
}

/// A consumer to build.
#[derive(Debug, Clone)]
struct Source {
    consumer: ConsumerName,
    folder: PathBuf,
}

fn sources(plan: &Plan) -> Vec<Source> {
    let source = |consumer: &pelton_core::plan::ConsumerPlan| match &consumer.code {
        ConsumerCode::Source(folder) => Some(Source { consumer: consumer.name.clone(), folder: folder.clone() }),
        ConsumerCode::Component(_) => None,
    };
    plan.consumers.iter().filter_map(source).collect()
}

/// Whether any consumer of `plan` is given as source.
pub(crate) fn has_sources(plan: &Plan) -> bool {
    plan.consumers.iter().any(|consumer| matches!(consumer.code, ConsumerCode::Source(_)))
}

/// Where the component of `consumer`, built from source, is kept.
fn built_path(config_file: &Path, consumer: &ConsumerName) -> PathBuf {
    let folder = config_file.parent().unwrap_or(Path::new(""));
    folder.join("target").join("pelton").join(format!("{consumer}.wasm"))
}

/// The component of every consumer of `plan` without building anything, and a problem for each source not built yet.
pub(crate) fn existing(config_file: &Path, plan: &Plan) -> Built {
    let mut built = Built::default();
    for consumer in &plan.consumers {
        let path = match &consumer.code {
            ConsumerCode::Component(path) => path.clone(),
            ConsumerCode::Source(folder) => {
                let path = built_path(config_file, &consumer.name);
                if !path.is_file() {
                    let text = format!("its source {} was not built yet\nhelp: run `pelton build`", folder.display());
                    built.problems.push(Problem::new(&consumer.name, text));
                    continue;
                }
                path
            }
        };
        built.components.insert(consumer.name.clone(), path);
    }
    built
}

/// Builds what `plan` gives as source, as far as it goes; what is given as component is taken as it is.
///
/// # Errors
/// Only where nothing can be built at all: no cargo, no target and nobody to add it.
pub(crate) async fn build(config_file: &Path, plan: &Plan, toolchain: &mut Toolchain) -> Result<Built, Failure> {
    let mut built = Built::default();
    for consumer in &plan.consumers {
        if let ConsumerCode::Component(path) = &consumer.code {
            built.components.insert(consumer.name.clone(), path.clone());
        }
    }
    let sources = sources(plan);
    if sources.is_empty() {
        return Ok(built);
    }
    built.folders.extend(sources.iter().map(|source| source.folder.clone()));
    let (groups, problems) = cargo::group(sources).await?;
    built.problems.extend(problems);
    for group in groups {
        toolchain.ensure_target(&group.root).await?;
        let made = cargo::build(&group).await?;
        built.folders.extend(made.folders);
        built.problems.extend(made.problems);
        for (consumer, artifact) in made.artifacts {
            let kept = built_path(config_file, &consumer);
            match keep(&artifact, &kept) {
                Ok(changed) => {
                    built.changed |= changed;
                    built.components.insert(consumer, kept);
                }
                Err(error) => {
                    let text = format!("{} can't be copied to {}: {error}", artifact.display(), kept.display());
                    built.problems.push(Problem::new(&consumer, text));
                }
            }
        }
    }
    Ok(built)
}

/// Copies `artifact` to `kept`, whole or not at all; leaves it alone when it has those bytes already. Whether it changed.
fn keep(artifact: &Path, kept: &Path) -> std::io::Result<bool> {
    let bytes = std::fs::read(artifact)?;
    if std::fs::read(kept).is_ok_and(|before| before == bytes) {
        return Ok(false);
    }
    let folder = folder_of(kept);
    std::fs::create_dir_all(&folder)?;
    ignore_in_git(&folder);
    write_whole(kept, &bytes)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_are_kept_whole_and_only_when_they_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (artifact, kept) = (folder.path().join("a.wasm"), folder.path().join("target/pelton/c.wasm"));
        std::fs::write(&artifact, b"one").expect("writes");
        assert!(keep(&artifact, &kept).expect("keeps"));
        assert_eq!(std::fs::read(&kept).expect("reads"), b"one");
        assert!(!keep(&artifact, &kept).expect("keeps"), "the same bytes again");
        std::fs::write(&artifact, b"two").expect("writes");
        assert!(keep(&artifact, &kept).expect("keeps"));
        assert_eq!(std::fs::read(&kept).expect("reads"), b"two");
    }
}
