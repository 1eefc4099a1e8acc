//! What is wrong with a configuration, collected, and shown with its place the way rustc does.

use std::cell::RefCell;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// Most problems that are shown at once.
pub(super) const PROBLEMS_MAX: usize = 30;

/// Collects problems while a configuration is read, so that all of them are told in one go.
pub(super) struct Problems<'t> {
    text: &'t str,
    /// The file's name, as it is shown.
    file: String,
    errors: RefCell<Vec<Found>>,
    warnings: RefCell<Vec<Found>>,
}

struct Found {
    span: Range<usize>,
    message: String,
    help: Option<String>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str, file: String) -> Self {
        Self { text, file, errors: RefCell::default(), warnings: RefCell::default() }
    }

    /// The configuration's text.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    /// Notes that the bytes at `span` are wrong: what about them, and what to do.
    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.errors.borrow_mut().push(Found { span, message: message.into(), help: help.into() });
    }

    /// Notes that the bytes at `span` are probably not meant like that.
    pub(super) fn warning(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.warnings.borrow_mut().push(Found { span, message: message.into(), help: help.into() });
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// The errors and the warnings, each in the order of the file and ready to print.
    pub(super) fn into_texts(self) -> (Vec<String>, Vec<String>) {
        let Self { text, file, errors, warnings } = self;
        let show = |level: Level<'static>, found: RefCell<Vec<Found>>| {
            let mut found = found.into_inner();
            found.sort_by_key(|found| (found.span.start, found.span.end));
            found.dedup_by(|later, earlier| later.span == earlier.span && later.message == earlier.message);
            let more = found.len().saturating_sub(PROBLEMS_MAX);
            found.truncate(PROBLEMS_MAX);
            let mut texts: Vec<_> = found.iter().map(|found| render(text, &file, level.clone(), found)).collect();
            if more > 0 {
                texts.push(format!("and {more} more"));
            }
            texts
        };
        (show(Level::ERROR, errors), show(Level::WARNING, warnings))
    }
}

fn render(text: &str, file: &str, level: Level<'_>, found: &Found) -> String {
    let end = found.span.end.min(text.len());
    let span = found.span.start.min(end)..end;
    // A marker over many lines hides the place: the first line of it is enough.
    let line_end = text[span.start..].find('\n').map_or(text.len(), |at| span.start + at);
    let span = span.start..span.end.min(line_end.max(span.start));
    let snippet = Snippet::source(text).path(file).annotation(AnnotationKind::Primary.span(span));
    let mut group = level.primary_title(found.message.as_str()).element(snippet);
    if let Some(help) = &found.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    Renderer::plain().decor_style(DecorStyle::Ascii).render(&[group])
}
