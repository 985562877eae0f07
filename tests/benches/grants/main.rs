//! From a grant to the packets, in a large cluster: `cargo bench -p ringfence-tests --bench grants`.
//!
//! A real two-node cluster with all of Ringfence on it, and namespaces with everything in them whose pods are on nodes that do not
//! exist. Measured from outside: from the start of `kubectl apply` of one ServiceAccess to the first packet that passes, and
//! from the start of `kubectl delete` to the first that does not.
//!
//! ```text
//!   kubectl ─► API server ─► operator ─► two NetworkPolicies ─► API server ─► enforcers of two nodes ─► packets
//! ```
//!
//! The same is measured before the fill, so that the ratio shows what the size of the cluster costs.
//!
//! `RINGFENCE_BENCH_NAMESPACES` and `_CHANGES` set the size; `_KEEP` leaves the cluster up.

#[path = "../common/mod.rs"]
mod common;

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::api::connect;
use common::figures::{Figures, line};
use common::packets::Path;
use common::{namespaces, number};
use ringfence_tests::kube_objects::{kubectl, output};
use ringfence_tests::source;
use ringfence_tests::testbed::{Cluster, ClusterOptions, Console, Progress, step};
use tokio::runtime::Runtime;

const CLUSTER: &str = "grants";
const NAMESPACE: &str = "measured";
/// When it is given up that everything becomes Ready.
const LIMIT: Duration = Duration::from_secs(600);

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: measured}
---
apiVersion: v1
kind: Service
metadata: {namespace: measured, name: server}
spec:
  selector: {app: server}
  ports: [{name: echo, port: 81, protocol: UDP, targetPort: 8081}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: measured, name: server, labels: {app: server}}
spec:
  nodeName: NODE_B
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: IMAGE, imagePullPolicy: IfNotPresent, args: [netexec, --http-port=8080, --udp-port=8081]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: measured, name: client, labels: {app: client}}
spec:
  nodeName: NODE_A
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: IMAGE, imagePullPolicy: IfNotPresent, args: [pause]}]
---
apiVersion: ringfence.dev/v1alpha1
kind: ZeroTrustNamespace
metadata: {namespace: measured, name: default}
spec: {mode: Enforce}
"#;

const GRANT: &str = r#"
apiVersion: ringfence.dev/v1alpha1
kind: ServiceAccess
metadata: {namespace: measured, name: server}
spec:
  targetRef: {name: server}
  clients: [{podSelector: {matchLabels: {app: client}}}]
"#;

fn main() -> Result<()> {
    let (count, changes) = (number("NAMESPACES", 1000)?, number("CHANGES", 50)?);
    let console = Console::default();
    let cluster = ringfence_tests::deploy::bring_up(&ClusterOptions::named(CLUSTER)?, &console)?;
    let measured = measure(&cluster, count, changes, &console);
    if env::var_os("RINGFENCE_BENCH_KEEP").is_none() {
        Cluster::remove(CLUSTER, &console)?;
    }
    measured
}

fn measure(cluster: &Cluster, count: usize, changes: usize, progress: &dyn Progress) -> Result<()> {
    let path = step(progress, "start the pods that are measured", || start(cluster))?;
    let few = step(progress, "grant and take back in a small cluster", || {
        grants(cluster, &path, changes)
    })?;
    let what = format!(
        "fill the cluster: {count} namespaces, {} pods",
        count * namespaces::PODS
    );
    step(progress, &what, || {
        let runtime = Runtime::new().context("start a runtime")?;
        let client = runtime.block_on(connect(&cluster.kubeconfig()))?;
        runtime.block_on(namespaces::nodes(&client, count))?;
        runtime.block_on(namespaces::fill(&client, count))
    })?;
    step(progress, "wait until it comes to rest", || settle(cluster, count))?;
    let many = step(progress, "grant and take back in a large cluster", || {
        grants(cluster, &path, changes)
    })?;
    line(
        "kubectl apply of a ServiceAccess to packets that pass",
        &few.0,
        &many.0,
        "ms",
    );
    line(
        "kubectl delete of it to packets that do not",
        &few.1,
        &many.1,
        "ms",
    );
    println!("\ntarget: p50 400 ms");
    Ok(())
}

fn start(cluster: &Cluster) -> Result<Path> {
    let path = Path::start(cluster, NAMESPACE, OBJECTS)?;
    let ready = [
        "-n",
        NAMESPACE,
        "wait",
        "--for=condition=Ready",
        "ztn/default",
        "--timeout=60s",
    ];
    kubectl(cluster, &ready)?;
    Ok(path)
}

/// What grants took until they showed, and their ends.
fn grants(cluster: &Cluster, path: &Path, changes: usize) -> Result<(Figures, Figures)> {
    let file = source::root().join("target/grant.yaml");
    std::fs::write(&file, GRANT)?;
    let file = file.display().to_string();
    let (mut given, mut taken) = (Vec::new(), Vec::new());
    for _ in 0..changes {
        given.push(path.change(true, || {
            output(&mut cluster.kubectl(["apply", "-f", &file])).map(drop)
        })?);
        taken.push(path.change(false, || {
            output(&mut cluster.kubectl(["delete", "--wait=false", "-f", &file])).map(drop)
        })?);
    }
    Ok((Figures::of(given), Figures::of(taken)))
}

/// Waits until every namespace has its policies.
fn settle(cluster: &Cluster, count: usize) -> Result<()> {
    let (started, mut before) = (Instant::now(), 0);
    loop {
        let policies = kubectl(cluster, &["get", "networkpolicies", "-A", "-o", "name"])?
            .lines()
            .count();
        if policies == before && policies >= count * namespaces::POLICIES {
            return Ok(());
        }
        ensure!(
            started.elapsed() < LIMIT,
            "{policies} policies after {} s",
            LIMIT.as_secs()
        );
        before = policies;
        std::thread::sleep(Duration::from_secs(5));
    }
}
