//! What an isolation grants, flattened: a new connection costs two lookups, whatever the number of policies.
//!
//! The pairs of peer and port are multiplied out into one `hash:net,port` and the peers with every port into one
//! `hash:net`, as long as that stays small; the rest becomes one rule per group of peers and list of ports. Ranges of
//! ports are rules too, never expanded; where there are many, a tree finds those of a packet's port ([`ports`]). Groups
//! that share all ports of a part of that tree are looked up in one set, their union. Which sets and rules there are
//! depends on the grants' definitions, so that members come and go in the sets alone (only a group that outgrows the
//! limit changes rules).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_policy::{CompiledIsolation, Direction, PeerSet, Ports, Protocol};

use super::ports::{self, Group, Piece, Span, Step};
use crate::names::{self, SetId};
use crate::options::Options;
use crate::rules::{PeerMatch, PortList, Rule};
use crate::ruleset::{Element, Family, Set, SetKind};

/// Ports that are all granted to the same peers: spans by protocol, disjoint and in order. `None` is every port.
type PortUnion = Option<BTreeMap<Protocol, Vec<Span>>>;

/// The other side of some grants.
struct Granted<'a> {
    group: Group<'a>,
    nets: Arc<Vec<IpNet>>,
    ports: PortUnion,
}

/// What an isolation needs of a family: its chain and those below it, and the sets that they look up.
pub(super) struct Fragment {
    pub(super) chains: BTreeMap<String, Vec<Rule<SetId>>>,
    pub(super) sets: BTreeMap<SetId, Set>,
}

/// The part of an isolation in a family's ruleset. `nets` tells the members of a group.
pub(super) fn fragment(
    id: &str,
    isolation: &CompiledIsolation,
    (direction, family): (Direction, Family),
    options: &Options,
    nets: impl FnMut(&str) -> Arc<Vec<IpNet>>,
) -> Fragment {
    let mut builder = Builder {
        id,
        direction,
        family,
        room: options.flat_entries,
        nets: None,
        pairs: None,
        rules: Vec::new(),
        pieces: BTreeMap::new(),
        members: BTreeMap::new(),
        groups: BTreeMap::new(),
    };
    let mut granted = by_peers(isolation, family, nets);
    // Where anyone may reach every port, what else is granted makes no difference.
    if let Some(all) = granted
        .iter()
        .position(|granted| granted.group.is_none() && granted.ports.is_none())
    {
        granted = vec![granted.swap_remove(all)];
    }
    // The small ones first, so that one large group does not push everything else out of the sets.
    granted.sort_by_key(|granted| granted.nets.len() * granted.singles().count().max(1));
    granted.iter().for_each(|granted| builder.grant(granted));
    builder.finish(options.port_leaf)
}

/// The grants by peers: all ports of a group together.
fn by_peers(
    isolation: &CompiledIsolation,
    family: Family,
    mut nets: impl FnMut(&str) -> Arc<Vec<IpNet>>,
) -> Vec<Granted<'_>> {
    let mut merged: BTreeMap<Option<&str>, Vec<&Ports>> = BTreeMap::new();
    for grant in &isolation.grants {
        merged
            .entry(grant.group.as_deref())
            .or_default()
            .push(&grant.ports);
    }
    let granted = merged.into_iter().map(|(group, ports)| Granted {
        group,
        nets: group.map_or_else(|| Arc::new(family.halves().to_vec()), &mut nets),
        ports: union(&ports),
    });
    granted.collect()
}

/// The members of a family as sets can hold them.
pub(super) fn networks(members: &PeerSet, family: Family) -> Vec<IpNet> {
    let addresses = members.addresses.iter().map(|address| IpNet::from(*address));
    let nets = addresses.chain(members.networks.iter().copied());
    let nets = nets.filter(|net| Family::of_net(net) == family);
    nets.flat_map(|net| {
        if net.prefix_len() == 0 {
            family.halves().to_vec()
        } else {
            vec![net]
        }
    })
    .collect()
}

