//! Panics of redb as values: it asserts what only a damaged file breaks.
//!
//! Invariant: the process' own panic hook sees every panic but those inside [`quietly`].

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`quietly`].
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// Where the last quiet panic of this thread happened.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `work`; a panic in it is not printed, but returned with its place. For work whose panics are expected.
///
/// What `work` may have left half done is its caller's to judge.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if QUIET.get() {
                note_place(panic);
            } else {
                others(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    result.map_err(|panic| format!("{} ({})", text(&*panic), PLACE.take()))
}

/// What is said to people of a panic of redb over a damaged file. What redb said is for who looks into its source: for the log.
pub(crate) fn told(panic: &str) -> String {
    tracing::debug!(%panic, "redb panicked over a damaged file.");
    "redb can't read what is in it".to_owned()
}

fn note_place(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "nobody knows where".to_owned(), ToString::to_string);
    PLACE.replace(place);
}

/// What a panic said.
pub(crate) fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_with_its_text_and_place() {
        let damaged = || -> u32 { panic!("page {} is not a page", 3) };
        let error = quietly(damaged).expect_err("it panics");
        assert!(error.starts_with("page 3 is not a page (") && error.contains("panics.rs:"), "{error}");
        assert_eq!(quietly(|| 7), Ok(7));
        assert!(!QUIET.get(), "the next panic is printed");
    }
}
