//! The order of the writes.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_policy::{Direction, Pod, Policy, Selector};

use super::changes::{Changes, Edit, Known};
use super::reach::{Inside, Reach};
use super::sides::Side;
use super::{Cause, Step, Version, bridge};
use crate::generate::exempt;
use crate::ownership::replacement;
use crate::view::{ClusterView, key};

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// The steps for all changes of a namespace.
pub(super) fn steps(view: &ClusterView, namespace: &str, changes: &Changes) -> Vec<Step> {
    let pods: Vec<Pod> = view
        .pods
        .get(namespace)
        .into_iter()
        .flatten()
        .map(|pod| Pod::from_api(pod))
        .filter(|pod| !pod.host_network && !pod.finished)
        .collect();
    let spared: Vec<Selector> = view
        .effective(namespace)
        .map(|owner| exempt::selectors(owner))
        .unwrap_or_default();
    let sides = DIRECTIONS.map(|direction| (direction, Side::of(changes, &pods, direction, &spared)));
    let leaks = || {
        let labels = view.namespace_labels(namespace).unwrap_or_default();
        let inside = Inside::new(changes, &pods, &labels);
        [
            inside.leaks_before(Direction::Ingress, Direction::Egress),
            inside.leaks_before(Direction::Egress, Direction::Ingress),
        ]
    };
    let stages = stages(changes, &ordered(changes, &sides, leaks));
    stages
        .iter()
        .flat_map(|(stage, phase)| {
            Stage {
                view,
                namespace,
                changes,
                sides: &sides,
                stage,
                phase: *phase,
            }
            .steps()
        })
        .collect()
}

/// Which of the writes of its directions a stage consists of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// All of them.
    Whole,
    /// Those that close pods, or widen what isolated pods let pass.
    Closing,
    /// The others.
    Opening,
}

impl Phase {
    fn closes(self) -> bool {
        self != Self::Opening
    }

    fn opens(self) -> bool {
        self != Self::Closing
    }
}

/// The directions in the order in which they are dealt with. Directions that one write changes together are one stage. Where
/// one direction closes some pods and opens others (other pods are left alone than before), all closing comes before all
/// opening: else the two ends of a connection, each of which denied it before or does after, could both be open in between.
fn stages(changes: &Changes, ordered: &[&(Direction, Side); 2]) -> Vec<(Vec<Direction>, Phase)> {
    let together = changes.edits.iter().any(|edit| {
        DIRECTIONS.iter().all(|direction| {
            edit.before.meaning.rules(*direction).is_some() || edit.after.meaning.rules(*direction).is_some()
        })
    });
    if together || changes.removals.iter().any(|known| governs_both(&known.meaning)) {
        return vec![(DIRECTIONS.to_vec(), Phase::Whole)];
    }
    let directions = ordered.iter().map(|(direction, _)| vec![*direction]);
    let selects = |edit: &Edit| Move::of(edit) == Move::Selects;
    if ordered.iter().any(|(_, side)| side.closes && side.opens) && !changes.edits.iter().any(selects) {
        let closing = directions.clone().map(|stage| (stage, Phase::Closing));
        return closing
            .chain(directions.map(|stage| (stage, Phase::Opening)))
            .collect();
    }
    directions.map(|stage| (stage, Phase::Whole)).collect()
}

/// The directions, first the one that may go first: it does not let more pass while the other end still passes what it is
/// about to give up. Only where the text of the writes does not tell which one that is, `leaks` is asked: whether ingress does
/// before egress, and the other way round.
fn ordered<'s>(
    changes: &Changes,
    sides: &'s [(Direction, Side); 2],
    leaks: impl FnOnce() -> [bool; 2],
) -> [&'s (Direction, Side); 2] {
    let [ingress, egress] = sides;
    let [into, out] = [ingress, egress].map(|(direction, side)| Reach::written(changes, *direction, side));
    let unclear = into.leaks_before(out) && out.leaks_before(into);
    let [ingress_leaks, egress_leaks] = if unclear { leaks() } else { [false; 2] };
    let rank = |(_, side): &(Direction, Side), reach: Reach| {
        (reach.widens, !reach.narrows, !side.closes, side.opens)
    };
    let egress_first = if ingress_leaks == egress_leaks {
        rank(egress, out) < rank(ingress, into)
    } else {
        ingress_leaks
    };
    if egress_first {
        [egress, ingress]
    } else {
        [ingress, egress]
    }
}

