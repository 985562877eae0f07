//! The path that is measured: a client on one node, a server on the other, and the policies between them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringfence_tests::kube_objects::{apply, kubectl, output, pods_of};
use ringfence_tests::testbed::{Cluster, exec_in_netns};

const NAMESPACE: &str = "measured";
const PORT: u16 = 8081;
/// How often a new flow begins.
const EVERY: Duration = Duration::from_millis(2);
/// How long an answer takes at most, by far.
const ANSWER: Duration = Duration::from_millis(100);
/// When a change is given up.
const LIMIT: Duration = Duration::from_secs(30);
/// For how long packets must agree before a path counts as settled.
const SETTLED: Duration = Duration::from_millis(300);

/// The pods and policies that are measured.
pub(crate) struct Lab<'a> {
    cluster: &'a Cluster,
    client: PathBuf,
    server: SocketAddr,
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
        let nodes = cluster.nodes();
        let [a, b, ..] = nodes.as_slice() else {
            anyhow::bail!("the cluster has fewer than two nodes")
        };
        let text = OBJECTS
            .replace("NODE_A", &a.name)
            .replace("NODE_B", &b.name)
            .replace("IMAGE", ringfence_tests::testbed::AGNHOST_IMAGE);
        apply(cluster, &text)?;
        let wait = [
            "-n",
            NAMESPACE,
            "wait",
            "--for=condition=Ready",
            "pod",
            "--all",
            "--timeout=60s",
        ];
        kubectl(cluster, &wait)?;
        let address = |app: &str| -> Result<IpAddr> {
            let pods = pods_of(cluster, NAMESPACE, &format!("app={app}"))?;
            Ok(pods.first().with_context(|| format!("no pod {app}"))?.1)
        };
        Ok(Self {
            cluster,
            client: cluster.pod_netns(address("client")?)?,
            server: SocketAddr::new(address("server")?, PORT),
        })
    }

    /// The client gets access or loses it: a peer comes or goes. Returns how long that took to show, in milliseconds.
    pub(crate) fn client_may(&self, may: bool) -> Result<f64> {
        self.change("client", if may { "access=yes" } else { "access=no" }, may)
    }

    /// The server is selected by one more policy, or not any more: its chain changes.
    pub(crate) fn server_is_open(&self, open: bool) -> Result<f64> {
        self.change("server", if open { "open=yes" } else { "open=no" }, open)
    }

    fn change(&self, pod: &str, label: &str, opens: bool) -> Result<f64> {
        let done = AtomicBool::new(false);
        let attempts = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let probing = scope.spawn(|| exec_in_netns(&self.client, || self.probe(&done, &attempts)));
            let changed = self.label_and_wait(pod, label, opens, &attempts);
            done.store(true, Ordering::Relaxed);
            probing
                .join()
                .map_err(|_| anyhow::anyhow!("the probes failed"))???;
            changed
        })
    }

    fn label_and_wait(
        &self,
        pod: &str,
        label: &str,
        opens: bool,
        attempts: &Mutex<Vec<Attempt>>,
    ) -> Result<f64> {
        let started = Instant::now();
        let arguments = ["-n", NAMESPACE, "label", "--overwrite", "pod", pod, label];
        output(&mut self.cluster.kubectl(arguments))?;
        loop {
            ensure!(
                started.elapsed() < LIMIT,
                "{label} on {pod} did not show in the packets within {} s",
                LIMIT.as_secs()
            );
            std::thread::sleep(Duration::from_millis(5));
            let attempts = attempts
                .lock()
                .map_err(|_| anyhow::anyhow!("the probes failed"))?;
            if let Some(at) = settled(&attempts, opens) {
                return Ok(at.saturating_duration_since(started).as_secs_f64() * 1000.0);
            }
        }
    }

    /// Begins a new flow every few milliseconds, and notes which were answered.
    fn probe(&self, done: &AtomicBool, attempts: &Mutex<Vec<Attempt>>) -> Result<()> {
        let mut waiting: Vec<(UdpSocket, Instant, usize)> = Vec::new();
        while !done.load(Ordering::Relaxed) {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect(self.server)?;
            socket.set_nonblocking(true)?;
            // A rule that rejects may answer the send of an earlier packet; this one is the socket's first.
            let sent = Instant::now();
            socket.send(b"echo x")?;
            let mut attempts = attempts.lock().map_err(|_| anyhow::anyhow!("nobody listens"))?;
            waiting.push((socket, sent, attempts.len()));
            attempts.push(Attempt { sent, answered: None });
            waiting.retain(|(socket, sent, number)| {
                let answered = socket.recv(&mut [0; 16]).is_ok();
                let over = answered || sent.elapsed() > ANSWER;
                if over {
                    attempts[*number].answered = Some(answered);
                }
                !over
            });
            drop(attempts);
            std::thread::sleep(EVERY);
        }
        Ok(())
    }
}

/// A flow that began.
struct Attempt {
    sent: Instant,
    /// Whether it was answered, once that is known.
    answered: Option<bool>,
}

/// When the first flow began that met the new rules, if all that are known since did, for long enough.
fn settled(attempts: &[Attempt], opens: bool) -> Option<Instant> {
    let known: Vec<(Instant, bool)> = attempts
        .iter()
        .map_while(|attempt| Some((attempt.sent, attempt.answered?)))
        .collect();
    let last_old = known.iter().rposition(|(_, answered)| *answered != opens);
    let first_new = known.get(last_old.map_or(0, |at| at + 1))?.0;
    let last = known.last()?.0;
    (last.saturating_duration_since(first_new) >= SETTLED).then_some(first_new)
}
