//! Compiled code: kept on disk by the digest of what it was compiled from, and loaded.
//!
//! Compiled code is native code, so the folder is its owner's alone, a file is written whole and then named, never changed,
//! and what is read is compared with the digest written beside it, once per process. Whatever is wrong with a file, it is
//! removed and made anew: the cache can be deleted at any time.
//!
//! `CACHE/<compatibility hash>/<digest of the component>.cwasm`, and `.sum` for the digest of the code.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, Permissions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pelton_core::runtime::Digest;
use sha2::{Digest as _, Sha256};
use tracing::warn;
use wasmtime::Engine;
use wasmtime::component::Component;

const OWNER_ONLY: u32 = 0o700;

/// SHA-256 of `bytes`.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Compiled code that this process has made, or has checked against its digest.
enum Code<'a> {
    File(&'a Path),
    Memory(&'a [u8]),
}

/// The component made of `code`.
#[expect(unsafe_code, reason = "compiled code is native code: whoever loads it has to trust it")]
fn load(engine: &Engine, code: Code<'_>) -> wasmtime::Result<Component> {
    // SAFETY: the code was compiled by this process or by its child, or was found in a folder that only this user can write
    // to, under the name of the component it was compiled from and with the digest it had then. Nobody edits such a file:
    // files are created under another name and renamed. Wasmtime itself refuses code of another version or configuration.
    unsafe {
        match code {
            Code::File(path) => Component::deserialize_file(engine, path),
            Code::Memory(bytes) => Component::deserialize(engine, bytes),
        }
    }
}

/// The component whose compiled form is `code`, which this process has just made.
pub(crate) fn load_fresh(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    load(engine, Code::Memory(code))
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    /// Components whose code this process has compared with its digest, or written.
    verified: Mutex<HashSet<Digest>>,
    next_temporary: AtomicU64,
}

impl Cache {
    /// The cache in `folder` for code that suits `engine`. Makes the folder, for its owner alone.
    pub(crate) fn open(folder: &Path, engine: &Engine) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let folder = folder.join(format!("{:016x}", hasher.finish()));
        DirBuilder::new().recursive(true).mode(OWNER_ONLY).create(&folder)?;
        let mode = std::fs::metadata(&folder)?.permissions().mode();
        if mode & 0o777 != OWNER_ONLY {
            std::fs::set_permissions(&folder, Permissions::from_mode(OWNER_ONLY))?;
        }
        Ok(Self { folder, verified: Mutex::default(), next_temporary: AtomicU64::new(0) })
    }

    /// The component with `digest`, if its code is here and whole.
    pub(crate) fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let path = self.path(digest, "cwasm");
        if !path.try_exists().unwrap_or(false) {
            return None;
        }
        match self.verify(digest).and_then(|()| load(engine, Code::File(&path)).map_err(|error| format!("{error:#}"))) {
            Ok(component) => Some(component),
            Err(problem) => {
                warn!(path = %path.display(), problem, "Compiled code can't be used; it is removed and compiled again.");
                self.verified().remove(&digest);
                let _ = std::fs::remove_file(path);
                None
            }
        }
    }

    /// Keeps `code` as the compiled form of the component with `digest`.
    pub(crate) fn keep(&self, digest: Digest, code: &[u8]) -> io::Result<()> {
        self.write(&self.path(digest, "sum"), digest_of(code).to_string().as_bytes())?;
        self.write(&self.path(digest, "cwasm"), code)?;
        self.verified().insert(digest);
        Ok(())
    }

    fn verify(&self, digest: Digest) -> Result<(), String> {
        if self.verified().contains(&digest) {
            return Ok(());
        }
        let read = |extension| std::fs::read(self.path(digest, extension)).map_err(|error| error.to_string());
        if digest_of(&read("cwasm")?).to_string().as_bytes() != read("sum")? {
            return Err("its digest is not the one it was written with".into());
        }
        self.verified().insert(digest);
        Ok(())
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("{}-{number}.tmp", std::process::id()));
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&temporary, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    fn path(&self, digest: Digest, extension: &str) -> PathBuf {
        self.folder.join(format!("{digest}.{extension}"))
    }
}
