//! The rules we write: a closed list of kinds, each with its text and what it does.
//!
//! The text is the very one that iptables-save prints, the same in both variants, so read back is a comparison of
//! lines. [`text`] writes it and [`parse`] reads it; nothing else knows the syntax.

pub mod parse;
mod samples;
pub mod text;

pub use samples::{entrance, samples};

use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_policy::{Direction, Protocol};

use crate::options::LogOptions;
use crate::ruleset::Family;

/// The ICMPv6 types of neighbour discovery: router solicitation and advertisement, neighbour solicitation and
/// advertisement, redirect.
pub const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// The most ports that one rule can list; a range counts as two.
pub const PORT_SLOTS: usize = 15;

/// A rule. `S` names sets: a [`SetId`](crate::names::SetId) while it is planned, a
/// [`SetName`](crate::names::SetName) in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule<S> {
    /// In a built-in chain: a packet of no established connection goes to the first of our chains. All others meet
    /// nothing but this comparison, and do not match: what matches costs a counter and a way there and back.
    Enter,
    /// In a built-in chain: a packet of a revoked connection goes there, too. It stands there while any is revoked.
    EnterRevoked {
        /// The bit of the connection mark that says "revoked".
        mark: u32,
    },
    /// A revoked connection goes to the chain that rejects it.
    Revoked {
        /// The bit of the connection mark.
        mark: u32,
    },
    /// A control message about a known connection returns.
    RelatedIcmp(Family),
    /// An IPv6 neighbour discovery message returns. Only bridged ones still have the hop limit 255 here, so nothing
    /// routed passes for discovery.
    Discovery {
        /// The ICMPv6 type.
        icmp_type: u8,
    },
    /// A packet of a pod that is isolated in the direction goes to the root of that direction's tree.
    Gate {
        /// The direction.
        direction: Direction,
        /// The isolated addresses.
        set: S,
    },
    /// A packet of an address that this node's pods may have goes to the chain that lets known ones pass.
    Range {
        /// The direction.
        direction: Direction,
        /// The ranges.
        set: S,
    },
    /// What a pod sends to itself returns.
    Hairpin {
        /// The pod's address.
        address: IpAddr,
    },
    /// Packets of pods with these addresses go on in a chain and do not come back to this one.
    Branch {
        /// Which side of the packet is the pod.
        direction: Direction,
        /// The pods' addresses.
        prefix: IpNet,
        /// The chain.
        chain: String,
    },
    /// Packets to these ports go on in a chain and do not come back to this one.
    PortBranch {
        /// The protocol.
        protocol: Protocol,
        /// The first and the last of the destination's ports.
        span: (u16, u16),
        /// The chain.
        chain: String,
    },
    /// A packet that matches returns: it is granted.
    Allow {
        /// The destination's ports; `None` is every port and protocol.
        ports: Option<PortList>,
        /// The other side; `None` is anyone.
        peers: Option<PeerMatch<S>>,
    },
    /// What is left goes to the chain that logs and drops.
    Deny {
        /// The direction that denies.
        direction: Direction,
    },
    /// The packet is logged, no more often than the options say.
    Log {
        /// The direction that denies.
        direction: Direction,
        /// Whether it logs TCP, or everything else. Apart, so that neither uses up the other's messages: the kernel limits
        /// by source, destination and port, and does not look at the protocol.
        tcp: bool,
        /// Where to and how often.
        options: LogOptions,
    },
    /// The packet is dropped.
    Drop,
    /// A TCP connection is reset.
    Reset,
    /// The sender is told that it is prohibited.
    Reject(Family),
}

/// Ports of one protocol, at most [`PORT_SLOTS`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortList {
    /// The protocol.
    pub protocol: Protocol,
    /// First and last port of each span, both included.
    pub spans: Vec<(u16, u16)>,
}

/// A set and what of the packet is looked up in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerMatch<S> {
    /// The set.
    pub set: S,
    /// The direction: ingress looks the source up, egress the destination.
    pub direction: Direction,
    /// Whether the set's elements have ports: the destination's is looked up with the address.
    pub with_port: bool,
}

impl<S> Rule<S> {
    /// The set that the rule looks up.
    pub fn set(&self) -> Option<&S> {
        match self {
            Self::Gate { set, .. }
            | Self::Range { set, .. }
            | Self::Allow {
                peers: Some(PeerMatch { set, .. }),
                ..
            } => Some(set),
            _ => None,
        }
    }

    /// The chain that the rule leads to.
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Enter | Self::EnterRevoked { .. } => Some(crate::names::FORWARD),
            Self::Revoked { .. } => Some(crate::names::REVOKED),
            Self::Gate { direction, .. } => Some(crate::names::root(*direction)),
            Self::Range { direction, .. } => Some(crate::names::unknown(*direction)),
            Self::Branch { chain, .. } | Self::PortBranch { chain, .. } => Some(chain),
            Self::Deny { direction } => Some(crate::names::drop_chain(*direction)),
            _ => None,
        }
    }

    /// The same rule with its set named by `name`.
    pub fn map<T>(&self, name: impl FnOnce(&S) -> T) -> Rule<T> {
        match self {
            Self::Gate { direction, set } => Rule::Gate {
                direction: *direction,
                set: name(set),
            },
            Self::Range { direction, set } => Rule::Range {
                direction: *direction,
                set: name(set),
            },
            Self::Allow { ports, peers } => Rule::Allow {
                ports: ports.clone(),
                peers: peers.as_ref().map(|peers| PeerMatch {
                    set: name(&peers.set),
                    direction: peers.direction,
                    with_port: peers.with_port,
                }),
            },
            Self::Revoked { mark } => Rule::Revoked { mark: *mark },
            Self::Enter => Rule::Enter,
            Self::EnterRevoked { mark } => Rule::EnterRevoked { mark: *mark },
            Self::RelatedIcmp(family) => Rule::RelatedIcmp(*family),
            Self::Discovery { icmp_type } => Rule::Discovery {
                icmp_type: *icmp_type,
            },
            Self::Hairpin { address } => Rule::Hairpin { address: *address },
            Self::Branch {
                direction,
                prefix,
                chain,
            } => Rule::Branch {
                direction: *direction,
                prefix: *prefix,
                chain: chain.clone(),
            },
            Self::PortBranch {
                protocol,
                span,
                chain,
            } => Rule::PortBranch {
                protocol: *protocol,
                span: *span,
                chain: chain.clone(),
            },
            Self::Deny { direction } => Rule::Deny {
                direction: *direction,
            },
            Self::Log {
                direction,
                tcp,
                options,
            } => Rule::Log {
                direction: *direction,
                tcp: *tcp,
                options: options.clone(),
            },
            Self::Drop => Rule::Drop,
            Self::Reset => Rule::Reset,
            Self::Reject(family) => Rule::Reject(*family),
        }
    }
}
