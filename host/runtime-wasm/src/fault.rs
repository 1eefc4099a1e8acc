//! What a sandbox's error means: which kind of fault, and what to tell people about it.

use std::collections::HashSet;
use std::fmt::Write as _;

use pelton_core::runtime::{FaultKind, Limits};
use wasmtime::{FrameInfo, PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::{I32Exit, ResourceTableError};

use crate::backtrace::BACKTRACE_FRAMES_MAX;
use crate::handler::hostcall_bytes;

/// Longest reason kept, in bytes.
pub(crate) const REASON_BYTES_MAX: usize = 2048;

/// How far the delivery had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Instantiate,
    Call,
}

/// The kind of fault that `error` is, with its reason. `memory_denied`: whether the guest was refused memory;
/// `journal`: what it said until then.
pub(crate) fn classify(
    error: &wasmtime::Error,
    phase: Phase,
    limits: &Limits,
    memory_denied: bool,
    journal: &str,
) -> (FaultKind, String) {
    let trap = error.downcast_ref::<Trap>().copied();
    if trap == Some(Trap::Interrupt) {
        return (FaultKind::Timeout, timed_out(limits));
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return (FaultKind::Host, error.root_cause().to_string());
    }
    if trap == Some(Trap::StackOverflow) || trap == Some(Trap::MemoryOutOfBounds) && is_deep(error) {
        return (FaultKind::Stack, "it called too deep: the stack is used up".to_owned());
    }
    if memory_denied {
        return (FaultKind::Memory, out_of_memory(limits, journal));
    }
    if let Some(I32Exit(status)) = error.downcast_ref() {
        return (FaultKind::Trap, format!("it exited with status {status} instead of returning"));
    }
    match trap {
        Some(trap) if is_malformed(trap) => (FaultKind::Malformed, malformed(&trap)),
        Some(Trap::UnreachableCodeReached) => {
            let message = panic_message(journal);
            (FaultKind::Trap, message.unwrap_or_else(|| "it reached an `unreachable` instruction".to_owned()))
        }
        Some(trap) => (FaultKind::Trap, trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
        None if phase == Phase::Instantiate => (FaultKind::Host, error.root_cause().to_string()),
        None if error.root_cause().to_string().contains("fuel allocated for hostcalls") => {
            // Wasmtime's error about too large arguments has no public type, and does not say of which call. Hardly
            // anything but an emit is ever that large; a log line could be.
            let (given, most) = (mib(hostcall_bytes(limits) as u64), mib(limits.emit_bytes_max));
            (
                FaultKind::Emits,
                format!(
                    "it passed more than {given} to the host in one call (an emit, or a log line), and the emits of a \
                     delivery may have {most} in all (max-emit-bytes)"
                ),
            )
        }
        None if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) => {
            (FaultKind::Trap, "it holds too many handles at the same time".to_owned())
        }
        None => (FaultKind::Malformed, malformed(&error.root_cause())),
    }
}

/// The reason of a timeout.
pub(crate) fn timed_out(limits: &Limits) -> String {
    format!("it did not end within {:?}", limits.timeout)
}

fn out_of_memory(limits: &Limits, journal: &str) -> String {
    let mut reason = format!("it needed more memory than {}", mib(limits.memory_bytes));
    if let Some(message) = panic_message(journal) {
        let _ = write!(reason, " ({message})");
    }
    reason
}

fn malformed(detail: &dyn std::fmt::Display) -> String {
    format!("it passed what its interface does not allow: {detail}")
}

