//! Reads what `ipset save`, `ipset list -terse` and `iptables-save` print, and keeps what is ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::names::{self, SetName};
use crate::rules::parse;
use crate::ruleset::{Element, Family, Hook, SetKind};
use crate::state::{HeldSet, HeldTables};

/// Our sets in the output of `ipset save`.
///
/// # Errors
/// A line about one of our sets that has another form than ipset prints.
pub fn sets(saved: &str) -> Result<BTreeMap<SetName, HeldSet>> {
    let mut sets: BTreeMap<SetName, (HeldSet, Vec<Element>)> = BTreeMap::new();
    for line in saved.lines() {
        let unreadable = || Error::Unreadable {
            tool: "ipset save".to_owned(),
            line: line.to_owned(),
        };
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["create", name, kind, options @ ..] => {
                if let Some(name) = SetName::parse(name) {
                    sets.insert(name, (held(kind, options), Vec::new()));
                }
            }
            ["add", name, element, ..] => {
                if let Some(name) = SetName::parse(name) {
                    let (held, members) = sets.get_mut(&name).ok_or_else(unreadable)?;
                    match self::element(element) {
                        Some(element) => members.push(element),
                        // A set of a type that we never make will be destroyed, whatever it holds.
                        None if held.kind.is_none() => {}
                        None => return Err(unreadable()),
                    }
                }
            }
            _ => {}
        }
    }
    let finish = |(name, (held, mut members)): (SetName, (HeldSet, Vec<Element>))| {
        members.sort_unstable();
        (
            name,
            HeldSet {
                members: Arc::new(members),
                ..held
            },
        )
    };
    Ok(sets.into_iter().map(finish).collect())
}

fn held(kind: &str, options: &[&str]) -> HeldSet {
    let option = |name: &str| options.iter().skip_while(|word| **word != name).nth(1).copied();
    // Extensions change what an element means; none of ours has any.
    let extended = ["timeout", "counters", "comment", "skbinfo", "forceadd"];
    let plain = !options.iter().any(|word| extended.contains(word));
    HeldSet {
        kind: SetKind::ALL
            .into_iter()
            .find(|known| plain && known.ipset() == kind),
        family: Family::ALL
            .into_iter()
            .find(|family| option("family") == Some(family.ipset())),
        capacity: option("maxelem")
            .and_then(|number| number.parse().ok())
            .unwrap_or(0),
        members: Arc::default(),
    }
}

/// An element as ipset prints it: `10.0.0.0/8`, `10.0.0.1`, `10.0.0.1,tcp:80`.
pub fn element(text: &str) -> Option<Element> {
    let (net, port) = match text.split_once(',') {
        None => (text, None),
        Some((net, port)) => {
            let (protocol, number) = port.split_once(':')?;
            (net, Some((parse::protocol(protocol)?, number.parse().ok()?)))
        }
    };
    let net = net
        .parse()
        .or_else(|_| net.parse::<std::net::IpAddr>().map(Into::into))
        .ok()?;
    Some(Element { net, port })
}

/// The number of elements of each of our sets in the output of `ipset list -terse`.
pub fn set_sizes(listed: &str) -> BTreeMap<SetName, usize> {
    let mut sizes = BTreeMap::new();
    let mut current = None;
    for line in listed.lines() {
        if let Some(name) = line.strip_prefix("Name: ") {
            current = SetName::parse(name);
        } else if let (Some(number), Some(name)) = (line.strip_prefix("Number of entries: "), &current) {
            sizes.insert(name.clone(), number.trim().parse().unwrap_or(usize::MAX));
        }
    }
    sizes
}

/// Our chains and our jumps in the output of `iptables-save -t filter`.
pub fn tables(saved: &str) -> HeldTables {
    let mut tables = HeldTables::default();
    let mut positions: BTreeMap<Hook, usize> = BTreeMap::new();
    for line in saved.lines() {
        if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            if chain.starts_with(names::PREFIX) {
                tables.chains.entry(chain.to_owned()).or_default();
            }
        } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
            if let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.chain() == chain) {
                let position = positions.entry(hook).or_default();
                *position += 1;
                if rule == names::JUMP {
                    tables.jumps.entry(hook).or_default().push(*position);
                }
            } else if chain.starts_with(names::PREFIX) {
                tables
                    .chains
                    .entry(chain.to_owned())
                    .or_default()
                    .push(rule.to_owned());
            }
        }
    }
    tables
}

/// The part of the output of `iptables-save` that is about the filter table.
pub fn filter_table(saved: &str) -> &str {
    let start = saved.find("*filter\n").unwrap_or(saved.len());
    let table = &saved[start..];
    &table[..table.find("\nCOMMIT").unwrap_or(table.len())]
}

