//! Somebody outside the cluster: addresses on the host that every node has its default route to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringfence_policy::Protocol;

use super::transcript::{Place, Step, Target};
use crate::kube_objects::output;
use crate::testbed::{Cluster, exec_in_netns};

/// Addresses and servers outside the cluster. They go when the value is dropped.
pub struct Outside {
    netns: PathBuf,
    addresses: BTreeSet<IpAddr>,
    /// Nobody accepts the connections: the kernel answers for a listening socket by itself.
    servers: Vec<TcpListener>,
}

impl Outside {
    /// Sets up what `steps` speak of.
    pub(super) fn of_steps(cluster: &Cluster, steps: &[Step]) -> Result<Self> {
        let mut addresses = BTreeSet::new();
        let mut listeners = BTreeSet::new();
        for expectation in steps.iter().flat_map(|step| &step.expectations) {
            if let Place::Outside(address) = expectation.from {
                addresses.insert(address);
            }
            if let Target::Outside(address) = expectation.to {
                ensure!(
                    expectation.protocol == Protocol::Tcp,
                    "line {}: outside the cluster only TCP is served",
                    expectation.line
                );
                listeners.insert(address);
            }
        }
        Self::open(cluster, addresses, listeners)
    }

    /// Sets up these addresses, and servers that take TCP connections at those.
    ///
    /// # Errors
    /// When an address or a port cannot be had.
    pub fn open(
        cluster: &Cluster,
        addresses: impl IntoIterator<Item = IpAddr>,
        servers: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Self> {
        let servers: BTreeSet<SocketAddr> = servers.into_iter().collect();
        let mut outside = Self {
            netns: cluster.control_plane_netns(),
            addresses: BTreeSet::new(),
            servers: Vec::new(),
        };
        for address in addresses.into_iter().chain(servers.iter().map(SocketAddr::ip)) {
            if !outside.addresses.contains(&address) {
                outside.change("replace", address)?;
                outside.addresses.insert(address);
            }
        }
        for address in servers {
            let server = exec_in_netns(&outside.netns, || TcpListener::bind(address))?;
            let server = server.with_context(|| format!("listen at {address} outside the cluster"))?;
            outside.servers.push(server);
        }
        Ok(outside)
    }

    /// Where connections from outside begin.
    pub fn netns(&self) -> &PathBuf {
        &self.netns
    }

    fn change(&self, verb: &str, address: IpAddr) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display()));
        command.args(["ip", "addr", verb, &address.to_string(), "dev", "lo"]);
        // Even here an address that is new may not be bound to until it was looked for elsewhere.
        if address.is_ipv6() && verb != "del" {
            command.arg("nodad");
        }
        output(&mut command).map(drop)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for address in std::mem::take(&mut self.addresses) {
            // The network namespace goes with the cluster in any case.
            if let Err(error) = self.change("del", address) {
                eprintln!("{error:#}");
            }
        }
    }
}
