//! When a change shows in the packets: new UDP flows, one every few milliseconds, from a client's pod to a server.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ringfence_tests::kube_objects::{apply, kubectl, pods_of};
use ringfence_tests::testbed::{AGNHOST_IMAGE, Cluster, exec_in_netns};

/// Where the server listens.
const PORT: u16 = 8081;
/// How often a new flow begins.
const EVERY: Duration = Duration::from_millis(2);
/// How long an answer takes at most, by far.
const ANSWER: Duration = Duration::from_millis(100);
/// When a change is given up.
const LIMIT: Duration = Duration::from_secs(30);
/// For how long packets must agree before a path counts as settled.
const SETTLED: Duration = Duration::from_millis(300);

/// A way for packets that opens and closes.
pub(crate) struct Path {
    /// The client's network namespace.
    client: PathBuf,
    /// An echo server.
    server: SocketAddr,
}

impl Path {
    /// Applies objects, among them the pods `client` and `server` on NODE_A and NODE_B, of IMAGE, and waits for these.
    pub(crate) fn start(cluster: &Cluster, namespace: &str, objects: &str) -> Result<Self> {
        let nodes = cluster.nodes();
        let [a, b, ..] = nodes.as_slice() else {
            bail!("the cluster has fewer than two nodes")
        };
        let text = objects
            .replace("NODE_A", &a.name)
            .replace("NODE_B", &b.name)
            .replace("IMAGE", AGNHOST_IMAGE);
        apply(cluster, &text)?;
        let ready = [
            "-n",
            namespace,
            "wait",
            "--for=condition=Ready",
            "pod",
            "--all",
            "--timeout=60s",
        ];
        kubectl(cluster, &ready)?;
        let address = |app: &str| -> Result<IpAddr> {
            let pods = pods_of(cluster, namespace, &format!("app={app}"))?;
            Ok(pods.first().with_context(|| format!("no pod {app}"))?.1)
        };
        Ok(Self {
            client: cluster.pod_netns(address("client")?)?,
            server: SocketAddr::new(address("server")?, PORT),
        })
    }

    /// Changes something that opens the way, or closes it. How long that took to show, in milliseconds, from the start of the
    /// change on.
    pub(crate) fn change(&self, opens: bool, act: impl FnOnce() -> Result<()>) -> Result<f64> {
        let done = AtomicBool::new(false);
        let attempts = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let probing = scope.spawn(|| exec_in_netns(&self.client, || self.probe(&done, &attempts)));
            let changed = act_and_wait(opens, act, &attempts);
            done.store(true, Ordering::Relaxed);
            probing
                .join()
                .map_err(|_| anyhow::anyhow!("the probes failed"))???;
            changed
        })
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

fn act_and_wait(
    opens: bool,
    act: impl FnOnce() -> Result<()>,
    attempts: &Mutex<Vec<Attempt>>,
) -> Result<f64> {
    let started = Instant::now();
    act()?;
    loop {
        ensure!(
            started.elapsed() < LIMIT,
            "the change did not show in the packets within {} s",
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
