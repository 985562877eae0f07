//! The Kubernetes binaries, built from Go modules and kept in the cache.
//!
//! A folder of the cache is named after everything that decides its content, so it is never stale and never written
//! twice: a build goes to a draft folder beside its final name and is renamed when it is whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::command::run;
use super::draft::Draft;
use super::packages::go_version;
use super::paths::cache_dir;
use super::progress::{Progress, step};

/// The Kubernetes version, as the modules pin it.
pub const KUBERNETES_VERSION: &str = "v1.36.3";

/// Begin of the names of folders that builds work in.
pub(crate) const DRAFTS: &str = "draft-";

/// A program that the testbed can build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    name: &'static str,
    package: &'static str,
    module: Module,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    ControlPlane,
    Dns,
    Gitops,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Program,
    Test,
}

impl Module {
    fn dir(self) -> PathBuf {
        let name = match self {
            Self::ControlPlane => "control-plane",
            Self::Dns => "dns",
            Self::Gitops => "gitops",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testbed").join(name)
    }
}

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    Tool {
        name,
        package,
        module: Module::ControlPlane,
        kind: Kind::Program,
    }
}

/// etcd.
pub(crate) const ETCD: Tool = kubernetes("etcd", "go.etcd.io/etcd/server/v3");
/// The API server.
pub(crate) const KUBE_APISERVER: Tool = kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver");
/// The controllers.
pub(crate) const KUBE_CONTROLLER_MANAGER: Tool = kubernetes(
    "kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
);
/// The scheduler.
pub(crate) const KUBE_SCHEDULER: Tool = kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler");
/// The kubelet.
pub(crate) const KUBELET: Tool = kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet");
/// kube-proxy.
pub(crate) const KUBE_PROXY: Tool = kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy");
/// kubectl; the distribution's is years older than the API server.
pub(crate) const KUBECTL: Tool = kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl");
/// The pause container and test server in one.
pub(crate) const AGNHOST: Tool = kubernetes("agnhost", "k8s.io/kubernetes/test/images/agnhost");
/// The cluster's DNS server.
pub(crate) const COREDNS: Tool = Tool {
    name: "coredns",
    package: "github.com/coredns/coredns",
    module: Module::Dns,
    kind: Kind::Program,
};
/// Argo CD: one program for all of its roles.
pub(crate) const ARGOCD: Tool = Tool {
    name: "argocd",
    package: "github.com/argoproj/argo-cd/v3/cmd",
    module: Module::Gitops,
    kind: Kind::Program,
};
/// kustomize, which Argo CD starts.
pub(crate) const KUSTOMIZE: Tool = Tool {
    name: "kustomize",
    package: "sigs.k8s.io/kustomize/kustomize/v5",
    module: Module::Gitops,
    kind: Kind::Program,
};
/// What Argo CD beside a cluster needs.
pub const GITOPS_TOOLS: &[Tool] = &[ARGOCD, KUSTOMIZE];

/// The runner of the upstream end-to-end suite: it runs specs side by side.
pub const GINKGO: Tool = kubernetes("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo");
/// The upstream end-to-end suite. Takes minutes to build and is not part of a cluster.
pub const E2E_TEST: Tool = Tool {
    name: "e2e.test",
    package: "k8s.io/kubernetes/test/e2e",
    module: Module::ControlPlane,
    kind: Kind::Test,
};

/// What the upstream end-to-end suite needs besides a cluster.
pub const E2E_TOOLS: &[Tool] = &[GINKGO, E2E_TEST];

/// What an API server alone needs.
pub const API_SERVER_TOOLS: &[Tool] = &[ETCD, KUBE_APISERVER, KUBECTL];

/// What a cluster needs, the quick ones last.
pub const CLUSTER_TOOLS: &[Tool] = &[
    KUBE_APISERVER,
    KUBE_CONTROLLER_MANAGER,
    KUBE_SCHEDULER,
    KUBELET,
    KUBE_PROXY,
    KUBECTL,
    ETCD,
    AGNHOST,
    COREDNS,
];

/// Where built tools lie.
#[derive(Debug, Clone)]
pub struct Binaries {
    control_plane: PathBuf,
    dns: PathBuf,
    gitops: PathBuf,
}

