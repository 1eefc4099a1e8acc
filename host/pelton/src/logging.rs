//! Where `tracing` goes: stderr, as text for people or as JSON for machines.

use std::borrow::Cow;

use tracing_subscriber::EnvFilter;

use crate::output;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogForm {
    Text,
    Json,
}

/// The problems of an error or a warning as messages of a log, whose lines have a level already: in JSON without the picture
/// of the place.
pub(crate) fn problems(form: LogForm, text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    output::problems(text).map(move |problem| match form {
        LogForm::Text => Cow::Borrowed(problem),
        LogForm::Json => Cow::Owned(output::plain(problem)),
    })
}

/// The variable that says what is logged: `debug`, `pelton_core=trace,info`.
const FILTER_VARIABLE: &str = "PELTON_LOG";

/// Starts logging; `filter` applies where PELTON_LOG is not set.
pub(crate) fn start(form: LogForm, filter: &str) {
    let chosen = std::env::var(FILTER_VARIABLE).ok().and_then(|text| EnvFilter::try_new(text).ok());
    let filter = chosen.unwrap_or_else(|| EnvFilter::new(filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A logger that was set before stays; that can only be in a test.
    let _ = match form {
        LogForm::Json => builder.json().try_init(),
        LogForm::Text => builder.with_target(false).with_ansi(output::Paint::stderr().is_on()).try_init(),
    };
}
