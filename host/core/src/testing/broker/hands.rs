//! Reload and backup: what the broker asks of those who started it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::{Gate, ONE, Rig, deployment};
use crate::broker::Broker;
use crate::engine::Fut;
use crate::operator::{Backup, BackupError, BackupFile, Reload, ReloadError, Reloaded};
use crate::testing::{FakeRuntime, done};

/// Reads the configuration from memory.
struct FromMemory(Mutex<Result<String, String>>);

impl Reload for FromMemory {
    fn reload<'a>(&'a self, broker: &'a Broker) -> Fut<'a, Result<Reloaded, Vec<String>>> {
        let config = self.0.lock().expect("nobody panicked").clone();
        Box::pin(async move {
            let config = config.map_err(|problem| vec![problem])?;
            broker.deploy(deployment(&config)).await.map_err(|error| vec![error.to_string()])?;
            Ok(Reloaded { changes: vec!["it changed".to_owned()], ..Reloaded::default() })
        })
    }
}

#[tokio::test]
async fn a_reload_takes_over_what_there_is_now() {
    let hand = Arc::new(FromMemory(Mutex::new(Ok(format!("{ONE}concurrency = 3\n")))));
    let runtime = FakeRuntime::new().handler("worker", |_| done());
    let rig = Rig::start_by(ONE, runtime, |parts| parts.reload = Some(hand.clone())).await;
    assert_eq!(rig.broker.consumers()[0].concurrency, 16);
    assert_eq!(rig.broker.reload().await.map(|reloaded| reloaded.changes), Ok(vec!["it changed".to_owned()]));
    assert_eq!(rig.broker.consumers()[0].concurrency, 3);
    *hand.0.lock().expect("nobody panicked") = Err("the file is gone".to_owned());
    assert_eq!(rig.broker.reload().await, Err(ReloadError::Problems(vec!["the file is gone".to_owned()])));
    *hand.0.lock().expect("nobody panicked") =
        Ok(ONE.replace("worker.wasm", "missing.wasm").replace("worker]", "other]"));
    let ReloadError::Problems(problems) = rig.broker.reload().await.expect_err("it has no handler") else { panic!() };
    assert!(problems[0].contains("missing.wasm"), "{problems:?}");
    assert_eq!(rig.broker.consumers()[0].concurrency, 3, "the plan before goes on");
}

/// Writes a file when it is let through.
struct ToFile(PathBuf, Gate);

impl Backup for ToFile {
    fn backup(&self) -> Fut<'_, Result<BackupFile, BackupError>> {
        Box::pin(async {
            self.1.pass().await;
            std::fs::write(&self.0, b"everything").expect("the folder is there");
            Ok(BackupFile::new(self.0.clone(), 10))
        })
    }
}

#[tokio::test]
async fn one_backup_at_a_time_until_it_is_read() {
    let path = std::env::temp_dir().join(format!("pelton-backup-{}", uuid::Uuid::now_v7()));
    let gate = Gate::closed();
    let hand = Arc::new(ToFile(path.clone(), gate.clone()));
    let rig =
        Rig::start_by(ONE, FakeRuntime::new().handler("worker", |_| done()), |parts| parts.backup = Some(hand)).await;
    let making = rig.broker.backup();
    tokio::pin!(making);
    assert!(futures_util::poll!(&mut making).is_pending());
    assert_eq!(rig.broker.backup().await.err(), Some(BackupError::Busy), "one is being made");
    gate.open(10);
    let made = making.await.expect("it is let through");
    assert_eq!((made.path(), made.bytes()), (path.as_path(), 10));
    assert_eq!(std::fs::read(made.path()).expect("it is there"), b"everything");
    assert_eq!(rig.broker.backup().await.err(), Some(BackupError::Busy), "one is being read");
    drop(made);
    assert!(!path.exists(), "it goes with its handle");
    drop(rig.broker.backup().await.expect("now there is room"));
}

#[tokio::test]
async fn a_broker_without_hands_says_so() {
    let rig = Rig::start(ONE, FakeRuntime::new().handler("worker", |_| done())).await;
    assert_eq!(rig.broker.reload().await, Err(ReloadError::Unsupported));
    assert_eq!(rig.broker.backup().await.err(), Some(BackupError::Unsupported));
}
