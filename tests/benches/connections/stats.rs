//! Medians, and ratios of what was measured in one round.

use std::fmt;

/// The lower quartile, the median and the upper quartile.
pub(crate) fn quartiles(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    let last = figures.len().saturating_sub(1);
    [1, 2, 3].map(|part| figures.get(last * part / 4).copied().unwrap_or(f64::NAN))
}

/// A rate against another's, from costs that were measured round by round.
pub(crate) struct Ratio([f64; 3]);

impl Ratio {
    /// What costs so much has so much of the baseline's rate.
    pub(crate) fn of(subject: &[f64], baseline: &[f64]) -> Self {
        let pairs = baseline.iter().zip(subject);
        Self(quartiles(
            pairs.map(|(baseline, subject)| baseline / subject).collect(),
        ))
    }

    pub(crate) fn median(&self) -> f64 {
        self.0[1]
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, median, high] = self.0;
        write!(f, "{median:.3} ({low:.3} to {high:.3})")
    }
}
