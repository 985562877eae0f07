//! The cluster and the Argo CD that the cases share.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ringfence_tests::deploy;
use ringfence_tests::kube_objects::{apply, get, kubectl};
use ringfence_tests::source;
use ringfence_tests::testbed::{
    ARGOCD_NAMESPACE, ArgoCd, Cluster, ClusterOptions, Console, FOR_GITOPS, ensure_installed,
};
use serde_json::Value;

use crate::apps::{self, APPS, ROOT};

/// The cluster's name: its own, so that it never meets one that a person works with.
const CLUSTER: &str = "gitops";

/// How long a state may take to come about before a case fails.
const DEADLINE: Duration = Duration::from_secs(180);

/// A cluster with Argo CD beside it, which has a repository to follow.
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    pub(crate) argo: ArgoCd,
}

/// What an Application says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) sync: String,
    pub(crate) health: String,
}

impl Lab {
    /// A cluster without Ringfence, and an Argo CD that is told of the health of our kinds as the documentation says.
    pub(crate) fn start() -> Result<Self> {
        let console = Console::default();
        ensure_installed(FOR_GITOPS, &console)?;
        let cluster = deploy::with_images(&ClusterOptions::named(CLUSTER)?, &console)?;
        let lab = Self {
            argo: ArgoCd::start(&cluster, &console)?,
            cluster,
        };
        let patch = format!("--patch-file={}", source::path("config/argocd/argocd-cm.yaml"));
        lab.kubectl(&[
            "-n",
            ARGOCD_NAMESPACE,
            "patch",
            "configmap",
            "argocd-cm",
            "--type=merge",
            &patch,
        ])?;
        let (url, server) = (lab.argo.repository_url(), lab.cluster.api_url());
        apps::fill(lab.argo.repository(), &url, &server)?;
        let root = apps::application(ROOT, "apps", (&url, &server), None);
        apply(&lab.cluster, &root.to_string())?;
        Ok(lab)
    }

    /// Takes the cluster down, if there is one.
    pub(crate) fn stop() -> Result<()> {
        if std::env::var_os("RINGFENCE_KEEP").is_some() {
            return Ok(());
        }
        Cluster::remove(CLUSTER, &Console::default()).map(drop)
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        kubectl(&self.cluster, args)
    }

    /// An object as JSON.
    pub(crate) fn object(&self, args: &[&str]) -> Result<Value> {
        get(&self.cluster, args)
    }

    /// An Application as JSON.
    pub(crate) fn app(&self, name: &str) -> Result<Value> {
        self.object(&["-n", ARGOCD_NAMESPACE, "application", name])
    }

    pub(crate) fn said(&self, name: &str) -> Result<Said> {
        let app = self.app(name)?;
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        Ok(Said {
            sync: text(&app["status"]["sync"]["status"]),
            health: text(&app["status"]["health"]["status"]),
        })
    }

    /// Has Argo CD look into the repository now.
    pub(crate) fn refresh(&self) -> Result<()> {
        let existing = self.kubectl(&["-n", ARGOCD_NAMESPACE, "get", "applications", "-o", "name"])?;
        for app in existing.lines() {
            let note = "argocd.argoproj.io/refresh=normal";
            self.kubectl(&["-n", ARGOCD_NAMESPACE, "annotate", "--overwrite", app, note])?;
        }
        Ok(())
    }

    /// Waits until an Application is synced with the newest commit, and has this health.
    pub(crate) fn until_app_is(&self, name: &str, health: &str) -> Result<()> {
        let wanted = Said {
            sync: "Synced".to_owned(),
            health: health.to_owned(),
        };
        self.until(&format!("application {name} is Synced and {health}"), || {
            let said = self.said(name)?;
            if said == wanted {
                Ok(None)
            } else {
                Ok(Some(format!("{said:?}")))
            }
        })
    }

    /// Waits until everything is in force.
    pub(crate) fn until_all_is_well(&self) -> Result<()> {
        for (name, _) in APPS {
            self.until_app_is(name, "Healthy")?;
        }
        self.until_app_is(ROOT, "Healthy")
    }

    /// Polls until there is nothing against it any more. An object that is not there yet is no failure.
    pub(crate) fn until(
        &self,
        what: &str,
        mut against: impl FnMut() -> Result<Option<String>>,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            let last = match against() {
                Ok(None) => return Ok(()),
                Ok(Some(last)) => last,
                Err(error) => format!("{error:#}"),
            };
            if started.elapsed() > DEADLINE {
                bail!(
                    "waited {} s and it did not come about that {what}: {last}",
                    DEADLINE.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Collects what a person would look at after a failure, and says where it is.
    pub(crate) fn diagnose(&self, name: &str) -> Result<PathBuf> {
        let folder = source::root()
            .join("target/gitops-failures")
            .join(name.replace("::", "-"));
        fs::create_dir_all(&folder).context("create the folder for logs")?;
        let all =
            "applications,ztn,sva,externalaccesses,zerotrustbaselines,enforcementprobes,netpol,pods,services";
        for (file, args) in [
            ("objects", &["get", all, "-A", "-o", "yaml"][..]),
            ("events", &["get", "events", "-A"]),
        ] {
            let text = self.kubectl(args).unwrap_or_else(|error| format!("{error:#}"));
            fs::write(folder.join(file), text).context("write a log")?;
        }
        for entry in fs::read_dir(self.argo.logs())? {
            let path = entry?.path();
            let name = path.file_name().context("a log without a name")?;
            fs::copy(&path, folder.join(name)).context("copy a log")?;
        }
        Ok(folder)
    }
}
