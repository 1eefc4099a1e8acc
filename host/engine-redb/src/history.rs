//! One attempt at a message as a value of `attempts`: a version byte, then JSON. Written only when a delivery fails.

use pelton_core::engine::Attempt;
use redb::ReadOnlyTable;

use crate::failure::Failure;
use crate::seal::{Sealed, unseal};
use crate::tables::ATTEMPTS;

const VERSION: u8 = 1;

/// The stored form of `attempt`.
pub(crate) fn encode(attempt: &Attempt) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, attempt).expect("an attempt is texts and numbers, written to memory");
    bytes
}

/// The attempt in `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<Attempt, Failure> {
    match bytes.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json)
            .map_err(|error| Failure::Damaged(format!("a stored attempt is damaged: {error}"))),
        Some((version, _)) => Err(Failure::Damaged(format!("a stored attempt has version {version}, not {VERSION}"))),
        None => Err(Failure::Damaged("a stored attempt is empty".to_owned())),
    }
}

/// What is kept of the history of a message at which so many attempts were `written`: the last ones.
pub(crate) fn read(
    table: &ReadOnlyTable<(u64, u32), Sealed<&'static [u8]>>,
    entry: u64,
    written: u32,
) -> Result<Vec<Attempt>, Failure> {
    let mut history = Vec::new();
    let Some(last) = written.checked_sub(1) else { return Ok(history) };
    let mut next = None;
    for row in table.range((entry, 0)..=(entry, u32::MAX))? {
        let (key, value) = row?;
        let number = key.value().1;
        if next.is_some_and(|next| next != number) {
            break;
        }
        next = Some(number.saturating_add(1));
        history.push(decode(unseal(ATTEMPTS, &key.value(), value.value())?)?);
    }
    if next == last.checked_add(1) {
        return Ok(history);
    }
    Err(Failure::Damaged(format!("of the {written} attempts at message {entry} the last are not where they should be")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_comes_back_whole_and_damage_does_not_pass() {
        let attempt = Attempt {
            number: 2,
            at_ms: 1000,
            outcome: "trap".into(),
            reason: "it panicked \u{1f4a5}".into(),
            duration_us: 17,
            digest: Some("ab".into()),
            log_tail: "line\n".into(),
        };
        let bytes = encode(&attempt);
        assert_eq!(decode(&bytes), Ok(attempt));
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode(&[]).is_err());
        assert!(decode(b"\x02{}").is_err());
    }
}
