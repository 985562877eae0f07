//! Argo CD beside a cluster: its controller and repository server, with Redis and a Git server, all on loopback.
//!
//! ```text
//!  repository (folder) ─► git daemon ─► repository server ─┐
//!                                       redis ─────────────┼─► application controller ─► the cluster's API server
//! ```

mod objects;
mod repository;

use std::env;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::build::{ARGOCD, Binaries, GITOPS_TOOLS, KUSTOMIZE};
use super::command::{run, run_with_input};
use super::draft::Draft;
use super::leash::Leash;
use super::process::{self, Home};
use super::progress::{Progress, step};
use super::{Cluster, wait};

pub use repository::Repository;

/// Begin of the names of the folders that everything lives in, in the system's temporary folder.
const FOLDER: &str = "ringfence-gitops-";

/// The namespace of Argo CD's own objects.
pub const NAMESPACE: &str = "argocd";

/// Argo CD at work. All of its processes end when this value is dropped, and also when this process is killed.
#[derive(Debug)]
pub struct ArgoCd {
    dir: Draft,
    home: Home,
    leash: Leash,
    tools: Tools,
    ports: Ports,
    repository: Repository,
}

#[derive(Debug)]
struct Tools {
    argocd: PathBuf,
    kustomize: PathBuf,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    redis: u16,
    git: u16,
    server: u16,
    server_metrics: u16,
    controller_metrics: u16,
}

impl Ports {
    /// Ports nobody has now.
    fn free() -> Result<Self> {
        let held = (0..5)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port on 127.0.0.1"))
            .collect::<Result<Vec<_>>>()?;
        let port = |at: usize| Ok::<_, anyhow::Error>(held.get(at).context("no port")?.local_addr()?.port());
        Ok(Self {
            redis: port(0)?,
            git: port(1)?,
            server: port(2)?,
            server_metrics: port(3)?,
            controller_metrics: port(4)?,
        })
    }
}

