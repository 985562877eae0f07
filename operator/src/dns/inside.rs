//! Which addresses are inside the cluster, or a node's own: no DNS answer may open these.
//!
//! Whoever controls a name's answers could otherwise point it at any pod, and so have themselves let in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;

/// Where an address is that a name must not stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A host's own address for itself.
    Loopback,
    /// A link's own range: cloud metadata servers and node-local caches are there.
    LinkLocal,
    /// No host's address at all: unspecified, multicast or broadcast.
    Nowhere,
    /// Among the pods.
    Pod,
    /// Among the Services.
    Service,
    /// A node.
    Node,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Nowhere => "no host's address",
            Self::Pod => "an address of the cluster's pods",
            Self::Service => "an address of the cluster's Services",
            Self::Node => "an address of a node",
        })
    }
}

/// What the cluster has addresses for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    ranges: Vec<(IpNet, Place)>,
    addresses: BTreeMap<IpAddr, Place>,
}

impl Inside {
    /// Adds a node: the ranges of its pods, and its addresses.
    pub fn insert_node(&mut self, node: &Node) {
        let spec = node.spec.as_ref();
        let ranges = spec.into_iter().flat_map(|spec| {
            let all = spec.pod_cidrs.iter().flatten();
            all.chain(&spec.pod_cidr)
        });
        self.insert_ranges(ranges, Place::Pod);
        let status = node.status.as_ref();
        let addresses = status
            .into_iter()
            .flat_map(|status| status.addresses.iter().flatten());
        self.insert_addresses(addresses.map(|address| address.address.as_str()), Place::Node);
    }

    /// Adds a range of Service addresses.
    pub fn insert_service_cidr(&mut self, range: &ServiceCIDR) {
        let spec = range.spec.as_ref();
        let ranges = spec.into_iter().flat_map(|spec| spec.cidrs.iter().flatten());
        self.insert_ranges(ranges, Place::Service);
    }

    /// Adds a Service's own addresses, for clusters that do not tell their ranges.
    pub fn insert_service(&mut self, service: &Service) {
        let spec = service.spec.as_ref();
        let addresses = spec.into_iter().flat_map(|spec| {
            let all = spec.cluster_ips.iter().flatten();
            all.chain(&spec.cluster_ip)
        });
        self.insert_addresses(addresses.map(String::as_str), Place::Service);
    }

    /// Adds those of a pod's addresses that are asked for: a cluster has many, and few names.
    pub fn insert_pod(&mut self, pod: &Pod, asked: &BTreeSet<IpAddr>) {
        let status = pod.status.as_ref();
        let addresses = status.into_iter().flat_map(|status| {
            let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
            all.chain(status.pod_ip.as_deref())
        });
        let asked = addresses.filter(|text| text.parse().is_ok_and(|ip: IpAddr| asked.contains(&ip)));
        self.insert_addresses(asked, Place::Pod);
    }

    fn insert_ranges<'a>(&mut self, ranges: impl Iterator<Item = &'a String>, place: Place) {
        let networks = ranges.filter_map(|text| text.parse().ok());
        self.ranges.extend(networks.map(|network| (network, place)));
    }

    fn insert_addresses<'a>(&mut self, addresses: impl Iterator<Item = &'a str>, place: Place) {
        let known = addresses.filter_map(|text| text.parse().ok());
        for address in known {
            // Pods of the node's network have its address, which stays a node's.
            self.addresses.entry(address).or_insert(place);
        }
    }

    /// Where an address is, if no name may stand for it. One that a NAT64 gateway translates is judged as what it becomes, too.
    #[must_use]
    pub fn place(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        self.place_of(address)
            .or_else(|| translated(address).and_then(|inner| self.place_of(inner)))
    }

    fn place_of(&self, address: IpAddr) -> Option<Place> {
        if address.is_loopback() {
            return Some(Place::Loopback);
        }
        let (link_local, nowhere) = match address {
            IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast() || v4.octets()[0] == 0),
            IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
        };
        if link_local {
            return Some(Place::LinkLocal);
        }
        if nowhere || address.is_unspecified() || address.is_multicast() {
            return Some(Place::Nowhere);
        }
        let ranges = self.ranges.iter().filter(|(range, _)| range.contains(&address));
        self.addresses
            .get(&address)
            .or_else(|| ranges.map(|(_, place)| place).next())
            .copied()
    }
}

/// The IPv4 address that an address of the well-known NAT64 prefix, 64:ff9b::/96, becomes behind a gateway (RFC 6052).
fn translated(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else {
        return None;
    };
    let [prefix @ .., a, b, c, d] = v6.octets();
    let well_known = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    (prefix == well_known).then(|| IpAddr::from([a, b, c, d]))
}
