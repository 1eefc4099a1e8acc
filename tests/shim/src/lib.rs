//! Faults under a broker: functions of the C library that fail, or show another time, when a control file says so.
//!
//! Loaded by LD_PRELOAD, so that the program finds these before the real ones. Each does the system call of the function that it
//! hides; of those with two names, the one that Rust's standard library uses. Calls on other files than the one that is named pass, and so does everything while nothing is asked for.

mod control;

use std::ffi::{CStr, CString, c_int, c_long, c_void};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use libc::{clockid_t, off_t, size_t, ssize_t, timespec};

use crate::control::{
    ALL, CALLS, CARRIED_OUT, CLOCK_OFFSET_MS, CONTROL_ENV, ERRNO, FAIL, FAILED, FILE_ENV, HALF, LENGTH, PASS, READ,
    SEEN, SYNC, WORDS, WRITE,
};

/// The mapped control file, and whose calls fail.
struct Control {
    words: &'static [AtomicU64; WORDS],
    file: Vec<u8>,
}

/// Set before the program starts, or never.
static CONTROL: AtomicPtr<Control> = AtomicPtr::new(null_mut());

/// What the loader calls before the program starts. Not at the first use: that may be within whatever mapping a file takes.
#[used]
// SAFETY: the section holds functions of this very type, and the loader calls them once.
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = {
    extern "C" fn start() {
        if let Some(control) = map() {
            CONTROL.store(Box::into_raw(Box::new(control)), Ordering::Release);
        }
    }
    start
};

fn control() -> Option<&'static Control> {
    // SAFETY: null, or what was made for ever out of a box.
    unsafe { CONTROL.load(Ordering::Acquire).as_ref() }
}

/// None where no control file is named, or it can't be mapped.
fn map() -> Option<Control> {
    let path = CString::new(std::env::var_os(CONTROL_ENV)?.into_vec()).ok()?;
    let file = std::env::var_os(FILE_ENV)?.into_vec();
    // SAFETY: `path` is a C string.
    let descriptor = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if descriptor < 0 {
        return None;
    }
    let (bytes, protection) = (WORDS * size_of::<u64>(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
    let start = unsafe { libc::mmap(null_mut(), bytes, protection, libc::MAP_SHARED, descriptor, 0) };
    // SAFETY: the descriptor was opened above, and the mapping outlives it.
    unsafe { libc::close(descriptor) };
    if start == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping is never undone, starts at a page, and the tests made the file as long as the words are; all access is atomic.
    let words = unsafe { &*start.cast::<[AtomicU64; WORDS]>() };
    Some(Control { words, file })
}

impl Control {
    fn word(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::SeqCst)
    }

    /// Whether this call, one of `kind` on `descriptor`, is to fail.
    fn is_due(&self, kind: u64, descriptor: c_int) -> bool {
        if self.word(CALLS) & kind == 0 || !self.is_ours(descriptor) {
            return false;
        }
        let seen = self.words[SEEN].fetch_add(1, Ordering::SeqCst);
        seen.checked_sub(self.word(PASS)).is_some_and(|nth| nth < self.word(FAIL))
    }

    /// Whether `descriptor` is open on the file whose calls fail.
    fn is_ours(&self, descriptor: c_int) -> bool {
        let mut link = [0; 32];
        if write!(&mut link[..], "/proc/self/fd/{descriptor}\0").is_err() {
            return false;
        }
        let link = CStr::from_bytes_until_nul(&link).unwrap_or_default();
        let mut path = [0_u8; 4096];
        // SAFETY: `link` is a C string, and at most `path.len()` bytes are written to `path`.
        let length = unsafe { libc::readlink(link.as_ptr(), path.as_mut_ptr().cast(), path.len()) };
        let path = &path[..usize::try_from(length).unwrap_or(0)];
        path.rsplit(|byte| *byte == b'/').next() == Some(&self.file)
    }

    /// What a call that fails returns.
    fn fault(&self) -> c_long {
        self.words[FAILED].fetch_add(1, Ordering::SeqCst);
        let errno = i32::try_from(self.word(ERRNO)).unwrap_or(libc::EIO);
        // SAFETY: the place that the C library has for this thread's `errno`.
        unsafe { *libc::__errno_location() = errno };
        -1
    }
}

/// Does the call of `kind` on `descriptor`, unless it is to fail. `call` is given how many of the `bytes` are meant.
fn guarded(kind: u64, descriptor: c_int, bytes: size_t, call: impl Fn(size_t) -> c_long) -> c_long {
    let Some(control) = control() else { return call(bytes) };
    if !control.is_due(kind, descriptor) {
        return call(bytes);
    }
    match control.word(CARRIED_OUT) {
        ALL => drop(call(bytes)),
        HALF if kind == WRITE => drop(call(bytes / 2)),
        _ => {}
    }
    control.fault()
}

/// # Safety
/// As for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(descriptor: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    guarded(WRITE, descriptor, count, |count| {
        // SAFETY: the caller's promise about `bytes` and `count`, of which this uses no more.
        unsafe { libc::syscall(libc::SYS_write, descriptor, bytes, count) }
    }) as ssize_t
}

