//! Reading request bodies under bounds: size, time, and memory over all connections.
//!
//! Invariant: a body over its limit is refused as soon as that is known, by Content-Length or while it arrives.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::limits::{
    BODY_BUDGET_BYTES, BODY_FREE_BYTES, BODY_READ_MAX, BODY_SHARE_WAIT_MAX, DISCARD_BYTES_MAX, DISCARD_WITHIN,
};
use crate::problem::{Code, Problem};

/// A body, and its share of the memory for bodies until it is dropped.
pub(crate) struct Received<'a> {
    pub(crate) bytes: Bytes,
    _share: Option<SemaphorePermit<'a>>,
}

/// Memory for bodies above [`BODY_FREE_BYTES`], over all connections.
pub(crate) struct Budget {
    /// One permit per KiB.
    permits: Semaphore,
    read_within: Duration,
    share_within: Duration,
}

const KIB: u64 = 1024;

impl Budget {
    /// A budget in which a body of `largest` bytes always fits.
    pub(crate) fn new(largest: u64) -> Self {
        let permits = BODY_BUDGET_BYTES.max(largest).div_ceil(KIB);
        let permits = usize::try_from(permits).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { permits: Semaphore::new(permits), read_within: BODY_READ_MAX, share_within: BODY_SHARE_WAIT_MAX }
    }

    /// Reads a body of at most `bytes_max` bytes; `limit` names where that number comes from.
    ///
    /// # Errors
    /// `too-large`, `request-timeout`, `busy` when no memory came free in time, `invalid-request` when it ended early.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        bytes_max: u64,
        limit: &str,
    ) -> Result<Received<'_>, Problem> {
        let declared = declared_bytes(headers);
        if declared.is_some_and(|declared| declared > bytes_max) {
            discard(headers, body);
            return Err(too_large(bytes_max, limit));
        }
        let mut reading = Reading { budget: self, share: None, declared, bytes_max, body };
        match tokio::time::timeout(self.read_within, reading.gather()).await {
            Ok(Ok(Some(bytes))) => Ok(Received { bytes, _share: reading.share }),
            Ok(Ok(None)) => {
                discard(headers, reading.body);
                Err(too_large(bytes_max, limit))
            }
            Ok(Err(problem)) => Err(problem),
            Err(_) => Err(Problem::new(
                Code::RequestTimeout,
                format!(
                    "the body was not complete after {} s; send it faster or in smaller parts",
                    self.read_within.as_secs()
                ),
            )),
        }
    }
}

struct Reading<'a> {
    budget: &'a Budget,
    share: Option<SemaphorePermit<'a>>,
    declared: Option<u64>,
    bytes_max: u64,
    body: Body,
}

impl Reading<'_> {
    /// The whole body; none when it is too large. A body of one frame is not copied.
    async fn gather(&mut self) -> Result<Option<Bytes>, Problem> {
        if let Some(declared) = self.declared {
            self.reserve(declared).await?;
        }
        let mut first = Bytes::new();
        let mut rest: Vec<u8> = Vec::new();
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|_| Problem::new(Code::InvalidRequest, "the body ended early"))?;
            let Ok(data) = frame.into_data() else { continue };
            let total = (first.len() + rest.len() + data.len()) as u64;
            if total > self.bytes_max {
                return Ok(None);
            }
            if rest.is_empty() && first.is_empty() {
                first = data;
                continue;
            }
            if self.declared.is_none() {
                self.reserve(if total > BODY_FREE_BYTES { self.bytes_max } else { 0 }).await?;
            }
            if rest.is_empty() {
                rest.reserve(usize::try_from(self.declared.unwrap_or(total * 2)).unwrap_or_default());
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
        Ok(Some(if rest.is_empty() { first } else { rest.into() }))
    }

    /// Takes a share of the budget for a body of `bytes`, once; small ones need none.
    async fn reserve(&mut self, bytes: u64) -> Result<(), Problem> {
        if self.share.is_some() || bytes <= BODY_FREE_BYTES {
            return Ok(());
        }
        let permits = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX);
        let share = tokio::time::timeout(self.budget.share_within, self.budget.permits.acquire_many(permits)).await;
        let Ok(Ok(share)) = share else {
            return Err(Problem::new(Code::Busy, "too many large requests at once; nothing was done, repeat it"));
        };
        self.share = Some(share);
        Ok(())
    }
}

