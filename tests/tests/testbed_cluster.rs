//! Whole clusters: killed half way, brought up twice, in every family. Takes root and minutes, so it runs only by name:
//! `cargo test -p ringfence-tests --test testbed_cluster`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_tests::probe::{self, Outcome};
use ringfence_tests::testbed::{AGNHOST_IMAGE, Cluster, ClusterOptions, IpFamily, ProxyMode, Silent, until};

const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(3);

/// Removes the cluster also when the test fails.
struct Named(
    String,
    #[allow(dead_code, reason = "held, not read")] MutexGuard<'static, ()>,
);

impl Named {
    /// One cluster at a time is what a machine with two cores takes.
    fn new(what: &str) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self(format!("{what}-{}", std::process::id()), turn)
    }

    fn options(&self) -> ClusterOptions {
        ClusterOptions::named(&self.0).unwrap()
    }

    fn state(&self) -> PathBuf {
        PathBuf::from(format!("/tmp/ringfence-{}", self.0))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Err(error) = Cluster::remove(&self.0, &Silent) {
            eprintln!("cluster {} is left behind: {error:#}", self.0);
        }
    }
}

/// Whatever on this machine still carries the cluster's name.
fn leftovers(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let list = |dir: &str| {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .map(|e| e.path())
    };
    let folders = list("/run/netns").chain(list("/tmp")).chain(
        list("/sys/fs/cgroup").flat_map(|hierarchy| list(hierarchy.to_str().unwrap()).collect::<Vec<_>>()),
    );
    found.extend(
        folders
            .map(|path| path.display().to_string())
            .filter(|path| path.contains(name)),
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(name))
            .map(str::to_owned),
    );
    for process in list("/proc").filter(|path| path.join("cmdline").exists()) {
        for file in ["cmdline", "environ", "cgroup"] {
            let text = fs::read(process.join(file)).unwrap_or_default();
            if String::from_utf8_lossy(&text).contains(name) {
                found.push(format!("{} {file}", process.display()));
            }
        }
    }
    found
}

/// The machine's init may take a moment to collect the last dead process.
fn assert_nothing_is_left(name: &str, when: &str) {
    let outcome = until("the machine to be clean", Duration::from_secs(10), PAUSE, || {
        Ok(leftovers(name).is_empty().then_some(()))
    });
    assert!(outcome.is_ok(), "{when}: {:?}", leftovers(name));
}

/// Not a test: what the next one starts in a process of its own, to kill it.
#[test]
#[ignore = "started by a test"]
fn up_in_a_process_of_its_own() {
    let name = std::env::var("RINGFENCE_TEST_CLUSTER").unwrap();
    Cluster::up(&ClusterOptions::named(&name).unwrap(), &Silent).unwrap();
}

#[test]
fn killed_at_any_stage_it_leaves_nothing_once_removed() {
    let cluster = Named::new("kill");
    // What a stage has made when it is over; the next one has begun.
    let netns = Path::new("/run/netns").join(format!("rf-{}-fabric", cluster.0));
    let record = |name: &str| cluster.state().join("processes").join(name);
    let stages = [
        netns,
        record("etcd"),
        cluster.state().join("ns/node-2"),
        record("containerd-node-2"),
        record("kube-scheduler"),
        record("kube-proxy-node-2"),
        cluster.state().join("node-1/pod-logs"),
    ];
    for stage in stages {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "up_in_a_process_of_its_own"])
            .env("RINGFENCE_TEST_CLUSTER", &cluster.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until(
            &stage.display().to_string(),
            PATIENCE,
            Duration::from_millis(2),
            || Ok(stage.exists().then_some(())),
        )
        .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            Cluster::attach(&cluster.0).is_err(),
            "a cluster killed at {} is taken for whole",
            stage.display()
        );
        assert!(Cluster::remove(&cluster.0, &Silent).unwrap());
        assert_nothing_is_left(&cluster.0, &format!("killed at {}", stage.display()));
    }
}