/// Whether an access out of bounds comes of calling too deep: what is compiled from Rust or C keeps a stack of its own at
/// the bottom of its memory, and mostly runs out of that one first. Seen by an address below 0, or where the access has
/// none (a bulk copy), by a backtrace that is full of the same few functions.
fn is_deep(error: &wasmtime::Error) -> bool {
    const BELOW_ZERO: u64 = (1 << 32) - (4 << 20);
    const CYCLE_FUNCTIONS_MAX: usize = 8;
    // The fault is part of the error, but its type is not public.
    let text = format!("{error:#}");
    let address = text.split_once("memory fault at wasm address 0x").map(|(_, rest)| rest);
    let digits = address.and_then(|rest| rest.split(|c: char| !c.is_ascii_hexdigit()).next());
    if let Some(address) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
        return address >= BELOW_ZERO;
    }
    error.downcast_ref::<WasmBacktrace>().is_some_and(|trace| {
        let functions: HashSet<u32> = trace.frames().iter().map(FrameInfo::func_index).collect();
        trace.frames().len() == BACKTRACE_FRAMES_MAX && functions.len() <= CYCLE_FUNCTIONS_MAX
    })
}

/// Whether the guest handed over a value that is none of its type.
fn is_malformed(trap: Trap) -> bool {
    matches!(
        trap,
        Trap::InvalidChar
            | Trap::InvalidDiscriminant
            | Trap::ListOutOfBounds
            | Trap::StringOutOfBounds
            | Trap::UnalignedPointer
    )
}

/// The message of the last panic that Rust's runtime reported on stderr: `panicked at src/lib.rs:5:9: text`.
fn panic_message(journal: &str) -> Option<String> {
    const PREFIX: &str = "stderr: ";
    const LINES_MAX: usize = 20;
    let lines: Vec<&str> = journal.lines().collect();
    let (at, start) = lines.iter().enumerate().rev().find_map(|(at, line)| {
        let text = line.strip_prefix(PREFIX)?;
        Some((at, &text[text.find("panicked at ")?..]))
    })?;
    let more = lines[at + 1..].iter().map_while(|line| line.strip_prefix(PREFIX));
    let more: Vec<&str> = more.take_while(|line| !line.starts_with("note: ")).take(LINES_MAX).collect();
    let text = if more.is_empty() { start.to_owned() } else { format!("{start} {}", more.join("\n")) };
    Some(text.trim_end().to_owned())
}

/// `text`, cut to [`REASON_BYTES_MAX`].
pub(crate) fn bounded(mut text: String) -> String {
    const CUT: &str = " ...";
    if text.len() > REASON_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX - CUT.len()));
        text.push_str(CUT);
    }
    text
}

/// `bytes` in MiB, one decimal, rounded up.
pub(crate) fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10).div_ceil(1 << 20);
    if tenths.is_multiple_of(10) {
        format!("{} MiB", tenths / 10)
    } else {
        format!("{}.{} MiB", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_panic_on_stderr_is_the_message() {
        let check = |journal: &str, expected: Option<&str>| assert_eq!(panic_message(journal).as_deref(), expected);
        check("", None);
        check("stdout: panicked at the disco", None);
        check(
            "stdout: hello\nstderr: \nstderr: thread '<unnamed>' (1) panicked at src/lib.rs:5:9:\nstderr: boom\n\
             stderr: twice\nstderr: note: run with `RUST_BACKTRACE=1`",
            Some("panicked at src/lib.rs:5:9: boom\ntwice"),
        );
        check("stderr: panicked at a:1:1: first\nINFO: x\nstderr: panicked at b:2:2:\nstderr: second", {
            Some("panicked at b:2:2: second")
        });
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let long = bounded("\u{e9}".repeat(REASON_BYTES_MAX));
        assert!(long.len() <= REASON_BYTES_MAX && long.ends_with("\u{e9} ..."), "{}", long.len());
        assert_eq!(bounded("short".into()), "short");
    }

    #[test]
    fn sizes_are_rounded_up() {
        let sizes = [(1 << 20, "1 MiB"), ((1 << 20) + 1, "1.1 MiB"), (12_897_484, "12.3 MiB"), (0, "0 MiB")];
        for (bytes, text) in sizes {
            assert_eq!(mib(bytes), text);
        }
    }
}