fn declared_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(bytes_max: u64, limit: &str) -> Problem {
    Problem::new(Code::TooLarge, format!("the body has more than {bytes_max} bytes ({limit}); send less at once"))
        .with("bytes_max", bytes_max)
}

/// Answers `problem` to a request whose body nobody reads.
pub(crate) fn refuse(headers: &HeaderMap, body: Body, problem: Problem) -> Response {
    discard(headers, body);
    problem.into_response()
}

/// Reads and drops `body` beside the answer, within bounds: closing on unread bytes resets the connection, and the
/// sender might never see what was wrong. A sender that waits to be asked (`Expect: 100-continue`) is not asked.
fn discard(headers: &HeaderMap, mut body: Body) {
    use axum::body::HttpBody as _;
    if body.is_end_stream() || headers.contains_key(EXPECT) {
        return;
    }
    let drain = async move {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len) as u64;
            if seen > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    tokio::spawn(tokio::time::timeout(DISCARD_WITHIN, drain));
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn chunks(sizes: &[usize]) -> Body {
        let frames: Vec<_> = sizes.iter().map(|size| Ok::<_, std::io::Error>(vec![b'x'; *size])).collect();
        Body::from_stream(futures_util::stream::iter(frames))
    }

    async fn read(budget: &Budget, declared: Option<u64>, sizes: &[usize], max: u64) -> Result<usize, &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(declared) = declared {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(declared));
        }
        let read = budget.read(&headers, chunks(sizes), max, "limit").await;
        read.map(|received| received.bytes.len()).map_err(|problem| problem.code().as_str())
    }

    #[tokio::test]
    async fn sizes() {
        let budget = Budget::new(0);
        for declared in [None, Some(6)] {
            assert_eq!(read(&budget, declared, &[1, 2, 3], 6).await, Ok(6));
            assert_eq!(read(&budget, declared, &[6], 6).await, Ok(6));
            assert_eq!(read(&budget, declared, &[1, 2, 4], 6).await, Err("too-large"), "while it arrives");
        }
        assert_eq!(read(&budget, Some(7), &[], 6).await, Err("too-large"), "before it arrives");
        assert_eq!(read(&budget, None, &[], 6).await, Ok(0));
    }

    #[tokio::test]
    async fn shares_are_given_back() {
        let budget = Budget { share_within: Duration::ZERO, ..Budget::new(0) };
        let all = budget.permits.available_permits();
        let large = usize::try_from(BODY_FREE_BYTES).expect("small") + 1;
        let held = budget.read(&HeaderMap::new(), chunks(&[1, large]), 1 << 20, "limit").await.expect("it fits");
        assert_eq!(budget.permits.available_permits(), all - 1024, "a body of unknown length takes the largest share");
        let rest = budget.permits.forget_permits(all);
        assert_eq!(read(&budget, Some(1 << 20), &[1 << 20], 1 << 20).await, Err("busy"));
        budget.permits.add_permits(rest);
        drop(held);
        assert_eq!(budget.permits.available_permits(), all);
        assert_eq!(read(&budget, None, &[1, large], BODY_FREE_BYTES).await, Err("too-large"));
        assert_eq!(budget.permits.available_permits(), all, "a refused body holds nothing");
    }

    #[tokio::test]
    async fn a_body_has_to_arrive_in_time() {
        let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let budget = Budget { read_within: Duration::ZERO, ..Budget::new(0) };
        let read = budget.read(&HeaderMap::new(), body, 10, "limit").await;
        assert_eq!(read.err().map(|problem| problem.code()), Some(Code::RequestTimeout));
    }
}
