//! Bad surroundings: a port, a folder or a file that can't be had. `serve` refuses to start, says why, and touches nothing.

use std::net::TcpListener;
use std::path::Path;

use crate::support::{TestBroker, masked, pelton};

const INBOX: &str = "[queues.inbox]\n[[routes]]\nfrom = \"a\"\nto = [\"queue:inbox\"]\n";

/// The store's file in the data folder.
const DATA_FILE: &str = "data/pelton.redb";

/// What `pelton serve` says in `folder`.
async fn serve(folder: &Path) -> String {
    let output = pelton(folder, ["serve", "--config", "broker.toml", "--listen", "127.0.0.1:0"]).await;
    assert_ne!(output.status, 0, "{output}");
    masked(&output.to_string(), folder)
}

fn folder_with(toml: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("broker.toml"), toml).expect("the folder is writable");
    folder
}

#[tokio::test]
async fn a_taken_port() {
    let folder = folder_with(INBOX);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let output = pelton(folder.path(), ["serve", "--config", "broker.toml", "--listen", &address]).await;
    insta::assert_snapshot!(masked(&output.to_string(), folder.path()), @"");
}

#[tokio::test]
async fn a_data_folder_in_use_by_another_process() {
    let broker = TestBroker::start(INBOX).await;
    broker.publish("a", "1").await;
    insta::assert_snapshot!(serve(broker.folder()).await, @"");
    broker.publish("a", "2").await;
    assert_eq!(broker.depth("inbox").await, 2, "the first goes on undisturbed");
}

#[tokio::test]
async fn a_data_file_that_is_not_ours() {
    let folder = folder_with(INBOX);
    let file = folder.path().join(DATA_FILE);
    std::fs::create_dir(folder.path().join("data")).expect("the folder is writable");
    let before = b"holiday photos, keep".repeat(1000);
    std::fs::write(&file, &before).expect("the folder is writable");
    insta::assert_snapshot!(serve(folder.path()).await, @"");
    assert!(std::fs::read(&file).expect("it is there") == before, "it is as it was");
}

/// A broker's data folder, stopped in good order, with what `change` makes of its file.
async fn changed_data(change: impl FnOnce(&mut Vec<u8>)) -> TestBroker {
    let mut broker = TestBroker::start(INBOX).await;
    broker.publish("a", "1").await;
    broker.sigterm();
    assert_eq!(broker.ended().await.code(), Some(0));
    let file = broker.folder().join(DATA_FILE);
    let mut bytes = std::fs::read(&file).expect("the store is there");
    change(&mut bytes);
    std::fs::write(&file, bytes).expect("the folder is writable");
    broker
}

#[tokio::test]
async fn a_data_file_of_a_newer_version() {
    let broker = changed_data(|bytes| {
        // The table `meta` has the keys `format` and `store` in one page, and behind them their values.
        let keys = b"formatstore";
        let places: Vec<usize> =
            bytes.windows(keys.len()).enumerate().filter(|(_, window)| window == keys).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "the format stands where it is looked for");
        for at in places {
            bytes[at + keys.len()..][..8].copy_from_slice(&7_u64.to_le_bytes());
        }
    })
    .await;
    let before = std::fs::read(broker.folder().join(DATA_FILE)).expect("it is there");
    insta::assert_snapshot!(serve(broker.folder()).await, @"");
    assert!(std::fs::read(broker.folder().join(DATA_FILE)).expect("it is there") == before, "it is as it was");
}

#[tokio::test]
async fn a_data_file_that_is_damaged() {
    let broker = changed_data(|bytes| {
        let length = bytes.len();
        bytes[512..length].fill(0xa5);
    })
    .await;
    let said = serve(broker.folder()).await;
    assert!(said.starts_with("exit 6"), "{said}");
    assert!(said.contains("pelton.redb") && !said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_data_folder_that_can_not_be() {
    let folder = folder_with(&format!("[broker]\ndata = \"broker.toml/data\"\n{INBOX}"));
    insta::assert_snapshot!(serve(folder.path()).await, @"");
}

#[tokio::test]
async fn a_data_folder_that_is_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder_with(INBOX);
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("the folder is writable");
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o500)).expect("it is ours");
    if std::fs::write(data.join("probe"), "").is_ok() {
        // Permissions do not bind this user (root); /proc does, and nobody can make files there.
        std::fs::write(folder.path().join("broker.toml"), format!("[broker]\ndata = \"/proc/self\"\n{INBOX}"))
            .expect("the folder is writable");
        let said = serve(folder.path()).await;
        assert!(said.starts_with("exit 6") && said.contains("/proc/self"), "{said}");
        return;
    }
    insta::assert_snapshot!(serve(folder.path()).await, @"");
}

#[tokio::test]
async fn no_broker_answers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Bound and let go of: nobody listens there now.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let output = pelton(folder.path(), ["queues", "--url", &format!("http://{address}")]).await;
    insta::assert_snapshot!(masked(&output.to_string(), folder.path()), @"");
}

#[tokio::test]
async fn an_unknown_subcommand() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = pelton(folder.path(), ["sevre"]).await;
    insta::assert_snapshot!(masked(&output.to_string(), folder.path()), @"");
}

#[tokio::test]
async fn an_unknown_queue_for_the_cli() {
    let broker = TestBroker::start(INBOX).await;
    let output = broker.cli(["queues", "inbx"]).await;
    insta::assert_snapshot!(masked(&output.to_string(), broker.folder()), @"");
    let output = broker.cli(["publish", "b", "text"]).await;
    insta::assert_snapshot!(masked(&output.to_string(), broker.folder()), @"");
}
