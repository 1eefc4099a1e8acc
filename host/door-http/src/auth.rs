//! Who may come in: a bearer token, compared in constant time.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

use crate::problem::{Code, Problem};

/// The token that callers must show; without one everybody may come in.
pub(crate) struct Guard {
    token: Option<String>,
}

impl Guard {
    pub(crate) fn new(token: Option<String>) -> Self {
        Self { token }
    }

    /// # Errors
    /// `unauthorized` when the token is missing or another one. It never says how far it was right.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(token) = &self.token else { return Ok(()) };
        let shown = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let detail = match shown.map(bearer) {
            Some(Some(shown)) if bool::from(shown.ct_eq(token.as_bytes())) => return Ok(()),
            Some(Some(_)) => "the bearer token is not the broker's ([http] token)",
            Some(None) => "the header Authorization is not of the form 'Bearer TOKEN'",
            None => "send the header 'Authorization: Bearer TOKEN' with the broker's token ([http] token)",
        };
        Err(Problem::new(Code::Unauthorized, detail))
    }
}

/// What follows the scheme `Bearer`, which is written in any case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn passes(token: Option<&str>, shown: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(shown) = shown {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(shown));
        }
        Guard::new(token.map(str::to_owned)).check(&headers).is_ok()
    }

    #[test]
    fn only_the_token_passes() {
        assert!(passes(None, None));
        assert!(passes(Some("abc"), Some("Bearer abc")));
        assert!(passes(Some("abc"), Some("bearer  abc ")));
        for shown in [
            None,
            Some(""),
            Some("abc"),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer ab"),
            Some("Bearer abcd"),
            Some("Basic abc"),
        ] {
            assert!(!passes(Some("abc"), shown), "{shown:?} passed");
        }
    }
}
