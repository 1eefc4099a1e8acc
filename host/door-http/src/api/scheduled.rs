//! Messages that wait for their time: cancelling one by its handle.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use pelton_core::broker::ScheduledHandle;
use serde_json::json;

use super::{Shared, json as answer, rfc3339};
use crate::input::{InPath, Parameters};
use crate::problem::{Code, Problem};

pub(super) async fn cancel(
    State(shared): State<Arc<Shared>>,
    InPath(handle): InPath<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    Parameters::none(&uri)?;
    let handle: ScheduledHandle =
        handle.parse().map_err(|error| Problem::new(Code::InvalidHandle, format!("{error}")))?;
    let done = shared.broker.cancel(&handle).await?;
    if done.cancelled == 0 {
        return Err(nothing_waits(&shared, &handle));
    }
    Ok(answer(&json!({"cancelled": done.cancelled, "of": done.of}), 64))
}

fn nothing_waits(shared: &Shared, handle: &ScheduledHandle) -> Problem {
    let due = rfc3339(handle.due());
    if handle.due() <= shared.broker.clock().wall() {
        let detail = format!("the message was due at {due}, so it waits no more; nothing was done");
        return Problem::new(Code::TooLate, detail);
    }
    let detail = format!(
        "no message waits under this handle, though it names {due}: it was cancelled, deleted or moved before, or is another \
         store's"
    );
    Problem::new(Code::UnknownHandle, detail)
}
