//! The door itself: a bound port, and what runs behind it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use pelton_core::broker::Broker;
use pelton_core::door::Door;
use pelton_core::engine::Fut;
use tokio::sync::watch;

use crate::api::Api;
use crate::serve::serve;

/// How the door is set up.
#[derive(Clone)]
pub struct HttpOptions {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The bearer token that callers must show; without one only a loopback address can be bound.
    pub token: Option<String>,
    /// Largest body of a publish request, in bytes: `[http] max-request`.
    pub request_bytes_max: u64,
}

/// Why the door has no port.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error("{0} is in use by another process; stop it or set [http] listen / --listen")]
    InUse(SocketAddr),
    /// Ports below 1024 are often kept for the system.
    #[error("{0} may not be bound by this user; choose a port above 1023 in [http] listen / --listen")]
    Denied(SocketAddr),
    /// No network interface has it.
    #[error(
        "{0} is not an address of this machine; set [http] listen / --listen to one of its own, such as 127.0.0.1:7656"
    )]
    NotOurs(SocketAddr),
    /// Everybody in the network could publish and delete.
    #[error(
        "{0} can be reached from other machines, so a token is needed: set [http] token = {{ env = \"NAME\" }}, or listen on 127.0.0.1"
    )]
    TokenRequired(SocketAddr),
    /// Anything else that the system says.
    #[error("can't listen on {address} ([http] listen / --listen): {error}")]
    Other {
        /// What was to be bound.
        address: SocketAddr,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// The HTTP door; `run` serves until it is told to stop.
pub struct HttpDoor {
    listener: TcpListener,
    address: SocketAddr,
    options: HttpOptions,
}

impl HttpDoor {
    /// Binds the port, so that a taken one is an error at start. Needs no executor; connections wait until the door runs.
    ///
    /// # Errors
    /// [`BindError`], which names the address and the setting.
    pub fn bind(options: HttpOptions) -> Result<Self, BindError> {
        let address = options.listen;
        if options.token.is_none() && !address.ip().is_loopback() {
            return Err(BindError::TokenRequired(address));
        }
        let bound = || -> io::Result<_> {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bound().map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address),
            io::ErrorKind::PermissionDenied => BindError::Denied(address),
            io::ErrorKind::AddrNotAvailable => BindError::NotOurs(address),
            _ => BindError::Other { address, error },
        })?;
        Ok(Self { listener, address, options })
    }

    /// Where it listens, with the port that it got.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Door for HttpDoor {
    fn describe(&self) -> String {
        format!("http://{}", self.address)
    }

    fn run(self: Box<Self>, broker: Broker, stop: watch::Receiver<bool>) -> Fut<'static, io::Result<()>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let api = Api::new(broker, &self.options, stop.clone());
            serve(listener, api, stop).await;
            Ok(())
        })
    }
}
