//! The enforcers' processes: what they cost.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence_tests::deploy::enforcer_process;
use ringfence_tests::kube_objects::kubectl;
use ringfence_tests::probe;
use ringfence_tests::testbed::{Cluster, Node};

use crate::common::figures::Figures;
use crate::common::process::{cpu_of, memory_of};

/// When a restart is given up.
const LIMIT: Duration = Duration::from_secs(120);

/// The enforcers of a cluster.
pub(crate) struct Enforcers<'a> {
    cluster: &'a Cluster,
    nodes: Vec<Node>,
}

impl<'a> Enforcers<'a> {
    pub(crate) fn find(cluster: &'a Cluster) -> Result<Self> {
        // Not what is measured, and the machine has few cores.
        let away = [
            "-n",
            "ringfence-system",
            "scale",
            "deployment/ringfence-operator",
            "--replicas=0",
        ];
        kubectl(cluster, &away)?;
        Ok(Self {
            cluster,
            nodes: cluster.nodes(),
        })
    }

    /// Waits until they have nothing to do.
    pub(crate) fn settle(&self) -> Result<()> {
        let started = Instant::now();
        while self.cpu_share(Duration::from_secs(3))? > 3.0 {
            anyhow::ensure!(started.elapsed() < LIMIT, "the enforcers do not come to rest");
        }
        Ok(())
    }

    /// The processor time that all of them have used, with the processes that they started.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.nodes
            .iter()
            .map(|node| cpu_of(enforcer_process(node)?))
            .sum()
    }

    /// What one of them uses of a core, in percent, while time passes.
    pub(crate) fn cpu_share(&self, time: Duration) -> Result<f64> {
        let before = self.cpu()?;
        sleep(time);
        let nodes = f64::from(u32::try_from(self.nodes.len())?);
        Ok((self.cpu()? - before).as_secs_f64() / time.as_secs_f64() * 100.0 / nodes)
    }

    /// The most that one of them holds in memory, in MB.
    pub(crate) fn memory(&self) -> Result<f64> {
        let sizes = self.nodes.iter().map(|node| memory_of(enforcer_process(node)?));
        sizes
            .collect::<Result<Vec<f64>>>()
            .map(|sizes| sizes.into_iter().fold(0.0, f64::max))
    }

    /// Kills the first node's enforcer so many times. Returns what each start said it took to be in sync, in
    /// milliseconds.
    pub(crate) fn restart(&self, times: usize) -> Result<Figures> {
        let node = self.nodes.first().context("no node")?;
        let mut took = Vec::new();
        for _ in 0..times {
            let old = enforcer_process(node)?;
            kill(Pid::from_raw(old), Signal::SIGKILL).context("kill the enforcer")?;
            // A kubelet waits longer and longer before it starts a container again; a new pod starts at once.
            let on_node = format!("spec.nodeName={}", node.name);
            let delete = [
                "-n",
                "ringfence-system",
                "delete",
                "pod",
                "--now",
                "-l",
                "app.kubernetes.io/name=ringfence-enforcer",
                "--field-selector",
                &on_node,
            ];
            kubectl(self.cluster, &delete)?;
            took.push(self.start_to_sync(node, old)? * 1000.0);
        }
        Ok(Figures::of(took))
    }

    fn start_to_sync(&self, node: &Node, old: i32) -> Result<f64> {
        let started = Instant::now();
        let address = node.ips.first().context("a node without an address")?;
        while started.elapsed() < LIMIT {
            sleep(Duration::from_millis(100));
            if enforcer_process(node).is_ok_and(|pid| pid == old) {
                continue;
            }
            // Not there yet, or not serving.
            let Ok(metrics) = probe::http_get(&node.netns, SocketAddr::new(*address, 9470), "/metrics")
            else {
                continue;
            };
            let value = metrics
                .lines()
                .find_map(|line| line.strip_prefix("ringfence_enforcer_start_to_sync_seconds "));
            if let Some(seconds) = value
                .and_then(|value| value.parse::<f64>().ok())
                .filter(|it| *it > 0.0)
            {
                return Ok(seconds);
            }
        }
        bail!("the enforcer of {} did not come back", node.name)
    }
}
