//! The load generator's own HTTP client: one hyper connection at a time, no pool, no JSON, so that it costs the machine,
//! which the broker shares, as little as can be.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::client::RemoteArgs;
use crate::exit::{Exit, Failure};

/// The largest answer that is kept: a lease of 100 messages with room to spare.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where to connect and how to get in.
#[derive(Debug, Clone)]
pub(super) struct Target {
    address: SocketAddr,
    url: String,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Target {
    pub(super) async fn resolve(remote: &RemoteArgs) -> anyhow::Result<Self> {
        let url = remote.url.trim_end_matches('/').to_owned();
        let uri: Uri = url.parse().map_err(|error| Failure::usage(format!("--url '{url}' is no URL: {error}")))?;
        let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            bail!(Failure::usage(format!("--url '{url}' can't be used; write http://HOST:PORT")));
        };
        let port = uri.port_u16().unwrap_or(80);
        let mut addresses =
            tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await.context(url.clone())?;
        let address = addresses.next().with_context(|| format!("{host} has no address"))?;
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let authorization = match remote.token() {
            Some(token) => {
                Some(HeaderValue::from_str(&format!("Bearer {token}")).context("the token is no header value")?)
            }
            None => None,
        };
        Ok(Self { address, url, host: HeaderValue::from_str(&authority)?, authorization })
    }

    /// A request that can be cloned for every call, without its body.
    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
    ) -> anyhow::Result<Request<()>> {
        let mut request = Request::builder().method(method).uri(path).body(()).with_context(|| path.to_owned())?;
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

/// An answer's status and body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body of a success.
    pub(super) fn success(self) -> anyhow::Result<Bytes> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = |name: &str| problem.get(name).and_then(serde_json::Value::as_str).unwrap_or("?").to_owned();
        let message = format!("the broker refused the load: {} ({}, {})", text("detail"), text("code"), self.status);
        let exit = if self.status == StatusCode::SERVICE_UNAVAILABLE { Exit::Unavailable } else { Exit::Refused };
        bail!(Failure::new(exit, message))
    }
}

/// One connection; one call at a time.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects; must be called inside a `LocalSet`.
    pub(super) async fn open(target: &Target) -> anyhow::Result<Self> {
        let unreachable = |error: &dyn std::fmt::Display| {
            let url = &target.url;
            let help = "help: start one with `pelton serve`, or name another with --url or PELTON_URL";
            Failure::new(Exit::Unreachable, format!("no broker answers at {url}: {error}\n{help}"))
        };
        let stream = TcpStream::connect(target.address).await.map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true)?;
        let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
        // Its errors come out of the calls.
        tokio::task::spawn_local(driver);
        Ok(Self { sender })
    }

    /// Sends `head` with `body` and reads the whole answer.
    pub(super) async fn call(&mut self, head: &Request<()>, body: Bytes) -> anyhow::Result<Answer> {
        self.sender.ready().await.context("the broker closed the connection")?;
        let request = head.clone().map(|()| Full::new(body));
        let response = self.sender.send_request(request).await.context("the connection broke")?;
        let status = response.status();
        let mut frames = response.into_body();
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        while let Some(frame) = frames.frame().await {
            let Ok(data) = frame.context("the answer broke off")?.into_data() else { continue };
            match &first {
                None => first = Some(data),
                Some(_) => rest.extend_from_slice(&data),
            }
            if rest.len() > ANSWER_BYTES_MAX {
                bail!("the answer has more than {ANSWER_BYTES_MAX} bytes");
            }
        }
        let first = first.unwrap_or_default();
        let body = if rest.is_empty() { first } else { [first, rest.freeze()].concat().into() };
        Ok(Answer { status, body })
    }
}
