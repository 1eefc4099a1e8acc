//! The runtime: components come in as files, are checked, compiled or found compiled, linked, and leave as handlers.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pelton_core::engine::Fut;
use pelton_core::runtime::{ComponentSpec, Digest, Handler, LoadError, Runtime};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tracing::{info, warn};
use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker};

use crate::bindings::{Present, PresentPre};
use crate::cache::{self, Cache};
use crate::compile::Compiler;
use crate::fault::mib;
use crate::handler::WasmHandler;
use crate::lane::Share;
use crate::pool::{MEMORY_BYTES_MAX, Pool, PoolError};
use crate::sandbox::Sandbox;
use crate::world;

/// Largest component, in bytes. Components from Python have about 18 MB.
const COMPONENT_BYTES_MAX: u64 = 256 << 20;
const WASM_PAGE_BYTES: u64 = 64 * 1024;

/// How a runtime works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// Deliveries at the same time over all handlers, 1 to 10,000. Each holds some address space, and at most 1 MiB of
    /// memory between deliveries (64 MiB over all).
    pub slots: usize,
    /// Where compiled code is kept between starts; none: nowhere. The folder is made if it is missing.
    pub cache_dir: Option<PathBuf>,
    /// Threads of the executor that runs deliveries. All but one of them can be taken by guests that compute for long.
    pub workers: usize,
    /// Whether backtraces name files and lines: for development. Costs milliseconds per fault.
    pub backtrace_lines: bool,
    /// Where components are compiled.
    pub compiler: Compiler,
}

impl Default for RuntimeOptions {
    /// 256 slots, one worker per core, no cache, in this process.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self { slots: 256, cache_dir: None, workers, backtrace_lines: false, compiler: Compiler::InProcess }
    }
}

/// Runs components with wasmtime.
pub struct WasmRuntime {
    pool: Arc<Pool>,
    linker: Linker<Sandbox>,
    cache: Option<Arc<Cache>>,
    compiler: Compiler,
    backtrace_lines: bool,
    /// Held while a component is compiled: one at a time.
    compiling: Mutex<()>,
    next_share: AtomicU64,
}

impl WasmRuntime {
    /// A runtime with no components yet. A cache folder that can't be made is warned about and done without.
    ///
    /// # Errors
    /// [`PoolError`] when the slots don't fit into the address space, or no thread can be started.
    pub fn new(options: RuntimeOptions) -> Result<Self, PoolError> {
        let RuntimeOptions { slots, cache_dir, workers, backtrace_lines, compiler } = options;
        let pool = Pool::new(slots, workers, backtrace_lines)?;
        let linker = linker(&pool.engine).map_err(|error| PoolError::Engine { slots, reason: format!("{error:#}") })?;
        let cache = cache_dir.and_then(|folder| match Cache::open(&folder, &pool.engine) {
            Ok(cache) => Some(Arc::new(cache)),
            Err(error) => {
                warn!(folder = %folder.display(), %error, "No cache of compiled code: components are compiled at each start.");
                None
            }
        });
        Ok(Self {
            pool: Arc::new(pool),
            linker,
            cache,
            compiler,
            backtrace_lines,
            compiling: Mutex::new(()),
            next_share: AtomicU64::new(0),
        })
    }

    async fn load_component(&self, spec: ComponentSpec) -> Result<Arc<dyn Handler>, String> {
        check_limits(&spec)?;
        let path = spec.path.clone();
        let (wasm, digest) = blocking(move || {
            let wasm = read(&path)?;
            check_form(&wasm)?;
            let digest = cache::digest_of(&wasm);
            Ok((wasm, digest))
        })
        .await?;
        let component = match self.cached(digest).await {
            Some(component) => component,
            None => self.compile(&spec, wasm, digest).await?,
        };
        let component = self.link(&spec, &component)?;
        let share = Share(self.next_share.fetch_add(1, Ordering::Relaxed));
        Ok(Arc::new(WasmHandler { pool: Arc::clone(&self.pool), spec: Arc::new(spec), digest, share, component }))
    }

    async fn cached(&self, digest: Digest) -> Option<Component> {
        let cache = Arc::clone(self.cache.as_ref()?);
        let engine = self.pool.engine.clone();
        spawn_blocking(move || cache.load(&engine, digest)).await.ok().flatten()
    }

