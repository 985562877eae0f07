//! The cluster-wide default deny, seen with packets in a namespace that is created after it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use ringfence_tests::kube_objects::{self, get, pods_of};
use ringfence_tests::probe;
use ringfence_tests::shop;
use serde_json::{Value, json};

use crate::lab::{Lab, TIMEOUT};

const NEW: &str = "newcomer";
/// How often a namespace is made whose denials came late.
const TRIES: usize = 3;
const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

pub(crate) fn a_new_namespace_is_denied_within_a_second(lab: &Lab) -> Result<()> {
    lab.open_shop()?;
    apply(lab, &baseline())?;
    let ready = ["wait", "--for=condition=Ready", "ztb", "default", "--timeout=60s"];
    lab.kubectl(&ready)?;
    // The machine may have stood still once.
    let mut came = denied_after(lab)?;
    for _ in 1..TRIES {
        if came <= 1 {
            break;
        }
        lab.kubectl(&["delete", "namespace", NEW, "--timeout=60s"])?;
        came = denied_after(lab)?;
    }
    ensure!(
        came <= 1,
        "the denials came {came} s after their namespace, {TRIES} times"
    );
    no_packet_in_or_out(lab)?;
    lab.kubectl(&["delete", "ztb", "default"])?;
    lab.until("the namespace is open again", || {
        let names = lab.kubectl(&["-n", NEW, "get", "networkpolicies", "-o", "name"])?;
        Ok(names.is_empty())
    })?;
    lab.kubectl(&["delete", "namespace", NEW, "--timeout=60s"])
        .map(drop)
}

/// Creates the namespace. Returns how long after it the last denial came, by the API server's own clock, in whole seconds.
fn denied_after(lab: &Lab) -> Result<i64> {
    apply(
        lab,
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NEW}}),
    )?;
    let mut denials = Vec::new();
    lab.until("the new namespace is denied", || {
        let list = get(&lab.cluster, &["-n", NEW, "networkpolicies"])?;
        denials = list["items"].as_array().cloned().unwrap_or_default();
        denials.retain(|policy| {
            let name = policy["metadata"]["name"].as_str().unwrap_or_default();
            name.starts_with("ringfence-deny-")
        });
        Ok(denials.len() == 2)
    })?;
    let born = created(&get(&lab.cluster, &["namespace", NEW])?)?;
    let mut last = 0;
    for policy in &denials {
        last = last.max(created(policy)?.duration_since(born).as_secs());
    }
    Ok(last)
}

fn baseline() -> Value {
    json!({
        "apiVersion": "ringfence.dev/v1alpha1",
        "kind": "ZeroTrustBaseline",
        "metadata": {"name": "default"},
        "spec": {"mode": "Enforce", "exemptNamespaces": ["monitoring", "attacker", "default"]},
    })
}

fn created(object: &Value) -> Result<Timestamp> {
    let text = object["metadata"]["creationTimestamp"].as_str();
    Ok(text.context("no time of creation")?.parse()?)
}

/// A pod of the new namespace reaches nobody, and nobody reaches it.
fn no_packet_in_or_out(lab: &Lab) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "server", "namespace": NEW, "labels": {"app": "server"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{"name": "server", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                "args": ["porter"], "env": [{"name": "SERVE_PORT_8080", "value": "server"}]}],
        },
    });
    apply(lab, &pod)?;
    lab.kubectl(&[
        "-n",
        NEW,
        "wait",
        "--for=condition=Ready",
        "pod/server",
        "--timeout=60s",
    ])?;
    let address = |namespace: &str, app: &str| -> Result<IpAddr> {
        let pods = pods_of(&lab.cluster, namespace, &format!("app={app}"))?;
        Ok(pods.first().context("no pod")?.1)
    };
    let (server, attacker) = (
        address(NEW, "server")?,
        address(shop::ATTACKER.namespace, shop::ATTACKER.app)?,
    );
    for (from, to, port) in [(attacker, server, 8080), (server, attacker, 8080)] {
        let netns = lab.cluster.pod_netns(from)?;
        let outcome = probe::tcp_connect(&netns, SocketAddr::new(to, port), TIMEOUT)?;
        ensure!(!outcome.is_open(), "{from} reaches {to}:{port}");
    }
    Ok(())
}

fn apply(lab: &Lab, object: &Value) -> Result<()> {
    kube_objects::apply(&lab.cluster, &object.to_string())
}