fn union(ports: &[&Ports]) -> PortUnion {
    let mut spans: BTreeMap<Protocol, BTreeSet<(u16, u16)>> = BTreeMap::new();
    for ports in ports {
        match ports {
            Ports::Any => return None,
            Ports::Only(ranges) => {
                for range in ranges {
                    spans
                        .entry(range.protocol)
                        .or_default()
                        .insert((range.first, range.last));
                }
            }
        }
    }
    Some(
        spans
            .into_iter()
            .map(|(protocol, spans)| (protocol, disjoint(spans)))
            .collect(),
    )
}

/// Spans that overlap become one; neighbours stay apart, for two single ports are cheaper than a range.
fn disjoint(spans: BTreeSet<(u16, u16)>) -> Vec<(u16, u16)> {
    let mut result: Vec<(u16, u16)> = Vec::new();
    for (first, last) in spans {
        match result.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => result.push((first, last)),
        }
    }
    result
}

impl Granted<'_> {
    /// The single ports.
    fn singles(&self) -> impl Iterator<Item = (Protocol, u16)> + '_ {
        let spans = self.ports.iter().flatten();
        spans.flat_map(|(protocol, spans)| {
            spans
                .iter()
                .filter(|(first, last)| first == last)
                .map(|(port, _)| (*protocol, *port))
        })
    }
}

struct Builder<'a> {
    id: &'a str,
    direction: Direction,
    family: Family,
    /// How many more elements the sets of this isolation may get.
    room: usize,
    /// The sets; `None` while no grant needs them.
    nets: Option<Vec<Element>>,
    pairs: Option<Vec<Element>>,
    /// The rules behind the lookups in those two.
    rules: Vec<Rule<SetId>>,
    /// The ports that are not in those two, by protocol, and who is in the groups that they are granted to.
    pieces: BTreeMap<Protocol, BTreeSet<Piece<'a>>>,
    members: BTreeMap<&'a str, Arc<Vec<IpNet>>>,
    /// Groups, and unions of groups, that rules refer to by themselves.
    groups: BTreeMap<SetId, Set>,
}

impl<'a> Builder<'a> {
    fn grant(&mut self, granted: &Granted<'a>) {
        if let Some(group) = granted.group {
            self.members.insert(group, Arc::clone(&granted.nets));
        }
        let Some(spans) = &granted.ports else {
            return self.every_port(granted);
        };
        let singles: Vec<_> = granted.singles().collect();
        let flat = self.take(granted.nets.len() * singles.len());
        if flat && !singles.is_empty() {
            let pair = |net: &IpNet| {
                singles
                    .iter()
                    .map(|port| Element {
                        net: *net,
                        port: Some(*port),
                    })
                    .collect::<Vec<_>>()
            };
            self.pairs
                .get_or_insert_default()
                .extend(granted.nets.iter().flat_map(pair));
        }
        for (protocol, spans) in spans {
            let left = spans.iter().filter(|(first, last)| !flat || first != last);
            let pieces = left.map(|span| Piece {
                span: *span,
                group: granted.group,
            });
            self.pieces.entry(*protocol).or_default().extend(pieces);
        }
    }

    fn every_port(&mut self, granted: &Granted<'a>) {
        if granted.group.is_some() && self.take(granted.nets.len()) {
            self.nets
                .get_or_insert_default()
                .extend(granted.nets.iter().copied().map(Element::net));
        } else {
            let rule = self.allow(None, granted.group);
            self.rules.push(rule);
        }
    }

    /// Whether that many elements more still fit.
    fn take(&mut self, elements: usize) -> bool {
        let fits = elements <= self.room;
        if fits {
            self.room -= elements;
        }
        fits
    }

    /// A rule of its own for these peers.
    fn allow(&mut self, ports: Option<PortList>, group: Group<'a>) -> Rule<SetId> {
        let peers = group.map(|group| {
            let set = SetId::group(self.family, group);
            let members = self.members.get(group);
            let nets = || members.into_iter().flat_map(|nets| nets.iter().copied());
            let content = || Set::new(SetKind::Net, nets().map(Element::net));
            self.groups.entry(set.clone()).or_insert_with(content);
            self.peers(set, SetKind::Net)
        });
        Rule::Allow { ports, peers }
    }

