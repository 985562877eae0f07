//! Fills the API server: nodes that do not exist, pods on them, and policies that name them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Client;
use kube::api::{Patch, PatchParams};
use ringfence_tests::testbed::Cluster;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::common::api::{AT_ONCE, connect, create, each};

const NAMESPACES: usize = 50;
const PODS_PER_NODE: usize = 100;

/// The API server, for many requests.
pub(crate) struct Api {
    runtime: Runtime,
    client: Client,
}

impl Api {
    pub(crate) fn connect(cluster: &Cluster) -> Result<Self> {
        let runtime = Runtime::new().context("start a runtime")?;
        let client = runtime.block_on(connect(&cluster.kubeconfig()))?;
        Ok(Self { runtime, client })
    }

    /// So many pods of nodes that do not exist, in 50 namespaces, and so many policies for them. A fifth of the pods is
    /// named by what is measured, too.
    pub(crate) fn fill(&self, pods: usize, policies: usize) -> Result<()> {
        self.runtime.block_on(async {
            let namespaces: kube::Api<Namespace> = kube::Api::all(self.client.clone());
            create(NAMESPACES, |number| (namespaces.clone(), namespace(number)))
                .await?;
            let nodes: kube::Api<Node> = kube::Api::all(self.client.clone());
            create(pods.div_ceil(PODS_PER_NODE), |number| (nodes.clone(), node(number)))
                .await?;
            create(policies, |number| {
                let namespace = namespace_of(number);
                (kube::Api::<NetworkPolicy>::namespaced(self.client.clone(), &namespace), policy(number))
            })
            .await?;
            create(pods, |number| (self.pods(number), pod(number))).await?;
            each(pods, |number| async move {
                let running = json!({"status": {"phase": "Running", "podIP": address(number), "podIPs": [{"ip": address(number)}]}});
                let name = pod_name(number);
                let patch = Patch::Merge(running);
                self.pods(number).patch_status(&name, &PatchParams::default(), &patch).await?;
                Ok(())
            })
            .await
        })
    }

    /// Changes a label of so many pods a second, each time of another, which takes them out of peers or puts them in.
    /// Returns how many were changed.
    pub(crate) fn change_pods(&self, pods: usize, rate: u32, time: Duration) -> Result<usize> {
        let started = Instant::now();
        let every = Duration::from_secs(1) / rate;
        let total = u32::try_from(time.as_millis() / every.as_millis())?;
        self.runtime.block_on(async {
            let changes = stream::iter(0..total).map(|change| async move {
                let due = started + every * change;
                tokio::time::sleep_until(due.into()).await;
                let number = usize::try_from(change)? % pods;
                let may = if (usize::try_from(change)? / pods).is_multiple_of(2) == number.is_multiple_of(5) {
                    "no"
                } else {
                    "yes"
                };
                let patch = Patch::Merge(json!({"metadata": {"labels": {"access": may}}}));
                self.pods(number)
                    .patch(&pod_name(number), &PatchParams::default(), &patch)
                    .await?;
                Ok::<_, anyhow::Error>(())
            });
            let made: Vec<()> = changes.buffered(AT_ONCE).try_collect().await?;
            Ok(made.len())
        })
    }

    fn pods(&self, number: usize) -> kube::Api<Pod> {
        kube::Api::namespaced(self.client.clone(), &namespace_of(number))
    }
}

fn namespace_of(number: usize) -> String {
    format!("load-{}", number % NAMESPACES)
}

fn pod_name(number: usize) -> String {
    format!("pod-{number}")
}

/// An address outside the cluster's own pod range.
fn address(number: usize) -> String {
    format!("10.200.{}.{}", number / 250, number % 250 + 1)
}

fn namespace(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace_of(number), "labels": {"load": "yes"}}})
}

fn node(number: usize) -> Value {
    // Without an operating system's label no DaemonSet wants to run there.
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("load-{number}")}, "spec": {"unschedulable": true}})
}

fn pod(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(number),
            "labels": {"app": format!("app-{}", number / NAMESPACES % 10), "access": if number.is_multiple_of(5) { "yes" } else { "no" }},
        },
        "spec": {
            "nodeName": format!("load-{}", number / PODS_PER_NODE),
            // Its node never says that it lives.
            "tolerations": [{"operator": "Exists"}],
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
    })
}

/// Policies as they are written: a name of a port, pods of the namespace and of others.
fn policy(number: usize) -> Value {
    let app = number / NAMESPACES % 10;
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("policy-{number}")},
        "spec": {
            "podSelector": {"matchLabels": {"app": format!("app-{app}")}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "from": [
                    {"podSelector": {"matchLabels": {"app": format!("app-{}", (app + 1) % 10)}}},
                    {"namespaceSelector": {"matchLabels": {"load": "yes"}}, "podSelector": {"matchLabels": {"app": "app-0"}}},
                ],
                "ports": [{"port": "http"}],
            }],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": format!("app-{}", (app + 3) % 10)}}}], "ports": [{"port": "http"}]}],
        },
    })
}
