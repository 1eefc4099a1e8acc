//! Small values with a checksum, each over its key and itself.
//!
//! redb trusts a file that was closed in order: a flipped bit must be found when a value is read, whatever it says. The key is part of
//! it, so that a value that came under another key is found as well. Rows of messages have checksums of their own, see [`crate::row`].

use redb::{Key, TableDefinition, TableHandle as _, Value};

use crate::failure::Failure;

/// A value behind its checksum (CRC-32). In this order redb stores no length that could be damaged.
pub(crate) type Sealed<V> = (u32, V);

/// The value as it is stored under `key`.
pub(crate) fn seal<'v, K: Key + 'static, V: Value + 'static>(
    _: TableDefinition<'_, K, Sealed<V>>,
    key: &K::SelfType<'_>,
    value: V::SelfType<'v>,
) -> (u32, V::SelfType<'v>) {
    (checksum::<K, V>(key, &value), value)
}

/// The value that was read under `key`.
///
/// # Errors
/// [`Failure::Damaged`], where it is not what was stored there.
pub(crate) fn unseal<'v, K: Key + 'static, V: Value + 'static>(
    table: TableDefinition<'_, K, Sealed<V>>,
    key: &K::SelfType<'_>,
    (sum, value): (u32, V::SelfType<'v>),
) -> Result<V::SelfType<'v>, Failure> {
    if checksum::<K, V>(key, &value) == sum {
        return Ok(value);
    }
    Err(Failure::Damaged(format!("the checksum of {key:?} in '{}' is wrong", table.name())))
}

fn checksum<K: Key + 'static, V: Value + 'static>(key: &K::SelfType<'_>, value: &V::SelfType<'_>) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(K::as_bytes(key).as_ref());
    sum.update(V::as_bytes(value).as_ref());
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: TableDefinition<'_, (u32, u64), Sealed<u64>> = TableDefinition::new("numbers");
    const TEXTS: TableDefinition<'_, &str, Sealed<&[u8]>> = TableDefinition::new("texts");

    #[test]
    fn what_changed_in_key_or_value_does_not_pass() {
        let (sum, value) = seal(NUMBERS, &(1, 2), 77);
        assert_eq!(unseal(NUMBERS, &(1, 2), (sum, value)), Ok(77));
        let refused = Err(Failure::Damaged("the checksum of (1, 3) in 'numbers' is wrong".to_owned()));
        assert_eq!(unseal(NUMBERS, &(1, 3), (sum, value)), refused);
        for bit in 0..64 {
            assert!(unseal(NUMBERS, &(1, 2), (sum, value ^ 1 << bit)).is_err(), "bit {bit} passed");
        }
        assert!(unseal(NUMBERS, &(1, 2), (sum ^ 1, value)).is_err());
        let sealed = seal(TEXTS, &"key", b"value".as_slice());
        assert_eq!(unseal(TEXTS, &"key", sealed), Ok(b"value".as_slice()));
        assert!(unseal(TEXTS, &"kez", sealed).is_err());
        assert!(unseal(TEXTS, &"key", (sealed.0, &b"valve"[..])).is_err());
    }
}