fn governs_both(policy: &Policy) -> bool {
    DIRECTIONS
        .iter()
        .all(|direction| policy.rules(*direction).is_some())
}

/// The writes of one stage: everything that concerns its directions.
struct Stage<'a> {
    view: &'a ClusterView,
    namespace: &'a str,
    changes: &'a Changes,
    sides: &'a [(Direction, Side); 2],
    stage: &'a [Direction],
    phase: Phase,
}

impl Stage<'_> {
    fn steps(&self) -> Vec<Step> {
        let bridges = self.new_bridges();
        let raised = bridges.iter().map(|policy| create(policy.clone(), Cause::Bridge));
        let creations = self
            .changes
            .creations
            .iter()
            .filter(|(known, _)| self.phase.closes() && self.concerns(&known.meaning));
        let created = creations.map(|(known, cause)| create((*known.object).clone(), cause.clone()));
        let removals = self.opening(&self.changes.removals);
        let removed = removals.map(|known| delete(known, Cause::Unneeded));
        let stale = self.opening(&self.changes.bridges);
        let dropped = stale.map(|known| delete(known, Cause::Bridge));
        let lowered = bridges.iter().map(|policy| Step::Delete {
            key: key(policy),
            version: Version::WrittenBefore,
            cause: Cause::Bridge,
        });
        raised
            .chain(created)
            .chain(self.edits())
            .chain(removed)
            .chain(dropped)
            .chain(lowered)
            .collect()
    }

    /// Those of these policies that go in this stage.
    fn opening<'k>(&'k self, known: &'k [Known]) -> impl Iterator<Item = &'k Known> {
        known
            .iter()
            .filter(|known| self.phase.opens() && self.concerns(&known.meaning))
    }

    fn concerns(&self, policy: &Policy) -> bool {
        self.stage
            .iter()
            .any(|direction| policy.rules(*direction).is_some())
    }

    /// The bridges to raise. Where nothing could own one, somebody else's policy has its name, or the namespace is being
    /// deleted, none can be written.
    fn new_bridges(&self) -> Vec<NetworkPolicy> {
        if self.view.terminating(self.namespace) {
            return Vec::new();
        }
        let sides = self
            .sides
            .iter()
            .filter(|(direction, _)| self.stage.contains(direction));
        let mut wanted: Vec<(Direction, &Selector)> = sides
            .flat_map(|(direction, side)| {
                let closing = side.closing.iter().filter(|_| self.phase.closes());
                let opening = side.opening.iter().filter(|_| self.phase.opens());
                closing.chain(opening).map(|selector| (*direction, selector))
            })
            .collect();
        wanted.sort();
        wanted.dedup();
        let raised = wanted
            .into_iter()
            .filter_map(|(direction, pods)| bridge::bridge(self.view, self.namespace, direction, pods));
        raised.filter(|policy| !self.taken(&policy.name_any())).collect()
    }

    fn taken(&self, name: &str) -> bool {
        let changes = self.changes;
        let all = changes
            .constant
            .iter()
            .chain(&changes.bridges)
            .chain(&changes.removals);
        all.into_iter().any(|known| known.object.name_any() == name)
    }

    /// First whatever widens, then whatever narrows. One edit alone is one write; of several, one that does both is written
    /// twice, because what it gives up another may take over.
    fn edits(&self) -> Vec<Step> {
        let concerned: Vec<&Edit> = self
            .changes
            .edits
            .iter()
            .filter(|edit| self.concerns(&edit.before.meaning) || self.concerns(&edit.after.meaning))
            .collect();
        let alone = concerned.len() < 2;
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for edit in concerned {
            match Move::of(edit) {
                Move::Widens => first.push(replace(edit, seen(&edit.before))),
                Move::Both if !alone => {
                    first.push(replace_by(edit, union(edit), seen(&edit.before)));
                    second.push(replace(edit, Version::WrittenBefore));
                }
                Move::Narrows | Move::Both | Move::Selects => {
                    second.push(replace(edit, seen(&edit.before)));
                }
            }
        }
        let widening = first.into_iter().filter(|_| self.phase.closes());
        let narrowing = second.into_iter().filter(|_| self.phase.opens());
        widening.chain(narrowing).collect()
    }
}

