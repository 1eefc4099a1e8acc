//! Lines of `pelton export`, which anybody may have changed before `pelton import` reads them.
//!
//! Asserts: what is read is written as one line, which reads as the same again; what is refused is so with a reason. That
//! a line takes bounded time is for libFuzzer's `-timeout` to tell.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pelton_engine_redb::fuzzing::Line;

fuzz_target!(|text: &str| {
    let line = match Line::read(text) {
        Ok(line) => line,
        Err(reason) => {
            assert!(!reason.is_empty(), "{text:?} is refused without a word");
            return;
        }
    };
    let written = String::from_utf8(line.write()).expect("JSON is text");
    assert!(!written.contains(['\n', '\r']), "{written:?} is more than a line");
    assert_eq!(Line::read(&written).as_ref(), Ok(&line), "{written}");
});
