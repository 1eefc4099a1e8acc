//! Opening a data folder: what goes wrong names the place and the remedy, and nothing is changed by it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pelton_core::engine::Engine as _;
use pelton_engine_redb::{DATA_FILE, FORMAT_VERSION, OpenError};
use redb::{Database, TableDefinition};

use crate::support::{close, open};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The error of opening `dir`, whose text must have these parts.
fn check(dir: &Path, parts: &[&str]) -> OpenError {
    let error = open(dir).err().expect("it can't be opened");
    let text = error.to_string();
    for part in parts.iter().chain(&[dir.to_string_lossy().as_ref()]) {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
    error
}

#[tokio::test]
async fn a_new_folder_is_private_and_opens_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("some/data");
    let engine = open(&dir).expect("it is new");
    let id = engine.store_id();
    close(engine).await;
    let mode = fs::metadata(&dir).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let engine = open(&dir).expect("it is ours");
    assert_eq!(engine.store_id(), id);
    close(engine).await;
}

#[tokio::test]
async fn a_folder_has_one_user_at_a_time() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = open(folder.path()).expect("it is new");
    let error = check(folder.path(), &["in use by another process", "stop that one"]);
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    close(engine).await;
    close(open(folder.path()).expect("nobody uses it any more")).await;
}

#[test]
fn a_file_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join(DATA_FILE);
    fs::write(&file, "a shopping list, long enough to be taken for a header if nobody looked").expect("written");
    let error = check(folder.path(), &["is not a data file of pelton", "move it away"]);
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error:?}");
    assert!(fs::read_to_string(&file).expect("it is there").starts_with("a shopping list"));
}

#[test]
fn a_redb_file_of_another_program_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = Database::create(folder.path().join(DATA_FILE)).expect("created");
    let txn = database.begin_write().expect("begun");
    txn.open_table(TableDefinition::<u64, u64>::new("theirs")).expect("a table").insert(1, 1).expect("a row");
    txn.commit().expect("committed");
    drop(database);
    let error = check(folder.path(), &["is not a data file of pelton", "another program"]);
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error:?}");
}

/// Changes one number of a new store's `meta`.
async fn set_meta(dir: &Path, name: &str, value: u64) {
    close(open(dir).expect("it is new")).await;
    let database = Database::open(dir.join(DATA_FILE)).expect("opened");
    let txn = database.begin_write().expect("begun");
    txn.open_table(META).expect("a table").insert(name, value).expect("a row");
    txn.commit().expect("committed");
}

#[tokio::test]
async fn an_identity_that_changed_is_damage() {
    for name in ["store", "secret-1", "secret-2", "checksum"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        set_meta(folder.path(), name, 77).await;
        let error = check(folder.path(), &["is damaged", "checksum of its identity", "from a backup"]);
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn an_older_format_is_refused_with_both_numbers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    set_meta(folder.path(), "format", 1).await;
    let error = check(folder.path(), &["has format 1", "reads 3", "export it with the older version"]);
    assert!(matches!(error, OpenError::Older { found: 1, known: FORMAT_VERSION, .. }), "{error:?}");
}

#[tokio::test]
async fn a_newer_format_is_refused_with_both_numbers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    set_meta(folder.path(), "format", FORMAT_VERSION + 6).await;
    let error = check(folder.path(), &["has format 9", "knows 3 at most", "newer version"]);
    assert!(matches!(error, OpenError::Newer { found: 9, known: FORMAT_VERSION, .. }), "{error:?}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_not_a_panic() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    close(open(folder.path()).expect("it is new")).await;
    let file = folder.path().join(DATA_FILE);
    let mut bytes = fs::read(&file).expect("it is there");
    bytes[16..4096].fill(0xff);
    fs::write(&file, bytes).expect("written");
    check(folder.path(), &[DATA_FILE]);
}

#[test]
fn a_folder_that_can_not_be_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("written");
    for dir in [&file, &file.join("data"), &file.join("some/data")] {
        let error = check(dir, &["data folder", "file' is not a folder", "choose another"]);
        assert!(matches!(&error, OpenError::NotAFolder { file: found, .. } if *found == file), "{error:?}");
    }
}

/// `/sys` takes no folders from anybody either.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_can_not_be_created_is_an_error() {
    let error = check(Path::new("/sys/pelton"), &["can't create the data folder", "create it, or choose another"]);
    assert!(matches!(error, OpenError::NotCreated { .. }), "{error:?}");
}

/// `/sys` takes no files from anybody, not even from root, whom permissions do not stop.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_without_write_permission_is_an_error() {
    let error = check(Path::new("/sys"), &["can't write to", "make it writable"]);
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error:?}");
}

#[tokio::test]
async fn what_a_crash_left_of_creating_is_replaced() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("pelton.redb.new"), "half a file").expect("written");
    close(open(folder.path()).expect("it counts as new")).await;
    fs::remove_file(folder.path().join(DATA_FILE)).expect("removed");
    fs::write(folder.path().join(DATA_FILE), "").expect("written");
    close(open(folder.path()).expect("an empty file counts as none")).await;
}
