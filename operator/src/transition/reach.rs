//! What each direction comes to let pass, and what it gives up: by that the directions are put in order.

use std::collections::HashMap;

use ringfence_policy::{ContainerPort, Direction, Labels, Peer, Pod, Policy, PortRange, Protocol, Rule};

use super::changes::{Changes, Edit, Known};
use super::order::within;
use super::sides::Side;

/// What a set of changes does to one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// Something passes afterwards that did not before.
    pub(super) widens: bool,
    /// Something passed before that does not afterwards.
    pub(super) narrows: bool,
}

impl Reach {
    /// As far as the text of the writes shows.
    pub(super) fn written(changes: &Changes, direction: Direction, side: &Side) -> Self {
        let passing = |known: &Known| passes(&known.meaning, direction);
        let edited = |versions: fn(&Edit) -> (&Known, &Known)| {
            let mut pairs = changes.edits.iter().map(versions);
            pairs.any(|(one, other)| passing(one) && !within(&one.meaning, &other.meaning))
        };
        let created = changes.creations.iter().any(|(known, _)| passing(known));
        let removed = changes.removals.iter().any(passing);
        Self {
            widens: side.opens || created || edited(|edit| (&edit.after, &edit.before)),
            narrows: side.closes || removed || edited(|edit| (&edit.before, &edit.after)),
        }
    }

    /// Whether a connection that neither what was nor what shall be lets pass could do so in between, were this direction
    /// dealt with before the other.
    pub(super) fn leaks_before(self, other: Self) -> bool {
        self.widens && other.narrows
    }
}

fn passes(policy: &Policy, direction: Direction) -> bool {
    policy.rules(direction).is_some_and(|rules| !rules.is_empty())
}

/// The connections between the pods of a namespace: only there do the writes of one plan decide about both ends.
pub(super) struct Inside<'a> {
    before: Vec<&'a Policy>,
    after: Vec<&'a Policy>,
    /// Those of the namespace.
    labels: &'a Labels,
    kinds: Vec<Kind<'a>>,
}

/// Pods that are alike.
struct Kind<'a> {
    /// One of them.
    pod: &'a Pod,
    /// There are others.
    several: bool,
}

impl<'a> Inside<'a> {
    /// What the changes mean for a namespace with these pods and labels.
    pub(super) fn new(changes: &'a Changes, pods: &'a [Pod], labels: &'a Labels) -> Self {
        let same = changes.constant.iter();
        let before = same.clone().chain(&changes.bridges).chain(&changes.removals);
        let before = before.chain(changes.edits.iter().map(|edit| &edit.before));
        let after = same.chain(changes.creations.iter().map(|(known, _)| known));
        let after = after.chain(changes.edits.iter().map(|edit| &edit.after));
        let (before, after) = (meanings(before), meanings(after));
        let kinds = kinds(&[before.as_slice(), &after].concat(), pods, labels);
        Self {
            before,
            after,
            labels,
            kinds,
        }
    }

    /// As [`Reach::leaks_before`], for what really passes.
    pub(super) fn leaks_before(&self, first: Direction, second: Direction) -> bool {
        let policies = |direction| [&self.before, &self.after].map(|all| governing(all, direction));
        let (first, second) = ((first, policies(first)), (second, policies(second)));
        let mut ends = self.kinds.iter().enumerate().flat_map(|(n, source)| {
            let others = self.kinds.iter().enumerate();
            others
                .filter(move |(m, _)| n != *m || source.several)
                .map(move |(_, destination)| (source.pod, destination.pod))
        });
        ends.any(|(source, destination)| {
            let [[first_before, first_after], [second_before, second_after]] =
                [&first, &second].map(|(direction, policies)| {
                    policies
                        .each_ref()
                        .map(|policies| self.passing(policies, *direction, source, destination))
                });
            // Ports that differ in anything differ at the beginning of a range, or after the end of one.
            let starts = first_after.iter().chain(&second_before);
            let starts = starts.map(|range| (range.protocol, range.first));
            let ends = first_before.iter().chain(&second_after).filter_map(after_end);
            let mut ports = starts.chain(ends);
            ports.any(|port| {
                let [gained, kept] = [&first_after, &second_before].map(|ranges| holds(ranges, port));
                gained && kept && !holds(&first_before, port) && !holds(&second_after, port)
            })
        })
    }

    /// What one end of a connection lets pass.
    fn passing(
        &self,
        policies: &[&Policy],
        direction: Direction,
        source: &Pod,
        destination: &Pod,
    ) -> Vec<PortRange> {
        let (pod, peer) = match direction {
            Direction::Ingress => (destination, source),
            Direction::Egress => (source, destination),
        };
        let mut isolating = policies
            .iter()
            .filter(|policy| policy.pod_selector.matches(&pod.labels))
            .peekable();
        if isolating.peek().is_none() {
            return everything();
        }
        isolating
            .flat_map(|policy| policy.rules(direction).unwrap_or_default())
            .filter(|rule| names(rule, peer, self.labels))
            .flat_map(|rule| ports(rule, destination))
            .collect()
    }
}

/// Pods that no policy and no rule tells apart, one for all: a namespace may have thousands, and pairs are looked at.
fn kinds<'a>(policies: &[&Policy], pods: &'a [Pod], labels: &Labels) -> Vec<Kind<'a>> {
    let mut kinds: HashMap<(Vec<bool>, &[ContainerPort]), Kind<'a>> = HashMap::new();
    for pod in pods {
        let told = policies.iter().flat_map(|policy| {
            let rules = [&policy.ingress, &policy.egress].into_iter().flatten().flatten();
            let named = rules.map(|rule| names(rule, pod, labels));
            std::iter::once(policy.pod_selector.matches(&pod.labels)).chain(named)
        });
        kinds
            .entry((told.collect(), &pod.ports))
            .and_modify(|kind| kind.several = true)
            .or_insert(Kind { pod, several: false });
    }
    kinds.into_values().collect()
}

fn meanings<'a>(known: impl Iterator<Item = &'a Known>) -> Vec<&'a Policy> {
    known.map(|known| &known.meaning).collect()
}

fn governing<'a>(policies: &[&'a Policy], direction: Direction) -> Vec<&'a Policy> {
    let governs = |policy: &&&Policy| policy.rules(direction).is_some();
    policies.iter().filter(governs).copied().collect()
}

fn holds(ranges: &[PortRange], (protocol, port): (Protocol, u16)) -> bool {
    ranges.iter().any(|range| range.contains(protocol, port))
}

fn after_end(range: &PortRange) -> Option<(Protocol, u16)> {
    range.last.checked_add(1).map(|next| (range.protocol, next))
}

/// Whether a rule names a pod of its own namespace, which has these labels.
fn names(rule: &Rule, peer: &Pod, labels: &Labels) -> bool {
    let Some(peers) = &rule.peers else { return true };
    peers.iter().any(|one| match one {
        Peer::Block(block) => peer.addresses.iter().any(|address| block.contains(*address)),
        Peer::Pods { .. } => one.selects(&peer.key.namespace, peer, || Some(labels)),
    })
}

fn ports(rule: &Rule, destination: &Pod) -> Vec<PortRange> {
    match &rule.ports {
        None => everything(),
        Some(ports) => ports
            .iter()
            .flat_map(|port| port.ranges_at(destination))
            .collect(),
    }
}

fn everything() -> Vec<PortRange> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .map(PortRange::all)
        .to_vec()
}
