//! The HTTP client of commands that talk to a running broker: address, token, and errors that say what to do.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::exit::{Exit, Failure};

/// A request that takes longer than this will not come back; long-poll waits come on top.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Which broker, and how to get in.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RemoteArgs {
    /// The broker's address
    #[arg(long, value_name = "URL", env = "PELTON_URL", default_value = "http://127.0.0.1:7656", global = true)]
    pub(crate) url: String,

    /// The environment variable that holds the bearer token
    #[arg(long, value_name = "NAME", default_value = "PELTON_TOKEN", global = true)]
    pub(crate) token_env: String,
}

impl RemoteArgs {
    /// The token, where one is set.
    pub(crate) fn token(&self) -> Option<String> {
        std::env::var(&self.token_env).ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
    }
}

/// A broker, seen from outside.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// What the broker answered instead of doing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    /// The stable code, or `http-STATUS` where something else than a broker answered.
    pub(crate) code: String,
    pub(crate) detail: String,
    /// The other members of the problem.
    pub(crate) members: serde_json::Map<String, Value>,
    /// When to come back.
    pub(crate) retry_after: Option<Duration>,
}

/// Why a call did not succeed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The broker answered: no.
    Refused(Refused),
    /// Nobody answered, or not in HTTP.
    Transport(Failure),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Transport(failure) => failure,
            CallError::Refused(refused) => refused.into(),
        }
    }
}

impl From<CallError> for anyhow::Error {
    fn from(error: CallError) -> Self {
        Failure::from(error).into()
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let exit = if refused.is_temporary() { Exit::Unavailable } else { Exit::Refused };
        Self::new(exit, refused.to_string())
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The broker speaks to programs; here is its command line.
        let detail = self.detail.replace("GET /v1/queues lists them", "`pelton queues` lists them");
        let detail = detail.replace("GET /v1/consumers lists them", "`pelton consumers` lists them");
        write!(f, "{detail} ({})", self.code)?;
        if self.status == StatusCode::UNAUTHORIZED.as_u16() {
            write!(f, "\nhelp: export the broker's token as PELTON_TOKEN, or name its variable with --token-env")?;
        }
        Ok(())
    }
}

impl Refused {
    /// Whether the same request may succeed later.
    pub(crate) fn is_temporary(&self) -> bool {
        let temporary =
            [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS, StatusCode::INSUFFICIENT_STORAGE];
        temporary.iter().any(|status| status.as_u16() == self.status)
    }

    async fn read(response: Response) -> Self {
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let body = response.bytes().await.unwrap_or_default();
        let mut members: serde_json::Map<String, Value> = serde_json::from_slice(&body).unwrap_or_default();
        let mut text = |name| match members.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let code = text("code").unwrap_or_else(|| format!("http-{}", status.as_u16()));
        let detail = text("detail")
            .unwrap_or_else(|| format!("the answer was {status} and not from a Pelton broker; is --url right?"));
        Self { status: status.as_u16(), code, detail, members, retry_after }
    }
}

impl Client {
    /// A client for the broker that `remote` names.
    ///
    /// # Errors
    /// Where the URL is none.
    pub(crate) fn new(remote: &RemoteArgs) -> Result<Self, Failure> {
        let base = remote.url.trim_end_matches('/').to_owned();
        let parsed = reqwest::Url::parse(&base)
            .map_err(|error| Failure::usage(format!("--url '{base}' is no URL: {error}; write http://HOST:PORT")))?;
        if parsed.scheme() != "http" || parsed.host().is_none() {
            return Err(Failure::usage(format!("--url '{base}' can't be used; write http://HOST:PORT")));
        }
        let agent = concat!("pelton/", env!("CARGO_PKG_VERSION"));
        let http = reqwest::Client::builder()
            .user_agent(agent)
            .connect_timeout(CONNECT_WITHIN)
            .build()
            .map_err(|error| Failure::new(Exit::Failed, format!("the HTTP client can't be made: {error}")))?;
        Ok(Self { http, base, token: remote.token() })
    }

    /// A request to `path`, which starts with `/`.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base)).timeout(ANSWER_WITHIN);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends `request` and returns the answer if it is a success.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, CallError> {
        let (client, request) = request.build_split();
        let request = request.map_err(|error| CallError::Transport(self.unreachable(&error, false)))?;
        let is_read = request.method() == Method::GET;
        let response = client.execute(request).await;
        let response = response.map_err(|error| CallError::Transport(self.unreachable(&error, is_read)))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(CallError::Refused(Refused::read(response).await))
        }
    }

    /// Sends `request` and reads the JSON of the answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CallError> {
        let response = self.send(request).await?;
        // Whatever was asked was done: success was answered. But what it came to is not known.
        let bytes = response.bytes().await.map_err(|error| CallError::Transport(self.unreachable(&error, false)))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("the answer of {} is not what was expected: {error}", self.base);
            CallError::Transport(Failure::new(Exit::Failed, message))
        })
    }

    /// Reads `path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.json(self.request(Method::GET, path)).await
    }

    /// Posts `body` to `path`.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, CallError> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// What to say about a request without an answer; `is_read`: it could not change anything.
    fn unreachable(&self, error: &reqwest::Error, is_read: bool) -> Failure {
        let base = &self.base;
        if error.is_connect() {
            return Failure::new(
                Exit::Unreachable,
                format!(
                    "no broker answers at {base}{}\n\
                     help: start one with `pelton dev` or `pelton serve`, or name another with --url or PELTON_URL",
                    cause_of_connect(error)
                ),
            );
        }
        let unknown = if is_read { "" } else { "; whether it did what was asked is unknown" };
        let message = if error.is_timeout() {
            format!("{base} did not answer in time{unknown}")
        } else {
            format!("the connection to {base} broke: {}{unknown}", root(error))
        };
        Failure::new(Exit::Unavailable, message)
    }
}

/// Why nobody could be reached, unless it is that nobody listens there.
fn cause_of_connect(error: &reqwest::Error) -> String {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return String::new();
        }
        cause = error.source();
    }
    format!(": {}", root(error))
}

/// The innermost cause: what the system said.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// `text` as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_escaped() {
        assert_eq!(segment("a.b-c_d~1"), "a.b-c_d~1");
        assert_eq!(segment("a/b ?\u{e9}"), "a%2Fb%20%3F%C3%A9");
    }

    #[test]
    fn only_plain_http_urls_are_taken() {
        let client = |url: &str| Client::new(&RemoteArgs { url: url.into(), token_env: "PELTON_NO_SUCH".into() });
        assert!(client("http://127.0.0.1:1/").is_ok());
        for bad in ["localhost:7656", "https://x", "ftp://x", ""] {
            assert_eq!(client(bad).expect_err(bad).exit, Exit::Usage, "{bad}");
        }
    }
}