impl ArgoCd {
    /// Starts Argo CD for a cluster, with an empty repository. Its kinds and settings are in the cluster afterwards, in
    /// namespace `argocd`; the cluster is known to it as `https://127.0.0.1:PORT`, which is [`Cluster::api_url`].
    ///
    /// # Errors
    /// When the programs cannot be had, or one does not come up; the end of its log is then in the message.
    pub fn start(cluster: &Cluster, progress: &dyn Progress) -> Result<Self> {
        let built = Binaries::ensure(GITOPS_TOOLS, progress)?;
        let draft = Draft::new(&env::temp_dir(), FOLDER)?;
        let dir = draft.path().to_owned();
        let home = Home {
            records: dir.join("processes"),
            logs: dir.join("logs"),
            mark: dir.clone(),
        };
        for folder in ["processes", "logs", "redis", "git", "tls", "ssh", "tmp", "bin"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("make folder {}", path.display()))?;
        }
        let argo = Self {
            repository: Repository::create(&dir.join("git"), &dir.join("work"))?,
            home,
            leash: Leash::new(),
            tools: Tools {
                argocd: built.path(ARGOCD),
                kustomize: built.path(KUSTOMIZE),
            },
            ports: Ports::free()?,
            dir: draft,
        };
        step(progress, "start Argo CD", || argo.bring_up(cluster))?;
        Ok(argo)
    }

    fn bring_up(&self, cluster: &Cluster) -> Result<()> {
        self.link_tools()?;
        self.start_servers()?;
        objects::install(cluster, &built_from()?)?;
        self.start_controller(cluster)?;
        wait::until(
            "Argo CD to be up",
            Duration::from_secs(60),
            Duration::from_millis(100),
            || {
                for name in ["redis", "git-daemon", "repo-server", "application-controller"] {
                    process::still_running(&self.home, name)?;
                }
                let ports = [
                    self.ports.redis,
                    self.ports.git,
                    self.ports.server,
                    self.ports.controller_metrics,
                ];
                Ok(ports.into_iter().all(listens).then_some(()))
            },
        )
    }

    /// The repository that it reads.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Where it reads the repository.
    pub fn repository_url(&self) -> String {
        format!("git://127.0.0.1:{}/{}", self.ports.git, repository::NAME)
    }

    /// What its programs wrote.
    pub fn logs(&self) -> &Path {
        &self.home.logs
    }

    /// Argo CD's own judgement of an object in a file, by the settings in `config_map`: `Healthy`, and the message.
    ///
    /// # Errors
    /// When it cannot judge.
    pub fn health_of(file: &Path, config_map: &Path, progress: &dyn Progress) -> Result<(String, String)> {
        let built = Binaries::ensure(&[ARGOCD], progress)?;
        let text = run(Command::new(built.path(ARGOCD))
            .env("ARGOCD_BINARY_NAME", "argocd")
            .args(["admin", "settings", "resource-overrides", "health"])
            .arg(file)
            .arg("--argocd-cm-path")
            .arg(config_map))?;
        let said = |begin: &str| {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix(begin));
            line.map(|line| line.trim().to_owned())
        };
        let status = said("STATUS:").with_context(|| format!("Argo CD says: {text}"))?;
        Ok((status, said("MESSAGE:").unwrap_or_default()))
    }

    /// A folder with the programs that the repository server starts by name.
    fn link_tools(&self) -> Result<()> {
        let link = self.dir.path().join("bin/kustomize");
        std::os::unix::fs::symlink(&self.tools.kustomize, &link)
            .with_context(|| format!("make link {}", link.display()))
    }

    fn start_servers(&self) -> Result<()> {
        let dir = self.dir.path();
        let port = |port: u16| port.to_string();
        let redis = [
            "--bind",
            "127.0.0.1",
            "--port",
            &port(self.ports.redis),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
        ];
        let mut redis: Vec<String> = redis.map(str::to_owned).into();
        redis.push(dir.join("redis").display().to_string());
        self.leash
            .spawn(&self.home, "redis", Path::new("redis-server"), redis)?;
        let programs = run(Command::new("git").arg("--exec-path"))?;
        let daemon = Path::new(programs.trim()).join("git-daemon");
        let git = vec![
            "--reuseaddr".to_owned(),
            "--export-all".to_owned(),
            "--listen=127.0.0.1".to_owned(),
            format!("--port={}", self.ports.git),
            format!("--base-path={}", dir.join("git").display()),
        ];
        self.leash.spawn(&self.home, "git-daemon", &daemon, git)?;
        let server = [
            "--address=127.0.0.1".to_owned(),
            format!("--port={}", self.ports.server),
            "--metrics-address=127.0.0.1".to_owned(),
            format!("--metrics-port={}", self.ports.server_metrics),
            "--disable-tls".to_owned(),
            format!("--redis=127.0.0.1:{}", self.ports.redis),
        ];
        self.role("repo-server", "argocd-repo-server", &[], &server)
    }

    fn start_controller(&self, cluster: &Cluster) -> Result<()> {
        let arguments = [
            format!("--kubeconfig={}", cluster.kubeconfig().display()),
            format!("--namespace={NAMESPACE}"),
            format!("--repo-server=127.0.0.1:{}", self.ports.server),
            "--repo-server-plaintext".to_owned(),
            format!("--redis=127.0.0.1:{}", self.ports.redis),
            format!("--metrics-port={}", self.ports.controller_metrics),
        ];
        let settings = [
            "ARGOCD_RECONCILIATION_TIMEOUT=10s",
            // So that it can be read with kubectl.
            "ARGOCD_APPLICATION_CONTROLLER_PERSIST_RESOURCE_HEALTH=true",
        ];
        self.role(
            "application-controller",
            "argocd-application-controller",
            &settings,
            &arguments,
        )
    }

    /// Starts the one program of Argo CD in one of its roles.
    fn role(&self, name: &str, role: &str, settings: &[&str], arguments: &[String]) -> Result<()> {
        let dir = self.dir.path();
        let path = env::var("PATH").unwrap_or_default();
        let mut all = vec![
            format!("ARGOCD_BINARY_NAME={role}"),
            "ARGOCD_GPG_ENABLED=false".to_owned(),
            format!("ARGOCD_TLS_DATA_PATH={}", dir.join("tls").display()),
            format!("ARGOCD_SSH_DATA_PATH={}", dir.join("ssh").display()),
            format!("TMPDIR={}", dir.join("tmp").display()),
            format!("HOME={}", dir.display()),
            format!("PATH={}:{path}", dir.join("bin").display()),
        ];
        all.extend(settings.iter().map(ToString::to_string));
        all.push(self.tools.argocd.display().to_string());
        all.extend_from_slice(arguments);
        self.leash
            .spawn(&self.home, name, Path::new("env"), all)
            .map(drop)
    }
}

impl Drop for ArgoCd {
    fn drop(&mut self) {
        self.home.kill_all();
    }
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The folder of the sources that Argo CD was built from: its kinds are there.
fn built_from() -> Result<PathBuf> {
    let folder = run(Command::new("go")
        .current_dir(super::build::gitops_module())
        .env("GOWORK", "off")
        .args(["list", "-m", "-f", "{{.Dir}}", "github.com/argoproj/argo-cd/v3"]))?;
    Ok(PathBuf::from(folder.trim()))
}

/// Applies objects, as YAML or JSON.
fn apply(cluster: &Cluster, objects: &str) -> Result<()> {
    let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    run_with_input(&mut cluster.kubectl(arguments), objects).map(drop)
}
