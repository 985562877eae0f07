//! Pairs of measurements and their ratio.

use std::fmt;

use crate::measure::Sample;

/// What pairs of rounds say: the medians of both sides, and the median of the ratios within pairs.
pub(crate) struct Paired {
    subject: f64,
    baseline: f64,
    pub(crate) ratio: f64,
    low: f64,
    high: f64,
}

impl Paired {
    pub(crate) fn of(pairs: &[(Sample, Sample)], rate: fn(&Sample) -> f64) -> Self {
        let sorted = |figures: Vec<f64>| {
            let mut figures = figures;
            figures.sort_by(f64::total_cmp);
            figures
        };
        let at = |figures: &[f64], part: usize| figures[(figures.len() - 1) * part / 4];
        let ratios = sorted(pairs.iter().map(|(a, b)| rate(a) / rate(b)).collect());
        let subject = sorted(pairs.iter().map(|(a, _)| rate(a)).collect());
        let baseline = sorted(pairs.iter().map(|(_, b)| rate(b)).collect());
        Self {
            subject: at(&subject, 2),
            baseline: at(&baseline, 2),
            ratio: at(&ratios, 2),
            low: at(&ratios, 1),
            high: at(&ratios, 3),
        }
    }
}

impl fmt::Display for Paired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>9.0} against {:>9.0} a second  ratio {:.3} (quartiles {:.3} to {:.3})",
            self.subject, self.baseline, self.ratio, self.low, self.high
        )
    }
}