#[test]
fn a_second_up_takes_what_is_well_and_replaces_what_is_not() {
    let name = Named::new("twice");
    let options = ClusterOptions {
        nodes: 1,
        ..name.options()
    };
    let first = Cluster::up(&options, &Silent).unwrap();
    let second = Cluster::up(&options, &Silent).unwrap();
    assert_eq!(
        first.api_url(),
        second.api_url(),
        "a cluster in good health was made anew"
    );

    let processes = second.status().unwrap().processes;
    let kubelet = processes
        .iter()
        .find(|(name, ..)| name == "kubelet-node-1")
        .unwrap()
        .1;
    assert!(
        Command::new("kill")
            .args(["-9", &kubelet.to_string()])
            .status()
            .unwrap()
            .success()
    );
    until("the cluster to be seen unwell", PATIENCE, PAUSE, || {
        Ok((!second.status()?.healthy()).then_some(()))
    })
    .unwrap();
    let third = Cluster::up(&options, &Silent).unwrap();
    assert!(third.status().unwrap().healthy());

    third.down().unwrap();
    assert_nothing_is_left(&name.0, "after down");
}

/// A pod on every node that serves TCP on 8080 and UDP on 8081.
fn servers(cluster: &Cluster) -> Vec<Vec<IpAddr>> {
    for node in cluster.nodes() {
        let overrides = format!(r#"{{"spec":{{"nodeName":"{}"}}}}"#, node.name);
        let overrides = format!("--overrides={overrides}");
        let image = format!("--image={AGNHOST_IMAGE}");
        let line = [
            "run",
            &node.name,
            &image,
            &overrides,
            "--",
            "netexec",
            "--http-port=8080",
            "--udp-port=8081",
        ];
        kubectl(cluster, &line);
    }
    kubectl(
        cluster,
        &["wait", "pod", "--all", "--for=condition=Ready", "--timeout=60s"],
    );
    let addresses = |name: &str| {
        let text = kubectl(
            cluster,
            &["get", "pod", name, "-o", "jsonpath={.status.podIPs[*].ip}"],
        );
        text.split(' ').map(|ip| ip.parse().unwrap()).collect()
    };
    cluster.nodes().iter().map(|node| addresses(&node.name)).collect()
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.kubectl(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "kubectl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A server may be Ready a moment before its port is open to others; a path that stays closed is a failure.
fn opens(what: &str, mut attempt: impl FnMut() -> anyhow::Result<Outcome>) {
    until(what, Duration::from_secs(20), PAUSE, || {
        Ok(attempt()?.is_open().then_some(()))
    })
    .unwrap();
}

/// From every pod: every other pod by TCP and UDP, and, where Services work, DNS over both.
fn everybody_reaches_everybody(cluster: &Cluster, services: bool) {
    let pods = servers(cluster);
    let dns = kubectl(
        cluster,
        &[
            "-n",
            "kube-system",
            "get",
            "service",
            "kube-dns",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ],
    );
    let dns = SocketAddr::new(dns.parse().unwrap(), 53);
    for addresses in &pods {
        let netns = cluster.pod_netns(addresses[0]).unwrap();
        assert!(
            addresses
                .iter()
                .all(|ip| cluster.pod_netns(*ip).unwrap() == netns),
            "{addresses:?}"
        );
        for to in pods.iter().flatten() {
            opens("tcp", || probe::tcp_connect(&netns, (*to, 8080).into(), TIMEOUT));
            opens("udp", || probe::udp_echo(&netns, (*to, 8081).into(), TIMEOUT));
        }
        if services {
            let name = "kubernetes.default.svc.cluster.local";
            opens("DNS over UDP", || probe::dns_udp(&netns, dns, name, TIMEOUT));
            opens("DNS over TCP", || probe::dns_tcp(&netns, dns, name, TIMEOUT));
        }
    }
}

fn try_out(what: &str, nodes: u8, ip_family: IpFamily, proxy_mode: ProxyMode) {
    let name = Named::new(what);
    let options = ClusterOptions {
        nodes,
        ip_family,
        proxy_mode,
        ..name.options()
    };
    let cluster = Cluster::up(&options, &Silent).unwrap();
    for node in cluster.nodes() {
        let cidrs = kubectl(
            &cluster,
            &["get", "node", &node.name, "-o", "jsonpath={.spec.podCIDRs[*]}"],
        );
        let planned: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, planned.join(" "));
    }
    everybody_reaches_everybody(&cluster, proxy_mode != ProxyMode::None);
    cluster.down().unwrap();
    assert_nothing_is_left(&name.0, "after down");
}

#[test]
fn dual_stack_with_iptables() {
    try_out("dual", 2, IpFamily::Dual, ProxyMode::Iptables);
}

#[test]
fn ipv6_with_nftables() {
    try_out("six", 2, IpFamily::Ipv6, ProxyMode::Nftables);
}

#[test]
fn three_nodes_without_kube_proxy() {
    try_out("none", 3, IpFamily::Ipv4, ProxyMode::None);
}
