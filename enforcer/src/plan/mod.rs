//! What a node's policies mean in sets and chains.
//!
//! ```text
//!  NodePolicies ─┬─ addresses of isolated pods ─► gate sets, dispatch tree   (dispatch)
//!                └─ isolations, each once ──────► sets of grants, one chain  (grants)
//! ```

mod dispatch;
mod grants;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ringfence_policy::{Direction, Isolation, NodePolicies};

use crate::names::{self, SetId};
use crate::options::Options;
use crate::rules::{DISCOVERY, PeerMatch, Rule};
use crate::ruleset::{Element, Family, Hook, Ruleset, Set, SetKind, Tables};

/// Egress first: a packet leaves one pod before it reaches another.
pub const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// The rules that enforce `policies` on a node with these addresses, for these families.
pub fn plan(policies: &NodePolicies, node: &[IpAddr], families: &[Family], options: &Options) -> Ruleset {
    let tables = |family: &Family| (*family, family_tables(policies, node, *family, options));
    Ruleset {
        families: families.iter().map(tables).collect(),
    }
}

fn family_tables(policies: &NodePolicies, node: &[IpAddr], family: Family, options: &Options) -> Tables {
    let mut tables = Tables {
        hooks: Hook::ALL
            .into_iter()
            .filter(|hook| *hook == Hook::Forward || options.police_own_node)
            .collect(),
        ..Tables::default()
    };
    let own = node.iter().filter(|address| Family::of(**address) == family);
    let own = Set::new(SetKind::Address, own.map(|address| Element::address(*address)));
    tables.sets.insert(SetId::node(family), own);
    tables
        .chains
        .insert(names::FORWARD.to_owned(), forward(family, options));
    tables
        .chains
        .insert(names::REVOKED.to_owned(), vec![Rule::Reset, Rule::Reject(family)]);
    for direction in DIRECTIONS {
        tables.chains.insert(
            names::drop_chain(direction).to_owned(),
            drop_rules(direction, options),
        );
        let isolated = isolated(policies, family, direction);
        let gate = isolated.keys().map(|address| Element::address(*address));
        tables.sets.insert(
            SetId::isolated(family, direction),
            Set::new(SetKind::Address, gate),
        );
        for isolation in distinct(&isolated) {
            grants::add(&mut tables, isolation, direction, family, options.flat_entries);
        }
        let free = direction == Direction::Ingress || !options.police_own_node;
        let own_node = free.then(|| Rule::Allow {
            ports: None,
            peers: Some(peers(SetId::node(family), direction)),
        });
        let leaves = isolated
            .iter()
            .map(|(address, isolation)| (*address, names::isolation_chain(&isolation.id)));
        dispatch::add(
            &mut tables.chains,
            direction,
            own_node,
            &leaves.collect::<Vec<_>>(),
            options.leaf_size,
        );
    }
    tables
}

fn peers(set: SetId, direction: Direction) -> PeerMatch<SetId> {
    PeerMatch {
        set,
        direction,
        with_port: false,
    }
}

/// The first chain: what known connections and pods that nobody isolates go through, and nothing more.
fn forward(family: Family, options: &Options) -> Vec<Rule<SetId>> {
    let mut rules = vec![
        Rule::Revoked {
            mark: options.revoked_mark,
        },
        Rule::Established,
        Rule::RelatedIcmp(family),
    ];
    if family == Family::V6 {
        rules.extend(DISCOVERY.map(|icmp_type| Rule::Discovery { icmp_type }));
    }
    rules.extend(DIRECTIONS.map(|direction| Rule::Gate {
        direction,
        set: SetId::isolated(family, direction),
    }));
    rules
}

fn drop_rules(direction: Direction, options: &Options) -> Vec<Rule<SetId>> {
    let log = options
        .log
        .clone()
        .map(|options| Rule::Log { direction, options });
    log.into_iter().chain([Rule::Drop]).collect()
}

/// The isolated addresses of a family. An address that two pods claim is the one's that `resolve` gave it to.
fn isolated(policies: &NodePolicies, family: Family, direction: Direction) -> BTreeMap<IpAddr, &Isolation> {
    let mut isolated = BTreeMap::new();
    for pod in policies.pods.values() {
        let isolation = match direction {
            Direction::Egress => pod.egress.as_deref(),
            Direction::Ingress => pod.ingress.as_deref(),
        };
        if let Some(isolation) = isolation {
            let addresses = pod
                .addresses
                .iter()
                .filter(|address| Family::of(**address) == family);
            isolated.extend(addresses.map(|address| (*address, isolation)));
        }
    }
    isolated
}

fn distinct<'a>(isolated: &BTreeMap<IpAddr, &'a Isolation>) -> impl Iterator<Item = &'a Isolation> {
    isolated
        .values()
        .map(|isolation| (isolation.id.as_str(), *isolation))
        .collect::<BTreeMap<_, _>>()
        .into_values()
}
