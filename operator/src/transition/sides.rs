//! Which pods a set of changes closes or opens, direction by direction.

use ringfence_policy::{Direction, Pod, Policy, Selector};

use super::changes::{Changes, Edit, Known};

/// What the changes do to the pods of a namespace in one direction.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// Whether some pod goes from open to isolated.
    pub(super) closes: bool,
    /// Whether some pod goes from isolated to open.
    pub(super) opens: bool,
    /// Selectors of the bridges that closing takes: none where a single write does it.
    pub(super) closing: Vec<Selector>,
    /// The same for opening.
    pub(super) opening: Vec<Selector>,
}

impl Side {
    /// Looks at every pod that policies can select. `spared` are left alone: no bridge that closes selects them.
    pub(super) fn of(changes: &Changes, pods: &[Pod], direction: Direction, spared: &[Selector]) -> Self {
        let before = Isolating::before(changes, direction);
        let after = Isolating::after(changes, direction);
        let held = |pod: &Pod| isolated(changes.bridges.iter().map(|known| &known.meaning), pod, direction);
        let mut side = Self::default();
        let (mut closing, mut opening) = (Vec::new(), Vec::new());
        for pod in pods {
            let was_isolated = before.isolates(pod) && !held(pod);
            match (was_isolated, after.isolates(pod)) {
                (false, true) => {
                    side.closes = true;
                    if !held(pod) && writes(changes, pod, direction, Turn::Isolates) > 1 {
                        closing.push(pod);
                    }
                }
                (true, false) => {
                    side.opens = true;
                    if writes(changes, pod, direction, Turn::Releases) > 1 {
                        opening.push(pod);
                    }
                }
                // A bridge of an interrupted opening holds it: what is left to do opens nothing.
                (false, false) | (true, true) => {}
            }
        }
        let mut barred = before.selectors();
        barred.extend(spared);
        side.closing = super::bridge::selectors(&closing, &barred);
        side.opening = super::bridge::selectors(&opening, &after.selectors());
        side
    }
}

/// The policies that isolate pods in one direction at one time.
struct Isolating<'a> {
    direction: Direction,
    policies: Vec<&'a Policy>,
}

impl<'a> Isolating<'a> {
    /// Now, bridges aside.
    fn before(changes: &'a Changes, direction: Direction) -> Self {
        let edits = changes.edits.iter().map(|edit| &edit.before);
        Self::new(
            changes.constant.iter().chain(edits).chain(&changes.removals),
            direction,
        )
    }

    /// When everything is done.
    fn after(changes: &'a Changes, direction: Direction) -> Self {
        let edits = changes.edits.iter().map(|edit| &edit.after);
        let creations = changes.creations.iter().map(|(known, _)| known);
        Self::new(changes.constant.iter().chain(edits).chain(creations), direction)
    }

    fn new(known: impl Iterator<Item = &'a Known>, direction: Direction) -> Self {
        let policies = known
            .map(|known| &known.meaning)
            .filter(|policy| policy.rules(direction).is_some());
        Self {
            direction,
            policies: policies.collect(),
        }
    }

    fn isolates(&self, pod: &Pod) -> bool {
        isolated(self.policies.iter().copied(), pod, self.direction)
    }

    fn selectors(&self) -> Vec<&'a Selector> {
        self.policies.iter().map(|policy| &policy.pod_selector).collect()
    }
}

fn isolated<'a>(mut policies: impl Iterator<Item = &'a Policy>, pod: &Pod, direction: Direction) -> bool {
    policies.any(|policy| policy.isolates(pod, direction))
}

/// What a write does to a pod in one direction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Isolates,
    Releases,
}

/// How many of the writes begin to isolate a pod, or cease to.
fn writes(changes: &Changes, pod: &Pod, direction: Direction, turn: Turn) -> usize {
    let turned = |edit: &&Edit| {
        let (before, after) = (&edit.before.meaning, &edit.after.meaning);
        let (from, to) = if turn == Turn::Isolates {
            (before, after)
        } else {
            (after, before)
        };
        !from.isolates(pod, direction) && to.isolates(pod, direction)
    };
    let whole: Vec<&Known> = match turn {
        Turn::Isolates => changes.creations.iter().map(|(known, _)| known).collect(),
        Turn::Releases => changes.removals.iter().collect(),
    };
    whole
        .iter()
        .filter(|known| known.meaning.isolates(pod, direction))
        .count()
        + changes.edits.iter().filter(turned).count()
}
