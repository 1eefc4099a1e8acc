//! The seam to the outside: a door speaks one protocol and knows the broker only through its handle.

use tokio::sync::watch;

use crate::broker::Broker;
use crate::engine::Fut;

/// A protocol that lets the outside in.
pub trait Door: Send + Sync {
    /// For logs: the protocol and where it listens, `http://127.0.0.1:7656`.
    fn describe(&self) -> String;

    /// Serves until `stop` turns true, then accepts nothing new, finishes what it has begun within its own bound, and
    /// returns. The port is bound before the door is made, so that a taken port is an error at start.
    fn run(self: Box<Self>, broker: Broker, stop: watch::Receiver<bool>) -> Fut<'static, std::io::Result<()>>;
}
