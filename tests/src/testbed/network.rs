//! The cluster's network: one namespace with a bridge, one for the control plane, one per node.
//!
//! Both ends of every cable are made inside these namespaces; the machine's own sees none of it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::command::run;
use super::netns::exec_in_netns;
use super::paths::Paths;
use super::plan::{Plan, fabric_prefix};

/// Name of the namespace that holds the bridge.
pub(crate) const FABRIC: &str = "fabric";
/// Name of the control plane's namespace.
pub(crate) const CONTROL_PLANE: &str = "cp";

/// Every namespace a cluster of these nodes has.
pub(crate) fn members(plan: &Plan) -> Vec<String> {
    let fixed = [FABRIC, CONTROL_PLANE].map(str::to_owned);
    fixed
        .into_iter()
        .chain(plan.nodes.iter().map(|node| node.name.clone()))
        .collect()
}

/// Builds the network of `plan`.
pub(crate) fn create(paths: &Paths, plan: &Plan) -> Result<()> {
    for member in members(plan) {
        let name = paths.netns_name(&member);
        run(Command::new("ip").args(["netns", "add", &name]))?;
        ip(&name, "link set lo up")?;
    }
    let fabric = paths.netns_name(FABRIC);
    ip(&fabric, "link add br0 type bridge")?;
    ip(&fabric, "link set br0 up")?;
    attach(paths, CONTROL_PLANE, &plan.control_plane)?;
    for node in &plan.nodes {
        attach(paths, &node.name, &node.ips)?;
    }
    for member in members(plan).iter().skip(1) {
        configure_kernel(&paths.netns(member)).with_context(|| format!("set up the kernel of {member}"))?;
        for (net, via) in routes(plan, member) {
            ip(&paths.netns_name(member), &format!("route add {net} via {via}"))?;
        }
    }
    Ok(())
}

/// Connects a member to the bridge.
fn attach(paths: &Paths, member: &str, addresses: &[IpAddr]) -> Result<()> {
    let (fabric, netns) = (paths.netns_name(FABRIC), paths.netns_name(member));
    let port = format!("v-{member}");
    ip(
        &fabric,
        &format!("link add {port} type veth peer name eth0 netns {netns}"),
    )?;
    ip(&fabric, &format!("link set {port} master br0 up"))?;
    for address in addresses {
        // Duplicate address detection would only delay: nobody else is here.
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        ip(
            &netns,
            &format!("addr add {address}/{} dev eth0{nodad}", fabric_prefix(*address)),
        )?;
    }
    ip(&netns, "link set eth0 up")
}

/// The routes of a member: to the pods of every other node, and by default to the control plane, which has no way out.
fn routes(plan: &Plan, member: &str) -> Vec<(IpNet, IpAddr)> {
    let mut routes = Vec::new();
    for node in plan.nodes.iter().filter(|node| node.name != member) {
        routes.extend(node.pod_cidrs.iter().copied().zip(node.ips.iter().copied()));
    }
    if member != CONTROL_PLANE {
        routes.extend(plan.control_plane.iter().map(|ip| (everything(*ip), *ip)));
    }
    routes
}

fn everything(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn ip(netns: &str, arguments: &str) -> Result<()> {
    run(Command::new("ip").args(["-n", netns]).args(arguments.split(' '))).map(drop)
}

/// Per network namespace: forward packets, and show bridged ones to iptables.
fn configure_kernel(netns: &Path) -> Result<()> {
    let settings = [
        "ipv4/ip_forward",
        "ipv6/conf/all/forwarding",
        "bridge/bridge-nf-call-iptables",
        "bridge/bridge-nf-call-ip6tables",
    ];
    exec_in_netns(netns, || {
        for setting in settings {
            let path = format!("/proc/sys/net/{setting}");
            fs::write(&path, "1").with_context(|| format!("write 1 to {path}"))?;
        }
        Ok(())
    })?
}

/// Loads what is a module on this kernel and not loaded yet.
pub(crate) fn load_modules() -> Result<()> {
    let bridged = || Path::new("/proc/sys/net/bridge").exists();
    let overlay = || fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("\toverlay"));
    for (module, present) in [
        ("br_netfilter", &bridged as &dyn Fn() -> bool),
        ("overlay", &overlay),
    ] {
        if !present() {
            run(Command::new("modprobe").arg(module))
                .with_context(|| format!("this kernel lacks {module}: load or install that module"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::options::{ClusterOptions, IpFamily};
    use super::*;

    #[test]
    fn every_member_knows_the_way_to_every_other_nodes_pods() {
        let options = ClusterOptions {
            nodes: 3,
            ip_family: IpFamily::Dual,
            ..ClusterOptions::default()
        };
        let plan = Plan::of(&options);
        let node = routes(&plan, "node-2");
        let text: Vec<String> = node.iter().map(|(net, via)| format!("{net} {via}")).collect();
        assert_eq!(
            text,
            [
                "10.244.1.0/24 172.30.0.11",
                "fd00:10:244:1::/64 fd00:172:30::b",
                "10.244.3.0/24 172.30.0.13",
                "fd00:10:244:3::/64 fd00:172:30::d",
                "0.0.0.0/0 172.30.0.2",
                "::/0 fd00:172:30::2",
            ]
        );
        assert_eq!(routes(&plan, CONTROL_PLANE).len(), 6);
    }
}
