//! How a backlog is worked off: the rate over each tenth of it.

use std::time::Instant;

/// How many messages were left at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) left: u64,
}

/// Messages per second over each tenth of the `total` that were there at `from`, first to last.
pub(super) fn tenths(from: Instant, total: u64, samples: &[Sample]) -> Vec<f64> {
    let done =
        |sample: &Sample| (sample.at.duration_since(from).as_secs_f64(), total.saturating_sub(sample.left) as f64);
    let points: Vec<(f64, f64)> = std::iter::once((0.0, 0.0)).chain(samples.iter().map(done)).collect();
    // Between two samples the pace is taken as even.
    let time_of = |wanted: f64| {
        let behind = points.iter().position(|(_, done)| *done >= wanted)?;
        let (later, more) = points[behind];
        let (sooner, less) = points[behind.saturating_sub(1)];
        let part = if more > less { (wanted - less) / (more - less) } else { 1.0 };
        Some(sooner + (later - sooner) * part)
    };
    let tenth = total as f64 / 10.0;
    let marks: Vec<f64> = (0..=10).filter_map(|number| time_of(tenth * f64::from(number))).collect();
    marks.windows(2).map(|pair| tenth / (pair[1] - pair[0]).max(1e-9)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_even_pace_is_even_and_a_slower_end_shows() {
        let from = Instant::now();
        let sample = |seconds, left| Sample { at: from + Duration::from_secs(seconds), left };
        let rates = tenths(from, 1000, &[sample(1, 900), sample(5, 500), sample(15, 0)]);
        let rounded: Vec<f64> = rates.iter().map(|rate| rate.round()).collect();
        assert_eq!(rounded, [100.0, 100.0, 100.0, 100.0, 100.0, 50.0, 50.0, 50.0, 50.0, 50.0]);
    }
}
