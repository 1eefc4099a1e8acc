//! Write Pelton consumers in Rust.
//!
//! A consumer is a function that is called once for every message, in a fresh sandbox:
//!
//! ```
//! use pelton_guest::{consumer, info, Delivery, Json, Result};
//!
//! #[derive(serde::Deserialize)]
//! struct Order { id: u64 }
//!
//! consumer!(handle);
//!
//! fn handle(order: Json<Order>, delivery: &Delivery) -> Result {
//!     info!("order {} came by {}, attempt {}", order.id, delivery.topic, delivery.attempt);
//!     Ok(())
//! }
//! # fn main() {}
//! ```
//!
//! - **What it is given**: the message as a type of your choice, see [`FromMessage`], and the [`Delivery`] around it.
//! - **What it returns**: `Ok` settles the message. Any error that `?` meets asks for another try; a body that can't be read
//!   as the type asked for is rejected; [`Error`] and [`ResultExt`] (`.or_reject()`, `.or_retry()`) decide otherwise.
//! - **What it can do**: [`emit`] messages, now or for later, which appear only if the delivery ends well; log with [`info!`] and its sisters
//!   (`println!` and `eprintln!` are kept with the delivery, too); read its [`config`]; ask the [`context`].
//! - **When it panics**, the message stands on stderr, the delivery ends as a trap and is tried again.
//!
//! The crate compiles for the machine you develop on as well, so `cargo test` runs handlers without a broker: see
//! [`testing`].

extern crate self as pelton_guest;

#[doc(hidden)]
pub mod bindings;
pub mod context;
mod error;
mod event;
mod host;
mod log;
mod message;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod time;

pub use bindings::pelton::broker::types::{Delivery, Event, Message};
pub use context::config;
pub use error::{Error, Result, ResultExt};
pub use event::{EmitError, emit};
pub use log::{Level, log};
pub use message::{FromMessage, Json};
pub use serde_json;

#[doc(hidden)]
pub use wit_bindgen;

/// Makes the function the component's handler: `consumer!(handle);`, once in a crate.
///
/// The function has the signature `fn(M, &Delivery) -> Result`, where `M` is any [`FromMessage`]. The crate is a library
/// with `crate-type = ["cdylib"]`, built for `wasm32-wasip2`.
#[macro_export]
macro_rules! consumer {
    ($handle:path) => {
        const _: () = {
            struct Consumer;

            impl $crate::bindings::exports::pelton::broker::handler::Guest for Consumer {
                fn handle(
                    delivery: $crate::Delivery,
                ) -> ::core::result::Result<(), $crate::bindings::pelton::broker::types::Failure> {
                    ::core::result::Result::map_err($crate::run($handle, &delivery), ::core::convert::Into::into)
                }
            }

            #[cfg(target_arch = "wasm32")]
    $crate::bindings::export_consumer!(Consumer with_types_in $crate::bindings);

            // Elsewhere, under `cargo test` say, there is no host to export to; this keeps the handler from being dead code.
            #[cfg(not(target_arch = "wasm32"))]
            const _: fn() = || {
                let _ = <Consumer as $crate::bindings::exports::pelton::broker::handler::Guest>::handle;
            };
        };
    };
}

/// Reads the message as what `handle` asks for, then calls it.
#[doc(hidden)]
pub fn run<'d, M, F>(handle: F, delivery: &'d Delivery) -> Result
where
    M: FromMessage<'d>,
    F: FnOnce(M, &'d Delivery) -> Result,
{
    let result = M::from_message(&delivery.message).and_then(|message| handle(message, delivery));
    // A delivery's sandbox ends without the end of a program, at which Rust would write what is no whole line yet.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    result
}
