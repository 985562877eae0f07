//! Reads what `iptables-save` prints, and keeps what is ours.

use std::collections::{BTreeMap, BTreeSet};

use crate::names;
use crate::rules::{Rule, parse};
use crate::ruleset::{Element, Hook};
use crate::state::HeldTables;

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

/// Our chains and our jumps in the output of `iptables-save -t filter`.
pub fn tables(saved: &str) -> HeldTables {
    let ways_in = references(saved);
    let mut tables = HeldTables {
        referenced: referenced(&ways_in),
        strays: strays(ways_in),
        ..HeldTables::default()
    };
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
                if is_jump(rule) {
                    let jumps = tables.jumps.entry(hook).or_default();
                    jumps.push((*position, rule.to_owned()));
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

/// Whether this rule of a built-in chain is one that we write today.
fn is_jump(rule: &str) -> bool {
    matches!(parse::rule(rule), Some(Rule::Enter | Rule::EnterRevoked { .. }))
}

/// Rules of built-in chains that lead to our chains and are not jumps that we write today.
fn strays(ways_in: Vec<(String, String)>) -> BTreeSet<(String, String)> {
    ways_in
        .into_iter()
        .filter(|(chain, rule)| is_builtin(chain) && (chain == OUTPUT || !is_jump(rule)))
        .collect()
}

/// Our chains that rules in chains of other people's own lead to.
fn referenced(ways_in: &[(String, String)]) -> BTreeSet<String> {
    let theirs = ways_in.iter().filter(|(chain, _)| !is_builtin(chain));
    theirs
        .filter_map(|(_, rule)| target(rule).map(str::to_owned))
        .collect()
}

/// The built-in chain that we have no jump in.
const OUTPUT: &str = "OUTPUT";

fn is_builtin(chain: &str) -> bool {
    chain == OUTPUT || Hook::ALL.iter().any(|hook| hook.chain() == chain)
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

    #[test]
    fn chains_and_the_places_of_the_jumps_are_read() {
        let tables = tables(
            "*filter\n:FORWARD DROP [12:34]\n:KUBE-FORWARD - [0:0]\n:RINGF-FORWARD - [0:0]\n:RINGF-REVOKED - [0:0]\n\
             -A INPUT -m conntrack ! --ctstate ESTABLISHED -j RINGF-FORWARD\n\
             -A INPUT -m connmark --mark 0x20/0x20 -j RINGF-FORWARD\n\
             -A FORWARD -j KUBE-FORWARD\n-A FORWARD -m conntrack ! --ctstate ESTABLISHED -j RINGF-FORWARD\n\
             -A FORWARD -j RINGF-FORWARD\n\
             -A KUBE-FORWARD -j ACCEPT\n-A RINGF-REVOKED -j DROP\nCOMMIT\n",
        );
        let new = "-m conntrack ! --ctstate ESTABLISHED -j RINGF-FORWARD".to_owned();
        let revoked = "-m connmark --mark 0x20/0x20 -j RINGF-FORWARD".to_owned();
        assert_eq!(tables.jumps_in(Hook::Forward), [(2, new.clone())]);
        assert_eq!(tables.jumps_in(Hook::Input), [(1, new), (2, revoked)]);
        let older = ("FORWARD".to_owned(), "-j RINGF-FORWARD".to_owned());
        assert_eq!(tables.strays, [older].into());
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
}