    /// Rules that grant these ports to all of the groups: one where their union fits, or else one for each.
    fn shared(&mut self, ports: &PortList, groups: &[Group<'a>]) -> Vec<Rule<SetId>> {
        let Some(named) = groups.iter().copied().collect::<Option<Vec<&str>>>() else {
            return vec![self.allow(Some(ports.clone()), None)];
        };
        let set = SetId::union(self.family, &named);
        let members = named.iter().filter_map(|group| self.members.get(group).cloned());
        let members: Vec<Arc<Vec<IpNet>>> = members.collect();
        let size = members.iter().map(|nets| nets.len()).sum();
        if !self.groups.contains_key(&set) && !self.take(size) {
            let each = groups.iter();
            return each
                .map(|group| self.allow(Some(ports.clone()), *group))
                .collect();
        }
        let nets = || members.iter().flat_map(|nets| nets.iter().copied());
        let content = || Set::new(SetKind::Net, nets().map(Element::net));
        self.groups.entry(set.clone()).or_insert_with(content);
        vec![Rule::Allow {
            ports: Some(ports.clone()),
            peers: Some(self.peers(set, SetKind::Net)),
        }]
    }

    fn peers(&self, set: SetId, kind: SetKind) -> PeerMatch<SetId> {
        PeerMatch {
            set,
            direction: self.direction,
            with_port: kind == SetKind::NetPort,
        }
    }

    /// What the ports of a protocol need: rules in the isolation's own chain, and chains below.
    fn ports(
        &mut self,
        protocol: Protocol,
        pieces: &BTreeSet<Piece<'a>>,
        leaf: usize,
    ) -> BTreeMap<String, Vec<Rule<SetId>>> {
        let tree = ports::tree(pieces, leaf, super::PORT_JUMPS);
        let Some(root) = tree.first() else {
            let pieces: Vec<_> = pieces.iter().copied().collect();
            let steps = ports::list(&pieces);
            let rules: Vec<_> = steps.iter().flat_map(|step| self.step(protocol, step)).collect();
            self.rules.extend(rules);
            return BTreeMap::new();
        };
        let rules = self.step(protocol, &Step::Branch(root.span));
        self.rules.extend(rules);
        let chains = tree.iter().map(|chain| {
            let steps = chain.steps.iter().flat_map(|step| self.step(protocol, step));
            let mut rules: Vec<_> = steps.collect();
            rules.push(Rule::Deny {
                direction: self.direction,
            });
            (names::port_chain(self.id, protocol, chain.span), rules)
        });
        chains.collect()
    }

    fn step(&mut self, protocol: Protocol, step: &Step<'a>) -> Vec<Rule<SetId>> {
        let ports = |spans: &[Span]| PortList {
            protocol,
            spans: spans.to_vec(),
        };
        match step {
            Step::Shared(span, groups) => self.shared(&ports(&[*span]), groups),
            Step::Own(spans, group) => vec![self.allow(Some(ports(spans)), *group)],
            Step::Branch(span) => vec![Rule::PortBranch {
                protocol,
                span: *span,
                chain: names::port_chain(self.id, protocol, *span),
            }],
        }
    }

    fn finish(mut self, leaf: usize) -> Fragment {
        let mut chains = BTreeMap::new();
        for (protocol, pieces) in std::mem::take(&mut self.pieces) {
            chains.extend(self.ports(protocol, &pieces, leaf));
        }
        let lookups = [
            (
                SetId::any_port(self.family, self.id),
                SetKind::Net,
                self.nets.take(),
            ),
            (
                SetId::ports(self.family, self.id),
                SetKind::NetPort,
                self.pairs.take(),
            ),
        ];
        let mut sets = std::mem::take(&mut self.groups);
        let mut chain = Vec::new();
        for (set, kind, elements) in lookups {
            let Some(elements) = elements else { continue };
            sets.insert(set.clone(), Set::new(kind, elements));
            chain.push(Rule::Allow {
                ports: None,
                peers: Some(self.peers(set, kind)),
            });
        }
        // Sorted: the order of equal grants must not depend on how many members a group has today. A tree is left for
        // good, so whatever else grants stands before it.
        let (own, below): (BTreeSet<_>, BTreeSet<_>) = self
            .rules
            .into_iter()
            .partition(|rule| matches!(rule, Rule::Allow { .. }));
        chain.extend(own.into_iter().chain(below));
        chain.push(Rule::Deny {
            direction: self.direction,
        });
        chains.insert(names::isolation_chain(self.id), chain);
        Fragment { chains, sets }
    }
}
