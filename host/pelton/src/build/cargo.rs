//! Cargo: which packages the source folders are, one build per workspace, and the components that come out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cargo_metadata::{Artifact, CrateType, Message, Metadata, MetadataCommand, PackageId};
use pelton_core::name::ConsumerName;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::toolchain::{not_started, tool};
use super::{Problem, Source, TARGET};
use crate::exit::Failure;

/// Consumers of one cargo workspace, built together.
#[derive(Debug)]
pub(super) struct Group {
    /// The workspace's folder.
    pub(super) root: PathBuf,
    consumers: Vec<(Source, PackageId)>,
}

/// What one build made.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) artifacts: Vec<(ConsumerName, PathBuf)>,
    pub(super) problems: Vec<Problem>,
    /// Folders of the local packages that took part.
    pub(super) folders: BTreeSet<PathBuf>,
}

/// Sorts `sources` by workspace; those that are no cargo package become problems.
///
/// # Errors
/// Where cargo can't be started.
pub(super) async fn group(sources: Vec<Source>) -> Result<(Vec<Group>, Vec<Problem>), Failure> {
    let mut known: Vec<(Metadata, Group)> = Vec::new();
    let mut problems = Vec::new();
    for source in sources {
        let manifest = source.folder.join("Cargo.toml");
        let Ok(manifest) = manifest.canonicalize() else {
            let text = format!(
                "its source {} has no Cargo.toml\nhelp: `source` names the folder of a cargo package, relative to broker.toml",
                source.folder.display()
            );
            problems.push(Problem::new(&source.consumer, text));
            continue;
        };
        if let Some((metadata, group)) = known.iter_mut().find(|(metadata, _)| package(metadata, &manifest).is_some()) {
            let id = package(metadata, &manifest).expect("it was found a line above");
            group.consumers.push((source, id));
            continue;
        }
        let metadata = match metadata(&manifest).await? {
            Ok(metadata) => metadata,
            Err(text) => {
                problems.push(Problem::new(&source.consumer, text));
                continue;
            }
        };
        let Some(id) = package(&metadata, &manifest) else {
            problems.push(Problem::new(&source.consumer, no_package(&source.folder, &metadata)));
            continue;
        };
        let root = metadata.workspace_root.clone().into_std_path_buf();
        known.push((metadata, Group { root, consumers: vec![(source, id)] }));
    }
    Ok((known.into_iter().map(|(_, group)| group).collect(), problems))
}

/// The package whose Cargo.toml is `manifest`.
fn package(metadata: &Metadata, manifest: &Path) -> Option<PackageId> {
    let is_it =
        |package: &&cargo_metadata::Package| package.manifest_path.canonicalize().is_ok_and(|path| path == manifest);
    metadata.packages.iter().find(is_it).map(|package| package.id.clone())
}

fn no_package(folder: &Path, metadata: &Metadata) -> String {
    let names: Vec<&str> = metadata
        .packages
        .iter()
        .filter_map(|package| package.manifest_path.parent().map(|path| path.as_str()))
        .collect();
    format!(
        "its source {} is a cargo workspace, not a package\nhelp: name the folder of one of its packages: {}",
        folder.display(),
        names.join(", ")
    )
}

