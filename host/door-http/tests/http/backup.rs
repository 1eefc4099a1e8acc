//! A copy of the store, streamed, and what becomes of its file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt;
use insta::assert_snapshot;
use pelton_core::engine::{EngineError, Fut};
use pelton_core::operator::{Backup, BackupError, BackupFile};
use pelton_core::testing::conformance::eventually;

use crate::support::{Hands, Server, server, server_by};

/// Larger than what is read at once, and no multiple of it.
const BYTES: usize = 1_000_001;

/// A store that is copied by writing a file.
struct Copying {
    folder: PathBuf,
    error: Option<BackupError>,
    /// How much of what it says is really in the file.
    written: usize,
}

impl Backup for Copying {
    fn backup(&self) -> Fut<'_, Result<BackupFile, BackupError>> {
        let path = self.folder.join("copy");
        let made = || {
            std::fs::write(&path, &content()[..self.written]).unwrap();
            BackupFile::new(path.clone(), BYTES as u64)
        };
        let result = self.error.clone().map_or_else(|| Ok(made()), Err);
        Box::pin(std::future::ready(result))
    }
}

fn content() -> Vec<u8> {
    (0..BYTES).map(|at| (at % 251) as u8).collect()
}

async fn copying(error: Option<BackupError>, written: usize) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let backup = Copying { folder: folder.path().to_owned(), error, written };
    let hands = Hands { backup: Some(Arc::new(backup)), ..Hands::default() };
    (server_by(hands).await, folder)
}

/// Waits until the folder holds nothing: the file goes on another thread.
async fn is_emptied(folder: &Path) {
    eventually("the file is gone", async || std::fs::read_dir(folder).unwrap().next().is_none()).await;
}

async fn ask(server: &Server, method: Method) -> axum::response::Response {
    server.api.respond(Request::builder().method(method).uri("/v1/backup").body(Body::empty()).unwrap()).await
}

async fn begin(server: &Server) -> axum::response::Response {
    ask(server, Method::GET).await
}

#[tokio::test]
async fn a_backup_is_the_whole_file_and_leaves_none() {
    let (server, folder) = copying(None, BYTES).await;
    let answer = begin(&server).await;
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    assert_eq!(answer.headers()["content-length"], BYTES.to_string());
    assert!(answer.into_body().collect().await.unwrap().to_bytes() == content(), "another content");
    is_emptied(folder.path()).await;
}

#[tokio::test]
async fn a_head_makes_no_copy() {
    // A copy would fail.
    let (server, _folder) = copying(Some(EngineError::Unavailable.into()), BYTES).await;
    let answer = ask(&server, Method::HEAD).await;
    assert_eq!((answer.status().as_u16(), answer.headers().get("content-length")), (200, None));
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
}

#[tokio::test]
async fn whoever_hangs_up_leaves_no_file_and_makes_room_for_the_next() {
    let (server, folder) = copying(None, BYTES).await;
    let mut body = begin(&server).await.into_body();
    body.frame().await.unwrap().unwrap();
    let second = server.get("/v1/backup").await;
    assert_snapshot!(second.shown(), @r#"
    503
    retry-after: 30
    title: The broker is busy
    detail: another backup is under way; try again when it is done
    code: busy
    "#);
    drop(body);
    is_emptied(folder.path()).await;
    // The place is free once the file is gone, which is a moment later.
    eventually("there is room for another", async || begin(&server).await.status().is_success()).await;
}

#[tokio::test]
async fn a_file_that_is_too_short_breaks_the_answer_off() {
    let (server, folder) = copying(None, BYTES - 1).await;
    let error = begin(&server).await.into_body().collect().await.err().unwrap();
    assert_eq!(error.to_string(), "the copy of the store is shorter than it was");
    is_emptied(folder.path()).await;
}

#[tokio::test]
async fn storage_that_can_not_be_copied() {
    let (failing, _folder) = copying(Some(EngineError::Unavailable.into()), BYTES).await;
    assert_snapshot!(failing.get("/v1/backup").await.shown(), @r#"
    503
    retry-after: 1
    title: Storage is not available
    detail: storage is not available right now; nothing was done, repeat it
    code: unavailable
    "#);
    let full = BackupError::DiskFull("the disk is too full".into());
    let (full, _folder) = copying(Some(full), BYTES).await;
    assert_snapshot!(full.get("/v1/backup").await.shown(), @r#"
    507
    retry-after: 30
    title: The disk is too full
    detail: there is no room for a copy of the store: the disk is too full; make some and try again
    code: disk-full
    "#);
    let server = server().await;
    assert_snapshot!(server.get("/v1/backup").await.shown(), @r#"
    501
    title: This broker can't do that
    detail: the storage of this broker can't be copied while it runs
    code: unsupported
    "#);
    assert_eq!(server.get("/v1/backup?to=x").await.code(), "invalid-request");
}
