//! Connections to try, with what the policy engine foretells of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ringfence_policy::{
    Door, Flow, ObjectKey, Pod, Protocol, ServiceCall, ServiceVerdict, World, evaluate, evaluate_service,
    explain,
};

use super::outside::Outside;
use super::transcript::{Expectation, Place, Target};
use crate::probe::{self, Caller};
use crate::testbed::Cluster;

/// One connection to try.
#[derive(Debug)]
pub(super) struct Attempt {
    /// What it is, for people.
    pub(super) label: String,
    /// What the transcript says, if it names this connection.
    pub(super) written: Option<bool>,
    /// What the policy engine says.
    pub(super) foretold: bool,
    /// Why it says so.
    pub(super) why: String,
    /// Whether both ends are pods of one node, where both are pods.
    pub(super) same_node: Option<bool>,
    caller: Caller,
    to: SocketAddr,
    protocol: Protocol,
    /// The server's network namespace: SCTP is answered by the probe itself.
    server: Option<PathBuf>,
}

impl Attempt {
    /// Tries it.
    pub(super) fn is_open(&self, timeout: Duration) -> Result<bool> {
        let outcome = match self.protocol {
            Protocol::Tcp => probe::tcp_connect_from(&self.caller, self.to, timeout),
            Protocol::Udp => probe::udp_answer(&self.caller, self.to, timeout),
            Protocol::Sctp => {
                let server = self.server.as_ref().context("SCTP is answered in pods only")?;
                probe::sctp_init(&self.caller, server, self.to, timeout)
            }
        };
        Ok(outcome.with_context(|| self.label.clone())?.is_open())
    }
}

