//! Emits the body to the topic in its configuration value `topic`, if there is one, with the message's id as subject; then does
//! what the body says: one word for each attempt, the last word for all further ones.

use std::time::Duration;

use pelton_guest::{Delivery, Error, Event, Result, ResultExt, config, consumer};

consumer!(handle);

fn handle(script: &str, delivery: &Delivery) -> Result {
    if let Some(topic) = config("topic") {
        Event::text(script).subject(delivery.message.id.as_str()).emit(&topic)?;
    }
    let words: Vec<&str> = script.split_whitespace().collect();
    let turn = usize::try_from(delivery.attempt).unwrap_or(usize::MAX);
    let Some(word) = words.get(turn - 1).or(words.last()) else { return Ok(()) };
    let (word, number) = word.split_once(':').unwrap_or((word, "0"));
    let time = Duration::from_millis(number.parse().or_reject()?);
    match word {
        "done" => Ok(()),
        "retry" if time.is_zero() => Err(Error::retry("as it is written")),
        "retry" => Err(Error::retry("as it is written").after(time)),
        "reject" => Err(Error::reject("as it is written")),
        "sleep" => {
            std::thread::sleep(time);
            Ok(())
        }
        "trap" => panic!("as it is written"),
        _ => Err(Error::reject(format!("'{word}' is no word of a script"))),
    }
}
