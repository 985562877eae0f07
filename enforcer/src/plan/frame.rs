//! What stands in every ruleset, whatever the pods and policies: the first chain, the ends, the node's own addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_policy::Direction;

use super::DIRECTIONS;
use crate::names::{self, SetId};
use crate::options::Options;
use crate::rules::{DISCOVERY, PeerMatch, Rule};
use crate::ruleset::{Element, Family, Hook, Set, SetKind, Tables};

/// The tables of a family without any pod, and without the ways in.
pub(super) fn tables(family: Family, options: &Options) -> Tables {
    let mut tables = Tables::default();
    tables
        .sets
        .insert(SetId::node(family), own_addresses(family, &[]));
    tables
        .chains
        .insert(names::FORWARD.to_owned(), forward(family, options));
    tables
        .chains
        .insert(names::REVOKED.to_owned(), vec![Rule::Reset, Rule::Reject(family)]);
    if options.gate_unknown_pods {
        add_gate(&mut tables, family);
    }
    for direction in DIRECTIONS {
        let set = Set::new(SetKind::Address, []);
        tables.sets.insert(SetId::isolated(family, direction), set);
        tables.chains.insert(
            names::drop_chain(direction).to_owned(),
            drop_rules(family, direction, options),
        );
        tables
            .chains
            .insert(names::root(direction).to_owned(), Vec::new());
    }
    tables
}

/// What holds back packets of local addresses that no pod is known to have. No range is known yet.
fn add_gate(tables: &mut Tables, family: Family) {
    let (ranges, known) = gate_sets(family, &[], []);
    tables.sets.insert(SetId::pod_ranges(family), ranges);
    tables.sets.insert(SetId::known(family), known);
    for (direction, other) in [
        (Direction::Egress, Direction::Ingress),
        (Direction::Ingress, Direction::Egress),
    ] {
        // Seen from the other direction the pod is the peer.
        let is_known = Rule::Allow {
            ports: None,
            peers: Some(PeerMatch {
                set: SetId::known(family),
                direction: other,
                with_port: false,
            }),
        };
        let chain = vec![is_known, Rule::Deny { direction }];
        tables.chains.insert(names::unknown(direction).to_owned(), chain);
    }
}

/// The ranges of a family, and its local addresses that are known.
pub(super) fn gate_sets(
    family: Family,
    ranges: &[IpNet],
    known: impl IntoIterator<Item = IpAddr>,
) -> (Set, Set) {
    // A set of networks takes none of length 0; a node whose pods may have any address is none.
    let ranges = ranges
        .iter()
        .filter(|range| Family::of_net(range) == family && range.prefix_len() > 0);
    let known = known.into_iter().filter(|address| Family::of(*address) == family);
    (
        Set::new(SetKind::Net, ranges.map(|range| Element::net(range.trunc()))),
        Set::new(SetKind::Address, known.map(Element::address)),
    )
}

/// The node's addresses of a family.
pub(super) fn own_addresses(family: Family, node: &[IpAddr]) -> Set {
    let own = node.iter().filter(|address| Family::of(**address) == family);
    Set::new(SetKind::Address, own.map(|address| Element::address(*address)))
}

/// The ways in, where connections are revoked or none is.
pub(super) fn hooks(options: &Options, revoked: bool) -> BTreeMap<Hook, Vec<Rule<SetId>>> {
    let mark = options.revoked_mark;
    let guard = revoked.then_some(Rule::EnterRevoked { mark });
    let rules: Vec<_> = guard.into_iter().chain([Rule::Enter]).collect();
    let policed = |hook: &Hook| *hook == Hook::Forward || options.police_own_node;
    let hooks = Hook::ALL.into_iter().filter(policed);
    hooks.map(|hook| (hook, rules.clone())).collect()
}

/// The first chain: what new connections of pods that nobody isolates go through, and nothing more.
fn forward(family: Family, options: &Options) -> Vec<Rule<SetId>> {
    let mark = options.revoked_mark;
    let mut rules = vec![Rule::Revoked { mark }];
    if options.gate_unknown_pods {
        rules.extend(DIRECTIONS.map(|direction| Rule::Range {
            direction,
            set: SetId::pod_ranges(family),
        }));
    }
    rules.extend(DIRECTIONS.map(|direction| Rule::Gate {
        direction,
        set: SetId::isolated(family, direction),
    }));
    rules
}

/// The last chain: what passes whatever policies say, and then the end. It stands here and not before the grants: each
/// returns, so their order makes no difference to a packet, and those that are granted are many more.
fn drop_rules(family: Family, direction: Direction, options: &Options) -> Vec<Rule<SetId>> {
    let mut rules = vec![Rule::RelatedIcmp(family)];
    if family == Family::V6 {
        rules.extend(DISCOVERY.map(|icmp_type| Rule::Discovery { icmp_type }));
    }
    if direction == Direction::Ingress || !options.police_own_node {
        rules.push(Rule::Allow {
            ports: None,
            peers: Some(PeerMatch {
                set: SetId::node(family),
                direction,
                with_port: false,
            }),
        });
    }
    for tcp in [true, false] {
        let log = |options| Rule::Log {
            direction,
            tcp,
            options,
        };
        rules.extend(options.log.clone().map(log));
    }
    rules.push(Rule::Drop);
    rules
}
