//! One promised number and what was found.

use super::sample::Samples;
use std::fmt;

/// What a number is held against.
#[derive(Debug)]
pub(super) enum Against {
    /// Something that was measured in turns with it; its ratio to that counts.
    Measured {
        /// In words.
        what: String,
        /// Its samples.
        samples: Samples,
    },
    /// A figure from earlier, not measured again; the ratio to it counts.
    Earlier {
        /// In words.
        what: String,
        /// The figure.
        value: f64,
    },
    /// Nothing: the number itself counts.
    Nothing,
}

/// One promised number.
#[derive(Debug)]
pub(super) struct Row {
    /// In words.
    pub what: String,
    /// What was measured.
    pub ours: Samples,
    /// The unit of both sides.
    pub unit: &'static str,
    /// What it is held against.
    pub against: Against,
    /// The most that is promised: of the ratio, or of the number itself. Nothing where the row only explains another.
    pub promised: Option<f64>,
}

/// What could not be measured.
#[derive(Debug)]
pub(super) struct Missing {
    pub what: String,
    pub why: String,
}

impl Row {
    /// The ratio of medians, where there is something to hold the number against.
    pub(super) fn ratio(&self) -> Option<f64> {
        match &self.against {
            Against::Measured { samples, .. } => Some(self.ours.median() / samples.median()),
            Against::Earlier { value, .. } => Some(self.ours.median() / value),
            Against::Nothing => None,
        }
    }

    /// Whether the promise held, where there is one.
    pub(super) fn held(&self) -> Option<bool> {
        Some(self.ratio().unwrap_or_else(|| self.ours.median()) <= self.promised?)
    }

    /// The cells of the page's table.
    pub(super) fn cells(&self) -> [String; 8] {
        let unit = self.unit;
        let (against, theirs) = match &self.against {
            Against::Measured { what, samples } => (what.clone(), with_range(samples, unit)),
            Against::Earlier { what, value } => (what.clone(), format!("{} {unit}, earlier", number(*value))),
            Against::Nothing => ("–".into(), "–".into()),
        };
        let (ratio, of) = match self.ratio() {
            Some(ratio) => (format!("{ratio:.2}"), "×"),
            None => ("–".into(), unit),
        };
        let promised = self.promised.map_or("–".into(), |most| format!("{most} {of}"));
        let held = match self.held() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "–",
        };
        let samples = self.ours.count().to_string();
        [self.what.clone(), against, with_range(&self.ours, unit), theirs, ratio, promised, held.into(), samples]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [what, against, ours, theirs, ratio, promised, held, _] = self.cells();
        write!(f, "{what}: {ours}; {against}: {theirs}; ratio {ratio}, promised {promised}: {held}")
    }
}

fn with_range(samples: &Samples, unit: &str) -> String {
    let median = number(samples.median());
    if samples.count() < 2 {
        return format!("{median} {unit}");
    }
    let (low, high) = samples.range();
    format!("{median} {unit} ({}–{})", number(low), number(high))
}

/// Three digits that count.
fn number(value: f64) -> String {
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(against: Against, promised: f64) -> Row {
        let ours = [3.0].into_iter().collect();
        Row { what: "x".into(), ours, unit: "ms", against, promised: Some(promised) }
    }

    #[test]
    fn a_promise_is_held_by_the_ratio_or_by_the_number() {
        let measured = || Against::Measured { what: "y".into(), samples: [2.0].into_iter().collect() };
        assert_eq!(row(measured(), 1.5).held(), Some(true));
        assert_eq!(row(measured(), 1.4).held(), Some(false));
        assert_eq!(row(Against::Nothing, 3.0).held(), Some(true));
        assert_eq!(row(Against::Nothing, 2.9).held(), Some(false));
        assert_eq!(Row { promised: None, ..row(Against::Nothing, 3.0) }.held(), None);
    }

    #[test]
    fn what_was_never_measured_holds_nothing() {
        let empty = Row { ours: [].into_iter().collect(), ..row(Against::Nothing, 9.0) };
        assert_eq!(empty.held(), Some(false));
    }
}
