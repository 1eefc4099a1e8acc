//! Finding and reading broker.toml for commands that run or check a broker.

use std::path::{Path, PathBuf};

use pelton_core::plan::{Plan, SecretSource};
use toml::de::DeTable;

use crate::exit::Failure;
use crate::output;

/// The file's name where none is given.
const FILE_NAME: &str = "broker.toml";
/// A configuration larger than this is something else.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Which broker.toml.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfigArgs {
    /// The configuration [default: broker.toml here or in a folder above]
    #[arg(long, value_name = "FILE", env = "PELTON_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The file that is meant.
    pub(crate) fn find(&self) -> Result<PathBuf, Failure> {
        if let Some(file) = &self.config {
            return Ok(if file.is_dir() { file.join(FILE_NAME) } else { file.clone() });
        }
        if Path::new(FILE_NAME).is_file() {
            return Ok(PathBuf::from(FILE_NAME));
        }
        let here = std::env::current_dir().map_err(|error| Failure::config(format!("the current folder: {error}")))?;
        let above = here.ancestors().skip(1).map(|folder| folder.join(FILE_NAME)).find(|file| file.is_file());
        above.ok_or_else(|| {
            Failure::config(format!(
                "there is no {FILE_NAME} in {} or in a folder above it\n\
                 help: go to the folder that has one, name it with --config FILE, or write one; the smallest is\n\n    \
                 [queues.inbox]\n\n    \
                 [[routes]]\n    from = \"#\"\n    to = [\"queue:inbox\"]",
                here.display()
            ))
        })
    }
}

/// Reads and checks `file`.
pub(crate) fn load(file: &Path) -> Result<Plan, Failure> {
    check(file, &read(file)?)
}

/// Checks `text`, which stands in `file`.
pub(crate) fn check(file: &Path, text: &str) -> Result<Plan, Failure> {
    pelton_core::config::check(text, file).map_err(|error| Failure::config(error.to_string()))
}

/// The text of `file`.
pub(crate) fn read(file: &Path) -> Result<String, Failure> {
    let shown = file.display();
    let failure = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::config(format!(
            "{shown} does not exist\nhelp: --config names the file; without it, broker.toml is taken"
        )),
        _ => Failure::config(format!("{shown} can't be read: {error}")),
    };
    let bytes = std::fs::metadata(file).map_err(failure)?.len();
    if bytes > CONFIG_BYTES_MAX {
        return Err(Failure::config(format!(
            "{shown} has {bytes} bytes; a configuration has at most {CONFIG_BYTES_MAX}"
        )));
    }
    let raw = std::fs::read(file).map_err(failure)?;
    String::from_utf8(raw).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::config(format!("{shown} is not UTF-8: byte {at} is not text"))
    })
}

/// The folder that relative paths in `file` start from.
pub(crate) fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// `problem` with the place in `file` of the first of `keys` that `table` has, before the `help:` if there is one. As it is
/// where the place can't be found.
pub(crate) fn placed(file: &Path, table: &[&str], keys: &[&str], problem: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let Some(at) = offset(&text, table, keys) else { return problem.to_owned() };
    let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = text[..at].matches('\n').count() + 1;
    let column = text[line_start..at].chars().count() + 1;
    let (what, help) = problem.split_at(problem.find("\nhelp: ").unwrap_or(problem.len()));
    format!("{what}\n --> {}:{line}:{column}{help}", file.display())
}

/// Where in `text` the first of `keys` stands that `table` has.
fn offset(text: &str, table: &[&str], keys: &[&str]) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut place = document.get_ref();
    for name in table {
        place = place.iter().find(|(key, _)| key.get_ref() == name)?.1.get_ref().as_table()?;
    }
    let key = |wanted: &&str| place.keys().find(|key| key.get_ref() == wanted);
    Some(keys.iter().find_map(key)?.span().start)
}

/// Reads the token that callers of the HTTP door must show, if `file` asks for one.
pub(crate) fn token(file: &Path, plan: &Plan) -> Result<Option<String>, Failure> {
    let read = |source| {
        let placed =
            |failure: Failure| Failure { message: placed(file, &["http"], &["token"], &failure.message), ..failure };
        secret("[http] token", source).map_err(placed)
    };
    plan.http.token.as_ref().map(read).transpose()
}

/// Reads a secret from where the plan says it is.
fn secret(what: &str, source: &SecretSource) -> Result<String, Failure> {
    let value = match source {
        SecretSource::Env(name) => std::env::var(name).map_err(|_| {
            Failure::config(format!(
                "{what} is to be read from the environment variable {name}, which is not set\nhelp: export {name}=..."
            ))
        })?,
        SecretSource::File(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::config(format!("{what} is to be read from {}: {error}", path.display())))?,
    };
    let value = value.trim();
    if value.is_empty() {
        return Err(Failure::config(format!("{what} is empty; an empty secret would guard nothing")));
    }
    Ok(value.to_owned())
}

/// Shows a plan's warnings.
pub(crate) fn show_warnings(plan: &Plan) {
    plan.warnings.iter().for_each(|warning| output::warning(warning));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_bare_name_is_here() {
        assert_eq!(folder_of(Path::new("broker.toml")), Path::new("."));
        assert_eq!(folder_of(Path::new("a/broker.toml")), Path::new("a"));
    }

    #[test]
    fn a_missing_file_is_a_configuration_error_with_a_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = load(&folder.path().join("broker.toml")).expect_err("missing");
        assert_eq!(error.exit, crate::exit::Exit::Config);
        assert!(error.message.contains("does not exist") && error.message.contains("--config"), "{}", error.message);
    }

    #[test]
    fn problems_are_placed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("broker.toml");
        std::fs::write(&file, "[http]\nlisten = \"\"\n[consumers]\nb = { queue = \"q\", source = \"x\" }\n")
            .expect("writes");
        let shown = file.display();
        let check = |table: &[&str], keys: &[&str], problem: &str, expected: &str| {
            assert_eq!(placed(&file, table, keys, problem), expected);
        };
        let keys = ["component", "source"];
        check(&["consumers", "b"], &keys, "bad", &format!("bad\n --> {shown}:4:20"));
        check(&["consumers", "b"], &keys, "bad\nhelp: mend", &format!("bad\n --> {shown}:4:20\nhelp: mend"));
        check(&["consumers", "c"], &keys, "bad", "bad");
        check(&["http"], &["token"], "bad", "bad");
    }

    #[test]
    fn an_empty_secret_guards_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, " \n").expect("writes");
        let error = secret("[http] token", &SecretSource::File(path.clone())).expect_err("empty");
        assert!(error.message.contains("is empty"), "{}", error.message);
        std::fs::write(&path, "abc\n").expect("writes");
        assert_eq!(secret("[http] token", &SecretSource::File(path)).expect("reads"), "abc");
    }
}
