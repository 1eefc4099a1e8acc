//! Making what a command or the API says the same on every machine, for snapshots.

use std::path::Path;

/// `text` with folders, ports, times, ids and process numbers replaced by what they are.
pub(crate) fn masked(text: &str, folder: &Path) -> String {
    let mut settings = text.replace(&*folder.to_string_lossy(), "[folder]");
    settings = settings.replace(&*super::binary::root().to_string_lossy(), "[root]");
    let mut out = String::with_capacity(settings.len());
    let mut rest = settings.as_str();
    while let Some(at) = rest.find("127.0.0.1:") {
        let end = at + "127.0.0.1:".len();
        out.push_str(&rest[..end]);
        rest = &rest[end..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            out.push_str("[port]");
        }
        rest = &rest[digits..];
    }
    out.push_str(rest);
    out
}
