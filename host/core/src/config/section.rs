//! One table of broker.toml, read key by key: whatever is not read in the end is an unknown key.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use bytesize::ByteSize;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::nearest;
use super::problems::Problems;

/// A key and what it says.
#[derive(Clone, Copy)]
pub(super) struct Entry<'t> {
    pub(super) key: &'t str,
    pub(super) key_span: (usize, usize),
    pub(super) value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Entry<'t> {
    pub(super) fn span(self) -> Range<usize> {
        self.value.span()
    }

    pub(super) fn key_span(self) -> Range<usize> {
        self.key_span.0..self.key_span.1
    }
}

/// A table, and which of its keys were asked for.
pub(super) struct Section<'t, 'p> {
    /// As it is shown: `[queues.reviews]`.
    name: String,
    /// None: the table is not in the file.
    table: Option<&'t DeTable<'t>>,
    problems: &'p Problems<'t>,
    known: RefCell<Vec<&'static str>>,
}

/// Something of a value with its place.
#[derive(Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<'t, 'p> Section<'t, 'p> {
    pub(super) fn new(name: impl Into<String>, table: Option<&'t DeTable<'t>>, problems: &'p Problems<'t>) -> Self {
        Self { name: name.into(), table, problems, known: RefCell::default() }
    }

    /// The table that `entry` holds, shown as `name`; empty if it holds something else, which is a problem.
    pub(super) fn of(name: impl Into<String>, entry: Entry<'t>, problems: &'p Problems<'t>) -> Self {
        let name = name.into();
        if let Some(table) = entry.value.get_ref().as_table() {
            return Self::new(name, Some(table), problems);
        }
        problems.error(
            entry.span(),
            format!("{name} is {}; a table was expected", describe(entry.value.get_ref())),
            None,
        );
        Self::new(name, None, problems)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn problems(&self) -> &'p Problems<'t> {
        self.problems
    }

    /// All keys, for tables whose keys are names.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'t>> + use<'t> {
        self.table.into_iter().flatten().map(|(key, value)| {
            let span = key.span();
            Entry { key: key.get_ref(), key_span: (span.start, span.end), value }
        })
    }

    /// What `key` says, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Entry<'t>> {
        self.known.borrow_mut().push(key);
        self.entries().find(|entry| entry.key == key)
    }

    /// The table under `key`, empty if it is not there.
    pub(super) fn table(&self, key: &'static str, name: &str) -> Section<'t, 'p> {
        match self.get(key) {
            Some(entry) => Section::of(name, entry, self.problems),
            None => Section::new(name, None, self.problems),
        }
    }

    fn wrong(&self, entry: Entry<'t>, expected: &str) {
        let message = format!("`{}` is {}; {expected} was expected", entry.key, describe(entry.value.get_ref()));
        self.problems.error(entry.span(), message, None);
    }

    /// The text under `key`.
    pub(super) fn text(&self, key: &'static str) -> Option<Placed<&'t str>> {
        let entry = self.get(key)?;
        let text = entry.value.get_ref().as_str();
        if text.is_none() {
            self.wrong(entry, "a string");
        }
        Some(Placed { value: text?, span: entry.span() })
    }

    /// The text under `key`, which is not empty.
    pub(super) fn filled_text(&self, key: &'static str) -> Option<Placed<&'t str>> {
        let text = self.text(key)?;
        if text.value.is_empty() {
            self.problems.error(text.span, format!("`{key}` is empty"), None);
            return None;
        }
        Some(text)
    }

    /// The texts of the list under `key`.
    pub(super) fn texts(&self, key: &'static str) -> Option<Placed<Vec<Placed<&'t str>>>> {
        let entry = self.get(key)?;
        let Some(list) = entry.value.get_ref().as_array() else {
            let help = entry.value.get_ref().as_str().map(|text| format!("write a list: {key} = [\"{text}\"]"));
            let message = format!("`{key}` is {}; a list of strings was expected", describe(entry.value.get_ref()));
            self.problems.error(entry.span(), message, help);
            return None;
        };
        let mut texts = Vec::new();
        for item in list.iter() {
            match item.get_ref().as_str() {
                Some(value) => texts.push(Placed { value, span: item.span() }),
                None => {
                    let message = format!("`{key}` holds {}; strings were expected", describe(item.get_ref()));
                    self.problems.error(item.span(), message, None);
                }
            }
        }
        Some(Placed { value: texts, span: entry.span() })
    }

    /// The bool under `key`.
    pub(super) fn truth(&self, key: &'static str) -> Option<Placed<bool>> {
        let entry = self.get(key)?;
        let value = entry.value.get_ref().as_bool();
        if value.is_none() {
            self.wrong(entry, "true or false");
        }
        Some(Placed { value: value?, span: entry.span() })
    }

    /// What the word under `key` stands for, which must be one of `words`.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<Placed<T>> {
        let text = self.text(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(Placed { value: *value, span: text.span });
        }
        let near = nearest(text.value, words.iter().map(|(word, _)| *word));
        let help = near.map(|near| format!("did you mean \"{near}\"?"));
        let quoted: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let message = format!("`{key}` is \"{}\"; it may be {}", text.value, either(&quoted));
        self.problems.error(text.span, message, help);
        None
    }

    /// Whether `key` is there, whatever it says.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries().any(|entry| entry.key == key)
    }

    /// The whole number under `key`, which must lie in `range`.
    pub(super) fn integer(&self, key: &'static str, range: &RangeInclusive<u64>) -> Option<u64> {
        let entry = self.get(key)?;
        let Some(number) = entry.value.get_ref().as_integer() else {
            self.wrong(entry, "a whole number");
            return None;
        };
        let value = integer_value(number).and_then(|value| u64::try_from(value).ok());
        self.within(entry, value, range, &number.to_string(), |bound| bound.to_string())
    }

    /// The number under `key`, which must lie in `range`.
    pub(super) fn number(&self, key: &'static str, range: &RangeInclusive<f64>) -> Option<f64> {
        let entry = self.get(key)?;
        let value = match entry.value.get_ref() {
            DeValue::Integer(number) => integer_value(number).map(|value| value as f64),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => {
                self.wrong(entry, "a number");
                return None;
            }
        };
        let shown = &self.problems.text()[entry.span()];
        self.within(entry, value, range, shown, |bound| bound.to_string())
    }

    /// The duration under `key`, written like `"1m30s"`, which must lie in `range`.
    pub(super) fn duration(&self, key: &'static str, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let entry = self.get(key)?;
        let Some(text) = entry.value.get_ref().as_str() else {
            let message = format!("`{key}` is {}; a duration was expected", describe(entry.value.get_ref()));
            self.problems.error(entry.span(), message, DURATION_HELP.to_owned());
            return None;
        };
        let Ok(value) = humantime::parse_duration(text) else {
            self.problems.error(entry.span(), format!("'{text}' is not a duration"), DURATION_HELP.to_owned());
            return None;
        };
        self.within(entry, Some(value), range, text, |bound| humantime::format_duration(*bound).to_string())
    }

    /// The size under `key`, written like `"64MiB"`, which must lie in `range`.
    pub(super) fn size(&self, key: &'static str, range: &RangeInclusive<u64>) -> Option<u64> {
        let entry = self.get(key)?;
        let Some(text) = entry.value.get_ref().as_str() else {
            let message = format!("`{key}` is {}; a size was expected", describe(entry.value.get_ref()));
            self.problems.error(entry.span(), message, SIZE_HELP.to_owned());
            return None;
        };
        let Ok(ByteSize(value)) = text.parse() else {
            self.problems.error(entry.span(), format!("'{text}' is not a size"), SIZE_HELP.to_owned());
            return None;
        };
        self.within(entry, Some(value), range, text, |bound| show_size(*bound))
    }

    fn within<T: PartialOrd>(
        &self,
        entry: Entry<'t>,
        value: Option<T>,
        range: &RangeInclusive<T>,
        given: &str,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let inside = value.filter(|value| range.contains(value));
        if inside.is_none() {
            let bounds = format!("{} to {}", show(range.start()), show(range.end()));
            self.problems.error(entry.span(), format!("`{}` is {given}; it may be {bounds}", entry.key), None);
        }
        inside
    }

    /// Reports `keys` as planned but not there yet.
    pub(super) fn not_yet(&self, keys: &[&str]) {
        for entry in self.entries().filter(|entry| keys.contains(&entry.key)) {
            let message = format!("`{}` is not supported by this version yet", entry.key);
            self.problems.error(entry.key_span(), message, "leave it out".to_owned());
        }
    }

    /// Reports every key that was neither read nor is one of `planned`, which get an error of their own.
    pub(super) fn finish(self, planned: &[&str]) {
        self.not_yet(planned);
        let mut known = self.known.borrow().clone();
        known.sort_unstable();
        known.dedup();
        for entry in self.entries().filter(|entry| !known.contains(&entry.key) && !planned.contains(&entry.key)) {
            let near = nearest(entry.key, known.iter().copied()).map(|near| format!("did you mean `{near}`? "));
            let help = format!("{}known keys are {}", near.unwrap_or_default(), known.join(", "));
            self.problems.error(entry.key_span(), format!("unknown key `{}` in {}", entry.key, self.name), help);
        }
    }
}

