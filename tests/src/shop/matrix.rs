//! Measuring who reaches whom.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{App, CLIENTS, TARGETS, Target};
use crate::kube_objects::{pods_of, service_address};
use crate::probe;
use crate::testbed::Cluster;

/// What all connections of one client to one target came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Every connection was made.
    Open,
    /// None was.
    Closed,
    /// Some were: the attempts, as `pod -> address: outcome`.
    Mixed {
        /// One line for each attempt.
        attempts: Vec<String>,
    },
}

/// A cell for each client and target that says something.
pub type Matrix = BTreeMap<(App, Target), Cell>;

/// A matrix and how many connections were tried for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The matrix.
    pub matrix: Matrix,
    /// Connections tried.
    pub connections: usize,
}

/// The cells that are not what `expected` says, in words.
pub fn differences(matrix: &Matrix, expected: fn(&App, &Target) -> bool) -> Vec<String> {
    let wrong = matrix.iter().filter(|((client, target), cell)| {
        **cell
            != if expected(client, target) {
                Cell::Open
            } else {
                Cell::Closed
            }
    });
    wrong
        .map(|((client, target), cell)| format!("{} -> {}: {cell:?}", client.title, target.title()))
        .collect()
}

/// One connection to try.
struct Attempt {
    client: App,
    target: Target,
    label: String,
    netns: PathBuf,
    to: Probe,
}

enum Probe {
    Tcp(SocketAddr),
    DnsUdp(SocketAddr),
    DnsTcp(SocketAddr),
}

/// Tries every connection of the shop at once. `timeout` is how long an attempt without an answer counts as closed.
///
/// # Errors
/// When a client has no pods, a Service no address, or a pod's network namespace is not to be found.
pub fn measure(cluster: &Cluster, timeout: Duration) -> Result<Measured> {
    let attempts = plan(cluster)?;
    let results = probe::all_at_once(&attempts, |attempt| try_once(attempt, timeout));
    let connections = attempts.len();
    let mut by_cell: BTreeMap<(App, Target), Vec<(bool, String)>> = BTreeMap::new();
    for (attempt, open) in attempts.iter().zip(results) {
        let open = open?;
        let line = format!("{}: {}", attempt.label, if open { "open" } else { "closed" });
        by_cell
            .entry((attempt.client, attempt.target))
            .or_default()
            .push((open, line));
    }
    let cell = |attempts: Vec<(bool, String)>| match attempts.iter().filter(|(open, _)| *open).count() {
        0 => Cell::Closed,
        open if open == attempts.len() => Cell::Open,
        _ => Cell::Mixed {
            attempts: attempts.into_iter().map(|(_, line)| line).collect(),
        },
    };
    let matrix = by_cell
        .into_iter()
        .map(|(key, attempts)| (key, cell(attempts)))
        .collect();
    Ok(Measured { matrix, connections })
}

fn plan(cluster: &Cluster) -> Result<Vec<Attempt>> {
    let dns = SocketAddr::new(service_address(cluster, "kube-system", "kube-dns")?, 53);
    let mut pods: BTreeMap<App, Vec<(String, IpAddr)>> = BTreeMap::new();
    for client in CLIENTS {
        let found = pods_of(cluster, client.namespace, &format!("app={}", client.app))?;
        ensure!(
            !found.is_empty(),
            "no pod of {} in namespace {}: is the shop installed?",
            client.title,
            client.namespace
        );
        pods.insert(client, found);
    }
    let mut services: BTreeMap<App, IpAddr> = BTreeMap::new();
    for target in TARGETS {
        if let Target::Service(app, _) = target {
            services.insert(app, service_address(cluster, app.namespace, app.app)?);
        }
    }
    let known = Addresses {
        pods: &pods,
        services: &services,
        dns,
    };
    let mut attempts = Vec::new();
    for client in CLIENTS {
        for (pod, address) in &pods[&client] {
            let netns = cluster
                .pod_netns(*address)
                .with_context(|| format!("find the network of pod {pod}"))?;
            for target in TARGETS.iter().filter(|target| !target.may_be_self(&client)) {
                for to in known.endpoints(*target, *address) {
                    let at = match &to {
                        Probe::Tcp(at) | Probe::DnsUdp(at) | Probe::DnsTcp(at) => at,
                    };
                    let label = format!("{}/{pod} -> {} {at}", client.namespace, target.title());
                    attempts.push(Attempt {
                        client,
                        target: *target,
                        label,
                        netns: netns.clone(),
                        to,
                    });
                }
            }
        }
    }
    Ok(attempts)
}

/// Where everything is.
struct Addresses<'a> {
    pods: &'a BTreeMap<App, Vec<(String, IpAddr)>>,
    services: &'a BTreeMap<App, IpAddr>,
    dns: SocketAddr,
}

impl Addresses<'_> {
    /// What to connect to for a target, from a pod with address `own`.
    fn endpoints(&self, target: Target, own: IpAddr) -> Vec<Probe> {
        match target {
            Target::DnsUdp => vec![Probe::DnsUdp(self.dns)],
            Target::DnsTcp => vec![Probe::DnsTcp(self.dns)],
            Target::Service(app, port) => {
                // A Service chooses a pod by chance: a few tries meet them all, on this node and on the other.
                let at = SocketAddr::new(self.services[&app], port);
                (0..4).map(|_| Probe::Tcp(at)).collect()
            }
            Target::Pods(app, port) => {
                let others = self.pods[&app].iter().filter(|(_, address)| *address != own);
                others
                    .map(|(_, address)| Probe::Tcp(SocketAddr::new(*address, port)))
                    .collect()
            }
        }
    }
}

fn try_once(attempt: &Attempt, timeout: Duration) -> Result<bool> {
    let outcome = match attempt.to {
        Probe::Tcp(at) => probe::tcp_connect(&attempt.netns, at, timeout),
        Probe::DnsUdp(at) => probe::dns_udp(
            &attempt.netns,
            at,
            "kubernetes.default.svc.cluster.local",
            timeout,
        ),
        Probe::DnsTcp(at) => probe::dns_tcp(
            &attempt.netns,
            at,
            "kubernetes.default.svc.cluster.local",
            timeout,
        ),
    };
    Ok(outcome.with_context(|| attempt.label.clone())?.is_open())
}
