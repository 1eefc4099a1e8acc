//! The `[dev]` sample: messages that `pelton dev` publishes at every start, straight into the broker.

use std::io::BufReader;

use pelton_core::broker::{Broker, Publish, PublishError, PublishOptions};
use pelton_core::message::{Attributes, Message};
use pelton_core::plan::SamplePlan;

use crate::lines::{Lines, Record, Shape, Template};
use crate::output;

/// Messages per request.
const BATCH: usize = 100;
/// The CloudEvents source of a sample's messages.
const SOURCE: &str = "/pelton/dev/sample";

/// How the sample fared.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fed {
    pub(crate) accepted: usize,
    pub(crate) refused: usize,
}

/// Publishes the sample; what can't be is shown, line by line, and left out.
///
/// # Errors
/// Where the file can't be read or nothing can be stored.
pub(crate) async fn feed(broker: &Broker, sample: &SamplePlan) -> Result<Fed, String> {
    let shown = sample.file.display();
    let file = std::fs::File::open(&sample.file)
        .map_err(|error| format!("[dev] sample: {shown} can't be read: {error}; mend broker.toml or add the file"))?;
    let shape = Shape {
        topic: Template::parse(&sample.topic).map_err(|error| format!("[dev] sample: {error}"))?,
        body: sample.body.clone(),
        id: None,
        key: None,
    };
    let mut fed = Fed::default();
    let mut batch: Vec<(u64, Publish)> = Vec::with_capacity(BATCH);
    for line in Lines::new(BufReader::new(file)) {
        let (number, text) = line.map_err(|error| format!("[dev] sample: {shown}: {error}"))?;
        match shape.record(number, &text).and_then(|record| message(broker, &record)) {
            Ok(publish) => batch.push((number, publish)),
            Err(problem) => {
                fed.refused += 1;
                output::error(&format!("[dev] sample: {shown}: {problem}"));
            }
        }
        if batch.len() >= BATCH {
            send(broker, std::mem::take(&mut batch), &mut fed, sample).await?;
        }
    }
    send(broker, batch, &mut fed, sample).await?;
    Ok(fed)
}

fn message(broker: &Broker, record: &Record) -> Result<Publish, String> {
    let now_ms = i64::try_from(broker.clock().wall().0).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(now_ms).unwrap_or(jiff::Timestamp::MAX);
    let attributes = Attributes {
        id: &uuid::Uuid::now_v7().to_string(),
        source: SOURCE,
        kind: record.topic.as_str(),
        time: Some(&format!("{time:.3}")),
        content_type: Some("application/json"),
        ..Attributes::default()
    };
    let message = Message::new(&attributes, record.body.as_bytes());
    let message = message.map_err(|error| format!("line {}: {error}", record.line))?;
    Ok(Publish { topic: record.topic.clone(), message })
}

/// Publishes a batch; messages that are refused are shown and the others sent again, since none was taken.
async fn send(
    broker: &Broker,
    mut batch: Vec<(u64, Publish)>,
    fed: &mut Fed,
    sample: &SamplePlan,
) -> Result<(), String> {
    while !batch.is_empty() {
        let publishes = batch.iter().map(|(_, publish)| publish.clone()).collect();
        match broker.publish(publishes, PublishOptions::default()).await {
            Ok(published) => {
                fed.accepted += published.len();
                return Ok(());
            }
            Err(PublishError::Engine(error)) => return Err(format!("[dev] sample: {error}")),
            Err(PublishError::Refused(refusals)) => {
                fed.refused += refusals.len();
                for refusal in &refusals {
                    let line = batch.get(refusal.index).map_or(0, |(line, _)| *line);
                    output::error(&format!("[dev] sample: {}: line {line}: {}", sample.file.display(), refusal.detail));
                }
                let mut index = 0;
                batch.retain(|_| {
                    index += 1;
                    refusals.iter().all(|refusal| refusal.index != index - 1)
                });
            }
        }
    }
    Ok(())
}