impl Binaries {
    /// Builds those of `tools` that the cache does not hold. Without anything to build it takes milliseconds.
    ///
    /// # Errors
    /// Without Go, without a cache folder, or when a build fails.
    pub fn ensure(tools: &[Tool], progress: &dyn Progress) -> Result<Self> {
        let go = go_version()?;
        let cache = cache_dir()?;
        let binaries = Self {
            control_plane: cache.join(format!("control-plane-{}", key(Module::ControlPlane, &go)?)),
            dns: cache.join(format!("dns-{}", key(Module::Dns, &go)?)),
            gitops: cache.join(format!("gitops-{}", key(Module::Gitops, &go)?)),
        };
        if tools.iter().all(|tool| binaries.path(*tool).exists()) {
            return Ok(binaries);
        }
        for dir in [&binaries.control_plane, &binaries.dns, &binaries.gitops] {
            fs::create_dir_all(dir).with_context(|| format!("make cache folder {}", dir.display()))?;
        }
        let _lock = lock(&cache)?;
        let absent: Vec<Tool> = tools
            .iter()
            .copied()
            .filter(|tool| !binaries.path(*tool).exists())
            .collect();
        for (i, tool) in absent.iter().enumerate() {
            let name = format!("build {} ({} of {})", tool.name, i + 1, absent.len());
            step(progress, &name, || build(*tool, &binaries.path(*tool)))?;
        }
        Ok(binaries)
    }

    /// The path of a tool, whether built or not.
    pub fn path(&self, tool: Tool) -> PathBuf {
        self.dir(tool.module).join(tool.name)
    }

    /// A short text that changes whenever any binary may have.
    pub(crate) fn fingerprint(&self) -> String {
        let last = |dir: &Path| {
            dir.file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        format!("{} {}", last(&self.control_plane), last(&self.dns))
    }

    fn dir(&self, module: Module) -> &Path {
        match module {
            Module::ControlPlane => &self.control_plane,
            Module::Dns => &self.dns,
            Module::Gitops => &self.gitops,
        }
    }
}

/// The folder of the module that Argo CD is built by.
pub(crate) fn gitops_module() -> PathBuf {
    Module::Gitops.dir()
}

/// Two builds at once would only take the processor from each other, and may be building the same.
fn lock(cache: &Path) -> Result<Flock<File>> {
    let path = cache.join("build.lock");
    let file = File::create(&path).with_context(|| format!("open lock {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock {}", path.display()))
}

fn ldflags() -> String {
    let version = KUBERNETES_VERSION;
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let set = "-X k8s.io/component-base/version";
    format!("-s -w {set}.gitVersion={version} {set}.gitMajor={major} {set}.gitMinor={minor}")
}

/// A hash of everything that decides what comes out of a build.
fn key(module: Module, go: &str) -> Result<String> {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum"] {
        let path = module.dir().join(file);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    }
    hash.update(ldflags());
    hash.update(go);
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn build(tool: Tool, out: &Path) -> Result<()> {
    let folder = out.parent().unwrap_or(out);
    let scratch = Draft::new(folder, DRAFTS)?;
    let draft = scratch.path().join(tool.name);
    let mut command = Command::new("go");
    command
        .current_dir(tool.module.dir())
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off");
    match tool.kind {
        Kind::Program => command.arg("build"),
        Kind::Test => command.args(["test", "-c"]),
    };
    command
        .args(["-mod=readonly", "-buildvcs=false", "-ldflags", &ldflags(), "-o"])
        .arg(&draft)
        .arg(tool.package);
    run(&mut command).with_context(|| format!("build {}", tool.name))?;
    fs::rename(&draft, out).with_context(|| format!("put {} in place", out.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_modules_pin_the_version_that_is_stamped() {
        let text = fs::read_to_string(Module::ControlPlane.dir().join("go.mod")).unwrap();
        assert!(text.contains(&format!("k8s.io/kubernetes {KUBERNETES_VERSION} ")));
    }

    #[test]
    fn every_tool_of_a_cluster_is_pinned_by_its_module() {
        for tool in CLUSTER_TOOLS.iter().chain(GITOPS_TOOLS) {
            let text = fs::read_to_string(tool.module.dir().join("go.mod")).unwrap();
            assert!(
                text.lines()
                    .any(|line| line.trim().trim_start_matches("tool ").trim() == tool.package),
                "{tool:?}"
            );
        }
    }

    #[test]
    fn another_compiler_is_another_cache_folder() {
        assert_ne!(
            key(Module::Dns, "go1.26.0").unwrap(),
            key(Module::Dns, "go1.26.1").unwrap()
        );
        assert_ne!(
            key(Module::Dns, "go1.26.0").unwrap(),
            key(Module::ControlPlane, "go1.26.0").unwrap()
        );
    }
}
