//! What goes to stdout (data) and stderr (people): lines, JSON, tables, colours and progress bars.
//!
//! Invariants: a closed stdout is an error that travels up, never a panic; colours and bars appear only on a terminal, and
//! colours never where NO_COLOR is set.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Writes one line of data to stdout.
pub(crate) fn line(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Writes one value as a line of JSON to stdout.
pub(crate) fn json(value: &impl Serialize) -> std::io::Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Writes one line for people to stderr. A closed stderr is nobody's loss.
pub(crate) fn note(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{text}");
}

/// Shows an error on stderr. Problems of a configuration bring their own `error:`, each its own.
pub(crate) fn error(text: &str) {
    let red = Paint::stderr();
    if text.starts_with(ERROR) {
        let painted = |line: &str| match line.strip_prefix(ERROR) {
            Some(rest) => format!("{}{rest}", red.red(ERROR)),
            None => line.to_owned(),
        };
        note(&text.lines().map(painted).collect::<Vec<_>>().join("\n"));
    } else {
        note(&format!("{} {text}", red.red(ERROR)));
    }
}

/// Shows a warning on stderr. Warnings about a configuration bring their own `warning:`.
pub(crate) fn warning(text: &str) {
    let text = text.strip_prefix(WARNING).unwrap_or(text).trim_start();
    note(&format!("{} {text}", Paint::stderr().yellow(WARNING)));
}

const ERROR: &str = "error:";
const WARNING: &str = "warning:";

/// The problems that `text` tells of, each by itself and without its `error:` or `warning:`.
pub(crate) fn problems(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\nerror:").map(|problem| {
        let problem = problem.trim_start();
        [ERROR, WARNING].iter().find_map(|level| problem.strip_prefix(level)).unwrap_or(problem).trim_start()
    })
}

/// A problem in one line: what is wrong, the place and the help, without the picture of the place.
pub(crate) fn plain(problem: &str) -> String {
    let mut lines = problem.lines();
    let mut out = lines.next().unwrap_or_default().trim_end().to_owned();
    for line in lines.map(str::trim) {
        if let Some(place) = line.strip_prefix("--> ") {
            out.push_str(&format!(" (at {place})"));
        } else if let Some(help) = line.trim_start_matches("= ").strip_prefix("help: ") {
            out.push_str(&format!("; {help}"));
        } else if !is_drawn(line) {
            out.push_str(&format!(" {line}"));
        }
    }
    out
}

/// A line of the picture of a place: `12 | key = value`, `   | ^^^`.
fn is_drawn(line: &str) -> bool {
    let behind = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
    behind.is_empty() || behind.starts_with('|')
}

/// A stream that may be coloured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    enabled: bool,
}

impl Paint {
    /// For stdout.
    pub(crate) fn stdout() -> Self {
        Self { enabled: wanted(std::io::stdout().is_terminal()) }
    }

    /// For stderr.
    pub(crate) fn stderr() -> Self {
        Self { enabled: wanted(std::io::stderr().is_terminal()) }
    }

    /// No colours.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { enabled: false }
    }

    pub(crate) fn is_on(self) -> bool {
        self.enabled
    }

    pub(crate) fn bold(self, text: &str) -> Cow<'_, str> {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> Cow<'_, str> {
        self.wrap("2", text)
    }

    pub(crate) fn red(self, text: &str) -> Cow<'_, str> {
        self.wrap("31", text)
    }

    pub(crate) fn green(self, text: &str) -> Cow<'_, str> {
        self.wrap("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> Cow<'_, str> {
        self.wrap("33", text)
    }

    fn wrap<'a>(self, code: &str, text: &'a str) -> Cow<'a, str> {
        if self.enabled { Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m")) } else { Cow::Borrowed(text) }
    }
}

/// NO_COLOR counts when it is set and not empty (no-color.org).
fn wanted(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A bar for `total` steps on stderr; invisible where stderr is no terminal or `hidden`.
pub(crate) fn bar(total: u64, what: &str, hidden: bool) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let template = "{msg} [{bar:30}] {human_pos}/{human_len} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is constant").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(total), target).with_style(style).with_message(what.to_owned())
}

