//! What to change so that a flow passes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;

use super::miss::{Labelled, Miss, Reason, peers_field, rules_field};
use super::search::Other;
use crate::display;
use crate::evaluate::Flow;
use crate::labels::{Labels, Operator, Requirement, Selector};
use crate::model::{ContainerPort, Direction, IpBlock, ObjectKey, Peer, Policy, PortMatch, PortSpec, Rule};
use crate::world::World;

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Labels that a controller gives to one pod or one revision: a policy that names them breaks at the next rollout.
const FLEETING: [&str; 8] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "controller-revision-hash",
    "controller-uid",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// A change that makes a flow pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Add a rule to a policy.
    AddRule {
        /// The policy.
        policy: ObjectKey,
        /// The direction.
        direction: Direction,
        /// The rule.
        rule: Rule,
    },
    /// Add a peer to a rule whose ports match.
    AddPeer {
        /// The policy.
        policy: ObjectKey,
        /// The direction.
        direction: Direction,
        /// The rule's index.
        rule: usize,
        /// The peer.
        peer: Peer,
    },
    /// Add a port to a rule whose peers match.
    AddPort {
        /// The policy.
        policy: ObjectKey,
        /// The direction.
        direction: Direction,
        /// The rule's index.
        rule: usize,
        /// The port.
        port: PortMatch,
    },
    /// Change labels. Other selectors may select the object by them too.
    Relabel {
        /// The object.
        object: Labelled,
        /// The labels to set; those with `None` are removed.
        labels: BTreeMap<String, Option<String>>,
    },
    /// Declare a port at a container.
    DeclarePort {
        /// The pod.
        pod: ObjectKey,
        /// The port.
        port: ContainerPort,
    },
}

impl Remedy {
    /// The world after the change; the same world where the object or rule is gone.
    pub fn apply(&self, world: &World) -> World {
        let mut world = world.clone();
        match self {
            Self::AddRule {
                policy,
                direction,
                rule,
            } => {
                if let Some(rules) = rules_of(&mut world, policy, *direction) {
                    rules.push(rule.clone());
                }
            }
            Self::AddPeer {
                policy,
                direction,
                rule,
                peer,
            } => {
                let rules = rules_of(&mut world, policy, *direction);
                let rule = rules.and_then(|rules| rules.get_mut(*rule));
                if let Some(peers) = rule.and_then(|rule| rule.peers.as_mut()) {
                    peers.push(peer.clone());
                }
            }
            Self::AddPort {
                policy,
                direction,
                rule,
                port,
            } => {
                let rules = rules_of(&mut world, policy, *direction);
                let rule = rules.and_then(|rules| rules.get_mut(*rule));
                if let Some(ports) = rule.and_then(|rule| rule.ports.as_mut()) {
                    ports.push(port.clone());
                }
            }
            Self::Relabel { object, labels } => {
                if let Some(target) = labels_of(&mut world, object) {
                    change(target, labels);
                }
            }
            Self::DeclarePort { pod, port } => {
                if let Some(pod) = world.pods.get_mut(pod) {
                    pod.ports.push(port.clone());
                }
            }
        }
        world
    }
}

fn rules_of<'w>(world: &'w mut World, policy: &ObjectKey, direction: Direction) -> Option<&'w mut Vec<Rule>> {
    let policy = world.policies.get_mut(policy)?;
    match direction {
        Direction::Ingress => policy.ingress.as_mut(),
        Direction::Egress => policy.egress.as_mut(),
    }
}

fn labels_of<'w>(world: &'w mut World, object: &Labelled) -> Option<&'w mut Labels> {
    match object {
        Labelled::Pod(key) => world.pods.get_mut(key).map(|pod| &mut pod.labels),
        Labelled::Namespace(name) => world
            .namespaces
            .get_mut(name)
            .map(|namespace| &mut namespace.labels),
    }
}

fn change(labels: &mut Labels, changes: &BTreeMap<String, Option<String>>) {
    for (key, value) in changes {
        match value {
            Some(value) => labels.insert(key.clone(), value.clone()),
            None => labels.remove(key),
        };
    }
}

/// The edit of `policy` for a flow that misses a peer, a port or both of one of its rules, or has no rule.
pub(super) fn of_policy(
    policy: &Policy,
    direction: Direction,
    (rule, peer_missed, port_missed): (Option<usize>, bool, bool),
    other: &Other<'_>,
    flow: &Flow,
) -> Remedy {
    let key = policy.key.clone();
    match (rule, peer_missed, port_missed) {
        (Some(rule), true, false) => Remedy::AddPeer {
            policy: key,
            direction,
            rule,
            peer: peer_for(policy, other),
        },
        (Some(rule), false, true) => Remedy::AddPort {
            policy: key,
            direction,
            rule,
            port: port_for(flow),
        },
        _ => Remedy::AddRule {
            policy: key,
            direction,
            rule: Rule {
                peers: Some(vec![peer_for(policy, other)]),
                ports: Some(vec![port_for(flow)]),
            },
        },
    }
}

