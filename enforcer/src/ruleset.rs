//! What the kernel ought to hold: sets and chains, family by family.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ringfence_policy::Protocol;

use crate::names::SetId;
use crate::rules::Rule;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which everything is done.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a network.
    pub fn of_net(net: &IpNet) -> Self {
        Self::of(net.addr())
    }

    /// The digit in names.
    pub fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    /// How the kernel calls the family.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// How ipset calls the family.
    pub fn ipset(self) -> &'static str {
        match self {
            Self::V4 => "inet",
            Self::V6 => "inet6",
        }
    }

    /// How iptables calls the family's control messages.
    pub fn icmp(self) -> &'static str {
        match self {
            Self::V4 => "icmp",
            Self::V6 => "ipv6-icmp",
        }
    }

    /// All addresses of the family, as the two halves that `hash:net` can hold: it takes no prefix of length 0.
    pub fn halves(self) -> [IpNet; 2] {
        match self {
            Self::V4 => [0, 0x8000_0000_u32].map(|bits| Ipv4Net::new_assert(bits.into(), 1).into()),
            Self::V6 => [0, 1_u128 << 127].map(|bits| Ipv6Net::new_assert(bits.into(), 1).into()),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

/// A built-in chain of the filter table that leads to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Packets between others.
    Forward,
    /// Packets to the node itself: those of pods to their own node are among them.
    Input,
}

impl Hook {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Input];

    /// How iptables calls it.
    pub fn chain(self) -> &'static str {
        match self {
            Self::Forward => "FORWARD",
            Self::Input => "INPUT",
        }
    }
}

/// The type of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// `hash:ip`: addresses.
    Address,
    /// `hash:net`: networks; an address is a network of full length, found by the same single lookup.
    Net,
    /// `hash:net,port`: networks, each with a protocol and a port.
    NetPort,
}

impl SetKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Address, Self::Net, Self::NetPort];

    /// How ipset calls it.
    pub fn ipset(self) -> &'static str {
        match self {
            Self::Address => "hash:ip",
            Self::Net => "hash:net",
            Self::NetPort => "hash:net,port",
        }
    }
}

/// One element of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The network, or the address as a network of full length. Never of length 0, host bits zero.
    pub net: IpNet,
    /// The protocol and port, in sets that have them.
    pub port: Option<(Protocol, u16)>,
}

impl Element {
    /// An element without a port.
    pub fn net(net: IpNet) -> Self {
        Self { net, port: None }
    }

    /// An address without a port.
    pub fn address(address: IpAddr) -> Self {
        Self::net(address.into())
    }
}

/// A set as it ought to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its type.
    pub kind: SetKind,
    /// Its elements, sorted, each once. Shared: large sets are not copied from layer to layer.
    pub members: Arc<Vec<Element>>,
}

impl Set {
    /// A set of these elements, in any order.
    pub fn new(kind: SetKind, elements: impl IntoIterator<Item = Element>) -> Self {
        let mut members: Vec<_> = elements.into_iter().collect();
        members.sort_unstable();
        members.dedup();
        Self {
            kind,
            members: Arc::new(members),
        }
    }
}

/// The sets and chains of one family. Rules name sets by what they mean; the generation is chosen by
/// [`diff`](crate::diff).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// The sets.
    pub sets: BTreeMap<SetId, Set>,
    /// The chains of the filter table, each with its rules in order.
    pub chains: BTreeMap<String, Vec<Rule<SetId>>>,
    /// The first rules of built-in chains: those that lead to the first chain of ours.
    pub hooks: BTreeMap<Hook, Vec<Rule<SetId>>>,
}

/// What the kernel ought to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// The families that are enforced; one that is missing is not touched.
    pub families: BTreeMap<Family, Tables>,
}

/// Parts of a ruleset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// Sets, by family and meaning.
    pub sets: BTreeSet<(Family, SetId)>,
    /// Chains, by family and name.
    pub chains: BTreeSet<(Family, String)>,
}

impl Touched {
    /// All parts of a ruleset.
    pub fn all(ruleset: &Ruleset) -> Self {
        let families = || ruleset.families.iter();
        let sets = families().flat_map(|(family, tables)| tables.sets.keys().map(|id| (*family, id.clone())));
        let chains =
            families().flat_map(|(family, tables)| tables.chains.keys().map(|name| (*family, name.clone())));
        Self {
            sets: sets.collect(),
            chains: chains.collect(),
        }
    }
}