/// The tables of the list that `entry` holds, at most `max` of them; each is one `what`.
pub(super) fn list<'t>(entry: Entry<'t>, what: &str, max: usize, problems: &Problems<'_>) -> Vec<Entry<'t>> {
    let Some(list) = entry.value.get_ref().as_array() else {
        let found = describe(entry.value.get_ref());
        let message = format!("`{}` is {found}; a list of tables was expected", entry.key);
        problems.error(entry.span(), message, format!("start every {what} with [[{}]]", entry.key));
        return Vec::new();
    };
    if let Some(item) = list.get(max) {
        problems.error(item.span(), format!("there are more than {max} {what}s"), None);
    }
    list.iter().take(max).map(|value| Entry { value, ..entry }).collect()
}

/// The first line of a table: a marker over all of it would hide the place.
pub(super) fn header(span: Range<usize>, text: &str) -> Range<usize> {
    let end = text[span.start..].find('\n').map_or(text.len(), |at| span.start + at);
    span.start..span.end.min(end)
}

const DURATION_HELP: &str = "write it like \"250ms\", \"30s\", \"5m\" or \"1h30m\"";
const SIZE_HELP: &str = "write it like \"512KiB\", \"64MiB\" or \"1GiB\"";

/// `a, b or c`
fn either(words: &[String]) -> String {
    match words {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => words.concat(),
    }
}

/// What kind of value it is.
pub(super) fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a bool",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

pub(super) fn integer_value(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// `64MiB`, or the number where no unit fits exactly.
fn show_size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}