/// Rules of other people's chains, in the output of `iptables-save -t filter`, that lead to ours: chain and rule.
pub fn references(saved: &str) -> Vec<(String, String)> {
    let rules = saved
        .lines()
        .filter_map(|line| line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')));
    rules
        .filter(|(chain, rule)| !chain.starts_with(names::PREFIX) && target(rule).is_some_and(is_ours))
        .map(|(chain, rule)| (chain.to_owned(), rule.to_owned()))
        .collect()
}

fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split_ascii_whitespace();
    words.by_ref().find(|word| matches!(*word, "-j" | "-g"))?;
    words.next()
}

fn is_ours(chain: &str) -> bool {
    chain.starts_with(names::PREFIX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SAVED: &str = "\
create KUBE-X hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1
add KUBE-X 10.0.0.9
create RINGF-4p-x.a hash:net,port family inet hashsize 64 maxelem 1024 bucketsize 12 initval 0x9029de30
add RINGF-4p-x.a 10.0.0.1,udp:53
add RINGF-4p-x.a 10.0.0.0/24,sctp:80
create RINGF-6-node.a hash:ip family inet6 hashsize 64 maxelem 1024 bucketsize 12 initval 0xd4de7a94
add RINGF-6-node.a fd00::1
create RINGF-old hash:ip,mark family inet hashsize 64 maxelem 10
add RINGF-old 10.0.0.1,0x1
create RINGF-4-node.a hash:ip family inet hashsize 64 maxelem 1024 timeout 5
";

    #[test]
    fn our_sets_are_read_with_their_elements_and_nobody_elses() {
        let sets = sets(SAVED).unwrap();
        let held = |name: &str| &sets[&SetName::parse(name).unwrap()];
        assert_eq!(sets.len(), 4);
        let pairs = held("RINGF-4p-x.a");
        assert_eq!(
            (pairs.kind, pairs.family, pairs.capacity),
            (Some(SetKind::NetPort), Some(Family::V4), 1024)
        );
        let wanted = ["10.0.0.0/24,sctp:80", "10.0.0.1,udp:53"].map(|text| element(text).unwrap());
        assert_eq!(*pairs.members, wanted);
        assert_eq!(held("RINGF-6-node.a").members[0], element("fd00::1").unwrap());
        assert_eq!(held("RINGF-old").kind, None);
        assert_eq!(
            held("RINGF-4-node.a").kind,
            None,
            "a set with timeouts is none that we make"
        );
    }

    #[test]
    fn a_line_about_our_sets_that_nobody_understands_is_an_error() {
        let error =
            sets("create RINGF-4p-x.a hash:net family inet\nadd RINGF-4p-x.a 10.0.0.1,gre:0\n").unwrap_err();
        assert_eq!(error.name(), "Unreadable");
    }

    #[test]
    fn chains_and_the_places_of_the_jumps_are_read() {
        let tables = tables(
            "*filter\n:FORWARD DROP [12:34]\n:KUBE-FORWARD - [0:0]\n:RINGF-FORWARD - [0:0]\n:RINGF-REVOKED - [0:0]\n\
             -A INPUT -m comment --comment ringfence -j RINGF-FORWARD\n\
             -A FORWARD -j KUBE-FORWARD\n-A FORWARD -m comment --comment ringfence -j RINGF-FORWARD\n\
             -A KUBE-FORWARD -j ACCEPT\n-A RINGF-REVOKED -j DROP\nCOMMIT\n",
        );
        assert_eq!(tables.jumps_in(Hook::Forward), [2]);
        assert_eq!(tables.jumps_in(Hook::Input), [1]);
        assert_eq!(
            tables.chains.keys().collect::<Vec<_>>(),
            ["RINGF-FORWARD", "RINGF-REVOKED"]
        );
        assert_eq!(tables.chains["RINGF-REVOKED"], ["-j DROP"]);
    }

    #[test]
    fn a_hand_made_way_into_our_chains_is_found() {
        let saved =
            "-A FORWARD -m comment --comment \"see RINGF-X\" -j ACCEPT\n-A INPUT -i eth0 -g RINGF-FORWARD\n";
        assert_eq!(
            references(saved),
            [("INPUT".to_owned(), "-i eth0 -g RINGF-FORWARD".to_owned())]
        );
    }

    #[test]
    fn sizes_of_our_sets_are_read_from_the_terse_list() {
        let listed =
            "Name: X\nNumber of entries: 3\n\nName: RINGF-4-node.a\nReferences: 1\nNumber of entries: 2\n";
        let sizes = set_sizes(listed);
        assert_eq!(sizes.into_values().collect::<Vec<_>>(), [2]);
    }
}
