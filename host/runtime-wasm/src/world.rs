//! Whether a component fits the world `consumer`, judged by the names of its imports and exports.
//!
//! Types are checked afterwards, by linking. Names come first so that all that is missing is said at once, and in words
//! that tell what this version does not have yet from what does not exist.

/// What consumers export.
const HANDLER: &str = "pelton:broker/handler";
/// The version of [`HANDLER`] that is run here.
const HANDLER_VERSION: &str = "0.1.0";

/// The other exports that Pelton has a meaning for, each with what it makes of a component.
const OTHER_HANDLERS: [(&str, &str); 4] = [
    ("pelton:broker/batch-handler", "consumers of batches"),
    ("pelton:broker/message-filter", "filters written as components"),
    ("pelton:broker/message-transform", "transforms written as components"),
    ("wasi:messaging/incoming-handler", "handlers for wasi:messaging"),
];

/// What programs export.
const PROGRAM: &str = "wasi:cli/run";

/// The version of WASI 0.2 that the linker has.
const WASI: &str = "0.2.12";

/// Every interface that the linker provides, with its version.
pub(crate) const PROVIDED: [(&str, &str); 32] = [
    ("pelton:broker/context", "0.1.0"),
    ("pelton:broker/emit", "0.1.0"),
    ("pelton:broker/types", "0.1.0"),
    ("wasi:cli/environment", WASI),
    ("wasi:cli/exit", WASI),
    ("wasi:cli/stderr", WASI),
    ("wasi:cli/stdin", WASI),
    ("wasi:cli/stdout", WASI),
    ("wasi:cli/terminal-input", WASI),
    ("wasi:cli/terminal-output", WASI),
    ("wasi:cli/terminal-stderr", WASI),
    ("wasi:cli/terminal-stdin", WASI),
    ("wasi:cli/terminal-stdout", WASI),
    ("wasi:clocks/monotonic-clock", WASI),
    ("wasi:clocks/wall-clock", WASI),
    ("wasi:config/store", "0.2.0-rc.1"),
    ("wasi:filesystem/preopens", WASI),
    ("wasi:filesystem/types", WASI),
    ("wasi:io/error", WASI),
    ("wasi:io/poll", WASI),
    ("wasi:io/streams", WASI),
    ("wasi:logging/logging", "0.1.0-draft"),
    ("wasi:random/insecure", WASI),
    ("wasi:random/insecure-seed", WASI),
    ("wasi:random/random", WASI),
    ("wasi:sockets/instance-network", WASI),
    ("wasi:sockets/ip-name-lookup", WASI),
    ("wasi:sockets/network", WASI),
    ("wasi:sockets/tcp", WASI),
    ("wasi:sockets/tcp-create-socket", WASI),
    ("wasi:sockets/udp", WASI),
    ("wasi:sockets/udp-create-socket", WASI),
];

/// Imports that are designed but not implemented, by the beginning of their names, each with what they are for.
const LATER: [(&str, &str); 4] = [
    ("wasi:keyvalue/", "state (wasi:keyvalue@0.2.0-draft2)"),
    ("wasi:http/", "outgoing HTTP (wasi:http@0.2)"),
    ("wasi:messaging/", "wasi:messaging"),
    ("pelton:broker/batch-emit", "batches"),
];

/// Checks a component by the names of what it imports (without instances that only hold types) and exports.
///
/// # Errors
/// Everything that is wrong, in one text, with remedies.
pub(crate) fn check(imports: &[&str], exports: &[&str]) -> Result<(), String> {
    let problems: Vec<String> = missing_imports(imports).into_iter().chain(wrong_exports(exports)).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

fn missing_imports(imports: &[&str]) -> Option<String> {
    let missing: Vec<String> = imports.iter().filter(|name| !is_provided(name)).map(|name| describe(name)).collect();
    (!missing.is_empty()).then(|| format!("it imports what this Pelton does not provide: {}", missing.join(", ")))
}

fn is_provided(import: &str) -> bool {
    let (name, version) = split(import);
    PROVIDED.iter().any(|(known, provided)| *known == name && is_compatible(provided, version))
}

/// The import with the reason that it is missing, or the nearest that there is.
fn describe(import: &str) -> String {
    let (name, _) = split(import);
    if let Some((_, what)) = LATER.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        return format!("{import} ({what} comes with a later version of Pelton)");
    }
    match nearest(name) {
        Some((name, version)) => format!("{import} (the nearest is {name}@{version})"),
        None => import.to_owned(),
    }
}

fn nearest(name: &str) -> Option<(&'static str, &'static str)> {
    const SIMILAR: f64 = 0.8;
    let similarity = |known: &str| strsim::normalized_levenshtein(known, name);
    let (best, found) =
        PROVIDED.iter().map(|found| (similarity(found.0), *found)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best >= SIMILAR).then_some(found)
}

fn wrong_exports(exports: &[&str]) -> Option<String> {
    let is_handler = |export: &str| {
        let (name, _) = split(export);
        name == HANDLER || OTHER_HANDLERS.iter().any(|(known, _)| *known == name)
    };
    let handlers: Vec<&str> = exports.iter().copied().filter(|export| is_handler(export)).collect();
    match handlers[..] {
        [] => Some(no_handler(exports)),
        [only] => wrong_handler(only),
        _ => Some(format!("it exports {}, and a consumer exports exactly one handler", handlers.join(" and "))),
    }
}

