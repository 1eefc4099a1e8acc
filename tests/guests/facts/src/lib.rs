//! Logs and emits, to the topic in its configuration value `topic`, all that a component can know about its delivery.

use pelton_guest::{Delivery, Error, Event, Message, Result, config, consumer, context, info, serde_json::json};

consumer!(handle);

fn handle(message: &Message, delivery: &Delivery) -> Result {
    let topic = config("topic").ok_or_else(|| Error::reject("no configuration value 'topic'"))?;
    info!("this is {}", context::consumer());
    let facts = json!({
        "consumer": context::consumer(),
        "source": context::source(),
        "remaining-ms": u64::try_from(context::remaining().as_millis()).unwrap_or(u64::MAX),
        "missing-config": config("no-such-key"),
        "topic": delivery.topic,
        "attempt": delivery.attempt,
        "idempotency-key": delivery.idempotency_key,
        "message": {
            "id": message.id,
            "source": message.source,
            "type": message.type_,
            "subject": message.subject,
            "time": message.time,
            "content-type": message.content_type,
            "data-schema": message.data_schema,
            "extensions": message.extensions,
            "data-bytes": message.data.len(),
        },
    });
    Event::json(&facts)?.kind("facts").subject("this").extension("partitionkey", "p").emit(&topic)?;
    Ok(())
}
