//! What a handler can be given: the body of a message, read as the type in the handler's signature.

use std::ops::{Deref, DerefMut};

use serde::Deserialize;

use crate::{Error, Message, Result};

/// A type that a handler can ask for in its first argument.
///
/// Implemented for [`Json<T>`], `&str` and `String` (UTF-8), `&[u8]` and `Vec<u8>` (as it came), `&Message` (body and
/// attributes). Implement it for other formats; what borrows from the message costs no copy.
#[diagnostic::on_unimplemented(
    message = "a handler can't be given a `{Self}`",
    note = "ask for `Json<T>`, text (`&str`, `String`), bytes (`&[u8]`, `Vec<u8>`) or the whole `&Message`"
)]
pub trait FromMessage<'m>: Sized {
    /// Reads the message.
    ///
    /// # Errors
    /// [`Error::reject`] when the body is not of this form: it will not be next time either.
    fn from_message(message: &'m Message) -> Result<Self>;
}

/// A body of JSON, as any type that `serde` can read. Dereferences to it.
///
/// The content type is not looked at: producers leave it out, and a body that is no JSON is rejected in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T> Json<T> {
    /// The value itself.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Json<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<'m, T: Deserialize<'m>> FromMessage<'m> for Json<T> {
    fn from_message(message: &'m Message) -> Result<Self> {
        serde_json::from_slice(&message.data)
            .map(Json)
            .map_err(|error| Error::reject(format_args!("the body is not the JSON expected: {error}")))
    }
}

impl<'m> FromMessage<'m> for &'m str {
    fn from_message(message: &'m Message) -> Result<Self> {
        std::str::from_utf8(&message.data)
            .map_err(|error| Error::reject(format_args!("the body is not text in UTF-8: {error}")))
    }
}

impl<'m> FromMessage<'m> for String {
    fn from_message(message: &'m Message) -> Result<Self> {
        <&str>::from_message(message).map(str::to_owned)
    }
}

impl<'m> FromMessage<'m> for &'m [u8] {
    fn from_message(message: &'m Message) -> Result<Self> {
        Ok(&message.data)
    }
}

impl<'m> FromMessage<'m> for Vec<u8> {
    fn from_message(message: &'m Message) -> Result<Self> {
        Ok(message.data.clone())
    }
}

impl<'m> FromMessage<'m> for &'m Message {
    fn from_message(message: &'m Message) -> Result<Self> {
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::delivery;

    fn read<T>(data: &[u8], check: impl FnOnce(Result<T>))
    where
        T: for<'m> FromMessage<'m>,
    {
        check(T::from_message(&delivery("t", data).message));
    }

    #[test]
    fn json_is_read_in_place() {
        #[derive(Deserialize)]
        struct Order<'a> {
            id: u64,
            customer: &'a str,
        }
        let delivery = delivery("orders", r#"{"id": 7, "customer": "ann"}"#);
        let order = Json::<Order<'_>>::from_message(&delivery.message).expect("valid");
        assert_eq!((order.id, order.customer), (7, "ann"));
    }

    #[test]
    fn what_can_not_be_read_is_rejected() {
        read::<Json<Vec<u8>>>(b"[1, 2", |read| {
            let error = read.expect_err("cut short");
            assert!(error.is_reject());
            assert_eq!(
                error.reason(),
                "the body is not the JSON expected: EOF while parsing a list at line 1 column 5"
            );
        });
        read::<String>(b"\xff", |read| assert!(read.expect_err("not UTF-8").is_reject()));
    }

    #[test]
    fn bytes_pass_as_they_are() {
        read::<Vec<u8>>(b"\xff\0", |read| assert_eq!(read.expect("always"), b"\xff\0"));
    }
}