/// # Safety
/// As for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(descriptor: c_int, bytes: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    guarded(WRITE, descriptor, count, |count| {
        // SAFETY: as in `write`.
        unsafe { libc::syscall(libc::SYS_pwrite64, descriptor, bytes, count, offset) }
    }) as ssize_t
}

/// # Safety
/// As for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(descriptor: c_int, bytes: *mut c_void, count: size_t) -> ssize_t {
    guarded(READ, descriptor, count, |count| {
        // SAFETY: the caller's promise about `bytes` and `count`.
        unsafe { libc::syscall(libc::SYS_read, descriptor, bytes, count) }
    }) as ssize_t
}

/// # Safety
/// As for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(descriptor: c_int, bytes: *mut c_void, count: size_t, offset: off_t) -> ssize_t {
    guarded(READ, descriptor, count, |count| {
        // SAFETY: as in `read`.
        unsafe { libc::syscall(libc::SYS_pread64, descriptor, bytes, count, offset) }
    }) as ssize_t
}

/// # Safety
/// As for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(descriptor: c_int) -> c_int {
    // SAFETY: the call touches no memory.
    guarded(SYNC, descriptor, 0, |_| unsafe { libc::syscall(libc::SYS_fsync, descriptor) }) as c_int
}

/// # Safety
/// As for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    // SAFETY: the call touches no memory.
    guarded(SYNC, descriptor, 0, |_| unsafe { libc::syscall(libc::SYS_fdatasync, descriptor) }) as c_int
}

/// # Safety
/// As for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(descriptor: c_int, length: off_t) -> c_int {
    // SAFETY: the call touches no memory.
    guarded(LENGTH, descriptor, 0, |_| unsafe { libc::syscall(libc::SYS_ftruncate, descriptor, length) }) as c_int
}

/// # Safety
/// As for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate64(descriptor: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    guarded(LENGTH, descriptor, 0, |_| {
        // SAFETY: the call touches no memory.
        unsafe { libc::syscall(libc::SYS_fallocate, descriptor, mode, offset, length) }
    }) as c_int
}

/// # Safety
/// As for the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the caller's promise that `time` may be written.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as c_int;
    if result == 0
        && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE)
        && let Some(control) = control()
    {
        let offset_ms = control.word(CLOCK_OFFSET_MS).cast_signed();
        // SAFETY: the call above has just written it.
        let time = unsafe { &mut *time };
        let nanoseconds = time.tv_nsec + offset_ms.rem_euclid(1000) * 1_000_000;
        time.tv_sec += offset_ms.div_euclid(1000) + nanoseconds / 1_000_000_000;
        time.tv_nsec = nanoseconds % 1_000_000_000;
    }
    result
}
