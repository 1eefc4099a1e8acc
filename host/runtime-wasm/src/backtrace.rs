//! Where a guest was when it failed, in few and readable lines.

use std::fmt::Write as _;

use wasmtime::WasmBacktrace;

/// Most frames that are looked at.
pub(crate) const BACKTRACE_FRAMES_MAX: usize = 32;
/// Most frames that are kept.
const FRAMES_MAX: usize = 8;

/// The innermost frames of the guest when `error` happened, one per line; none where the error came from elsewhere.
///
/// Frames of Rust's own panic machinery at the top are left out: the reason says what they would. Recursion is counted.
pub(crate) fn describe(error: &wasmtime::Error) -> Option<String> {
    let whole = error.downcast_ref::<WasmBacktrace>()?.to_string();
    let frames = parse(&whole);
    let own = frames.iter().position(|frame| !is_panic_machinery(&frame.name)).unwrap_or(0);
    let mut lines = Vec::<(Frame, usize)>::new();
    for frame in frames.into_iter().skip(own) {
        let kept = lines.len();
        match lines.last_mut() {
            Some((last, times)) if last.name == frame.name => *times += 1,
            _ if kept == FRAMES_MAX => break,
            _ => lines.push((frame, 1)),
        }
    }
    let text = |(frame, times): &(Frame, usize)| match times {
        1 => format!("{}{}", frame.name, frame.place),
        _ => format!("{}{} and {} more of it", frame.name, frame.place, times - 1),
    };
    (!lines.is_empty()).then(|| lines.iter().map(text).collect::<Vec<_>>().join("\n"))
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    name: String,
    /// ` (0x12c7c)`, and with debug information what was inlined, with file and line.
    place: String,
}

/// The frames of wasmtime's own text, which demangles names where the frames themselves do not: `  0: 0x12 - module!name`,
/// then perhaps lines with more about it.
fn parse(whole: &str) -> Vec<Frame> {
    let mut frames = Vec::<Frame>::new();
    for line in whole.lines().skip(1) {
        let line = line.trim();
        match line.split_once(": ") {
            Some((number, frame)) if number.parse::<u32>().is_ok() => {
                let (offset, name) = frame.trim().split_once(" - ").unwrap_or(("", frame));
                let name = name.split_once('!').map_or(name, |(_, name)| name);
                let place = if offset.is_empty() { String::new() } else { format!(" ({offset})") };
                frames.push(Frame { name: without_hashes(name), place });
            }
            _ => {
                if let Some(frame) = frames.last_mut() {
                    let _ = write!(frame.place, " {}", without_hashes(line));
                }
            }
        }
    }
    frames
}

/// `std[d123b7a1a2ed1472]::exit` and `shop::pay::h3b55e46349807815` without what tells one build from another.
fn without_hashes(name: &str) -> String {
    const HASH_DIGITS: usize = 16;
    let is_hash = |text: &str| text.len() == HASH_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = match name.rsplit_once("::h") {
        Some((rest, hash)) if is_hash(hash) => rest,
        _ => name,
    };
    let mut clean = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('[') {
        clean.push_str(before);
        match after.split_once(']') {
            Some((hash, after)) if is_hash(hash) => rest = after,
            _ => {
                clean.push('[');
                rest = after;
            }
        }
    }
    clean + rest
}

fn is_panic_machinery(name: &str) -> bool {
    let name = name.trim_start_matches('<');
    ["__rust", "abort", "alloc::", "core::", "rust_", "std::"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_hashes_only() {
        let names = [
            ("std[d123b7a1a2ed1472]::process::abort", "std::process::abort"),
            ("runtime_guest::spin::h3b55e46349807815", "runtime_guest::spin"),
            ("<[u8]>::len[0]", "<[u8]>::len[0]"),
            ("a::hello", "a::hello"),
            ("pelton:broker/handler@0.1.0#handle", "pelton:broker/handler@0.1.0#handle"),
        ];
        for (name, clean) in names {
            assert_eq!(without_hashes(name), clean);
        }
    }

    #[test]
    fn wasmtimes_text_is_read() {
        let text = "error while executing at wasm backtrace:\n    0:   0x12 - shop.wasm!std[d123b7a1a2ed1472]::abort\n    \
                    1: shop.wasm!shop::pay::h3b55e46349807815\n                    at src/lib.rs:5:9";
        let frame = |name: &str, place: &str| Frame { name: name.into(), place: place.into() };
        assert_eq!(parse(text), [frame("std::abort", " (0x12)"), frame("shop::pay", " at src/lib.rs:5:9")]);
        assert!(is_panic_machinery("std::abort") && !is_panic_machinery("shop::pay"));
    }
}