/// What an edit does to what a policy allows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    Widens,
    Narrows,
    Both,
    /// It changes which pods are selected, or in which directions.
    Selects,
}

impl Move {
    fn of(edit: &Edit) -> Self {
        let (before, after) = (&edit.before.meaning, &edit.after.meaning);
        let governed = |policy: &Policy| DIRECTIONS.map(|direction| policy.rules(direction).is_some());
        if before.pod_selector != after.pod_selector || governed(before) != governed(after) {
            Self::Selects
        } else if within(before, after) {
            Self::Widens
        } else if within(after, before) {
            Self::Narrows
        } else {
            Self::Both
        }
    }
}

/// Whether every rule of one policy is part of a rule of another, as far as their text shows.
pub(super) fn within(inner: &Policy, outer: &Policy) -> bool {
    DIRECTIONS.iter().all(|direction| {
        let outer = outer.rules(*direction).unwrap_or_default();
        inner.rules(*direction).unwrap_or_default().iter().all(|rule| {
            outer.iter().any(|other| {
                listed(rule.peers.as_deref(), other.peers.as_deref())
                    && listed(rule.ports.as_deref(), other.ports.as_deref())
            })
        })
    })
}

/// Whether everything in one list is in another; no list is everything there is.
fn listed<T: PartialEq>(inner: Option<&[T]>, outer: Option<&[T]>) -> bool {
    match (inner, outer) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(inner), Some(outer)) => inner.iter().all(|item| outer.contains(item)),
    }
}

/// What an edited policy will be, and what it was, in one object.
fn union(edit: &Edit) -> NetworkPolicy {
    let mut policy = (*edit.after.object).clone();
    let before = edit.before.object.spec.clone().unwrap_or_default();
    if let Some(spec) = policy.spec.as_mut() {
        join(&mut spec.ingress, before.ingress);
        join(&mut spec.egress, before.egress);
    }
    policy
}

fn join<T: PartialEq>(rules: &mut Option<Vec<T>>, more: Option<Vec<T>>) {
    for rule in more.unwrap_or_default() {
        let rules = rules.get_or_insert_default();
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
}

fn create(policy: NetworkPolicy, cause: Cause) -> Step {
    Step::Create {
        policy: Box::new(policy),
        cause,
    }
}

fn delete(known: &Known, cause: Cause) -> Step {
    Step::Delete {
        key: known.meaning.key.clone(),
        version: seen(known),
        cause,
    }
}

fn replace(edit: &Edit, version: Version) -> Step {
    replace_by(
        edit,
        replacement(&edit.before.object, &edit.after.object),
        version,
    )
}

fn replace_by(edit: &Edit, policy: NetworkPolicy, version: Version) -> Step {
    Step::Replace {
        policy: Box::new(policy),
        version,
        cause: edit.cause.clone(),
    }
}

fn seen(known: &Known) -> Version {
    version_of(&known.object)
}

/// The version of an object as it was seen.
pub(super) fn version_of(object: &NetworkPolicy) -> Version {
    Version::Seen {
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}