async fn metadata(manifest: &Path) -> Result<Result<Metadata, String>, Failure> {
    let folder = manifest.parent().unwrap_or(Path::new("."));
    let mut cargo = tool("cargo", folder);
    cargo.args(MetadataCommand::new().manifest_path(manifest).no_deps().cargo_command().get_args());
    let output = cargo.output().await.map_err(|error| not_started("cargo", &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Ok(Err(format!("cargo can't read {}:\n{}", manifest.display(), said.trim_end())));
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    Ok(MetadataCommand::parse(stdout)
        .map_err(|error| format!("cargo's description of {}: {error}", manifest.display())))
}

/// Builds the packages of `group` with one call of cargo, whose own output goes to stderr as it comes.
///
/// # Errors
/// Where cargo can't be started. A package that does not compile is a problem of its consumer.
pub(super) async fn build(group: &Group) -> Result<Made, Failure> {
    let mut cargo = tool("cargo", &group.root);
    cargo.args(["build", "--release", "--keep-going", "--target", TARGET, "--message-format=json-render-diagnostics"]);
    let packages: BTreeSet<&str> = group.consumers.iter().map(|(_, id)| id.repr.as_str()).collect();
    for id in packages {
        cargo.args(["--package", id]);
    }
    cargo.stdout(Stdio::piped());
    let mut child = cargo.spawn().map_err(|error| not_started("cargo", &error))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut lines = BufReader::new(stdout).lines();
    let mut made = Made::default();
    let mut artifacts: BTreeMap<String, Vec<Artifact>> = BTreeMap::new();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(Message::CompilerArtifact(artifact)) = serde_json::from_str(&line) else { continue };
        if artifact.package_id.repr.starts_with("path+") {
            made.folders.extend(artifact.manifest_path.parent().map(|folder| folder.as_std_path().to_owned()));
            artifacts.entry(artifact.package_id.repr.clone()).or_default().push(artifact);
        }
    }
    let status = child.wait().await.map_err(|error| not_started("cargo", &error))?;
    for (source, id) in &group.consumers {
        let of_package = artifacts.get(&id.repr).map_or(&[][..], Vec::as_slice);
        match component(of_package, status.success(), source) {
            Ok(path) => made.artifacts.push((source.consumer.clone(), path)),
            Err(text) => made.problems.push(Problem::new(&source.consumer, text)),
        }
    }
    Ok(made)
}

/// The one component among what cargo made of a package.
fn component(artifacts: &[Artifact], success: bool, source: &Source) -> Result<PathBuf, String> {
    let is_library = |artifact: &&Artifact| artifact.target.crate_types.contains(&CrateType::CDyLib);
    let wasm = |artifact: &Artifact| artifact.filenames.iter().find(|path| path.extension() == Some("wasm")).cloned();
    let libraries: Vec<_> = artifacts.iter().filter(is_library).filter_map(wasm).collect();
    let programs: Vec<_> = artifacts.iter().filter(|artifact| artifact.executable.is_some()).filter_map(wasm).collect();
    let folder = source.folder.display();
    match (libraries.as_slice(), programs.as_slice()) {
        ([only], _) | ([], [only]) => Ok(only.clone().into_std_path_buf()),
        ([], []) if !success => Err(format!("its source {folder} does not compile; cargo's errors are above")),
        ([], []) => Err(format!(
            "its source {folder} compiles, but not to a component\nhelp: its Cargo.toml needs [lib] crate-type = [\"cdylib\"]"
        )),
        _ => Err(format!(
            "its source {folder} makes several components\nhelp: a consumer's package has one [lib] with crate-type = [\"cdylib\"]"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(crate_type: &str, file: &str, is_program: bool) -> Artifact {
        serde_json::from_value(serde_json::json!({
            "package_id": "path+file:///c#0.1.0",
            "manifest_path": "/c/Cargo.toml",
            "target": {"name": "c", "kind": [crate_type], "crate_types": [crate_type], "required-features": [],
                "src_path": "/c/src/lib.rs", "edition": "2024", "doctest": true, "test": true, "doc": true},
            "profile": {"opt_level": "s", "debuginfo": 0, "debug_assertions": false, "overflow_checks": false, "test": false},
            "features": [],
            "filenames": [file],
            "executable": is_program.then_some(file),
            "fresh": false
        }))
        .expect("as cargo writes it")
    }

    /// The component among `artifacts`, or the problem.
    fn check(artifacts: &[Artifact], success: bool, expected: &str) {
        let source = Source { consumer: ConsumerName::new("c").expect("valid"), folder: "c".into() };
        let found = component(artifacts, success, &source);
        let found = found.map_or_else(|problem| problem, |path| path.display().to_string());
        assert!(found.contains(expected), "{found:?} does not say {expected:?}");
    }

    #[test]
    fn the_component_is_found_among_the_artifacts() {
        let library = artifact("cdylib", "/t/c.wasm", false);
        let program = artifact("bin", "/t/p.wasm", true);
        let plain = artifact("lib", "/t/libc.rlib", false);
        check(&[plain.clone(), library.clone()], true, "/t/c.wasm");
        check(std::slice::from_ref(&program), true, "/t/p.wasm");
        check(&[library.clone(), program.clone()], true, "/t/c.wasm");
        check(&[library.clone(), library], true, "several components");
        check(&[program.clone(), program], true, "several components");
        check(std::slice::from_ref(&plain), true, "crate-type = [\"cdylib\"]");
        check(&[plain], false, "does not compile");
    }
}
