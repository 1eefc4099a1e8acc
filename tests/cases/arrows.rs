//! The arrows of the design: who may depend on whom, and which crate alone names what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{MetadataCommand, Package};

use crate::support::root;

fn packages() -> BTreeMap<String, Package> {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec();
    let packages = metadata.expect("cargo describes the workspace").packages;
    packages.into_iter().map(|package| (package.name.to_string(), package)).collect()
}

/// The crates that `package` names, for whatever: also for its tests and its build.
fn dependencies(package: &Package) -> BTreeSet<&str> {
    package.dependencies.iter().map(|dependency| dependency.name.as_str()).collect()
}

#[test]
fn crates_depend_on_each_other_as_the_design_says() {
    let packages = packages();
    let expected = [
        ("pelton-core", vec![]),
        ("pelton-engine-redb", vec!["pelton-core"]),
        ("pelton-runtime-wasm", vec!["pelton-core"]),
        ("pelton-door-http", vec!["pelton-core"]),
        ("pelton", vec!["pelton-core", "pelton-door-http", "pelton-engine-redb", "pelton-runtime-wasm"]),
        ("pelton-tests", vec![]),
    ];
    let expected: BTreeMap<_, _> = expected.into_iter().collect();
    let found: BTreeMap<_, _> = packages
        .values()
        .map(|package| {
            let inside = dependencies(package).into_iter().filter(|name| packages.contains_key(*name));
            (package.name.as_str(), inside.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(found, expected, "a new crate belongs into this table; a new arrow needs a reason in ARCHITECTURE.md");
}

#[test]
fn heavy_dependencies_are_named_by_one_crate() {
    let packages = packages();
    let owners = |wanted: &dyn Fn(&str) -> bool| -> Vec<&str> {
        let named = packages.values().filter(|package| dependencies(package).into_iter().any(wanted));
        named.map(|package| package.name.as_str()).collect()
    };
    assert_eq!(owners(&|name| name.starts_with("wasmtime")), ["pelton-runtime-wasm"]);
    assert_eq!(owners(&|name| name == "redb"), ["pelton-engine-redb"]);
    assert_eq!(owners(&|name| name == "axum"), ["pelton-door-http"]);
}

#[test]
fn core_speaks_no_protocol_and_knows_no_storage() {
    let words = ["axum", "hyper", "redb", "reqwest", "wasmtime"];
    for file in sources(&root().join("host/core")) {
        let text = std::fs::read_to_string(&file).expect("a source is text");
        for (number, line) in text.lines().enumerate() {
            // Comments may say who implements a seam.
            let code = line.split("//").next().unwrap_or_default();
            let named = code.split(|c: char| !c.is_alphanumeric() && c != '_').find(|word| words.contains(word));
            assert_eq!(named, None, "{}:{}: {line}", file.display(), number + 1);
        }
    }
}

#[test]
fn every_source_says_what_it_owns_and_is_ascii() {
    let files: Vec<PathBuf> =
        ["host", "guests", "tests", "examples"].iter().flat_map(|folder| sources(&root().join(folder))).collect();
    assert!(files.len() > 50, "sources are found: {files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source is text");
        assert!(text.starts_with("//!"), "{} has no //! header", file.display());
        let odd = text.lines().position(|line| !line.is_ascii());
        assert_eq!(odd.map(|line| line + 1), None, "{} has a line that is not ASCII", file.display());
    }
}

/// Every `.rs` file below `folder`, build output excepted.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder can be read to its end").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}
