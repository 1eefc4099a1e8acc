//! One attempt at a message as a value of `attempts`: a version byte, then JSON. Written only when a delivery fails.

use pelton_core::engine::Attempt;

use crate::failure::Failure;

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
