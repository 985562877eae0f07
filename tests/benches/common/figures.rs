//! Figures, and how they are shown.

use std::fmt;

/// Some measurements of one thing, in order.
#[derive(Debug, Clone)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }

    pub(crate) fn one(figure: f64) -> Self {
        Self(vec![figure])
    }

    /// The smallest figure that so many thousandths of all do not exceed (the nearest rank): of 100 figures, 990 is the second
    /// largest.
    pub(crate) fn quantile(&self, thousandths: usize) -> f64 {
        let rank = (self.0.len() * thousandths).div_ceil(1000);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return write!(f, "{only:.1}");
        }
        write!(
            f,
            "p50 {:.0}  p99 {:.0}  max {:.0}  (n = {})",
            self.quantile(500),
            self.quantile(990),
            self.quantile(1000),
            self.0.len()
        )
    }
}

/// One thing in a small and in a large cluster, and the ratio of the medians.
pub(crate) fn line(what: &str, few: &Figures, many: &Figures, unit: &str) {
    println!("\n{what}, {unit}:");
    println!("  small cluster  {few}");
    println!("  large cluster  {many}");
    println!("  ratio          {:.2}", many.quantile(500) / few.quantile(500));
}
