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
    insta::assert_snapshot!(masked(&output.to_string(), folder.path()), @r"
    exit 5
    --- stderr
    error: 127.0.0.1:[port] is in use by another process; stop it or set [http] listen / --listen
    ");
}

#[tokio::test]
async fn a_data_folder_in_use_by_another_process() {
    let broker = TestBroker::start(INBOX).await;
    broker.publish("a", "1").await;
    insta::assert_snapshot!(serve(broker.folder()).await, @r"
    exit 6
    --- stderr
    error: the data folder 'data' is in use by another process; stop that one, or choose another data folder
    ");
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
    insta::assert_snapshot!(serve(folder.path()).await, @r"
    exit 6
    --- stderr
    error: 'data/pelton.redb' is not a data file of pelton: it does not start as a redb file does; move it away, or choose another data folder
    ");
    assert!(std::fs::read(&file).expect("it is there") == before, "it is as it was");
}

/// A broker that holds one message and was stopped in good order.
async fn stopped() -> TestBroker {
    let mut broker = TestBroker::start(INBOX).await;
    broker.publish("a", "1").await;
    broker.sigterm();
    assert_eq!(broker.ended().await.code(), Some(0));
    broker
}

/// Changes the bytes of its store.
fn change_data(broker: &TestBroker, change: impl FnOnce(&mut Vec<u8>)) {
    let file = broker.folder().join(DATA_FILE);
    let mut bytes = std::fs::read(&file).expect("the store is there");
    change(&mut bytes);
    std::fs::write(&file, bytes).expect("the folder is writable");
}

/// Sets the format that the store says it has. The table `meta` has its keys in one page, in their order, and behind them
/// their values.
fn set_format(bytes: &mut [u8], format: u64) {
    let keys = b"checksumformatsecret-1secret-2store";
    let windows = bytes.windows(keys.len()).enumerate();
    let places: Vec<usize> = windows.filter(|(_, window)| window == keys).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the format stands where it is looked for");
    for at in places {
        bytes[at + keys.len() + 8..][..8].copy_from_slice(&format.to_le_bytes());
    }
}

#[tokio::test]
async fn a_data_file_of_another_version() {
    let mut broker = stopped().await;
    change_data(&broker, |bytes| set_format(bytes, 7));
    insta::assert_snapshot!(serve(broker.folder()).await, @r"
    exit 6
    --- stderr
    error: 'data/pelton.redb' has format 7, and this version of pelton knows 3 at most; use the newer version that wrote it
    ");
    change_data(&broker, |bytes| set_format(bytes, 1));
    insta::assert_snapshot!(serve(broker.folder()).await, @r"
    exit 6
    --- stderr
    error: 'data/pelton.redb' has format 1, and this version of pelton reads 3; export it with the older version that wrote it and import that
    ");
    change_data(&broker, |bytes| set_format(bytes, 3));
    broker.restart().await;
    assert_eq!(broker.depth("inbox").await, 1, "being refused has changed nothing");
}

#[tokio::test]
async fn a_data_file_that_is_damaged() {
    let broker = stopped().await;
    // All but the header.
    change_data(&broker, |bytes| bytes[512..].fill(0xa5));
    let said = serve(broker.folder()).await;
    assert!(said.starts_with("exit 6"), "{said}");
    assert!(said.contains("'data/pelton.redb' is damaged") && said.contains("restore it from a backup"), "{said}");
}

#[tokio::test]
async fn a_data_folder_that_can_not_be() {
    let folder = folder_with(&format!("[broker]\ndata = \"broker.toml/data\"\n{INBOX}"));
    insta::assert_snapshot!(serve(folder.path()).await, @r"
    exit 6
    --- stderr
    error: can't use 'broker.toml/data' as the data folder: 'broker.toml' is not a folder; choose another
    ");
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
    insta::assert_snapshot!(serve(folder.path()).await, @r"
    exit 6
    --- stderr
    error: can't write to 'data/pelton.lock': Permission denied (os error 13); make it writable for this user, or choose another data folder
    ");
}

#[tokio::test]
async fn no_broker_answers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Bound and let go of: nobody listens there now.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let output = pelton(folder.path(), ["queues", "--url", &format!("http://{address}")]).await;
    insta::assert_snapshot!(masked(&output.to_string(), folder.path()), @r"
    exit 7
    --- stderr
    error: no broker answers at http://127.0.0.1:[port]
    help: start one with `pelton dev` or `pelton serve`, or name another with --url or PELTON_URL
    ");
}

#[tokio::test]
async fn a_host_that_does_not_exist() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // RFC 6761: nobody has a name that ends in .invalid.
    let output = pelton(folder.path(), ["queues", "--url", "http://broker.invalid:7656"]).await;
    assert_eq!(output.status, 7, "{output}");
    assert!(output.stderr.starts_with("error: no broker answers at http://broker.invalid:7656: "), "{output}");
}

#[tokio::test]
async fn a_ready_file_that_can_not_be() {
    let folder = folder_with(INBOX);
    let args = ["serve", "--config", "broker.toml", "--listen", "127.0.0.1:0", "--ready-file", "nowhere/ready"];
    let output = pelton(folder.path(), args).await;
    assert!(output.stderr.contains("error: --ready-file nowhere/ready: No such file or directory"), "{output}");
}

#[tokio::test]
async fn a_secret_that_is_not_set() {
    let folder = folder_with(&format!("[http]\ntoken = {{ env = \"A_TOKEN_NOBODY_SETS\" }}\n{INBOX}"));
    insta::assert_snapshot!(serve(folder.path()).await, @r"
    exit 3
    --- stderr
    error: [http] token is to be read from the environment variable A_TOKEN_NOBODY_SETS, which is not set
     --> broker.toml:2:1
    help: export A_TOKEN_NOBODY_SETS=...
    ");
}

#[tokio::test]
async fn flags_out_of_bounds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (args, said) in [
        (vec!["lease", "q", "--wait", "abc"], "write it like 10s"),
        (vec!["lease", "q", "--wait", "61s"], "0s to 1m are allowed"),
        (vec!["lease", "q", "--ttl", "0s"], "1s to 12h are allowed"),
        (vec!["lease", "q", "--max", "0"], "from 1 to 1000"),
        (vec!["serve", "--grace", "abc"], "write it like 10s"),
        (vec!["publish", "t", "body", "--ext", "FOO=1"], "only a-z and 0-9"),
        (vec!["dead", "redrive", "q"], "--all"),
    ] {
        let output = pelton(folder.path(), &args).await;
        assert_eq!(output.status, 2, "{args:?}: {output}");
        assert!(output.stderr.contains(said), "{args:?}: {output}");
    }
}

#[tokio::test]
async fn an_unknown_subcommand() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = pelton(folder.path(), ["sevre"]).await;
    insta::assert_snapshot!(masked(&output.to_string(), folder.path()), @r"
    exit 2
    --- stderr
    error: unrecognized subcommand 'sevre'

      tip: some similar subcommands exist: 'settle', 'restore', 'serve'

    Usage: pelton <COMMAND>

    For more information, try '--help'.
    ");
}

#[tokio::test]
async fn an_unknown_queue_for_the_cli() {
    let broker = TestBroker::start(INBOX).await;
    let output = broker.cli(["queues", "inbx"]).await;
    insta::assert_snapshot!(masked(&output.to_string(), broker.folder()), @r"
    exit 8
    --- stderr
    error: there is no queue 'inbx'; did you mean 'inbox'? (`pelton queues` lists them) (unknown-queue)
    ");
    let output = broker.cli(["publish", "b", "text"]).await;
    insta::assert_snapshot!(masked(&output.to_string(), broker.folder()), @r"
    exit 8
    --- stderr
    error: no route matches topic 'b' (the nearest is 'a'); add one to [[routes]] or mend the topic (unroutable)
    ");
}
