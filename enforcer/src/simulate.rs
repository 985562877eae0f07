//! Walks a [`State`] the way the kernel walks its rules: the model that property tests hold against the meaning of the
//! policies.
//!
//! It works on the rules' text, so a rule that is written wrongly is found as much as one that is planned wrongly.

use ringfence_policy::{Direction, Flow};

use crate::names::{self, SetId, SetName};
use crate::rules::{PeerMatch, PortList, Rule, parse};
use crate::ruleset::{Element, Family, Hook};
use crate::state::{HeldSet, State};

/// Why a state cannot be walked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A rule leads to a chain that is not there.
    #[error("no chain {0}")]
    NoChain(String),
    /// A rule refers to a set that is not there.
    #[error("no set {0}")]
    NoSet(SetName),
    /// A rule that we never write.
    #[error("unknown rule {0:?}")]
    Unknown(String),
}

/// What became of a packet in a chain.
enum Fate {
    Returned,
    Dropped,
}

/// Whether the first packet of a new connection passes our chains.
///
/// # Errors
/// The state is broken in a way that the kernel would not have accepted.
pub fn passes(state: &State, flow: &Flow) -> Result<bool, Fault> {
    Ok(allows(state, flow, Direction::Egress)? && allows(state, flow, Direction::Ingress)?)
}

/// Whether one direction's rules let the packet pass, whatever the other's say: egress is what the source may, ingress
/// what the destination may.
///
/// # Errors
/// As [`passes`].
pub fn allows(state: &State, flow: &Flow, direction: Direction) -> Result<bool, Fault> {
    let family = Family::of(flow.source);
    let Some(tables) = state.families.get(&family) else {
        return Ok(true);
    };
    let node = |(name, held): (&SetName, &HeldSet)| {
        name.id() == SetId::node(family) && held.members.iter().any(|own| own.net.contains(&flow.destination))
    };
    let hook = if state.sets.iter().any(node) {
        Hook::Input
    } else {
        Hook::Forward
    };
    let mut jumps = tables.jumps_in(hook).iter();
    if !jumps.any(|(_, rule)| parse::rule(rule) == Some(Rule::Enter)) {
        return Ok(true);
    }
    Ok(matches!(
        walk(state, flow, direction, names::FORWARD)?,
        Fate::Returned
    ))
}

fn walk(state: &State, flow: &Flow, only: Direction, chain: &str) -> Result<Fate, Fault> {
    let lines = state
        .families
        .get(&Family::of(flow.source))
        .and_then(|tables| tables.chains.get(chain));
    for line in lines.ok_or_else(|| Fault::NoChain(chain.to_owned()))? {
        let rule = parse::rule(line).ok_or_else(|| Fault::Unknown(line.clone()))?;
        if !matches(state, flow, &rule)? {
            continue;
        }
        match &rule {
            Rule::Log { .. } => {}
            Rule::Gate { direction, .. } | Rule::Range { direction, .. } if *direction != only => {}
            Rule::Drop | Rule::Reset | Rule::Reject(_) => return Ok(Fate::Dropped),
            Rule::Branch { chain, .. } | Rule::PortBranch { chain, .. } => {
                return walk(state, flow, only, chain);
            }
            rule => match rule.target() {
                None => return Ok(Fate::Returned),
                Some(target) => {
                    if let Fate::Dropped = walk(state, flow, only, target)? {
                        return Ok(Fate::Dropped);
                    }
                }
            },
        }
    }
    Ok(Fate::Returned)
}

fn matches(state: &State, flow: &Flow, rule: &Rule<SetName>) -> Result<bool, Fault> {
    Ok(match rule {
        Rule::Enter => true,
        // A new connection is not revoked, and no control message.
        Rule::Revoked { .. } | Rule::EnterRevoked { .. } | Rule::RelatedIcmp(_) | Rule::Discovery { .. } => {
            false
        }
        Rule::Gate { direction, set } | Rule::Range { direction, set } => {
            contains(state, set, flow, pod(*direction), false)?
        }
        Rule::Hairpin { address } => flow.source == *address && flow.destination == *address,
        Rule::Branch {
            direction, prefix, ..
        } => prefix.contains(&address(flow, pod(*direction))),
        Rule::PortBranch { protocol, span, .. } => {
            *protocol == flow.protocol && (span.0..=span.1).contains(&flow.port)
        }
        Rule::Allow { ports, peers } => {
            let ports = ports.as_ref().is_none_or(|ports| lists(ports, flow));
            ports
                && peers
                    .as_ref()
                    .map_or(Ok(true), |peers| among(state, peers, flow))?
        }
        Rule::Reset => flow.protocol == ringfence_policy::Protocol::Tcp,
        Rule::Deny { .. } | Rule::Log { .. } | Rule::Drop | Rule::Reject(_) => true,
    })
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn pod(direction: Direction) -> Side {
    match direction {
        Direction::Egress => Side::Source,
        Direction::Ingress => Side::Destination,
    }
}

fn address(flow: &Flow, side: Side) -> std::net::IpAddr {
    match side {
        Side::Source => flow.source,
        Side::Destination => flow.destination,
    }
}

fn lists(ports: &PortList, flow: &Flow) -> bool {
    ports.protocol == flow.protocol
        && ports
            .spans
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&flow.port))
}

fn among(state: &State, peers: &PeerMatch<SetName>, flow: &Flow) -> Result<bool, Fault> {
    let side = match peers.direction {
        Direction::Egress => Side::Destination,
        Direction::Ingress => Side::Source,
    };
    contains(state, &peers.set, flow, side, peers.with_port)
}

fn contains(state: &State, set: &SetName, flow: &Flow, side: Side, with_port: bool) -> Result<bool, Fault> {
    let held = state.sets.get(set).ok_or_else(|| Fault::NoSet(set.clone()))?;
    let port = with_port.then_some((flow.protocol, flow.port));
    let wanted = address(flow, side);
    Ok(held
        .members
        .iter()
        .any(|Element { net, port: element }| *element == port && net.contains(&wanted)))
}