fn wrong_handler(export: &str) -> Option<String> {
    let (name, version) = split(export);
    if let Some((_, what)) = OTHER_HANDLERS.iter().find(|(known, _)| *known == name) {
        return Some(format!("it exports {export}, and this Pelton does not run {what} yet; export {}", handler()));
    }
    if is_compatible(HANDLER_VERSION, version) {
        return None;
    }
    Some(format!(
        "it exports {export}, and this Pelton runs version {HANDLER_VERSION}: build it with the WIT of that version"
    ))
}

fn no_handler(exports: &[&str]) -> String {
    if exports.iter().any(|export| split(export).0 == PROGRAM) {
        return format!(
            "it is a program (it exports {PROGRAM}), not a consumer: build a library (crate-type = [\"cdylib\"]) that \
             exports {}, in Rust with pelton-guest's consumer! macro",
            handler()
        );
    }
    let has = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
    format!("it was built for another world: a consumer exports {}, and it exports {has}", handler())
}

fn handler() -> String {
    format!("{HANDLER}@{HANDLER_VERSION}")
}

/// Name and version; the version is empty where there is none.
fn split(full: &str) -> (&str, &str) {
    full.split_once('@').unwrap_or((full, ""))
}

/// Whether `wanted` links against `provided`: as wasmtime's linker sees it, the same version, or releases of one track (the
/// same major version, below 1.0 the same minor). Pre-releases match exactly. What a newer release of the same track adds
/// shows when it is linked.
fn is_compatible(provided: &str, wanted: &str) -> bool {
    provided == wanted || track(provided).is_some_and(|track_of_provided| Some(track_of_provided) == track(wanted))
}

fn track(version: &str) -> Option<(u64, u64)> {
    let release = version.split('+').next()?;
    let numbers = release.split('.').map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()?;
    match numbers[..] {
        [0, 0, _] => None,
        [0, minor, _] => Some((0, minor)),
        [major, _, _] => Some((major, 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "pelton:broker/handler@0.1.0";

    /// The problem, or nothing.
    fn problem(imports: &[&str], exports: &[&str]) -> String {
        check(imports, exports).err().unwrap_or_default()
    }

    #[test]
    fn versions_match_as_the_linker_matches_them() {
        let pairs = [
            ("0.2.12", "0.2.0", true),
            ("0.2.12", "0.2.99", true),
            ("0.2.12", "0.3.0", false),
            ("0.2.0-rc.1", "0.2.0-rc.1", true),
            ("0.2.0-rc.1", "0.2.0", false),
            ("0.2.0-draft2", "0.2.0-draft", false),
            ("1.2.3", "1.0.0", true),
            ("0.0.1", "0.0.2", false),
            ("0.1.0", "", false),
        ];
        for (provided, wanted, expected) in pairs {
            assert_eq!(is_compatible(provided, wanted), expected, "{wanted} on {provided}");
        }
    }

    #[test]
    fn a_consumer_fits_whatever_else_it_exports() {
        let imports = ["wasi:cli/stdout@0.2.3", "wasi:config/store@0.2.0-rc.1", "pelton:broker/emit@0.1.0"];
        assert_eq!(problem(&imports, &[OURS]), "");
        assert_eq!(problem(&[], &["wasi:cli/run@0.2.3", OURS, "made-by-javascript"]), "");
    }

    #[test]
    fn all_missing_imports_are_listed() {
        let imports = [
            "wasi:cli/stdout@0.3.0",
            "wasi:cli/stdout@0.2.0",
            "wasi:keyvalue/store@0.2.0-draft2",
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:logging/loging@0.1.0-draft",
            "acme:tools/magic@1.0.0",
            "publish",
        ];
        assert_eq!(
            problem(&imports, &[OURS]),
            "it imports what this Pelton does not provide: \
             wasi:cli/stdout@0.3.0 (the nearest is wasi:cli/stdout@0.2.12), \
             wasi:keyvalue/store@0.2.0-draft2 (state (wasi:keyvalue@0.2.0-draft2) comes with a later version of Pelton), \
             wasi:http/outgoing-handler@0.2.0 (outgoing HTTP (wasi:http@0.2) comes with a later version of Pelton), \
             wasi:logging/loging@0.1.0-draft (the nearest is wasi:logging/logging@0.1.0-draft), \
             acme:tools/magic@1.0.0, publish"
        );
    }

    #[test]
    fn other_worlds_are_named() {
        let check = |exports: &[&str], expected: &str| assert_eq!(problem(&[], exports), expected);
        check(
            &[],
            "it was built for another world: a consumer exports pelton:broker/handler@0.1.0, and it exports nothing",
        );
        check(
            &["handle", "wasi:http/incoming-handler@0.2.0"],
            "it was built for another world: a consumer exports pelton:broker/handler@0.1.0, and it exports handle, \
             wasi:http/incoming-handler@0.2.0",
        );
        check(
            &["wasi:cli/run@0.2.3"],
            "it is a program (it exports wasi:cli/run), not a consumer: build a library (crate-type = [\"cdylib\"]) that \
             exports pelton:broker/handler@0.1.0, in Rust with pelton-guest's consumer! macro",
        );
        check(
            &["pelton:broker/message-filter@0.1.0"],
            "it exports pelton:broker/message-filter@0.1.0, and this Pelton does not run filters written as components \
             yet; export pelton:broker/handler@0.1.0",
        );
        check(
            &["wasi:messaging/incoming-handler@0.2.0-draft", OURS],
            "it exports wasi:messaging/incoming-handler@0.2.0-draft and pelton:broker/handler@0.1.0, and a consumer \
             exports exactly one handler",
        );
        check(
            &["pelton:broker/handler@0.2.0"],
            "it exports pelton:broker/handler@0.2.0, and this Pelton runs version 0.1.0: build it with the WIT of that \
             version",
        );
    }
}
