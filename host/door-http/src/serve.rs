//! Connections: accepting them under a bound, serving HTTP/1 on each, and ending them when the door stops.
//!
//! Invariant: after the stop no request begins, and those that have begun get up to [`STOP_WITHIN`].

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use crate::api::Api;
use crate::handover::Wire;
use crate::limits::{
    ACCEPT_PAUSE, CONNECTIONS_MAX, HEAD_READ_MAX, HEADER_BYTES_MAX, READ_BYTES_MAX, STOP_WITHIN, WRITE_STALL_MAX,
};
use crate::stall::Stall;

/// Serves `api` on `listener` until `stop`, then lets what has begun finish within its bound.
pub(crate) async fn serve(listener: TcpListener, api: Api, stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    accept_all(&listener, &api, &stop, &mut connections).await;
    drop(listener);
    let ended = tokio::time::timeout(STOP_WITHIN, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if ended.await.is_err() {
        warn!(connections = connections.len(), "Requests did not end in time; their connections are cut.");
        connections.shutdown().await;
    }
}

async fn accept_all(listener: &TcpListener, api: &Api, stop: &watch::Receiver<bool>, connections: &mut JoinSet<()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut stopping = stop.clone();
    let mut stopped = pin!(stopped(&mut stopping));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = stopped.as_mut() => return,
            next = next => next,
        };
        while let Some(ended) = connections.try_join_next() {
            report(ended);
        }
        match accepted {
            Ok((stream, _)) => {
                let (api, stop) = (api.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, api, stop).await;
                    drop(place);
                });
            }
            Err(error) if is_of_one_connection(&error) => debug!(%error, "A connection ended before it began."),
            Err(error) => {
                error!(%error, "No connection can be accepted; raise the limit of open files if it lasts.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A door whose owner is gone is one that stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "Serving a connection panicked; this is a bug.");
    }
}

async fn connection(stream: TcpStream, api: Api, mut stop: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "The connection was gone at once.");
        return;
    }
    let wire = Wire::default();
    let end = wire.ends_with();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let api = api.clone();
        request.extensions_mut().insert(wire.clone());
        async move { Ok::<_, Infallible>(api.respond(request.map(Body::new)).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_READ_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_buf_size(READ_BYTES_MAX)
        .serve_connection(TokioIo::new(Stall::new(stream, WRITE_STALL_MAX)), service);
    let mut serving = pin!(serving);
    // Declared behind the connection, so that it is dropped before it, also when this task is cut off.
    let _end = end;
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = stopped(&mut stop) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "A connection broke off.");
    }
}
