//! Calls to Services of every kind, by every door and from everywhere, against what the policy engine foretells.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ringfence_policy::{
    Door, ObjectKey, Protocol, Service, ServiceCall, ServiceKind, ServiceVerdict, World, evaluate_service,
};
use ringfence_tests::kube_objects::{kubectl, output};
use ringfence_tests::probe::{self, Caller, all_at_once};
use ringfence_tests::scenario::{Outside, read_world};
use ringfence_tests::source;
use ringfence_tests::testbed::Cluster;

pub(crate) const NAME: &str = "services::calls_by_every_door_go_as_the_engine_foretells";

const NAMESPACE: &str = "services";
/// Two callers outside: one that the servers' policy names and one that it does not, in each family.
const CALLERS: [&str; 4] = ["203.0.113.7", "203.0.113.8", "2001:db8:113::7", "2001:db8:113::8"];
/// The backend of the Service without a selector.
const BACKEND: &str = "198.51.100.66:8080";
/// What the test writes as the balancers' addresses.
const BALANCERS: [(&str, [&str; 2]); 2] = [
    ("balancer", ["192.0.2.80", "2001:db8:80::80"]),
    ("balancer-local", ["192.0.2.81", "2001:db8:80::81"]),
];

const DEADLINE: Duration = Duration::from_secs(90);
/// Below the second after which TCP sends its first packet again.
const TIMEOUT: Duration = Duration::from_millis(900);
/// A Service chooses a backend by chance: so often a call is tried to meet them all.
const TRIES: usize = 5;

/// What became of several tries of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    Closed,
    /// It depends on the backend.
    Mixed,
}

/// A call to try.
struct Attempt {
    label: String,
    foretold: Outcome,
    why: String,
    caller: Caller,
    to: SocketAddr,
}

/// Who calls.
struct Source {
    name: String,
    address: IpAddr,
    netns: PathBuf,
    is_outside: bool,
}

/// Applies the fixture and waits for its pods; without policies yet.
pub(crate) fn prepare(cluster: &Cluster) -> Result<()> {
    kubectl(cluster, &["apply", "-f", &fixture("services.yaml")])?;
    for (service, addresses) in BALANCERS {
        let ingress = addresses
            .map(|address| format!(r#"{{"ip":"{address}"}}"#))
            .join(",");
        let patch = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{ingress}]}}}}}}"#);
        let service = format!("service/{service}");
        let patch = [
            "patch",
            &service,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ];
        kubectl(cluster, &[&["-n", NAMESPACE], &patch[..]].concat())?;
    }
    Ok(())
}

pub(crate) fn calls_go_as_foretold(cluster: &Cluster) -> Result<()> {
    let wait = ["wait", "--for=condition=Ready", "pods", "--all", "--timeout=600s"];
    kubectl(cluster, &[&["-n", NAMESPACE], &wait[..]].concat())?;
    let callers: Vec<IpAddr> = CALLERS
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let outside = Outside::open(cluster, callers, [BACKEND.parse()?])?;
    settle(cluster, &outside).context("without policies")?;
    kubectl(cluster, &["apply", "-f", &fixture("service-policies.yaml")])?;
    let tried = settle(cluster, &outside).context("with policies")?;
    // Both must be common, or little was compared.
    for outcome in [Outcome::Open, Outcome::Closed, Outcome::Mixed] {
        let count = tried.iter().filter(|tried| **tried == outcome).count();
        ensure!(
            count >= 8,
            "only {count} of {} calls are {outcome:?}",
            tried.len()
        );
    }
    println!("{} calls to Services as foretold", tried.len());
    Ok(())
}

fn fixture(name: &str) -> String {
    source::path(&format!("tests/tests/scenarios/{name}"))
}

/// Tries all calls until each is as foretold; gives what they came to.
fn settle(cluster: &Cluster, outside: &Outside) -> Result<Vec<Outcome>> {
    let started = Instant::now();
    loop {
        let world = read_world(cluster)?;
        let mut outcomes = Vec::new();
        let mut wrong = Vec::new();
        // Packets from outside come in by the node that the addresses are routed to: one after the other.
        for node in cluster.nodes() {
            route_outside_addresses(cluster, &world, &node.name)?;
            let attempts = plan(cluster, &world, outside, &node.name)?;
            let seen = all_at_once(&attempts, try_often);
            for (attempt, seen) in attempts.iter().zip(seen) {
                let seen = seen?;
                outcomes.push(seen);
                if seen != attempt.foretold {
                    wrong.push(format!(
                        "{}: seen {seen:?}, foretold {:?}\n    {}",
                        attempt.label, attempt.foretold, attempt.why
                    ));
                }
            }
        }
        if wrong.is_empty() {
            return Ok(outcomes);
        }
        if started.elapsed() > DEADLINE {
            bail!(
                "{} of {} calls differ:\n{}",
                wrong.len(),
                outcomes.len(),
                wrong[..wrong.len().min(12)].join("\n")
            );
        }
    }
}

/// Tries a call until its outcome is known: both kinds were seen, or one kind often enough.
fn try_often(attempt: &Attempt) -> Result<Outcome> {
    // Where both must be seen, chance may hide one for a while.
    let tries = if attempt.foretold == Outcome::Mixed {
        8 * TRIES
    } else {
        TRIES
    };
    let (mut open, mut closed) = (false, false);
    for _ in 0..tries {
        let passed = probe::tcp_connect_from(&attempt.caller, attempt.to, TIMEOUT)
            .with_context(|| attempt.label.clone())?
            .is_open();
        open |= passed;
        closed |= !passed;
        if open && closed {
            return Ok(Outcome::Mixed);
        }
    }
    Ok(if open { Outcome::Open } else { Outcome::Closed })
}

