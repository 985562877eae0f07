//! Who gets which address: a pure function of the options.
//!
//! ```text
//!              172.30.0.0/24   fd00:172:30::/64        one bridge joins all namespaces
//!   control plane      .2            ::2
//!   node-K         .(10+K)       ::(10+K)              pods 10.244.K.0/24, fd00:10:244:K::/64
//!   Services       10.96.0.0/16, fd00:10:96::/112      DNS at .10 / ::a
//! ```
//! Every cluster has the same plan: each lives in network namespaces of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::options::{ClusterOptions, IpFamily};

/// Addresses of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePlan {
    pub(crate) name: String,
    /// One per family, the cluster's first family first.
    pub(crate) ips: Vec<IpAddr>,
    /// One per family, in the same order.
    pub(crate) pod_cidrs: Vec<IpNet>,
}

/// Addresses of a whole cluster. Every list has one entry per family, the first family first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) control_plane: Vec<IpAddr>,
    pub(crate) cluster_cidrs: Vec<IpNet>,
    pub(crate) service_cidrs: Vec<IpNet>,
    pub(crate) dns_ip: IpAddr,
    pub(crate) nodes: Vec<NodePlan>,
}

const FABRIC_V6: [u16; 4] = [0xfd00, 0x172, 0x30, 0];

fn fabric(family: IpFamily, host: u16) -> Vec<IpAddr> {
    let [a, b, c, d] = FABRIC_V6;
    let host_v4 = u8::try_from(host).unwrap_or(u8::MAX);
    per_family(
        family,
        Ipv4Addr::new(172, 30, 0, host_v4),
        Ipv6Addr::new(a, b, c, d, 0, 0, 0, host),
    )
}

fn per_family<T, V4: Into<T>, V6: Into<T>>(family: IpFamily, v4: V4, v6: V6) -> Vec<T> {
    let mut all = Vec::new();
    if family.has_v4() {
        all.push(v4.into());
    }
    if family.has_v6() {
        all.push(v6.into());
    }
    all
}

fn v4_net(a: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(a.into(), prefix)
}

fn v6_net(a: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(a.into(), prefix)
}

impl Plan {
    /// The plan for validated options.
    pub(crate) fn of(options: &ClusterOptions) -> Self {
        let family = options.ip_family;
        let nodes = (1..=options.nodes).map(|k| {
            let wide = u16::from(k);
            NodePlan {
                name: format!("node-{k}"),
                ips: fabric(family, 10 + wide),
                pod_cidrs: per_family(
                    family,
                    v4_net([10, 244, k, 0], 24),
                    v6_net([0xfd00, 0x10, 0x244, wide, 0, 0, 0, 0], 64),
                ),
            }
        });
        let service_v4 = v4_net([10, 96, 0, 0], 16);
        let service_v6 = v6_net([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0], 112);
        let dns_ip = if family.has_v4() {
            nth_v4(service_v4, 10).into()
        } else {
            nth_v6(service_v6, 10).into()
        };
        Self {
            control_plane: fabric(family, 2),
            cluster_cidrs: per_family(
                family,
                v4_net([10, 244, 0, 0], 16),
                v6_net([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0], 48),
            ),
            service_cidrs: per_family(family, service_v4, service_v6),
            dns_ip,
            nodes: nodes.collect(),
        }
    }

    /// The addresses of the Service `kubernetes`: the first of each Service CIDR.
    pub(crate) fn api_service_ips(&self) -> Vec<IpAddr> {
        let first = |net: &IpNet| match net {
            IpNet::V4(net) => nth_v4(*net, 1).into(),
            IpNet::V6(net) => nth_v6(*net, 1).into(),
        };
        self.service_cidrs.iter().map(first).collect()
    }
}

fn nth_v4(net: Ipv4Net, n: u32) -> Ipv4Addr {
    (u32::from(net.network()) + n).into()
}

fn nth_v6(net: Ipv6Net, n: u128) -> Ipv6Addr {
    (u128::from(net.network()) + n).into()
}

/// Length of the fabric's prefix in the family of `ip`.
pub(crate) fn fabric_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 24 } else { 64 }
}

/// Addresses or networks as Kubernetes' flags want them.
pub(crate) fn joined<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::options::MAX_NODES;
    use super::*;

    fn plan(nodes: u8, ip_family: IpFamily) -> Plan {
        Plan::of(&ClusterOptions {
            nodes,
            ip_family,
            ..ClusterOptions::default()
        })
    }

    #[test]
    fn every_node_has_addresses_of_its_own_inside_the_cluster_cidr() {
        let plan = plan(MAX_NODES, IpFamily::Dual);
        let mut seen = std::collections::HashSet::new();
        for node in &plan.nodes {
            for (cidr, all) in node.pod_cidrs.iter().zip(&plan.cluster_cidrs) {
                assert!(all.contains(cidr), "{}: {cidr} outside {all}", node.name);
                assert!(seen.insert(cidr.to_string()));
            }
            for ip in &node.ips {
                assert!(seen.insert(ip.to_string()), "{ip} twice");
            }
        }
        assert!(
            plan.control_plane
                .iter()
                .all(|ip| !seen.contains(&ip.to_string()))
        );
    }

    #[test]
    fn dual_stack_puts_ipv4_first_everywhere() {
        let plan = plan(1, IpFamily::Dual);
        assert!(plan.control_plane[0].is_ipv4() && plan.control_plane[1].is_ipv6());
        assert!(matches!(plan.service_cidrs[..], [IpNet::V4(_), IpNet::V6(_)]));
        assert_eq!(joined(&plan.nodes[0].ips), "172.30.0.11,fd00:172:30::b");
        assert!(plan.dns_ip.is_ipv4());
    }

    #[test]
    fn one_family_leaves_no_trace_of_the_other() {
        let plan = plan(2, IpFamily::Ipv6);
        assert_eq!(joined(&plan.control_plane), "fd00:172:30::2");
        assert_eq!(joined(&plan.nodes[1].pod_cidrs), "fd00:10:244:2::/64");
        assert_eq!(joined(&plan.api_service_ips()), "fd00:10:96::1");
        assert_eq!(plan.dns_ip.to_string(), "fd00:10:96::a");
    }
}