/// Turns expectations and pairs of pods into attempts.
pub(super) struct Planner<'a> {
    cluster: &'a Cluster,
    world: &'a World,
    outside: &'a Outside,
    netns: BTreeMap<ObjectKey, PathBuf>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(cluster: &'a Cluster, world: &'a World, outside: &'a Outside) -> Self {
        Self {
            cluster,
            world,
            outside,
            netns: BTreeMap::new(),
        }
    }

    /// The attempts that a line of a transcript stands for: one for each address family and address.
    pub(super) fn expected(&mut self, expectation: &Expectation) -> Result<Vec<Attempt>> {
        let mut attempts = Vec::new();
        for source in self.sources(&expectation.from)? {
            for to in self.targets(&expectation.to, source, expectation.protocol)? {
                let mut attempt = self.attempt(source, to, expectation.protocol, &expectation.to)?;
                attempt.label = format!("line {}: {}", expectation.line, attempt.label);
                attempt.written = Some(expectation.open);
                attempts.push(attempt);
            }
        }
        ensure!(
            !attempts.is_empty(),
            "line {}: {expectation} share no address family",
            expectation.line
        );
        Ok(attempts)
    }

    /// Every pod of these namespaces to every port that another declares.
    pub(super) fn everybody(&mut self, owned: impl Fn(&str) -> bool) -> Result<Vec<Attempt>> {
        let world = self.world;
        let pods: Vec<&Pod> = world
            .pods
            .values()
            .filter(|pod| owned(&pod.key.namespace) && pod.holds_addresses())
            .collect();
        let mut attempts = Vec::new();
        for from in &pods {
            for to in pods.iter().filter(|to| to.key != from.key) {
                for port in &to.ports {
                    let target = Target::Pod(to.key.clone(), port.number);
                    for source in &from.addresses {
                        for address in same_family(&to.addresses, *source) {
                            let to = SocketAddr::new(address, port.number);
                            attempts.push(self.attempt(*source, to, port.protocol, &target)?);
                        }
                    }
                }
            }
        }
        Ok(attempts)
    }

    fn attempt(
        &mut self,
        source: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
        target: &Target,
    ) -> Result<Attempt> {
        let (foretold, why) = self.foretell(source, to, protocol, target)?;
        let caller = self.caller(source)?;
        let (from, server) = (self.world.pod_at(source), self.world.pod_at(to.ip()));
        let name = |pod: Option<&Pod>| pod.map(|pod| format!("{} ", pod.key)).unwrap_or_default();
        let called = match target {
            Target::Service(key, _) => format!("svc/{key} "),
            Target::NodePort(key, _) | Target::OtherNode(key, _) => format!("svc/{key} at "),
            _ => name(server),
        };
        Ok(Attempt {
            label: format!("{}{source} -> {called}{to}/{protocol}", name(from)),
            written: None,
            foretold,
            why,
            same_node: from.zip(server).map(|(from, server)| from.node == server.node),
            caller,
            to,
            protocol,
            server: server.map(|pod| self.netns_of(&pod.key)).transpose()?,
        })
    }

    /// What the policy engine says of a connection, and why.
    fn foretell(
        &self,
        source: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
        target: &Target,
    ) -> Result<(bool, String)> {
        let (service, port, door) = match target {
            Target::Service(service, port) => (service, *port, Door::Name),
            Target::NodePort(service, port) | Target::OtherNode(service, port) => {
                (service, *port, self.node_port(to.ip())?)
            }
            Target::Pod(..) | Target::Outside(_) => {
                let flow = Flow {
                    source,
                    destination: to.ip(),
                    protocol,
                    port: to.port(),
                };
                let open = evaluate(self.world, &flow).allowed();
                return Ok((open, explain(self.world, &flow).to_string()));
            }
        };
        let verdict = self.call(source, service, protocol, port, door);
        ensure!(
            !verdict.is_mixed(),
            "a call to Service {service} port {port} passes for some backends only: {verdict:?}"
        );
        Ok((verdict.allowed(), format!("{verdict:?}")))
    }

    fn call(
        &self,
        source: IpAddr,
        service: &ObjectKey,
        protocol: Protocol,
        port: u16,
        door: Door,
    ) -> ServiceVerdict {
        evaluate_service(
            self.world,
            &ServiceCall {
                source,
                service: service.clone(),
                protocol,
                port,
                door,
            },
        )
    }

    /// The door that the node with this address is.
    fn node_port(&self, address: IpAddr) -> Result<Door> {
        let nodes = self.world.nodes.values();
        let node = nodes.into_iter().find(|node| node.addresses.contains(&address));
        let node = node.with_context(|| format!("no node has the address {address}"))?;
        Ok(Door::NodePort {
            node: node.name.clone(),
        })
    }

    /// A Service's node port, at the nodes that run its pods or at those that do not.
    fn node_ports(
        &self,
        key: &ObjectKey,
        port: u16,
        protocol: Protocol,
        with_pods: bool,
    ) -> Result<(Vec<IpAddr>, u16)> {
        let service = self.world.services.get(key);
        let service = service.with_context(|| format!("there is no Service {key}"))?;
        let number = service.port(protocol, port).and_then(|port| port.node_port);
        let number = number.with_context(|| format!("port {port} of Service {key} has no node port"))?;
        let slices = self.world.endpoint_slices.values();
        let own =
            slices.filter(|slice| slice.key.namespace == key.namespace && slice.service == service.key.name);
        let pods = own
            .flat_map(|slice| &slice.endpoints)
            .filter_map(|endpoint| self.world.pod_at(endpoint.address));
        let homes: BTreeSet<&str> = pods.filter_map(|pod| pod.node.as_deref()).collect();
        let nodes = self.world.nodes.values();
        let meant = nodes.filter(|node| homes.contains(node.name.as_str()) == with_pods);
        Ok((
            meant.flat_map(|node| node.addresses.iter().copied()).collect(),
            number,
        ))
    }

    fn sources(&self, from: &Place) -> Result<Vec<IpAddr>> {
        match from {
            Place::Outside(address) => Ok(vec![*address]),
            Place::Pod(key) => Ok(self.pod(key)?.addresses.clone()),
        }
    }

    fn targets(&self, to: &Target, source: IpAddr, protocol: Protocol) -> Result<Vec<SocketAddr>> {
        let (addresses, port) = match to {
            Target::NodePort(key, port) => self.node_ports(key, *port, protocol, true)?,
            Target::OtherNode(key, port) => self.node_ports(key, *port, protocol, false)?,
            Target::Outside(address) => (vec![address.ip()], address.port()),
            Target::Pod(key, port) => (self.pod(key)?.addresses.clone(), *port),
            Target::Service(key, port) => {
                let service = self.world.services.get(key);
                let service = service.with_context(|| format!("there is no Service {key}"))?;
                (service.cluster_ips.clone(), *port)
            }
        };
        let same = same_family(&addresses, source);
        Ok(same.map(|address| SocketAddr::new(address, port)).collect())
    }

    fn pod(&self, key: &ObjectKey) -> Result<&'a Pod> {
        match self.world.pods.get(key) {
            Some(pod) if !pod.addresses.is_empty() => Ok(pod),
            Some(_) => bail!("pod {key} has no address yet"),
            None => bail!("there is no pod {key}"),
        }
    }

    fn caller(&mut self, source: IpAddr) -> Result<Caller> {
        let netns = match self.world.pod_at(source) {
            Some(pod) => self.netns_of(&pod.key)?,
            None => self.outside.netns().clone(),
        };
        Ok(Caller {
            netns,
            source: Some(source),
        })
    }

    fn netns_of(&mut self, key: &ObjectKey) -> Result<PathBuf> {
        if let Some(known) = self.netns.get(key) {
            return Ok(known.clone());
        }
        let address = self.pod(key)?.addresses[0];
        let netns = self.cluster.pod_netns(address)?;
        self.netns.insert(key.clone(), netns.clone());
        Ok(netns)
    }
}

fn same_family(addresses: &[IpAddr], like: IpAddr) -> impl Iterator<Item = IpAddr> {
    addresses
        .iter()
        .copied()
        .filter(move |address| address.is_ipv4() == like.is_ipv4())
}
