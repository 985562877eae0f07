//! When the gate closes and opens: an address of the node's pod ranges that is not known is held back, whatever the other
//! rules say of it.
//!
//! While other sets hold their old and their new elements, and chains switch, every address is held back that is so before or
//! after: a pod that comes would meet peers that just go, and a pod that goes would meet peers that just come. No other
//! address is, not even for a moment.

use super::sets::SetPlan;
use crate::names::SetId;
use crate::ruleset::{Element, Family};
use crate::state::SetChange;

/// The sets that the gate looks up.
pub(super) struct GateSets {
    pub(super) ranges: SetId,
    pub(super) known: SetId,
}

impl GateSets {
    pub(super) fn of(family: Family) -> Self {
        Self {
            ranges: SetId::pod_ranges(family),
            known: SetId::known(family),
        }
    }

    pub(super) fn has(&self, set: &SetId) -> bool {
        [&self.ranges, &self.known].contains(&set)
    }
}

/// What the gate's sets become, where they change in place.
pub(super) struct Gate<'a, 'p> {
    /// The plan of the set of ranges, and of the set of known addresses.
    pub(super) ranges: Option<&'p SetPlan<'a>>,
    pub(super) known: Option<&'p SetPlan<'a>>,
    /// The ranges as they are held, and as they are wanted.
    pub(super) before: &'a [Element],
    pub(super) after: &'a [Element],
}

impl Gate<'_, '_> {
    /// What closes: before anything else.
    pub(super) fn closes(&self) -> Vec<SetChange> {
        let changes = [
            // Those that a new range would hold back otherwise; nothing holds them back yet.
            self.known
                .and_then(|known| known.adding(|pod| !is_in(self.before, pod))),
            self.ranges.and_then(SetPlan::addition),
            self.known
                .and_then(|known| known.removing(|pod| is_in(self.after, pod))),
        ];
        changes.into_iter().flatten().collect()
    }

    /// What opens: after everything else.
    pub(super) fn opens(&self) -> Vec<SetChange> {
        let changes = [
            self.known
                .and_then(|known| known.adding(|pod| is_in(self.before, pod))),
            self.ranges.and_then(SetPlan::removal),
            self.known
                .and_then(|known| known.removing(|pod| !is_in(self.after, pod))),
        ];
        changes.into_iter().flatten().collect()
    }
}

fn is_in(ranges: &[Element], pod: &Element) -> bool {
    ranges.iter().any(|range| range.net.contains(&pod.net))
}
