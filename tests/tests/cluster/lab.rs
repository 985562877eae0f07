//! The cluster that the cases share.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ringfence_tests::deploy;
use ringfence_tests::kube_objects::kubectl;
use ringfence_tests::source;
use ringfence_tests::testbed::{Cluster, ClusterOptions, Console, IpFamily};
use serde_json::{Value, json};

/// A cluster with Ringfence and the shop on it, and the shop's namespace open.
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
}

/// The cluster's name: its own, so that it never meets one that a person works with.
const CLUSTER: &str = "test";

/// How long a state may take to come about before a case fails. Far above what it takes: only a failure waits so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// How long a connection attempt waits for an answer before it counts as closed: below the second after which TCP sends
/// its first packet again, so that a packet that was dropped once is not forgiven.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(900);

impl Lab {
    pub(crate) fn start() -> Result<Self> {
        let options = ClusterOptions {
            ip_family: IpFamily::Dual,
            ..ClusterOptions::named(CLUSTER)?
        };
        let lab = Self {
            cluster: deploy::bring_up(&options, &Console::default())?,
        };
        deploy::install_shop(&lab.cluster)?;
        Ok(lab)
    }

    pub(crate) fn stop(&self) -> Result<()> {
        Cluster::remove(CLUSTER, &Console::default()).map(drop)
    }

    /// Installs Ringfence, or finds it installed.
    pub(crate) fn install(&self) -> Result<()> {
        deploy::install(&self.cluster)
    }

    /// Applies the shop's zero-trust resources and waits until they are ready.
    pub(crate) fn close_shop(&self) -> Result<()> {
        deploy::close_shop(&self.cluster)
    }

    /// Removes the shop's zero-trust resources and waits until no policy is left.
    pub(crate) fn open_shop(&self) -> Result<()> {
        let file = source::path("examples/three-tier/zero-trust.yaml");
        self.kubectl(&["delete", "--ignore-not-found", "-f", &file])?;
        self.until("no NetworkPolicy is left in production", || {
            Ok(self.policies()?.is_empty())
        })
    }

    /// The names of the NetworkPolicies in the shop's namespace.
    pub(crate) fn policies(&self) -> Result<Vec<String>> {
        let names = self.kubectl(&["-n", "production", "get", "networkpolicies", "-o", "name"])?;
        Ok(names
            .lines()
            .map(|line| line.rsplit('/').next().unwrap_or(line).to_owned())
            .collect())
    }

    /// Whether idle periods and storms run at full length.
    pub(crate) fn long(&self) -> bool {
        std::env::var_os("RINGFENCE_LONG").is_some()
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        kubectl(&self.cluster, args)
    }

    /// What the enforcers have told on their standard output: a JSON object a line, among lines of other kinds.
    pub(crate) fn stories(&self) -> Result<Vec<Value>> {
        let enforcers = "app.kubernetes.io/name=ringfence-enforcer";
        let logs = [
            "-n",
            "ringfence-system",
            "logs",
            "-l",
            enforcers,
            "-c",
            "enforcer",
            "--tail=-1",
        ];
        let lines = self.kubectl(&logs)?;
        Ok(lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    /// Takes the enforcers off all nodes.
    pub(crate) fn send_enforcers_away(&self) -> Result<()> {
        self.place_enforcers(&json!("true"))?;
        let label = "app.kubernetes.io/name=ringfence-enforcer";
        self.until("no enforcer runs", || {
            let pods = self.kubectl(&["-n", "ringfence-system", "get", "pods", "-l", label, "-o", "name"])?;
            Ok(pods.is_empty())
        })
    }

    /// Lets them run on all nodes again.
    pub(crate) fn bring_enforcers_back(&self) -> Result<()> {
        self.place_enforcers(&Value::Null)?;
        deploy::wait_until_ready(&self.cluster)
    }

    /// On nodes with this value of a label that no node has; without one on all.
    fn place_enforcers(&self, nowhere: &Value) -> Result<()> {
        let selector = json!({"ringfence.dev/nowhere": nowhere});
        let patch = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}});
        self.kubectl(&[
            "-n",
            "ringfence-system",
            "patch",
            "daemonset",
            "ringfence-enforcer",
            "-p",
            &patch.to_string(),
        ])
        .map(drop)
    }

    /// Polls until `state` holds.
    pub(crate) fn until(&self, what: &str, mut state: impl FnMut() -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        while !state()? {
            if started.elapsed() > DEADLINE {
                bail!(
                    "waited {} s and it did not come about that {what}",
                    DEADLINE.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Collects what a person would look at after a failure, and says where it is.
    pub(crate) fn diagnose(&self, name: &str) -> Result<PathBuf> {
        let folder = source::root()
            .join("target/cluster-failures")
            .join(name.replace("::", "-"));
        fs::create_dir_all(&folder).context("create the folder for logs")?;
        for (file, args) in [
            (
                "objects",
                &["get", "ztn,sva,netpol,pods,services", "-A", "-o", "yaml"][..],
            ),
            ("events", &["get", "events", "-A"]),
            (
                "operator",
                &[
                    "-n",
                    "ringfence-system",
                    "logs",
                    "-l",
                    "app.kubernetes.io/name=ringfence-operator",
                    "--tail=-1",
                    "--prefix",
                ],
            ),
            (
                "enforcer",
                &[
                    "-n",
                    "ringfence-system",
                    "logs",
                    "-l",
                    "app.kubernetes.io/name=ringfence-enforcer",
                    "--tail=-1",
                    "--prefix",
                ],
            ),
        ] {
            let text = self.kubectl(args).unwrap_or_else(|error| format!("{error:#}"));
            fs::write(folder.join(file), text).context("write a log")?;
        }
        Ok(folder)
    }
}
