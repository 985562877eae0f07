//! What stands in every ruleset, whatever the pods and policies: the first chain, the ends, the node's own addresses.

use std::net::IpAddr;

use ringfence_policy::Direction;

use super::DIRECTIONS;
use crate::names::{self, SetId};
use crate::options::Options;
use crate::rules::{DISCOVERY, PeerMatch, Rule};
use crate::ruleset::{Element, Family, Hook, Set, SetKind, Tables};

/// The tables of a family without any pod.
pub(super) fn tables(family: Family, options: &Options) -> Tables {
    let mut tables = Tables {
        hooks: Hook::ALL
            .into_iter()
            .filter(|hook| *hook == Hook::Forward || options.police_own_node)
            .collect(),
        ..Tables::default()
    };
    tables
        .sets
        .insert(SetId::node(family), own_addresses(family, &[]));
    tables
        .chains
        .insert(names::FORWARD.to_owned(), forward(family, options));
    tables
        .chains
        .insert(names::REVOKED.to_owned(), vec![Rule::Reset, Rule::Reject(family)]);
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

/// The node's addresses of a family.
pub(super) fn own_addresses(family: Family, node: &[IpAddr]) -> Set {
    let own = node.iter().filter(|address| Family::of(**address) == family);
    Set::new(SetKind::Address, own.map(|address| Element::address(*address)))
}

/// The first chain: what known connections and pods that nobody isolates go through, and nothing more. Most packets get no
/// further than the first rule.
fn forward(family: Family, options: &Options) -> Vec<Rule<SetId>> {
    let mark = options.revoked_mark;
    let mut rules = vec![Rule::Established { mark }, Rule::Revoked { mark }];
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