/// A bar for `total` bytes on stderr; invisible where stderr is no terminal or `hidden`.
pub(crate) fn bytes_bar(total: u64, what: &str, hidden: bool) -> ProgressBar {
    let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is constant").progress_chars("=> ");
    bar(total, what, hidden).with_style(style)
}

/// A spinner on stderr; invisible where stderr is no terminal or `hidden`.
pub(crate) fn spinner(what: &str, hidden: bool) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template("{msg} {human_pos}").expect("the template is constant");
    ProgressBar::with_draw_target(None, target).with_style(style).with_message(what.to_owned())
}

/// A table: the first column and those named by `left` flush left, numbers flush right, two spaces between.
pub(crate) fn table(header: &[&str], left: &[usize], rows: &[Vec<String>], paint: Paint) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let format = |cells: &[&str]| {
        let pad = |(column, cell): (usize, &&str)| {
            let width = widths[column];
            if left.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        };
        cells.iter().enumerate().map(pad).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![paint.bold(&format(header)).into_owned()];
    lines.extend(rows.iter().map(|row| format(&row.iter().map(String::as_str).collect::<Vec<_>>())));
    lines
}

/// `text` without what a terminal would obey: control characters but tab become `?`.
pub(crate) fn tame(text: &str) -> Cow<'_, str> {
    if text.chars().any(|c| c.is_control() && c != '\t') {
        Cow::Owned(text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// `12,345,678`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 message`, `2 messages`, `12,345 messages`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A duration with three significant digits or so: `312 us`, `4.21 ms`, `1.5 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let us = duration.as_micros();
    let seconds = duration.as_secs();
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{} ms", digits(us as f64 / 1e3)),
        1_000_000..60_000_000 => format!("{} s", digits(us as f64 / 1e6)),
        _ if seconds < 3600 => two(seconds / 60, "min", seconds % 60, "s"),
        _ if seconds < 86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

fn digits(number: f64) -> String {
    let text = match number {
        ..10.0 => format!("{number:.2}"),
        10.0..100.0 => format!("{number:.1}"),
        _ => return format!("{number:.0}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_are_short() {
        let check = |us, expected| assert_eq!(duration(Duration::from_micros(us)), expected);
        check(0, "0 us");
        check(312, "312 us");
        check(1_000, "1 ms");
        check(4_213, "4.21 ms");
        check(42_130, "42.1 ms");
        check(421_300, "421 ms");
        check(1_500_000, "1.5 s");
        check(200_000_000, "3 min 20 s");
        check(7_500_000_000, "2 h 5 min");
        check(273_600_000_000, "3 d 4 h");
    }

    #[test]
    fn numbers_are_grouped() {
        let check = |number, expected| assert_eq!(grouped(number), expected);
        check(0, "0");
        check(999, "999");
        check(1_000, "1,000");
        check(12_345_678, "12,345,678");
    }

    #[test]
    fn nouns_are_counted() {
        assert_eq!((count(0, "message"), count(1, "message")), ("0 messages".into(), "1 message".into()));
        assert_eq!(count(1200, "message"), "1,200 messages");
    }

    #[test]
    fn problems_fit_into_a_line_of_a_log() {
        let text = "error: unknown key `max-atempts` in [queues.a]\n --> broker.toml:2:1\n  |\n2 | max-atempts = 3\n  | ^^^^^^^^^^^\n  |\n  = help: did you mean `max-attempts`?\n\n\
            error: consumer 'a': a.wasm: there is no such file\n --> broker.toml:7:1";
        let found: Vec<String> = problems(text).map(plain).collect();
        assert_eq!(
            found,
            [
                "unknown key `max-atempts` in [queues.a] (at broker.toml:2:1); did you mean `max-attempts`?",
                "consumer 'a': a.wasm: there is no such file (at broker.toml:7:1)",
            ]
        );
        assert_eq!(problems("warning: odd\n --> b:1:1").collect::<Vec<_>>(), ["odd\n --> b:1:1"]);
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".to_owned(), "1".to_owned()], vec!["longer".to_owned(), "22".to_owned()]];
        let lines = table(&["name", "count"], &[0], &rows, Paint::plain());
        assert_eq!(lines, ["name    count", "a           1", "longer     22"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(tame("a\x1b[2Jb\tc"), "a?[2Jb\tc");
    }
}
