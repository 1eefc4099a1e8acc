//! Ships what is paid, and says so: `orders.shipped`.

use pelton_guest::{Delivery, Event, Json, Result, consumer, info};
use serde::{Deserialize, Serialize};

/// What `payment` emits.
#[derive(Deserialize)]
struct Paid {
    id: u64,
    customer: String,
    receipt: String,
}

#[derive(Serialize)]
struct Shipped<'a> {
    id: u64,
    to: &'a str,
    parcel: String,
}

consumer!(handle);

fn handle(paid: Json<Paid>, _: &Delivery) -> Result {
    let parcel = format!("P{:06}", paid.id);
    info!("order {} (receipt {}) goes to {} as parcel {parcel}", paid.id, paid.receipt, paid.customer);
    let shipped = Shipped { id: paid.id, to: &paid.customer, parcel };
    Event::json(&shipped)?.subject(format!("order/{}", paid.id)).emit("orders.shipped")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use pelton_guest::testing;

    #[test]
    fn what_is_paid_is_shipped() {
        let paid = r#"{"id": 42, "customer": "ann", "receipt": "riverbank/1"}"#;
        testing::handle(super::handle, &testing::delivery("orders.paid", paid)).expect("shipped");
        let (topic, event) = &testing::emitted()[0];
        assert_eq!(topic, "orders.shipped");
        assert_eq!(event.data, br#"{"id":42,"to":"ann","parcel":"P000042"}"#);
    }
}
