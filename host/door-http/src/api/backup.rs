//! `GET /v1/backup`: a copy of the store, streamed from a temporary file that goes when the answer does.

use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use pelton_core::operator::BackupFile;
use tokio::fs::File;
use tokio::io::{AsyncRead, ReadBuf};

use super::Shared;
use crate::input::Parameters;
use crate::limits::BACKUP_READ_BYTES;
use crate::problem::{Code, Problem};

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

pub(super) async fn backup(State(shared): State<Arc<Shared>>, method: Method, uri: Uri) -> Result<Response, Problem> {
    Parameters::none(&uri)?;
    if method == Method::HEAD {
        // No copy is made to be thrown away, so that its length is not known.
        let nothing = Body::from_stream(futures_util::stream::empty::<Result<Bytes, Error>>());
        return Ok(([(CONTENT_TYPE, OCTETS)], nothing).into_response());
    }
    let copying = shared.broker.backup();
    let copy = tokio::select! {
        biased;
        copy = copying => copy?,
        () = shared.stopped() => return Err(Problem::new(Code::NotReady, "the broker is stopping")),
    };
    let mut file = File::open(copy.path()).await.map_err(|error| {
        let detail = format!("the copy of the store is made, but can't be read: {error}; try again");
        Problem::new(Code::Unavailable, detail)
    })?;
    file.set_max_buf_size(BACKUP_READ_BYTES);
    let bytes = copy.bytes();
    let body = Copy { reading: Some((file, copy)), left: bytes, buffer: Vec::new() };
    Ok(([(CONTENT_TYPE, OCTETS), (CONTENT_LENGTH, bytes.into())], Body::new(body)).into_response())
}

/// The bytes of a copy, read when the peer takes them.
struct Copy {
    /// None only while it is dropped.
    reading: Option<(File, BackupFile)>,
    left: u64,
    buffer: Vec<u8>,
}

impl HttpBody for Copy {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let Some((file, _)) = &mut this.reading else { return Poll::Ready(None) };
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let want = usize::try_from(this.left).unwrap_or(usize::MAX).min(BACKUP_READ_BYTES);
        this.buffer.resize(want, 0);
        let mut read = ReadBuf::new(&mut this.buffer);
        ready!(Pin::new(file).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        if count == 0 {
            let error = Error::new(ErrorKind::UnexpectedEof, "the copy of the store is shorter than it was");
            return Poll::Ready(Some(Err(error)));
        }
        this.left -= count as u64;
        this.buffer.truncate(count);
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.buffer).into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Removing a large file takes the system a while: not on an executor's thread.
        if let Ok(executor) = tokio::runtime::Handle::try_current() {
            let reading = self.reading.take();
            executor.spawn_blocking(move || drop(reading));
        }
    }
}
