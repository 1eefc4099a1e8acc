//! The calls that leave the component: to the broker in a sandbox, to [`testing`](crate::testing) elsewhere.

#[cfg(target_arch = "wasm32")]
mod imports {
    use crate::bindings::pelton::broker::{context, emit};
    use crate::bindings::wasi::{config::store, logging::logging};

    pub(crate) use context::{consumer, remaining as remaining_ms, source};
    pub(crate) use emit::{emit, emit_at};
    pub(crate) use logging::log;

    pub(crate) fn config(key: &str) -> Result<Option<String>, String> {
        store::get(key).map_err(|error| match error {
            store::Error::Upstream(reason) | store::Error::Io(reason) => reason,
        })
    }
}

#[cfg(target_arch = "wasm32")]
pub(crate) use imports::*;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::host::*;
