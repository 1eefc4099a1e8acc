//! pelton-door-http: the HTTP API. `API.md` beside this crate is its reference.
//!
//! It turns HTTP into calls of [`pelton_core::broker::Broker`] and back, and knows nothing of the engine or of components.
//! Every refusal is a problem with a stable [`Code`]; every buffer, wait and loop has its bound in [`limits`].

mod api;
mod auth;
mod body;
mod door;
pub mod event;
mod handover;
mod input;
pub mod limits;
mod problem;
mod serve;
mod shape;
mod stall;

pub use self::api::Api;
pub use self::door::{BindError, HttpDoor, HttpOptions};
pub use self::problem::Code;