/// The other side as a peer: a pod by its lasting labels and its namespace's name, anything else by its address.
fn peer_for(policy: &Policy, other: &Other<'_>) -> Peer {
    let by_address = Peer::Block(IpBlock {
        cidr: IpNet::from(other.address),
        except: Vec::new(),
    });
    let Some(pod) = other.pod else {
        return by_address;
    };
    let pods = Selector::new(
        pod.labels
            .iter()
            .filter(|(key, _)| !FLEETING.contains(&key.as_str()))
            .map(is),
    );
    let namespaces = if pod.key.namespace == policy.key.namespace {
        None
    } else {
        let named = other
            .namespace
            .and_then(|namespace| namespace.labels.get_key_value(NAME_LABEL));
        match named.filter(|(_, name)| **name == pod.key.namespace) {
            Some(label) => Some(Selector::new([is(label)])),
            None => return by_address,
        }
    };
    Peer::Pods {
        namespaces,
        pods: Some(pods),
    }
}

fn is((key, value): (&String, &String)) -> Requirement {
    Requirement {
        key: key.clone(),
        operator: Operator::In(BTreeSet::from([value.clone()])),
    }
}

/// The flow's port. Port 0 has no number in the API: every port of the protocol.
fn port_for(flow: &Flow) -> PortMatch {
    PortMatch {
        protocol: flow.protocol,
        port: (flow.port > 0).then_some(PortSpec::Range(flow.port, flow.port)),
    }
}

/// What could change instead of the policy, all together; empty if one of the misses cannot be helped that way.
pub(super) fn instead(peer: &Option<&Peer>, misses: &[Miss], other: &Other<'_>, flow: &Flow) -> Vec<Remedy> {
    let each = misses.iter().map(|miss| match &miss.reason {
        Reason::Labels { of, .. } => relabel(of, (*peer)?, other),
        Reason::PortUndeclared { name, protocol, pod } => {
            let port = ContainerPort {
                name: Some(name.clone()),
                protocol: *protocol,
                number: flow.port,
            };
            let pod = pod.clone();
            (flow.port > 0).then_some(Remedy::DeclarePort { pod, port })
        }
        _ => None,
    });
    each.collect::<Option<Vec<_>>>().unwrap_or_default()
}

fn relabel(of: &Labelled, peer: &Peer, other: &Other<'_>) -> Option<Remedy> {
    let Peer::Pods { namespaces, pods } = peer else {
        return None;
    };
    let (selector, labels) = match of {
        Labelled::Pod(_) => (pods.as_ref()?, &other.pod?.labels),
        Labelled::Namespace(_) => (namespaces.as_ref()?, &other.namespace?.labels),
    };
    let unmet = selector.requirements().filter(|r| !r.matches(labels));
    let changes = unmet
        .map(|requirement| Some((requirement.key.clone(), value_for(selector, &requirement.key)?)))
        .collect::<Option<BTreeMap<_, _>>>()?;
    let changeable = !matches!(of, Labelled::Namespace(_)) || !changes.contains_key(NAME_LABEL);
    changeable.then(|| Remedy::Relabel {
        object: of.clone(),
        labels: changes,
    })
}

/// The value of a label that meets every requirement on it; `Some(None)` where it must be absent, `None` where nothing
/// meets them.
fn value_for(selector: &Selector, key: &str) -> Option<Option<String>> {
    let requirements: Vec<&Requirement> = selector.requirements().filter(|r| r.key == key).collect();
    let listed = requirements
        .iter()
        .flat_map(|requirement| match &requirement.operator {
            Operator::In(values) => values.iter().cloned().collect(),
            _ => Vec::new(),
        });
    let mut candidates = listed.map(Some).chain([Some("true".to_owned()), None]);
    candidates.find(|value| {
        let labels: Labels = value
            .iter()
            .map(|value| (key.to_owned(), value.clone()))
            .collect();
        requirements
            .iter()
            .all(|requirement| requirement.matches(&labels))
    })
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddRule {
                policy,
                direction,
                rule,
            } => write!(
                f,
                "add to {} of NetworkPolicy {policy}: {}",
                rules_field(*direction),
                display::rule(rule, *direction)
            ),
            Self::AddPeer {
                policy,
                direction,
                rule,
                peer,
            } => {
                let (rules, peers) = (rules_field(*direction), peers_field(*direction));
                write!(
                    f,
                    "add to {rules}[{rule}].{peers} of NetworkPolicy {policy}: {peer}"
                )
            }
            Self::AddPort {
                policy,
                direction,
                rule,
                port,
            } => write!(
                f,
                "add to {}[{rule}].ports of NetworkPolicy {policy}: {port}",
                rules_field(*direction)
            ),
            Self::Relabel { object, labels } => {
                write!(f, "label {object}:")?;
                labels.iter().try_for_each(|(key, value)| match value {
                    Some(value) => write!(f, " {key}={value}"),
                    None => write!(f, " {key}-"),
                })
            }
            Self::DeclarePort { pod, port } => {
                let name = port.name.as_deref().unwrap_or_default();
                write!(
                    f,
                    "declare port `{name}` as {} {} in pod {pod}",
                    port.protocol, port.number
                )
            }
        }
    }
}
