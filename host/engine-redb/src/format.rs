//! What makes a redb file ours: its tables, its format, and which store it is.

use std::path::Path;

use redb::{Database, ReadTransaction, ReadableDatabase, TableHandle, WriteTransaction};

use crate::failure::Failure;
use crate::hash::Secret;
use crate::open::OpenError;
use crate::records::Global;
use crate::seal::seal;
use crate::tables::{
    ATTEMPTS, BODIES, BODY_REFS, COUNTERS, COUNTERS_GLOBAL, DEDUP, DUE, META, NAMES, PARKED, READY, RETRYING, SCHEDULES,
};

/// The version of the file's format that this program reads and writes.
pub const FORMAT_VERSION: u64 = 3;

/// Which store it is; drawn when it is created, and never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// What tells it from every other: part of idempotency keys.
    pub store: u64,
    /// The key of its hashes.
    pub secret: Secret,
}

impl Identity {
    /// That of a new store.
    pub fn draw(random: &mut fastrand::Rng) -> Self {
        Self { store: random.u64(..), secret: Secret { first: random.u64(..), second: random.u64(..) } }
    }

    /// Over what is in `meta`: another secret would break the order of keys, and nobody would notice.
    fn checksum(&self, format: u64) -> u64 {
        let mut sum = crc32fast::Hasher::new();
        for number in [format, self.store, self.secret.first, self.secret.second] {
            sum.update(&number.to_le_bytes());
        }
        sum.finalize().into()
    }
}

/// Makes an empty database ours: all tables, the format and the store's identity.
pub(crate) fn initialise(database: &Database, identity: &Identity) -> Result<(), Failure> {
    let txn = database.begin_write()?;
    initialise_tables(&txn, identity)?;
    txn.commit()?;
    Ok(())
}

fn initialise_tables(txn: &WriteTransaction, identity: &Identity) -> Result<(), Failure> {
    txn.open_table(READY)?;
    txn.open_table(DUE)?;
    txn.open_table(PARKED)?;
    txn.open_table(RETRYING)?;
    txn.open_table(BODIES)?;
    txn.open_table(BODY_REFS)?;
    txn.open_table(ATTEMPTS)?;
    txn.open_table(NAMES)?;
    txn.open_table(DEDUP)?;
    txn.open_table(SCHEDULES)?;
    let global = Global { next_position: 1, epoch: 0, commit: 0, next_queue: 0 };
    let key = (COUNTERS_GLOBAL, 0);
    txn.open_table(COUNTERS)?.insert(key, seal(COUNTERS, &key, &global.encode()[..]))?;
    let mut meta = txn.open_table(META)?;
    let Identity { store, secret } = identity;
    meta.insert("format", FORMAT_VERSION)?;
    meta.insert("store", store)?;
    meta.insert("secret-1", secret.first)?;
    meta.insert("secret-2", secret.second)?;
    meta.insert("checksum", identity.checksum(FORMAT_VERSION))?;
    Ok(())
}

/// Checks that `database` is ours and of a format that is known; one without any table becomes ours, with `new`.
///
/// Returns which store it is.
pub(crate) fn check_format(database: &Database, path: &Path, new: &Identity) -> Result<Identity, OpenError> {
    let failed = |failure: Failure| OpenError::from_failure(path, failure);
    let is_empty = || -> Result<bool, Failure> { Ok(database.begin_read()?.list_tables()?.next().is_none()) };
    if is_empty().map_err(failed)? {
        initialise(database, new).map_err(failed)?;
    }
    let txn = database.begin_read().map_err(|error| failed(error.into()))?;
    read_identity(&txn, path)
}

/// Which store the snapshot is of, if it is one of ours and of a format that is known.
pub(crate) fn read_identity(txn: &ReadTransaction, path: &Path) -> Result<Identity, OpenError> {
    let failed = |failure: Failure| OpenError::from_failure(path, failure);
    let has_meta = || -> Result<bool, Failure> { Ok(txn.list_tables()?.any(|table| table.name() == META.name())) };
    if !has_meta().map_err(failed)? {
        return Err(OpenError::not_ours(path, "it is the redb file of another program"));
    }
    let meta = |key: &str| -> Result<u64, Failure> {
        let missing = || Failure::Damaged(format!("its {key} is not recorded"));
        Ok(txn.open_table(META)?.get(key)?.ok_or_else(missing)?.value())
    };
    let file = || path.to_owned();
    match meta("format").map_err(failed)? {
        FORMAT_VERSION => {}
        found if found > FORMAT_VERSION => {
            return Err(OpenError::Newer { file: file(), found, known: FORMAT_VERSION });
        }
        found => return Err(OpenError::Older { file: file(), found, known: FORMAT_VERSION }),
    }
    let read = || -> Result<Identity, Failure> {
        let secret = Secret { first: meta("secret-1")?, second: meta("secret-2")? };
        let identity = Identity { store: meta("store")?, secret };
        if meta("checksum")? != identity.checksum(FORMAT_VERSION) {
            return Err(Failure::Damaged("the checksum of its identity is wrong".to_owned()));
        }
        Ok(identity)
    };
    read().map_err(failed)
}
