//! The nodes' CNI configuration: the reference plugins bridge, host-local and portmap.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::plan::NodePlan;

/// Name of the network; also a folder name in the plugins' state.
pub(crate) const NETWORK: &str = "ringfence";

/// The `.conflist` for a node. Pods keep their addresses on the way to other nodes: policies go by them.
pub(crate) fn conflist(node: &NodePlan) -> Value {
    let ranges: Vec<Value> = node
        .pod_cidrs
        .iter()
        .map(|cidr| json!([{"subnet": cidr}]))
        .collect();
    let default = |cidr: &IpNet| {
        if matches!(cidr, IpNet::V4(_)) {
            "0.0.0.0/0"
        } else {
            "::/0"
        }
    };
    let routes: Vec<Value> = node
        .pod_cidrs
        .iter()
        .map(|cidr| json!({"dst": default(cidr)}))
        .collect();
    json!({
        "cniVersion": "0.4.0",
        "name": NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// The network namespace, as the node names it, in one of libcni's cached results, if that result has address `ip`.
pub(crate) fn sandbox_with_address(cached: &str, ip: IpAddr) -> Option<String> {
    let cached: Value = serde_json::from_str(cached).ok()?;
    let result = &cached["result"];
    let has = |entry: &Value| {
        let address = entry["address"]
            .as_str()
            .and_then(|text| text.parse::<IpNet>().ok());
        address.is_some_and(|net| net.addr() == ip)
    };
    if !result["ips"].as_array()?.iter().any(has) {
        return None;
    }
    let sandbox = |interface: &Value| {
        interface["sandbox"]
            .as_str()
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
    };
    result["interfaces"].as_array()?.iter().find_map(sandbox)
}

#[cfg(test)]
mod tests {
    use super::super::options::{ClusterOptions, IpFamily};
    use super::super::plan::Plan;
    use super::*;

    #[test]
    fn a_dual_stack_node_hands_out_one_address_per_family() {
        let plan = Plan::of(&ClusterOptions {
            ip_family: IpFamily::Dual,
            ..ClusterOptions::default()
        });
        let ipam = &conflist(&plan.nodes[1])["plugins"][0]["ipam"];
        assert_eq!(
            ipam["ranges"],
            json!([[{"subnet": "10.244.2.0/24"}], [{"subnet": "fd00:10:244:2::/64"}]])
        );
        assert_eq!(ipam["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
    }

    #[test]
    fn a_pods_namespace_is_found_by_any_of_its_addresses() {
        let cached = json!({"kind": "cniCacheV1", "result": {
            "interfaces": [{"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/cni-1"}],
            "ips": [{"address": "10.244.1.7/24"}, {"address": "fd00:10:244:1::7/64"}],
        }})
        .to_string();
        let find = |ip: [u8; 4]| sandbox_with_address(&cached, IpAddr::from(ip));
        assert_eq!(find([10, 244, 1, 7]).as_deref(), Some("/run/netns/cni-1"));
        assert_eq!(find([10, 244, 1, 0]), None);
        let v6 = IpAddr::from([0xfd00, 0x10, 0x244, 1, 0, 0, 0, 7u16]);
        assert_eq!(
            sandbox_with_address(&cached, v6).as_deref(),
            Some("/run/netns/cni-1")
        );
        assert_eq!(sandbox_with_address("", v6), None);
    }
}
