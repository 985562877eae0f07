//! What an isolation grants, flattened: a new connection costs two lookups, whatever the number of policies.
//!
//! The pairs of peer and port are multiplied out into one `hash:net,port` and the peers with every port into one
//! `hash:net`, as long as that stays small; the rest becomes one rule per group of peers and list of ports. Ranges of
//! ports are rules too, never expanded. Which sets and rules there are depends on the grants' definitions, so that
//! members come and go in the sets alone (only a group that outgrows the limit changes rules).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_policy::{CompiledIsolation, Direction, PeerSet, Ports, Protocol};

use crate::names::SetId;
use crate::rules::{PORT_SLOTS, PeerMatch, PortList, Rule};
use crate::ruleset::{Element, Family, Set, SetKind};

/// Ports that are all granted to the same peers: spans by protocol, disjoint and in order. `None` is every port.
type PortUnion = Option<BTreeMap<Protocol, Vec<(u16, u16)>>>;

/// The other side of some grants.
struct Granted<'a> {
    /// The group's name; `None` is anyone.
    group: Option<&'a str>,
    nets: Arc<Vec<IpNet>>,
    ports: PortUnion,
}

/// What an isolation needs of a family: a chain, and the sets that it looks up.
pub(super) struct Fragment {
    pub(super) chain: Vec<Rule<SetId>>,
    pub(super) sets: BTreeMap<SetId, Set>,
}

/// The part of an isolation in a family's ruleset. `nets` tells the members of a group.
pub(super) fn fragment(
    id: &str,
    isolation: &CompiledIsolation,
    (direction, family): (Direction, Family),
    limit: usize,
    nets: impl FnMut(&str) -> Arc<Vec<IpNet>>,
) -> Fragment {
    let mut builder = Builder {
        id,
        direction,
        family,
        room: limit,
        nets: None,
        pairs: None,
        rules: Vec::new(),
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
    builder.finish()
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
    /// Groups that rules refer to by themselves.
    groups: BTreeMap<SetId, Set>,
}

impl Builder<'_> {
    fn grant(&mut self, granted: &Granted<'_>) {
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
            let left: Vec<_> = spans
                .iter()
                .copied()
                .filter(|(first, last)| !flat || first != last)
                .collect();
            for spans in slots(&left) {
                let ports = PortList {
                    protocol: *protocol,
                    spans: spans.to_vec(),
                };
                self.rule(Some(ports), granted);
            }
        }
    }

    fn every_port(&mut self, granted: &Granted<'_>) {
        if granted.group.is_some() && self.take(granted.nets.len()) {
            self.nets
                .get_or_insert_default()
                .extend(granted.nets.iter().copied().map(Element::net));
        } else {
            self.rule(None, granted);
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
    fn rule(&mut self, ports: Option<PortList>, granted: &Granted<'_>) {
        let peers = granted.group.map(|group| {
            let set = SetId::group(self.family, group);
            let members = || Set::new(SetKind::Net, granted.nets.iter().copied().map(Element::net));
            self.groups.entry(set.clone()).or_insert_with(members);
            PeerMatch {
                set,
                direction: self.direction,
                with_port: false,
            }
        });
        self.rules.push(Rule::Allow { ports, peers });
    }

    fn finish(self) -> Fragment {
        let lookups = [
            (SetId::any_port(self.family, self.id), SetKind::Net, self.nets),
            (SetId::ports(self.family, self.id), SetKind::NetPort, self.pairs),
        ];
        let mut sets = self.groups;
        let mut chain = Vec::new();
        for (set, kind, elements) in lookups {
            let Some(elements) = elements else { continue };
            sets.insert(set.clone(), Set::new(kind, elements));
            chain.push(Rule::Allow {
                ports: None,
                peers: Some(PeerMatch {
                    set,
                    direction: self.direction,
                    with_port: kind == SetKind::NetPort,
                }),
            });
        }
        // Sorted: the order of equal grants must not depend on how many members a group has today.
        let own: BTreeSet<_> = self.rules.into_iter().collect();
        chain.extend(own);
        chain.push(Rule::Deny {
            direction: self.direction,
        });
        Fragment { chain, sets }
    }
}

/// Spans in lists that one rule can hold.
fn slots(mut spans: &[(u16, u16)]) -> Vec<&[(u16, u16)]> {
    let mut lists = Vec::new();
    while !spans.is_empty() {
        let mut used = 0;
        let fits = |(first, last): &&(u16, u16)| {
            used += if first == last { 1 } else { 2 };
            used <= PORT_SLOTS
        };
        let (list, rest) = spans.split_at(spans.iter().take_while(fits).count());
        lists.push(list);
        spans = rest;
    }
    lists
}
