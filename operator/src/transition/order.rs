//! The order of the writes.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_policy::{Direction, Pod, Policy};

use super::changes::{Changes, Edit, Known};
use super::sides::Side;
use super::{Cause, Step, Version, bridge};
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
    let sides = DIRECTIONS.map(|direction| (direction, Side::of(changes, &pods, direction)));
    let stages = stages(changes, &sides);
    stages
        .iter()
        .flat_map(|stage| {
            Stage {
                view,
                namespace,
                changes,
                sides: &sides,
                stage,
            }
            .steps()
        })
        .collect()
}

/// The directions in the order in which they are dealt with: those that close first, those that open last. Directions that
/// one write changes together are one stage.
fn stages(changes: &Changes, sides: &[(Direction, Side); 2]) -> Vec<Vec<Direction>> {
    let together = changes.edits.iter().any(|edit| {
        DIRECTIONS.iter().all(|direction| {
            edit.before.meaning.rules(*direction).is_some() || edit.after.meaning.rules(*direction).is_some()
        })
    });
    if together || changes.removals.iter().any(|known| governs_both(&known.meaning)) {
        return vec![DIRECTIONS.to_vec()];
    }
    let mut ordered: Vec<&(Direction, Side)> = sides.iter().collect();
    ordered.sort_by_key(|(_, side)| (!side.closes, side.opens));
    ordered.iter().map(|(direction, _)| vec![*direction]).collect()
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
}

impl Stage<'_> {
    fn steps(&self) -> Vec<Step> {
        let bridges = self.new_bridges();
        let raised = bridges.iter().map(|policy| create(policy.clone(), Cause::Bridge));
        let creations = self
            .changes
            .creations
            .iter()
            .filter(|(known, _)| self.concerns(&known.meaning));
        let created = creations.map(|(known, cause)| create((*known.object).clone(), cause.clone()));
        let removals = self
            .changes
            .removals
            .iter()
            .filter(|known| self.concerns(&known.meaning));
        let removed = removals.map(|known| delete(known, Cause::Unneeded));
        let stale = self
            .changes
            .bridges
            .iter()
            .filter(|known| self.concerns(&known.meaning));
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
        let wanted = sides.flat_map(|(direction, side)| {
            let raise = |selector| bridge::bridge(self.view, self.namespace, *direction, selector);
            side.bridges.iter().filter_map(raise)
        });
        wanted.filter(|policy| !self.taken(&policy.name_any())).collect()
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
        first.append(&mut second);
        first
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
fn within(inner: &Policy, outer: &Policy) -> bool {
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
    let object: &Arc<NetworkPolicy> = &known.object;
    Version::Seen {
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}
