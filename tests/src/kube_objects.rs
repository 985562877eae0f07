//! Small questions about a cluster's objects, asked with kubectl as a user would.

use std::net::IpAddr;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::testbed::{Cluster, run_with_input};

/// The longest that a cluster takes to make a namespace's ServiceAccount.
const ACCOUNT: Duration = Duration::from_mins(1);

/// Runs kubectl and gives what it printed.
///
/// # Errors
/// When it cannot be started, or fails: with its own words.
pub fn kubectl(cluster: &Cluster, args: &[&str]) -> Result<String> {
    output(&mut cluster.kubectl(args))
}

/// Runs a command and gives what it printed.
///
/// # Errors
/// When it cannot be started, or fails: with its own words.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("start {shown}"))?;
    if !output.status.success() {
        bail!(
            "{shown} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} printed no text"))
}

/// Applies objects, as YAML or JSON.
///
/// # Errors
/// When kubectl fails: with its own words.
pub fn apply(cluster: &Cluster, objects: &str) -> Result<()> {
    with_account(|| run_with_input(&mut cluster.kubectl(["apply", "-f", "-"]), objects).map(drop))
}

/// Does it again while the cluster has not made a new namespace's ServiceAccount: until then its pods are refused.
pub(crate) fn with_account<T>(mut create: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match create() {
            Err(error)
                if format!("{error:#}").contains("error looking up service account")
                    && started.elapsed() < ACCOUNT =>
            {
                sleep(Duration::from_millis(500));
            }
            done => return done,
        }
    }
}

/// An object, or a list of them, as JSON.
///
/// # Errors
/// When kubectl fails.
pub fn get(cluster: &Cluster, args: &[&str]) -> Result<Value> {
    let text = kubectl(cluster, &[&["get", "-o", "json"], args].concat())?;
    serde_json::from_str(&text).context("kubectl printed no JSON")
}

/// Running pods by label, each with its first address, sorted by name.
///
/// # Errors
/// When kubectl fails or a pod has no address yet.
pub fn pods_of(cluster: &Cluster, namespace: &str, selector: &str) -> Result<Vec<(String, IpAddr)>> {
    let list = get(cluster, &["pods", "-n", namespace, "-l", selector])?;
    let items = list["items"].as_array().context("kubectl printed no list")?;
    let living = items
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let mut pods = living
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let address = pod["status"]["podIP"].as_str().unwrap_or_default();
            let address = address
                .parse()
                .with_context(|| format!("pod {namespace}/{name} has no address yet"))?;
            Ok((name, address))
        })
        .collect::<Result<Vec<_>>>()?;
    pods.sort();
    Ok(pods)
}

/// The cluster address of a Service.
///
/// # Errors
/// When there is no such Service or it has none.
pub fn service_address(cluster: &Cluster, namespace: &str, name: &str) -> Result<IpAddr> {
    let service = get(cluster, &["service", "-n", namespace, name])?;
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    ensure!(address != "None", "Service {namespace}/{name} is headless");
    address
        .parse()
        .with_context(|| format!("Service {namespace}/{name} has no cluster address"))
}
