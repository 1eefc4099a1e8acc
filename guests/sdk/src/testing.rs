//! Running handlers without a broker, in `cargo test` on the machine you develop on.
//!
//! Outside a sandbox the host's side of every call is played by this module: emits are collected, log lines go to stderr,
//! configuration is what the test sets. All of it belongs to the thread, so tests do not see each other's.
//!
//! ```
//! use pelton_guest::{Delivery, Result, emit, testing};
//!
//! fn double(number: pelton_guest::Json<u64>, _: &Delivery) -> Result {
//!     emit("doubled", &(number.0 * 2))?;
//!     Ok(())
//! }
//!
//! testing::handle(double, &testing::delivery("numbers", "21")).unwrap();
//! let (topic, event) = &testing::emitted()[0];
//! assert_eq!((topic.as_str(), event.data.as_slice()), ("doubled", &b"42"[..]));
//!
//! assert!(testing::handle(double, &testing::delivery("numbers", "many")).unwrap_err().is_reject());
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::{Delivery, Event, FromMessage, Message, Result};

#[derive(Default)]
struct Scene {
    config: BTreeMap<String, String>,
    refused: BTreeMap<String, String>,
    emitted: Vec<(String, Event)>,
    scheduled: Vec<(String, Event, SystemTime)>,
}

thread_local! {
    static SCENE: RefCell<Scene> = RefCell::default();
}

/// The first delivery of a message with this body, published to `topic`. Change its fields as the test needs.
#[must_use]
pub fn delivery(topic: &str, data: impl AsRef<[u8]>) -> Delivery {
    Delivery {
        message: Message {
            id: "test-1".to_owned(),
            source: "/test".to_owned(),
            type_: topic.to_owned(),
            subject: None,
            time: None,
            content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            data: data.as_ref().to_vec(),
        },
        topic: topic.to_owned(),
        attempt: 1,
        idempotency_key: "test-1".to_owned(),
    }
}

/// Calls `handle` as the broker would: reads the message as the type that it asks for, first.
///
/// # Errors
/// What `handle` returns; a rejection if the message can't be read.
pub fn handle<'d, M, F>(handle: F, delivery: &'d Delivery) -> Result
where
    M: FromMessage<'d>,
    F: FnOnce(M, &'d Delivery) -> Result,
{
    crate::run(handle, delivery)
}

/// Sets what [`config`](crate::config()) answers for `key`.
pub fn set_config(key: impl Into<String>, value: impl Into<String>) {
    SCENE.with_borrow_mut(|scene| scene.config.insert(key.into(), value.into()));
}

/// Makes every later emit to `topic` fail as invalid, with this reason: what the broker does where no route matches.
pub fn refuse_topic(topic: impl Into<String>, reason: impl Into<String>) {
    SCENE.with_borrow_mut(|scene| scene.refused.insert(topic.into(), reason.into()));
}

/// Takes what was emitted for now since the last call: topic and event, in order. A broker would discard it if the handler failed.
#[must_use]
pub fn emitted() -> Vec<(String, Event)> {
    SCENE.with_borrow_mut(|scene| std::mem::take(&mut scene.emitted))
}

/// Takes what was emitted for later since the last call: topic, event and time, in order. [`emitted`] has the rest.
#[must_use]
pub fn scheduled() -> Vec<(String, Event, SystemTime)> {
    SCENE.with_borrow_mut(|scene| std::mem::take(&mut scene.scheduled))
}

/// The host's side of the calls.
pub(crate) mod host {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{SCENE, Scene};
    use crate::bindings::pelton::broker::types::Refused;
    use crate::{Event, Level};

    pub(crate) fn emit(topic: &str, event: &Event) -> Result<String, Refused> {
        emit_with(topic, |scene| scene.emitted.push((topic.to_owned(), event.clone())))
    }

    pub(crate) fn emit_at(topic: &str, event: &Event, not_before_ms: u64) -> Result<String, Refused> {
        let time = UNIX_EPOCH + Duration::from_millis(not_before_ms);
        emit_with(topic, |scene| scene.scheduled.push((topic.to_owned(), event.clone(), time)))
    }

    fn emit_with(topic: &str, add: impl FnOnce(&mut Scene)) -> Result<String, Refused> {
        SCENE.with_borrow_mut(|scene| match scene.refused.get(topic) {
            Some(reason) => Err(Refused::Invalid(reason.clone())),
            None => {
                add(scene);
                Ok(format!("test-1-{}", scene.emitted.len() + scene.scheduled.len()))
            }
        })
    }

    #[expect(clippy::print_stderr, reason = "the test harness captures it and shows it where a test fails")]
    pub(crate) fn log(level: Level, context: &str, message: &str) {
        let level = match level {
            Level::Trace => "TRACE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Critical => "CRITICAL",
        };
        eprintln!("{level} {context}: {message}");
    }

    #[expect(clippy::unnecessary_wraps, reason = "in a sandbox it can fail")]
    pub(crate) fn config(key: &str) -> Result<Option<String>, String> {
        Ok(SCENE.with_borrow(|scene| scene.config.get(key).cloned()))
    }

    pub(crate) fn consumer() -> String {
        "test".to_owned()
    }

    pub(crate) fn source() -> String {
        "queue:test".to_owned()
    }

    pub(crate) fn remaining_ms() -> u32 {
        30_000
    }
}
