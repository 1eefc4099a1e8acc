//! Charges an order, through a bank that is not always there, and emits `orders.paid`.
//!
//! The bank is played by [`charge`], in a way that can be repeated: it stumbles as often as the order says, and one whole bank
//! can be put out of order in broker.toml. A real consumer would make an HTTP request there.

use pelton_guest::{Delivery, Error, Event, Json, Result, config, consumer, info};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Order {
    id: u64,
    customer: String,
    cents: u64,
    bank: String,
    /// How many times the bank fails to answer before it does.
    #[serde(default)]
    stumbles: u32,
}

/// What `shipping` consumes.
#[derive(Serialize)]
struct Paid<'a> {
    id: u64,
    customer: &'a str,
    receipt: String,
}

consumer!(handle);

fn handle(order: Json<Order>, delivery: &Delivery) -> Result {
    if order.cents == 0 {
        return Err(Error::reject(format!("order {} has nothing to pay", order.id)));
    }
    // By `?` an error of the bank asks for another try; the queue's backoff says when.
    let receipt = charge(&order, delivery)?;
    info!("order {} is paid: receipt {receipt}", order.id);
    let paid = Paid { id: order.id, customer: &order.customer, receipt };
    Event::json(&paid)?.subject(format!("order/{}", order.id)).emit("orders.paid")?;
    Ok(())
}

/// Why the bank did not take the money.
#[derive(Debug, PartialEq)]
enum BankError {
    Outage(String),
    NoAnswer { attempt: u32 },
}

impl std::fmt::Display for BankError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Outage(bank) => write!(f, "{bank} is out of order"),
            Self::NoAnswer { attempt } => write!(f, "the bank did not answer attempt {attempt}"),
        }
    }
}

impl std::error::Error for BankError {}

/// Takes the money once, however often it is asked to: the idempotency key is the same in every attempt at one message, so
/// the bank knows a repeated request, and the receipt is derived from it.
fn charge(order: &Order, delivery: &Delivery) -> std::result::Result<String, BankError> {
    if config("outage").is_some_and(|bank| bank == order.bank) {
        return Err(BankError::Outage(order.bank.clone()));
    }
    if delivery.attempt <= order.stumbles {
        return Err(BankError::NoAnswer { attempt: delivery.attempt });
    }
    Ok(format!("{}/{}", order.bank, delivery.idempotency_key))
}

#[cfg(test)]
mod tests {
    use pelton_guest::testing;

    use super::*;

    fn pay(order: &str, attempt: u32) -> Result {
        let delivery = Delivery { attempt, ..testing::delivery("orders.created", order) };
        testing::handle(handle, &delivery)
    }

    const STUMBLING: &str = r#"{"id": 1, "customer": "ann", "cents": 5, "bank": "riverbank", "stumbles": 2}"#;

    #[test]
    fn a_stumbling_bank_is_asked_again() {
        for attempt in 1..=2 {
            let error = pay(STUMBLING, attempt).expect_err("no answer");
            assert!(!error.is_reject(), "attempt {attempt}");
            assert_eq!(error.reason(), format!("the bank did not answer attempt {attempt}"));
        }
        assert_eq!(testing::emitted().len(), 0);
        pay(STUMBLING, 3).expect("paid");
        let (topic, event) = &testing::emitted()[0];
        assert_eq!((topic.as_str(), event.subject.as_deref()), ("orders.paid", Some("order/1")));
        assert_eq!(event.data, br#"{"id":1,"customer":"ann","receipt":"riverbank/test-1"}"#);
    }

    #[test]
    fn an_outage_lasts_until_the_configuration_changes() {
        testing::set_config("outage", "riverbank");
        assert_eq!(pay(STUMBLING, 3).expect_err("outage").reason(), "riverbank is out of order");
        testing::set_config("outage", "");
        pay(STUMBLING, 3).expect("paid");
    }

    #[test]
    fn what_can_never_be_paid_is_rejected() {
        let free = r#"{"id": 1, "customer": "ann", "cents": 0, "bank": "riverbank"}"#;
        assert!(pay(free, 1).expect_err("nothing to pay").is_reject());
        assert!(pay(r#"{"id": "one"}"#, 1).expect_err("not an order").is_reject());
    }
}