fn plan(cluster: &Cluster, world: &World, outside: &Outside, by: &str) -> Result<Vec<Attempt>> {
    let sources = sources(cluster, world, outside)?;
    let services = world
        .services
        .values()
        .filter(|service| service.key.namespace == NAMESPACE);
    let mut attempts = Vec::new();
    for service in services {
        for port in &service.ports {
            for source in &sources {
                for (door, to) in doors(world, service, port.port, source, by) {
                    attempts.push(attempt(world, service, port.port, source, &door, to));
                }
            }
        }
    }
    Ok(attempts)
}

/// The pods, the nodes themselves, and the callers outside.
fn sources(cluster: &Cluster, world: &World, outside: &Outside) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for name in ["client-1", "client-2", "server-1"] {
        let pod = world.pods.get(&ObjectKey::new(NAMESPACE, name));
        let pod = pod.with_context(|| format!("there is no pod {NAMESPACE}/{name}"))?;
        for address in &pod.addresses {
            sources.push(Source {
                name: name.to_owned(),
                address: *address,
                netns: cluster.pod_netns(*address)?,
                is_outside: false,
            });
        }
    }
    for node in cluster.nodes() {
        for address in &node.ips {
            sources.push(Source {
                name: node.name.clone(),
                address: *address,
                netns: node.netns.clone(),
                is_outside: false,
            });
        }
    }
    for text in CALLERS {
        sources.push(Source {
            name: "outside".to_owned(),
            address: text.parse()?,
            netns: outside.netns().clone(),
            is_outside: true,
        });
    }
    Ok(sources)
}

/// Every way in which a caller can dial the port of the Service, with the address that is dialled.
fn doors(world: &World, service: &Service, port: u16, source: &Source, by: &str) -> Vec<(Door, SocketAddr)> {
    let family = |address: &&IpAddr| address.is_ipv4() == source.address.is_ipv4();
    let mut doors = Vec::new();
    let first = world.nodes.keys().next().map(String::as_str);
    let name = |address: &IpAddr| (Door::Name, SocketAddr::new(*address, port));
    match service.kind {
        // The way to a name is the same whatever node the outside is routed to: once is enough.
        _ if first != Some(by) => {}
        // Its name stands for its backends, one of which is dialled.
        ServiceKind::Headless => doors.extend(backends(world, service).iter().filter(family).map(name)),
        // Nobody outside has a route to a virtual address.
        _ if source.is_outside => {}
        _ => doors.extend(service.cluster_ips.iter().filter(family).map(name)),
    }
    let number = service.ports.iter().find(|listed| listed.port == port);
    let number = number.and_then(|listed| listed.node_port);
    if let (Some(number), Some(node)) = (number, world.nodes.get(by)) {
        let address = node.addresses.iter().find(family);
        doors.extend(address.map(|address| {
            let door = Door::NodePort { node: by.to_owned() };
            (door, SocketAddr::new(*address, number))
        }));
    }
    let external = service.external_ips.iter().filter(family);
    doors.extend(external.map(|address| {
        let door = Door::External { node: by.to_owned() };
        (door, SocketAddr::new(*address, port))
    }));
    doors
}

fn backends(world: &World, service: &Service) -> Vec<IpAddr> {
    let slices = world.endpoint_slices.values();
    let own = slices.filter(|slice| slice.service == service.key.name && slice.key.namespace == NAMESPACE);
    own.flat_map(|slice| slice.endpoints.iter().map(|endpoint| endpoint.address))
        .collect()
}

fn attempt(
    world: &World,
    service: &Service,
    port: u16,
    source: &Source,
    door: &Door,
    to: SocketAddr,
) -> Attempt {
    let verdict = evaluate_service(
        world,
        &ServiceCall {
            source: source.address,
            service: service.key.clone(),
            protocol: Protocol::Tcp,
            port,
            door: door.clone(),
        },
    );
    // A headless Service's backend was chosen by dialling it.
    let verdict = match verdict {
        ServiceVerdict::Backends(backends) if service.kind == ServiceKind::Headless => {
            let dialled = backends.into_iter().filter(|backend| backend.address == to.ip());
            ServiceVerdict::Backends(dialled.collect())
        }
        verdict => verdict,
    };
    Attempt {
        label: format!(
            "{} {} -> {} port {port} at {to} ({door:?})",
            source.name, source.address, service.key
        ),
        foretold: match &verdict {
            verdict if verdict.is_mixed() => Outcome::Mixed,
            verdict if verdict.allowed() => Outcome::Open,
            _ => Outcome::Closed,
        },
        why: format!("{verdict:?}"),
        caller: Caller {
            netns: source.netns.clone(),
            source: Some(source.address),
        },
        to,
    }
}

/// Makes the outside send the Services' external addresses to this node.
fn route_outside_addresses(cluster: &Cluster, world: &World, node: &str) -> Result<()> {
    let node = world
        .nodes
        .get(node)
        .with_context(|| format!("there is no node {node}"))?;
    let external: BTreeMap<IpAddr, IpAddr> = world
        .services
        .values()
        .flat_map(|service| &service.external_ips)
        .filter_map(|external| {
            let same = |address: &&IpAddr| address.is_ipv4() == external.is_ipv4();
            Some((*external, *node.addresses.iter().find(same)?))
        })
        .collect();
    for (external, via) in external {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", cluster.control_plane_netns().display()));
        command.args([
            "ip",
            "route",
            "replace",
            &external.to_string(),
            "via",
            &via.to_string(),
        ]);
        output(&mut command)?;
    }
    Ok(())
}
