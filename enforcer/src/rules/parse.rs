//! A rule read back from the text that iptables-save prints.

use ipnet::IpNet;
use ringfence_policy::{Direction, Protocol};

use super::{PeerMatch, PortList, Rule};
use crate::names::{self, SetName};
use crate::options::LogOptions;
use crate::ruleset::Family;

/// The rule that a line of one of our chains says, without its `-A CHAIN`. `None` is a rule that we never write.
pub fn rule(text: &str) -> Option<Rule<SetName>> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let rule = conversational(&words)
        .or_else(|| dispatch(&words))
        .or_else(|| grant(&words))
        .or_else(|| end(&words))?;
    // Whatever the patterns let pass, a rule is ours only if it is written exactly so.
    (rule.to_string() == text).then_some(rule)
}

/// Rules about a packet's connection.
fn conversational(words: &[&str]) -> Option<Rule<SetName>> {
    match words {
        ["-m", "connmark", "--mark", mark, "-j", chain] => {
            let mark = bit(mark)?;
            Some(match *chain {
                names::FORWARD => Rule::EnterRevoked { mark },
                _ => Rule::Revoked { mark },
            })
        }
        [
            "-m",
            "conntrack",
            "!",
            "--ctstate",
            "ESTABLISHED",
            "-j",
            names::FORWARD,
        ] => Some(Rule::Enter),
        [
            "-p",
            icmp,
            "-m",
            "conntrack",
            "--ctstate",
            "RELATED",
            "-j",
            "RETURN",
        ] => Some(Rule::RelatedIcmp(
            Family::ALL.into_iter().find(|family| family.icmp() == *icmp)?,
        )),
        [
            "-p",
            "ipv6-icmp",
            "-m",
            "icmp6",
            "--icmpv6-type",
            icmp_type,
            "-m",
            "hl",
            "--hl-eq",
            "255",
            "-j",
            "RETURN",
        ] => Some(Rule::Discovery {
            icmp_type: icmp_type.parse().ok()?,
        }),
        _ => None,
    }
}

/// Rules that find a pod, or a port.
fn dispatch(words: &[&str]) -> Option<Rule<SetName>> {
    match words {
        ["-m", "set", "--match-set", set, side, "-j", chain] if *chain != "RETURN" => {
            let direction = if *side == "src" {
                Direction::Egress
            } else {
                Direction::Ingress
            };
            let set = SetName::parse(set)?;
            Some(if *chain == names::unknown(direction) {
                Rule::Range { direction, set }
            } else {
                Rule::Gate { direction, set }
            })
        }
        ["-s", address, "-d", _, "-j", "RETURN"] => Some(Rule::Hairpin {
            address: address.parse::<IpNet>().ok()?.addr(),
        }),
        [side @ ("-s" | "-d"), prefix, "-g", chain] => Some(Rule::Branch {
            direction: if *side == "-s" {
                Direction::Egress
            } else {
                Direction::Ingress
            },
            prefix: prefix.parse().ok()?,
            chain: (*chain).to_owned(),
        }),
        ["-p", name, "-m", _, "--dport" | "--dports", ports, "-g", chain] => Some(Rule::PortBranch {
            protocol: protocol(name)?,
            span: span(ports)?,
            chain: (*chain).to_owned(),
        }),
        _ => None,
    }
}

/// Rules that allow.
fn grant(words: &[&str]) -> Option<Rule<SetName>> {
    let words = words.strip_suffix(&["-j", "RETURN"])?;
    let (name, words) = match words {
        ["-p", name, rest @ ..] => (Some(*name), rest),
        _ => (None, words),
    };
    let (ports, words) = match (name, words) {
        (None, rest) => (None, rest),
        (Some(name), ["-m", _, "--dport" | "--dports", spans, rest @ ..]) => {
            let spans = spans.split(',').map(span).collect::<Option<_>>()?;
            let protocol = protocol(name)?;
            (Some(PortList { protocol, spans }), rest)
        }
        _ => return None,
    };
    let peers = match words {
        [] => None,
        ["-m", "set", "--match-set", set, side] => Some(peer_match(set, side)?),
        _ => return None,
    };
    Some(Rule::Allow { ports, peers })
}

