//! What a delivery says: stdout, stderr and logs in one text of bounded size, in the order in which it was said.
//!
//! Invariants: writing never fails and never blocks (a guest whose `println!` fails panics); at most the limit is kept,
//! half of it from the beginning and half from the end, since the one says what it was about and the other why it ended;
//! nothing is allocated before the first byte.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::mem;

/// Which of the guest's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn prefix(self) -> &'static str {
        match self {
            Self::Stdout => "stdout: ",
            Self::Stderr => "stderr: ",
        }
    }
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Journal {
    head_bytes_max: usize,
    tail_bytes_max: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    /// Bytes that were in the tail and had to go.
    dropped: u64,
    /// The stream whose line has no end yet.
    open: Option<Stream>,
}

impl Journal {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let head_bytes_max = bytes_max / 2;
        Self {
            head_bytes_max,
            tail_bytes_max: bytes_max - head_bytes_max,
            head: Vec::new(),
            tail: VecDeque::new(),
            dropped: 0,
            open: None,
        }
    }

    /// Adds a line `LEVEL context: text`. Further lines of `text` are indented, so that each entry can be told from the next.
    pub(crate) fn log(&mut self, level: &str, context: &str, text: &str) {
        self.end_line();
        self.push(level.as_bytes());
        if !context.is_empty() {
            self.push(b" ");
            self.push(context.as_bytes());
        }
        self.push(b": ");
        for (at, line) in text.trim_end_matches('\n').split('\n').enumerate() {
            if at > 0 {
                self.push(b"\n  ");
            }
            self.push(line.as_bytes());
        }
        self.push(b"\n");
    }

    /// Adds what the guest wrote to `stream`: `stdout: text` for each line, begun or whole.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.open != Some(stream) {
            self.end_line();
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.open.is_none() {
                self.push(stream.prefix().as_bytes());
            }
            self.push(piece);
            self.open = (piece.last() != Some(&b'\n')).then_some(stream);
        }
    }

    fn end_line(&mut self) {
        if self.open.take().is_some() {
            self.push(b"\n");
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = self.head_bytes_max - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        if rest.is_empty() {
            return;
        }
        let overflow = (self.tail.len() + rest.len()).saturating_sub(self.tail_bytes_max);
        self.dropped += overflow as u64;
        let old = overflow.min(self.tail.len());
        self.tail.drain(..old);
        self.tail.extend(&rest[overflow - old..]);
    }

    /// Everything kept, without a line break at the end, and begins anew.
    pub(crate) fn take(&mut self) -> String {
        let fresh = Self::new(self.head_bytes_max + self.tail_bytes_max);
        let Self { head, mut tail, mut dropped, .. } = mem::replace(self, fresh);
        let mut text = String::with_capacity(head.len() + tail.len());
        if dropped == 0 {
            let whole = [head.as_slice(), tail.make_contiguous()].concat();
            text.push_str(&String::from_utf8_lossy(&whole));
        } else {
            let head = trim_cut_end(&head);
            dropped += (self.head_bytes_max - head.len()) as u64;
            let kept = trim_cut_start(tail.make_contiguous());
            dropped += (self.tail_bytes_max - kept.len()) as u64;
            text.push_str(&String::from_utf8_lossy(head));
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            let _ = writeln!(text, "... {dropped} bytes dropped ...");
            text.push_str(&String::from_utf8_lossy(kept));
        }
        text.truncate(text.trim_end_matches('\n').len());
        text
    }
}

/// `bytes` without the beginning of a character whose end was cut off.
fn trim_cut_end(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}

/// `bytes` without the end of a character whose beginning was cut off.
fn trim_cut_start(bytes: &[u8]) -> &[u8] {
    const CONTINUATION_BYTES_MAX: usize = 3;
    let cut = bytes.iter().take(CONTINUATION_BYTES_MAX).take_while(|byte| *byte & 0xC0 == 0x80).count();
    &bytes[cut..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_order_and_say_where_they_come_from() {
        let mut journal = Journal::new(1000);
        journal.write(Stream::Stdout, b"one\ntw");
        journal.write(Stream::Stdout, b"o\nunfinished");
        journal.log("INFO", "shop", "three\nand a half");
        journal.write(Stream::Stderr, b"four");
        journal.write(Stream::Stdout, b"five\n");
        journal.log("WARN", "", "six\n");
        journal.write(Stream::Stderr, b"seven");
        let expected = "stdout: one\nstdout: two\nstdout: unfinished\nINFO shop: three\n  and a half\n\
                        stderr: four\nstdout: five\nWARN: six\nstderr: seven";
        assert_eq!(journal.take(), expected);
        assert_eq!(journal.take(), "", "taken once");
    }

    #[test]
    fn too_much_keeps_head_and_tail_and_counts_the_rest() {
        let mut journal = Journal::new(40);
        for number in 0..100_000 {
            journal.write(Stream::Stdout, format!("{number:05}\n").as_bytes());
        }
        let all = 14 * 100_000;
        assert_eq!(
            journal.take(),
            format!("stdout: 00000\nstdout\n... {} bytes dropped ...\n99998\nstdout: 99999", all - 40)
        );
    }

    #[test]
    fn one_endless_line_is_bounded_too_and_characters_are_not_torn() {
        for limit in 0..64 {
            let mut journal = Journal::new(limit);
            journal.write(Stream::Stdout, "\u{1F600}".repeat(100).as_bytes());
            let text = journal.take();
            assert!(!text.contains('\u{FFFD}'), "{limit}: {text}");
            assert!(text.len() <= limit + "\n... 999 bytes dropped ...\n".len(), "{limit}: {text}");
            let kept: usize = text.lines().filter(|line| !line.starts_with("...")).map(str::len).sum();
            assert!(text.contains(&format!("... {} bytes dropped ...", 408 - kept)), "{limit}: {text}");
        }
    }

    #[test]
    fn a_write_larger_than_everything_keeps_its_end() {
        let mut journal = Journal::new(20);
        let mut bytes = vec![b'x'; 1 << 20];
        bytes.extend_from_slice(b"the end");
        journal.write(Stream::Stderr, &bytes);
        assert!(journal.take().ends_with("the end"));
    }
}
