//! An API server without nodes: etcd and kube-apiserver on loopback, for suites that need no more.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::build::{API_SERVER_TOOLS, Binaries, ETCD, KUBE_APISERVER, KUBECTL};
use super::command::run;
use super::control_plane::{self, ApiServerConfig};
use super::draft::Draft;
use super::kubeconfig;
use super::leash::Leash;
use super::options::ClusterOptions;
use super::pki::Pki;
use super::plan::Plan;
use super::process::{self, Home, Process};
use super::progress::Console;
use super::wait;

/// Begin of the names of the folders that API servers live in, in the system's temporary folder.
const FOLDER: &str = "ringfence-api-";

/// An API server and its etcd. Both end when this value is dropped, and also when this process is killed.
///
/// There are no controllers: nothing collects garbage, finishes the deletion of a namespace or makes ServiceAccounts,
/// so pods are admitted without one. It needs no root.
#[derive(Debug)]
pub struct ApiServer {
    dir: Draft,
    home: Home,
    tools: Tools,
    leash: Leash,
    ports: Ports,
    config: Vec<String>,
    running: Option<Process>,
}

#[derive(Debug, Clone)]
struct Tools {
    etcd: PathBuf,
    kube_apiserver: PathBuf,
    kubectl: PathBuf,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    etcd: u16,
    peer: u16,
    api: u16,
}

impl Tools {
    /// From `$KUBEBUILDER_ASSETS` where that is set, else from the cache, building what is not there.
    fn find() -> Result<Self> {
        let Some(dir) = env::var_os("KUBEBUILDER_ASSETS")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
        else {
            let built = Binaries::ensure(API_SERVER_TOOLS, &Console::default())?;
            return Ok(Self {
                etcd: built.path(ETCD),
                kube_apiserver: built.path(KUBE_APISERVER),
                kubectl: built.path(KUBECTL),
            });
        };
        let tools = Self {
            etcd: dir.join("etcd"),
            kube_apiserver: dir.join("kube-apiserver"),
            kubectl: dir.join("kubectl"),
        };
        for path in [&tools.etcd, &tools.kube_apiserver, &tools.kubectl] {
            ensure!(
                path.exists(),
                "KUBEBUILDER_ASSETS is set, but there is no {}: put it there or unset the variable",
                path.display()
            );
        }
        Ok(tools)
    }
}

impl Ports {
    /// Three ports nobody has now.
    fn free() -> Result<Self> {
        let hold = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port on 127.0.0.1");
        let number = |held: &TcpListener| Ok::<_, anyhow::Error>(held.local_addr()?.port());
        let (a, b, c) = (hold()?, hold()?, hold()?);
        Ok(Self {
            etcd: number(&a)?,
            peer: number(&b)?,
            api: number(&c)?,
        })
    }
}

impl ApiServer {
    /// Starts an API server with an empty etcd on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// When the binaries cannot be had, or one of the two does not come up; the end of its log is then in the message.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// As [`ApiServer::start`], with more flags.
    ///
    /// # Errors
    /// Those of [`ApiServer::start`]; a flag that the API server does not know is one.
    pub fn start_with(flags: &[&str]) -> Result<Self> {
        let tools = Tools::find()?;
        // Between finding a port free and using it somebody else may take it.
        let mut last = None;
        for _ in 0..3 {
            match Self::launch(&tools, flags) {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("the API server was never started")))
    }

    fn launch(tools: &Tools, flags: &[&str]) -> Result<Self> {
        let draft = Draft::new(&env::temp_dir(), FOLDER)?;
        let dir = draft.path().to_owned();
        let home = Home {
            records: dir.join("processes"),
            logs: dir.join("logs"),
            mark: dir.clone(),
        };
        for folder in [&home.records, &home.logs, &dir.join("pki")] {
            fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        }
        let ports = Ports::free()?;
        let mut config = configure(&dir, ports)?;
        config.extend(flags.iter().map(ToString::to_string));
        let leash = Leash::new();
        let mut server = Self {
            dir: draft,
            home,
            tools: tools.clone(),
            leash,
            ports,
            config,
            running: None,
        };
        server.start_etcd()?;
        server.resume()?;
        Ok(server)
    }

    fn start_etcd(&self) -> Result<()> {
        let args = control_plane::etcd_args(&self.dir.path().join("etcd"), self.ports.etcd, self.ports.peer);
        self.leash
            .spawn(&self.home, "etcd", &self.tools.etcd, args)
            .map(drop)
    }

    /// Starts the API server again after [`ApiServer::stop`]; what etcd holds is as it was. Does nothing when it runs.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn resume(&mut self) -> Result<()> {
        if self.running.as_ref().is_some_and(Process::alive) {
            return Ok(());
        }
        let process = self.leash.spawn(
            &self.home,
            "kube-apiserver",
            &self.tools.kube_apiserver,
            self.config.clone(),
        )?;
        self.running = Some(process);
        wait::until(
            "the API server to be ready",
            Duration::from_secs(60),
            Duration::from_millis(100),
            || {
                for name in ["etcd", "kube-apiserver"] {
                    process::still_running(&self.home, name)?;
                }
                let ready = run(&mut self.kubectl(["get", "--raw=/readyz", "--request-timeout=5s"])).is_ok();
                Ok(ready.then_some(()))
            },
        )
    }

    /// Ends the API server, not etcd: clients see an outage.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        match self.running.take() {
            Some(process) => process::stop(&process, Duration::from_secs(5)),
            None => Ok(()),
        }
    }

    /// An outage without pause: [`ApiServer::stop`] and [`ApiServer::resume`].
    ///
    /// # Errors
    /// Those of the two.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.resume()
    }

    /// Path of a kubeconfig for an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        control_plane::https(Ipv4Addr::LOCALHOST.into(), self.ports.api)
    }

    /// Installs a folder of CustomResourceDefinitions and waits until their kinds are served.
    ///
    /// # Errors
    /// When the API server refuses one, or does not serve it within a minute.
    pub fn define(&self, folder: &Path) -> Result<()> {
        run(self.kubectl(["apply", "-k"]).arg(folder))?;
        let established = [
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ];
        run(&mut self.kubectl(established)).map(drop)
    }

    /// `kubectl` with these arguments, as an administrator.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.tools.kubectl);
        command.env("KUBECONFIG", self.kubeconfig()).args(args);
        command
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.home.kill_all();
    }
}

/// Certificates and kubeconfig; gives the API server's flags.
fn configure(dir: &Path, ports: Ports) -> Result<Vec<String>> {
    let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
    let pki = Pki::create(&dir.join("pki"))?;
    let admin = pki.client("admin", "ringfence-admin", Some("system:masters"))?;
    let url = control_plane::https(localhost, ports.api);
    kubeconfig::write(&dir.join("kubeconfig"), &url, &pki.ca(), &admin)?;
    let mut args = control_plane::apiserver_args(&ApiServerConfig {
        etcd: format!("http://127.0.0.1:{}", ports.etcd),
        bind: localhost,
        advertise: localhost,
        port: ports.api,
        service_cidrs: Plan::of(&ClusterOptions::default()).service_cidrs,
        ca: pki.ca(),
        serving: pki.server("kube-apiserver", control_plane::API_NAMES, &[localhost])?,
        kubelet_client: None,
        token_key: pki.token_key()?,
    });
    // Endpoints on loopback are refused, and nobody here makes ServiceAccounts.
    args.push("--endpoint-reconciler-type=none".to_owned());
    args.push("--disable-admission-plugins=ServiceAccount".to_owned());
    Ok(args)
}
