//! Somebody outside the cluster: addresses on the host that every node has its default route to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringfence_policy::Protocol;

use super::transcript::{Place, Step, Target};
use crate::kube_objects::output;
use crate::testbed::{Cluster, exec_in_netns};

/// The addresses and servers outside the cluster that a scenario speaks of. They go when the value is dropped.
pub(super) struct Outside {
    netns: PathBuf,
    addresses: BTreeSet<IpAddr>,
    /// Nobody accepts the connections: the kernel answers for a listening socket by itself.
    _servers: BTreeMap<SocketAddr, TcpListener>,
}

impl Outside {
    /// Sets up what `steps` speak of.
    pub(super) fn open(cluster: &Cluster, steps: &[Step]) -> Result<Self> {
        let expectations = || steps.iter().flat_map(|step| &step.expectations);
        let mut addresses = BTreeSet::new();
        let mut listeners = BTreeSet::new();
        for expectation in expectations() {
            if let Place::Outside(address) = expectation.from {
                addresses.insert(address);
            }
            if let Target::Outside(address) = expectation.to {
                ensure!(
                    expectation.protocol == Protocol::Tcp,
                    "line {}: outside the cluster only TCP is served",
                    expectation.line
                );
                addresses.insert(address.ip());
                listeners.insert(address);
            }
        }
        let mut outside = Self {
            netns: cluster.control_plane_netns(),
            addresses: BTreeSet::new(),
            _servers: BTreeMap::new(),
        };
        for address in addresses {
            outside.change("replace", address)?;
            outside.addresses.insert(address);
        }
        for address in listeners {
            let server = exec_in_netns(&outside.netns, || TcpListener::bind(address))?;
            let server = server.with_context(|| format!("listen at {address} outside the cluster"))?;
            outside._servers.insert(address, server);
        }
        Ok(outside)
    }

    /// Where connections from outside begin.
    pub(super) fn netns(&self) -> &PathBuf {
        &self.netns
    }

    fn change(&self, verb: &str, address: IpAddr) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display()));
        command.args(["ip", "addr", verb, &address.to_string(), "dev", "lo"]);
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