    async fn compile(&self, spec: &ComponentSpec, wasm: Vec<u8>, digest: Digest) -> Result<Component, String> {
        let _one_at_a_time = self.compiling.lock().await;
        // Somebody else may have compiled it meanwhile.
        if let Some(component) = self.cached(digest).await {
            return Ok(component);
        }
        let (engine, cache, compiler) = (self.pool.engine.clone(), self.cache.clone(), self.compiler.clone());
        let backtrace_lines = self.backtrace_lines;
        let started = std::time::Instant::now();
        let component = blocking(move || {
            let code = compiler.compile(&wasm, backtrace_lines)?;
            if let Some(cache) = cache {
                match cache.keep(digest, &code) {
                    Ok(()) => return cache.load(&engine, digest).map_or_else(|| fresh(&engine, &code), Ok),
                    Err(error) => {
                        warn!(%error, "Compiled code can't be kept: it will be compiled again at the next start.")
                    }
                }
            }
            fresh(&engine, &code)
        })
        .await?;
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(consumer = %spec.consumer, ms, "Component compiled.");
        Ok(component)
    }

    fn link(&self, spec: &ComponentSpec, component: &Component) -> Result<PresentPre<Sandbox>, String> {
        let engine = &self.pool.engine;
        let kind = component.component_type();
        let imports: Vec<&str> =
            kind.imports(engine).filter(|(_, item)| is_needed(engine, &item.ty)).map(|(name, _)| name).collect();
        let exports: Vec<&str> = kind.exports(engine).map(|(name, _)| name).collect();
        world::check(&imports, &exports)?;
        check_memory(spec, component)?;
        let linked = self.linker.instantiate_pre(component);
        linked
            .and_then(PresentPre::new)
            .map_err(|error| format!("it does not fit the interfaces of this Pelton: {error:#}"))
    }
}

impl Runtime for WasmRuntime {
    fn load(&self, spec: ComponentSpec) -> Fut<'_, Result<Arc<dyn Handler>, LoadError>> {
        Box::pin(async move {
            let (consumer, path) = (spec.consumer.clone(), spec.path.clone());
            self.load_component(spec).await.map_err(|problem| LoadError { consumer, path, problem })
        })
    }

    fn slots(&self) -> usize {
        self.pool.slots
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(format!("loading it failed: {error}")))
}

fn fresh(engine: &Engine, code: &[u8]) -> Result<Component, String> {
    cache::load_fresh(engine, code).map_err(|error| format!("it can't be run here: {error:#}"))
}

/// Everything that the world `consumer` has by now, and all of WASI 0.2, which the empty context denies.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    Present::add_to_linker::<_, HasSelf<_>>(&mut linker, |sandbox| sandbox)?;
    Ok(linker)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let missing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file; build the consumer, or correct its path".to_owned(),
        _ => format!("it can't be read: {error}"),
    };
    let file = std::fs::File::open(path).map_err(missing)?;
    let mut wasm = Vec::new();
    file.take(COMPONENT_BYTES_MAX + 1).read_to_end(&mut wasm).map_err(missing)?;
    if wasm.len() as u64 > COMPONENT_BYTES_MAX {
        return Err(format!("it is larger than {}", mib(COMPONENT_BYTES_MAX)));
    }
    Ok(wasm)
}

/// Refuses by the first bytes what is no component.
fn check_form(wasm: &[u8]) -> Result<(), String> {
    const MAGIC: &[u8] = b"\0asm";
    const MODULE: &[u8] = &[1, 0, 0, 0];
    const COMPONENT_LAYER: &[u8] = &[1, 0];
    if Engine::detect_precompiled(wasm).is_some() {
        return Err(
            "native code that some wasmtime compiled, which is not accepted: give the .wasm it was made of".into()
        );
    }
    let Some(version) = wasm.strip_prefix(MAGIC) else {
        return Err("not WebAssembly: build the consumer for wasm32-wasip2 and give its .wasm file".into());
    };
    if version.starts_with(MODULE) {
        return Err("a core WebAssembly module, not a component: build for wasm32-wasip2".into());
    }
    match version.get(2..4) {
        Some(COMPONENT_LAYER) => Ok(()),
        _ => Err("WebAssembly of an unknown form: build for wasm32-wasip2".into()),
    }
}

fn check_limits(spec: &ComponentSpec) -> Result<(), String> {
    let (memory, most) = (spec.limits.memory_bytes, MEMORY_BYTES_MAX as u64);
    if memory <= most {
        Ok(())
    } else {
        Err(format!("memory = {} is more than the {} there can be", mib(memory), mib(most)))
    }
}