/// Rules that end a packet's way.
fn end(words: &[&str]) -> Option<Rule<SetName>> {
    match words {
        ["-j", "DROP"] => Some(Rule::Drop),
        ["-p", "tcp", "-j", "REJECT", ..] => Some(Rule::Reset),
        ["-j", "REJECT", "--reject-with", "icmp-admin-prohibited"] => Some(Rule::Reject(Family::V4)),
        ["-j", "REJECT", "--reject-with", "icmp6-adm-prohibited"] => Some(Rule::Reject(Family::V6)),
        ["-j", chain] => both_directions()
            .find(|direction| names::drop_chain(*direction) == *chain)
            .map(|direction| Rule::Deny { direction }),
        ["!", words @ ..] => log(words, false),
        words => log(words, true),
    }
}

/// A rule that logs, from its protocol on.
fn log(words: &[&str], tcp: bool) -> Option<Rule<SetName>> {
    match words {
        [
            "-p",
            "tcp",
            "-m",
            "hashlimit",
            "--hashlimit-upto",
            rate,
            "--hashlimit-burst",
            burst,
            ..,
            "--nflog-prefix",
            prefix,
            "--nflog-group",
            group,
        ] => Some(Rule::Log {
            direction: both_directions().find(|direction| super::text::log_prefix(*direction) == *prefix)?,
            tcp,
            options: LogOptions {
                group: group.parse().ok()?,
                per_minute: per_minute(rate)?,
                burst: burst.parse().ok()?,
            },
        }),
        _ => None,
    }
}

fn per_minute(rate: &str) -> Option<u32> {
    let (number, minute) = match rate.split_once('/')? {
        (number, "sec") => (number, 60),
        (number, "min") => (number, 1),
        _ => return None,
    };
    number.parse::<u32>().ok()?.checked_mul(minute)
}

fn peer_match(set: &str, side: &str) -> Option<PeerMatch<SetName>> {
    let (address, port) = side
        .split_once(',')
        .map_or((side, None), |(address, port)| (address, Some(port)));
    Some(PeerMatch {
        set: SetName::parse(set)?,
        direction: if address == "src" {
            Direction::Ingress
        } else {
            Direction::Egress
        },
        with_port: port.is_some(),
    })
}

/// The bit that a connection mark is compared with.
fn bit(mark: &str) -> Option<u32> {
    let (_value, mask) = mark.split_once('/')?;
    u32::from_str_radix(mask.strip_prefix("0x")?, 16).ok()
}

fn span(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// The protocol that iptables and ipset call so.
pub fn protocol(name: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| super::text::protocol(*protocol) == name)
}

fn both_directions() -> impl Iterator<Item = Direction> {
    [Direction::Egress, Direction::Ingress].into_iter()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rule_of_every_kind_is_read_back_as_it_was_written() {
        for rule in crate::rules::samples(Family::V4)
            .into_iter()
            .chain(crate::rules::samples(Family::V6))
            .chain(crate::rules::entrance())
        {
            let text = rule.to_string();
            assert_eq!(super::rule(&text), Some(rule), "{text}");
        }
    }

    #[test]
    fn a_rule_that_somebody_changed_is_not_ours() {
        for text in [
            "-j ACCEPT",
            "-j RETURN -m comment --comment mine",
            "-j RINGF-FORWARD",
            "-m conntrack ! --ctstate NEW -j RINGF-FORWARD",
            "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
            "-m set ! --match-set RINGF-4-egress.a src -j RINGF-EGRESS",
            "-m set --match-set RINGF-4-egress.a src -j ACCEPT",
            "-m set --match-set KUBE-LOOP-BACK dst,dst -j RETURN",
            "-s 10.0.0.1/32 -d 10.0.0.2/32 -j RETURN",
            "-p tcp -j RETURN",
            "",
        ] {
            assert_eq!(rule(text), None, "{text}");
        }
    }
}
