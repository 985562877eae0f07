//! Where everything lies.

use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::options::ClusterName;

/// One cluster's state folder and the names derived from the cluster's name.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    name: ClusterName,
    root: PathBuf,
}

impl Paths {
    pub(crate) fn of(name: &ClusterName) -> Self {
        Self {
            name: name.clone(),
            root: PathBuf::from(format!("/tmp/ringfence-{name}")),
        }
    }

    pub(crate) fn name(&self) -> &ClusterName {
        &self.name
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Beside the state folder, not in it: it is held while the folder is removed.
    pub(crate) fn lock(&self) -> PathBuf {
        PathBuf::from(format!("/tmp/ringfence-{}.lock", self.name))
    }

    pub(crate) fn cluster_file(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.root.join("processes")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn api_socket(&self) -> PathBuf {
        self.root.join("api.sock")
    }

    /// Pinned mount namespaces.
    pub(crate) fn namespaces(&self) -> PathBuf {
        self.root.join("ns")
    }

    pub(crate) fn netns_name(&self, member: &str) -> String {
        format!("rf-{}-{member}", self.name)
    }

    pub(crate) fn netns(&self, member: &str) -> PathBuf {
        netns_path(&self.netns_name(member))
    }

    pub(crate) fn cgroup_name(&self, node: &str) -> String {
        format!("rf-{}-{node}", self.name)
    }

    pub(crate) fn node(&self, node: &str) -> NodePaths {
        NodePaths {
            root: self.root.join(node),
            mount_ns: self.namespaces().join(node),
        }
    }

    /// Makes the state folder, readable by root only. `/tmp` is everybody's: somebody else's folder or link of this
    /// name is refused.
    pub(crate) fn create(&self) -> Result<()> {
        let made = fs::DirBuilder::new().mode(0o700).create(&self.root);
        if let Err(error) = made
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error).with_context(|| format!("make state folder {}", self.root.display()));
        }
        self.check_owner()?;
        for dir in [self.pki(), self.records(), self.logs(), self.namespaces()] {
            fs::create_dir_all(&dir).with_context(|| format!("make folder {}", dir.display()))?;
        }
        Ok(())
    }

    fn check_owner(&self) -> Result<()> {
        let meta = fs::symlink_metadata(&self.root)
            .with_context(|| format!("look at state folder {}", self.root.display()))?;
        ensure!(
            meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw(),
            "{} exists and is not this user's own folder: remove it, or choose another cluster name",
            self.root.display()
        );
        Ok(())
    }
}

/// The path `ip netns add` gives a network namespace.
pub(crate) fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// One node's part of the state folder, and where the parts appear inside the node's mount namespace.
#[derive(Debug, Clone)]
pub(crate) struct NodePaths {
    root: PathBuf,
    mount_ns: PathBuf,
}

impl NodePaths {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn mount_ns(&self) -> &Path {
        &self.mount_ns
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.root.join("containerd.sock")
    }

    /// Seen as `/var/lib/cni` on the node.
    pub(crate) fn cni_state(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// Seen as `/var/lib/kubelet` on the node.
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    /// What the node wrote under `/etc`, `/opt`, `/usr` and `/var`.
    pub(crate) fn overlay(&self, dir: &str) -> PathBuf {
        self.root.join("fs").join(dir.trim_matches('/').replace('/', "-"))
    }
}

/// The folder for what is expensive to make and safe to keep: `$RINGFENCE_CACHE`, else
/// `$XDG_CACHE_HOME/ringfence-testbed`, else `~/.cache/ringfence-testbed`.
///
/// # Errors
/// When none of the three variables is set.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = set("RINGFENCE_CACHE") {
        return Ok(dir);
    }
    match set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))) {
        Some(base) => Ok(base.join("ringfence-testbed")),
        None => bail!("no cache folder: set RINGFENCE_CACHE, XDG_CACHE_HOME or HOME"),
    }
}

/// A path as UTF-8 text, for flags and configuration files.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