/// Whether an import needs an implementation: an instance that holds nothing but types does not.
fn is_needed(engine: &Engine, item: &ComponentItem) -> bool {
    match item {
        ComponentItem::ComponentInstance(instance) => {
            instance.exports(engine).any(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)))
        }
        ComponentItem::Type(_) => false,
        _ => true,
    }
}

fn check_memory(spec: &ComponentSpec, component: &Component) -> Result<(), String> {
    let needed = component.resources_required().and_then(|required| required.max_initial_memory_size).unwrap_or(0);
    let needed = needed.saturating_mul(WASM_PAGE_BYTES);
    if needed <= spec.limits.memory_bytes {
        return Ok(());
    }
    let suggestion = needed.div_ceil(1 << 20).max(2);
    Err(format!("it needs at least {}; set memory = \"{suggestion}MiB\" or more", mib(needed)))
}

#[cfg(test)]
mod tests {
    use wasmtime::component::ResourceType;

    use super::*;

    /// Something of each interface that has more than types.
    const MEMBERS: [(&str, &str); 31] = [
        ("pelton:broker/context", "remaining"),
        ("pelton:broker/emit", "emit-at"),
        ("wasi:cli/environment", "get-environment"),
        ("wasi:cli/exit", "exit"),
        ("wasi:cli/stderr", "get-stderr"),
        ("wasi:cli/stdin", "get-stdin"),
        ("wasi:cli/stdout", "get-stdout"),
        ("wasi:cli/terminal-input", "terminal-input"),
        ("wasi:cli/terminal-output", "terminal-output"),
        ("wasi:cli/terminal-stderr", "get-terminal-stderr"),
        ("wasi:cli/terminal-stdin", "get-terminal-stdin"),
        ("wasi:cli/terminal-stdout", "get-terminal-stdout"),
        ("wasi:clocks/monotonic-clock", "now"),
        ("wasi:clocks/wall-clock", "now"),
        ("wasi:config/store", "get-all"),
        ("wasi:filesystem/preopens", "get-directories"),
        ("wasi:filesystem/types", "descriptor"),
        ("wasi:io/error", "error"),
        ("wasi:io/poll", "poll"),
        ("wasi:io/streams", "output-stream"),
        ("wasi:logging/logging", "log"),
        ("wasi:random/insecure", "get-insecure-random-u64"),
        ("wasi:random/insecure-seed", "insecure-seed"),
        ("wasi:random/random", "get-random-u64"),
        ("wasi:sockets/instance-network", "instance-network"),
        ("wasi:sockets/ip-name-lookup", "resolve-addresses"),
        ("wasi:sockets/network", "network"),
        ("wasi:sockets/tcp", "tcp-socket"),
        ("wasi:sockets/tcp-create-socket", "create-tcp-socket"),
        ("wasi:sockets/udp", "udp-socket"),
        ("wasi:sockets/udp-create-socket", "create-udp-socket"),
    ];

    #[test]
    fn the_linker_has_what_the_check_says_it_has() {
        let engine = Engine::new(&crate::pool::compile_config(false)).expect("an engine");
        for (name, version) in world::PROVIDED.iter().filter(|(name, _)| *name != "pelton:broker/types") {
            let (_, member) = MEMBERS.iter().find(|(known, _)| known == name).expect("a member of each");
            let mut linker = linker(&engine).expect("it links");
            let mut instance = linker.instance(&format!("{name}@{version}")).expect("an instance");
            let again = instance.resource(member, ResourceType::host::<()>(), |_, _| Ok(())).err();
            let error = again.unwrap_or_else(|| panic!("{name}@{version} has no {member}"));
            assert!(error.to_string().contains("defined twice"), "{error}");
        }
    }

    #[test]
    fn the_form_is_told_by_the_first_bytes() {
        let check = |bytes: &[u8], expected: Option<&str>| {
            let problem = check_form(bytes).err();
            assert_eq!(problem.as_deref().and_then(|text| text.split([':', ',']).next()), expected, "{bytes:?}");
        };
        check(b"", Some("not WebAssembly"));
        check(b"\0as", Some("not WebAssembly"));
        check(b"\0asm", Some("WebAssembly of an unknown form"));
        check(b"\0asm\x01\0\0\0", Some("a core WebAssembly module"));
        check(b"\0asm\x02\0\0\0", Some("WebAssembly of an unknown form"));
        check(b"\0asm\x0d\0\x01\0", None);
    }
}
