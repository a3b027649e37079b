//! Samples: taken in turns, so that whatever else the machine does falls on both sides, and told by their median.

use super::Failure;
use std::time::{Duration, Instant};

/// What was measured of one side.
#[derive(Debug, Clone)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// The middle of the samples; the mean of the two middle ones where their number is even.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The least and the greatest.
    pub(super) fn range(&self) -> (f64, f64) {
        self.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)))
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// `count` samples of each side in milliseconds, in turns and each side first as often as the other. One round before
/// them warms caches and does not count.
pub(super) fn in_turns(
    count: usize,
    mut ours: impl FnMut() -> Result<Duration, Failure>,
    mut theirs: impl FnMut() -> Result<Duration, Failure>,
) -> Result<(Samples, Samples), Failure> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..=count {
        let (x, y) = if round % 2 == 0 {
            let x = ours()?;
            (x, theirs()?)
        } else {
            let y = theirs()?;
            (ours()?, y)
        };
        if round > 0 {
            a.push(milliseconds(x));
            b.push(milliseconds(y));
        }
    }
    Ok((Samples(a), Samples(b)))
}

/// `count` samples of one side in milliseconds, after one that does not count.
pub(super) fn alone(count: usize, mut ours: impl FnMut() -> Result<Duration, Failure>) -> Result<Samples, Failure> {
    ours()?;
    (0..count).map(|_| Ok(milliseconds(ours()?))).collect::<Result<Vec<_>, Failure>>().map(Samples)
}

/// How long something takes that must not fail.
pub(super) fn timed<T>(what: impl FnOnce() -> Result<T, Failure>) -> Result<Duration, Failure> {
    let start = Instant::now();
    what()?;
    Ok(start.elapsed())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Samples::from_iter([9.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples::from_iter([4.0, 1.0, 2.0, 9.0]).median(), 3.0);
        assert!(Samples::from_iter([]).median().is_nan());
    }
}
