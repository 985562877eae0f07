//! The path that is measured: a client on one node, a server on the other, and the policies between them.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use ringfence_tests::kube_objects::output;
use ringfence_tests::testbed::{Cluster, exec_in_netns};

use crate::common::packets::Path;

const NAMESPACE: &str = "measured";

/// A change of a label, in milliseconds.
pub(crate) struct Change {
    /// From the start of kubectl until packets showed it.
    pub(crate) shown: f64,
    /// From the start of kubectl to its end. The API server knows of the change before that.
    pub(crate) kubectl: f64,
}

/// The pods and policies that are measured.
pub(crate) struct Lab<'a> {
    cluster: &'a Cluster,
    path: Path,
}

/// The server is isolated for ingress by ten policies, one of which lets those in that have access; the client is
/// isolated for egress, and may go everywhere.
const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: measured}
---
apiVersion: v1
kind: Pod
metadata: {namespace: measured, name: server, labels: {app: server, open: "no"}}
spec:
  nodeName: NODE_B
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: IMAGE, imagePullPolicy: IfNotPresent, args: [netexec, --http-port=8080, --udp-port=8081]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: measured, name: client, labels: {app: client, access: "no"}}
spec:
  nodeName: NODE_A
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: IMAGE, imagePullPolicy: IfNotPresent, args: [pause]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: measured, name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: measured, name: access}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{namespaceSelector: {}, podSelector: {matchLabels: {access: "yes"}}}]
    ports: [{port: 8081, protocol: UDP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: measured, name: open}
spec:
  podSelector: {matchLabels: {open: "yes"}}
  ingress:
  - from: [{podSelector: {}}]
    ports: [{port: 8081, protocol: UDP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: measured, name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{namespaceSelector: {}}]}]
"#;

impl<'a> Lab<'a> {
    pub(crate) fn start(cluster: &'a Cluster) -> Result<Self> {
        let path = Path::start(cluster, NAMESPACE, OBJECTS)?;
        forget_flows(cluster)?;
        Ok(Self { cluster, path })
    }

    /// The client gets access or loses it: a peer comes or goes.
    pub(crate) fn client_may(&self, may: bool) -> Result<Change> {
        self.change("client", if may { "access=yes" } else { "access=no" }, may)
    }

    /// The server is selected by one more policy, or not any more: its chain changes.
    pub(crate) fn server_is_open(&self, open: bool) -> Result<Change> {
        self.change("server", if open { "open=yes" } else { "open=no" }, open)
    }

    fn change(&self, pod: &str, label: &str, opens: bool) -> Result<Change> {
        let mut kubectl = 0.0;
        let shown = self.path.change(opens, || {
            let arguments = ["-n", NAMESPACE, "label", "--overwrite", "pod", pod, label];
            let started = Instant::now();
            output(&mut self.cluster.kubectl(arguments))?;
            kubectl = started.elapsed().as_secs_f64() * 1000.0;
            Ok(())
        })?;
        Ok(Change { shown, kubectl })
    }
}

/// Lets the nodes forget flows a second after their last packet. Otherwise each change would end, or let through again, ten
/// thousand that nothing but the measurement began.
fn forget_flows(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        for setting in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            let file = format!("/proc/sys/net/netfilter/{setting}");
            exec_in_netns(&node.netns, || fs::write(&file, "1"))?
                .with_context(|| format!("write {file} on {}", node.name))?;
        }
    }
    Ok(())
}
